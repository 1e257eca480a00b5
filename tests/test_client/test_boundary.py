"""The boundary between the halves of a site, enforced by the kernel and tried with processes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from agreed_study import STUDY
from flwr.clientapp import ClientApp
from played_coordinator import signing_key_file

from client.extraction.isolation import has_only_loopback
from client.service.wall import find_boundary, identities, landlock_version
from client.service.walled_start import BoundaryWatch, decide_wall, module_command
from client.service.worker import Worker
from client.site import Site, init_site, open_site
from privacy.vault import write_atomic
from shared_models.console import RefusedError, Screen
from simulation.study import design_study, write_cohort

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="namespaces and Landlock are Linux's")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users")


ACT_AS = """
set -e
closed=$1; prefix=$2; user=$3; shift 3
if [ -n "$closed" ]; then
  # The interpreter lies in a home that others cannot enter: show it alone, in this mount namespace.
  mount --make-rprivate /
  shown=/mnt
  mount -t tmpfs -o mode=755 tmpfs "$shown"
  mkdir -p "$shown/${prefix#$closed/}"
  mount --bind "$prefix" "$shown/${prefix#$closed/}"
  mount --rbind "$shown" "$closed"
fi
exec setpriv --reuid="$user" --regid="$user" --clear-groups "$@"
"""


def act_as(user: int | None) -> list[str]:
    """Words before a command that make it another user's."""
    if user is None:
        return []
    prefix = Path(sys.base_prefix).resolve()
    ways = [path for path in reversed(prefix.parents) if not path.stat().st_mode & 0o001]
    return ["unshare", "--mount", "sh", "-c", ACT_AS, "sh", *map(str, ways[:1] or [""]),
            str(prefix), str(user)]  # fmt: skip


def run_python(
    program: str, *words: object, user: int | None = None, before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, as another user if asked."""
    code = textwrap.dedent(program)
    return subprocess.run(
        [*act_as(user), *before, sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd="/",
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
             "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def can_unshare() -> bool:
    """Whether this kernel gives namespaces to those without privilege."""
    user = NOBODY if os.geteuid() == 0 else None
    return run_python("import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x50000000) != 0)",
                      user=user).returncode == 0  # fmt: skip


CONNECT = """
    import socket, sys
    from client.extraction.isolation import cut_network, has_only_loopback
    mode, port, readable = sys.argv[1:]
    print(cut_network(mode), has_only_loopback(), bool(open(readable).read()))
    try:
        socket.create_connection(("127.0.0.1", int(port)), timeout=5).close()
        print("connected")
    except OSError as error:
        print(type(error).__name__)
"""
USERS = [
    pytest.param(None, id="this user"),
    pytest.param(NOBODY, id="another user", marks=AS_ROOT),
]


@pytest.fixture
def listening() -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@LINUX
@pytest.mark.parametrize("user", USERS)
def test_cut_process_reads_files_and_reaches_nobody(listening, user):
    if not can_unshare():
        pytest.skip("this kernel keeps namespaces to the privileged")
    port = listening.getsockname()[1]
    done = run_python(CONNECT, "cut", port, "/etc/passwd", user=user)
    assert done.stdout.split() == ["True", "True", "True", "OSError"], done.stderr


@LINUX
@pytest.mark.parametrize("user", USERS)
def test_cut_process_keeps_its_account_and_can_gain_no_power(user):
    if not can_unshare():
        pytest.skip("this kernel keeps namespaces to the privileged")
    program = """
        import os, sys
        from client.extraction.isolation import cut_network
        before = os.getuid(), os.getgid()
        cut_network("cut")
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        print((os.getuid(), os.getgid()) == before, status["NoNewPrivs"].strip(),
              int(status["CapEff"], 16) and os.geteuid())
    """
    assert run_python(program, user=user).stdout.split() == ["True", "1", "0"]


@LINUX
def test_cut_that_comes_after_threads_is_no_cut_and_says_so():
    program = """
        import sys, threading, time
        from client.extraction.isolation import cut_network
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
        print(cut_network("cut_if_possible"), flush=True)
        cut_network("cut")
    """
    done = run_python(program)
    if has_only_loopback():
        pytest.skip("this machine has no network to cut")
    assert done.stdout.split() == ["False"]
    assert "2 threads run already" in done.stderr
    assert "vultus-site units" in done.stderr


@LINUX
def test_work_is_imported_only_after_the_cut(tmp_path):
    (tmp_path / "job.py").write_text(
        "from client.extraction.isolation import has_only_loopback\n"
        "cut = has_only_loopback()\ndef work(link, word):\n    print(cut, word.decode())\n"
    )
    program = """
        import sys
        from client.extraction.entry import begin
        sys.path.insert(0, sys.argv[1])
        begin("cut", "job:work", None, b"done")
    """
    if not can_unshare():
        pytest.skip("this kernel keeps namespaces to the privileged")
    assert run_python(program, tmp_path).stdout.split() == ["True", "done"]


@LINUX
def test_open_process_reaches_the_same_server(listening):
    done = run_python(CONNECT, "open", listening.getsockname()[1], "/etc/passwd")
    assert done.stdout.split() == ["False", "False", "True", "connected"], done.stderr


# The wall: processes that speak with the coordinator cannot read videos.

WALLS = pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")
TRAIN = """
    import os, sys
    from pathlib import Path
    from client.service.wall import find_boundary, raise_wall
    site_toml, video, wall = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "wall"
    def look():
        try:
            print(len(video.read_bytes()))
        except PermissionError as error:
            print(type(error).__name__)
    look()
    if wall:
        raise_wall(find_boundary(site_toml))
    from client.learning.learner import Learner
    from client.site import open_site
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from shared_models.messages import ModelRequest
    from shared_models.signed_models import sign_request
    from shared_models.weights import digest_weights, trainable_state
    learner = Learner(open_site(site_toml))
    request = ModelRequest(
        run_id="run", server_round=1, weights=trainable_state(learner.network),
        base_digest=digest_weights(learner.network.state_dict()),
        consortium_digest=learner.site.consortium.digest, plan=learner.config.training_plan(),
    )
    key = load_ssh_private_key(sys.argv[4].encode(), password=None)
    update = learner.train(sign_request(request, key, kind="train"))
    print("spent", round(update.epsilon_spent, 3), "releases", len(learner.ledger.releases()))
    look()
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    return init_site(tmp_path / "my site", site_id="north", consortium_file=study)


@pytest.fixture(scope="module")
def cohort_folder() -> Iterator[Path]:
    """A site that can train, in a place that another user may enter."""
    with tempfile.TemporaryDirectory(prefix="boundary") as folder:
        Path(folder).chmod(0o755)
        design = design_study(
            sites=1, subjects=30, rounds=2, epsilon=3.0, mode="local",
            network="behaviour_net", trainable="head", seed=5,
        )  # fmt: skip
        (made,) = write_cohort(design, Path(folder), lambda *_: None)
        (made / "videos").mkdir(exist_ok=True)
        (made / "videos" / "r1.mp4").write_bytes(b"video")
        yield made


def list_videos(site: Site, *files: object) -> None:
    rows = [f"r{n},s{n},{file},x,40,female,3" for n, file in enumerate(files)]
    header = "recording_id,subject_id,file,recorded_at,age_years,sex,score"
    site.paths.recordings.write_text("\n".join([header, *rows, ""]))


def make(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("content")
    return path


def read_behind(site: Site, *files: Path) -> dict[Path, str]:
    """What a process behind the site's wall makes of each file."""
    program = """
        import json, sys
        from pathlib import Path
        from client.service.wall import find_boundary, raise_wall
        raise_wall(find_boundary(Path(sys.argv[1])))
        found = []
        for name in sys.argv[2:]:
            try:
                found.append(Path(name).read_text())
            except OSError as error:
                found.append(type(error).__name__)
        print(json.dumps(found))
    """
    done = run_python(program, site.config_file, *files)
    assert done.returncode == 0, done.stderr
    return dict(zip(files, json.loads(done.stdout), strict=True))


@LINUX
@WALLS
def test_walled_program_reads_everything_but_the_videos(site, tmp_path):
    videos = [
        make(site.folder / "videos" / "deep" / "a.mp4"),
        make(tmp_path / "archive" / "b.mp4"),
        make(site.folder / "c.mp4"),
        make(site.folder / "videos" / "not yet listed.mp4"),
    ]
    linked = site.folder / "videos" / "linked.mp4"
    shortcut = site.folder / "shortcut"
    shortcut.symlink_to(site.folder / "videos")
    elsewhere = make(tmp_path / "share" / "d.mp4")
    linked.symlink_to(elsewhere)
    list_videos(site, "videos/deep/a.mp4", "../archive/b.mp4", "c.mp4", "videos/linked.mp4")
    readable = [
        site.config_file, site.paths.consortium, site.paths.recordings,
        site.public_key_file, make(site.paths.state / "log"), make(site.paths.store / "x" / "y"),
        make(tmp_path / "neighbour"),
    ]  # fmt: skip
    found = read_behind(site, *videos, elsewhere, linked, *readable)
    found |= read_behind(site, by_shortcut := shortcut / "deep" / "a.mp4")
    outside = (*videos, elsewhere, linked, by_shortcut)
    assert {file for file, text in found.items() if text == "PermissionError"} == set(outside)
    assert all(file.read_text() == "content" for file in outside)


@LINUX
@WALLS
def test_wall_cannot_be_passed_by_links_renames_or_children(site):
    video = make(site.folder / "videos" / "a.mp4")
    program = """
        import os, subprocess, sys
        from pathlib import Path
        from client.service.wall import find_boundary, raise_wall
        site, video = Path(sys.argv[1]).parent, Path(sys.argv[2])
        raise_wall(find_boundary(site / "site.toml"))
        def tries():
            yield lambda: os.link(video, site / "state" / "a.mp4")
            yield lambda: video.rename(site / "state" / "a.mp4")
            yield lambda: video.parent.rename(site / "state" / "videos")
            yield lambda: os.listdir(video.parent)
            yield lambda: Path("/proc/self/root", *video.parts[1:]).read_text()
            yield lambda: subprocess.run(["cat", video], check=True, capture_output=True)
        for attempt in tries():
            try:
                attempt()
            except (OSError, subprocess.CalledProcessError):
                continue
            print("passed")
    """
    done = run_python(program, site.config_file, video)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr
    assert video.read_text() == "content"


@LINUX
@WALLS
def test_module_started_behind_the_wall_is_kept_from_the_videos(site):
    video = make(site.folder / "videos" / "a.mp4")
    for walled, code in ((False, 0), (True, 1)):
        words = module_command("base64", site.config_file, walled=walled)
        done = subprocess.run(
            [*words, "-e", video], check=False, capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == code, done.stderr
    assert "PermissionError" in done.stderr


@LINUX
@WALLS
def test_wall_is_refused_where_threads_would_stay_in_front_of_it(site):
    program = """
        import sys, threading, time
        from pathlib import Path
        from client.service.wall import find_boundary, raise_wall
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
        raise_wall(find_boundary(Path(sys.argv[1])))
    """
    assert "before any thread starts, got 2" in run_python(program, site.config_file).stderr


def test_boundary_follows_where_the_videos_lie(site, tmp_path):
    videos = site.folder / "videos"
    assert find_boundary(site.config_file).outside == (videos,)
    elsewhere = tmp_path / "interviews"
    text = site.config_file.read_text()
    site.config_file.write_text(text.replace('videos = "."', f'videos = "{elsewhere}"'))
    list_videos(site, "2025/a.mp4")
    assert find_boundary(site.config_file).outside == (elsewhere, videos)
    site.config_file.write_text(text.replace('videos = "."', f'videos = "{tmp_path}"'))
    list_videos(site, "loose.mp4")
    assert find_boundary(site.config_file).outside == (
        tmp_path / "loose.mp4",
        videos,
    )


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_boundary_reads_the_table_as_the_site_does(site, separator):
    list_videos(site, "old/a.mp4")
    text = site.paths.recordings.read_text().replace(",", separator)
    site.paths.recordings.write_text("\ufeff" + text, encoding="utf-8")
    assert site.folder / "old" in find_boundary(site.config_file).outside


def test_video_among_what_the_service_lives_on_is_told_and_refused_if_required(site, capsys):
    list_videos(site, "state/a.mp4")
    boundary = find_boundary(site.config_file)
    assert boundary.exposed == (site.paths.state / "a.mp4",)
    assert site.paths.state not in boundary.outside
    decide_wall(boundary, Screen(), required=False)
    assert "move them to a folder of their own" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(RefusedError, match="move them"):
        decide_wall(boundary, Screen(), required=True)


def test_kernel_without_a_wall_is_told_and_refused_if_required(site, capsys, monkeypatch):
    monkeypatch.setattr("client.service.walled_start.landlock_version", lambda: 0)
    boundary = find_boundary(site.config_file)
    assert not decide_wall(boundary, Screen(), required=False)
    assert "Landlock" in capsys.readouterr().out
    with pytest.raises(RefusedError, match=r"Landlock(.|\n)*required"):
        decide_wall(boundary, Screen(), required=True)


def test_replaced_file_is_noticed_and_a_changed_one_is_not(tmp_path):
    file = make(tmp_path / "recordings.csv")
    began = identities([file])
    file.write_text("edited in place")
    assert identities([file]) == began
    write_atomic(file, b"replaced")
    assert identities([file]) != began
    file.unlink()
    assert identities([file]) == [None]


def test_videos_named_after_the_start_are_told_once(site):
    list_videos(site, "videos/a.mp4")
    watch = BoundaryWatch(site.config_file, find_boundary(site.config_file))
    assert watch.look() == []
    list_videos(site, "videos/a.mp4", "videos/deep/b.mp4", "more/c.mp4")
    os.utime(site.paths.recordings, (1, 1))
    assert watch.look() == [site.folder / "more"]
    assert watch.look() == []
    os.utime(site.paths.recordings, (2, 2))
    assert watch.look() == []


def test_worker_leaves_when_a_file_it_needs_was_replaced():
    Worker(ClientApp(), "127.0.0.1:1", b"s", frozenset(), current=lambda: False).serve()


def coordinator_key(cohort_folder: Path) -> str:
    """The key's text: the process that is tested may be another user's."""
    return signing_key_file(open_site(cohort_folder)).read_text()


@LINUX
@WALLS
def test_learner_behind_the_wall_answers_a_real_request(cohort_folder):
    video = cohort_folder / "videos" / "r1.mp4"
    key = coordinator_key(cohort_folder)
    done = run_python(TRAIN, cohort_folder / "site.toml", video, "wall", key)
    before, trained, after = done.stdout.splitlines() or pytest.fail(done.stderr)
    assert before == "5"
    assert trained.endswith("releases 1")
    assert after == "PermissionError"


@LINUX
@AS_ROOT
@pytest.mark.parametrize("wall", ["wall", "no wall"])
def test_trainer_of_another_user_trains_and_cannot_read_the_videos(cohort_folder, wall):
    if wall == "wall" and not landlock_version():
        pytest.skip("this kernel has no Landlock")
    key = coordinator_key(cohort_folder)
    shutil.rmtree(cohort_folder / "state")
    (cohort_folder / "state").mkdir(mode=0o700)
    for path in (cohort_folder, *cohort_folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    videos = cohort_folder / "videos"
    os.chown(videos, 0, 0)
    videos.chmod(0o700)
    video = videos / "r1.mp4"
    done = run_python(TRAIN, cohort_folder / "site.toml", video, wall, key, user=NOBODY)
    before, trained, after = done.stdout.splitlines() or pytest.fail(done.stderr)
    assert trained.endswith("releases 1")
    assert before == after == "PermissionError"
    assert video.read_bytes() == b"video"


EXTRACT = """
    import socket, sys
    from client.cli import app
    if __name__ == "__main__":
        print([name for _, name in socket.if_nameindex() if name != "lo"])
        app()
"""


@LINUX
@AS_ROOT
@pytest.mark.needs_model
def test_extraction_runs_whole_where_there_is_no_network(site, assets, face_model):
    shutil.copy(assets / "videos" / "nod_30fps.mkv", make(site.folder / "videos" / "a.mkv"))
    header = "recording_id,subject_id,file,recorded_at,age_years,sex,score"
    row = "r1,s1,videos/a.mkv,2026-03-02T09:30:00+01:00,40,female,3"
    site.paths.recordings.write_text(f"{header}\n{row}\n")
    script = make(site.folder / "entry.py")
    script.write_text(textwrap.dedent(EXTRACT))
    words = [sys.executable, script, "extract", site.folder, "--face-model", face_model, "--json"]
    done = subprocess.run(
        ["unshare", "--net", *words], check=False, capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "[]"
    assert json.loads(done.stdout.splitlines()[-1])["extracted"] == 1
