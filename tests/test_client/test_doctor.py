"""The doctor: a sound site passes, and each ailment is found and comes with its remedy."""

from __future__ import annotations

import datetime as dt
import http.server
import json
import os
import re
import shutil
import socket
import sqlite3
import ssl
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from agreed_study import STUDY
from made_kit import kit_for, new_coordinator, repin
from packaging.version import Version
from typer.testing import CliRunner

from client.approval.record import approved_bundles, withdraw
from client.checkup import boundary, folder, machine, rehearsal
from client.checkup.contact import contact, presented_issuer
from client.checkup.finding import Ailment
from client.cli import app
from client.service.reachability import Address
from client.site import Site, init_site, open_site
from client.withdrawal.exclusion import open_exclusions
from privacy.ledger import PrivacyLedger
from server.pki import CertificateAuthority

HEADER = "recording_id,subject_id,file,recorded_at,age_years,sex,score"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def site(tmp_path: Path, study: Path) -> Site:
    return init_site(tmp_path / "site", site_id="north", consortium_file=study)


@pytest.fixture(autouse=True)
def no_bundle_of_this_account(monkeypatch, tmp_path):
    """What an account's cache holds decides no test."""
    monkeypatch.setattr("client.extraction.face_model.user_cache", lambda: tmp_path / "none.task")


def examine(site_folder: Path, *words: object) -> dict[str, dict]:
    result = CliRunner().invoke(app, ["doctor", str(site_folder), "--json", *map(str, words)])
    answer = json.loads(result.stdout.strip().splitlines()[-1])
    found = {one["name"]: one for one in answer["checks"]}
    assert result.exit_code == (0 if all(one["passed"] for one in found.values()) else 1)
    assert all(one["passed"] == (not one["remedy"]) for one in found.values())
    assert all(one["passed"] == bool(one["detail"]) for one in found.values())
    return found


def add_video(site: Site, source: Path) -> None:
    shutil.copy(source, site.folder / "videos" / "a.mp4")
    row = "r1,s1,videos/a.mp4,2026-03-02T09:30:00+01:00,40,female,3"
    site.paths.recordings.write_text(f"{HEADER}\n{row}\n")


def edit(site: Site, old: str, new: str) -> Site:
    text = site.config_file.read_text()
    assert old in text
    site.config_file.write_text(text.replace(old, new))
    return open_site(site.folder)


@pytest.mark.needs_model
def test_sound_site_passes_every_check_and_nobody_is_contacted(site, face_model, monkeypatch):
    def refuse(*_: object) -> None:
        pytest.fail("somebody was contacted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    add_video(site, rehearsal.CLIP)
    found = examine(site.folder, "--face-model", face_model)
    assert [one["remedy"] for one in found.values() if not one["passed"]] == []
    assert "as expected" in found["dry run of the extraction"]["detail"]
    assert "not asked for" in found["connection to the coordinator"]["detail"]
    assert "does not apply" in found["kit"]["detail"]


def test_each_ailment_is_named_with_its_remedy(site):
    site.paths.state.chmod(0o755)
    site.paths.audit.write_text("no log\n")
    text = site.config_file.read_text()
    start, end = text.index("[policy]"), text.index("[device]")
    text = (text[:start] + text[end:]).replace('torch = "cpu"', 'torch = "abacus"')
    site.config_file.write_text(text + "\n[quality]\nmin_fp = 9.0\n")
    found = examine(site.folder)
    failed = {name: one["remedy"] for name, one in found.items() if not one["passed"]}
    assert "chmod 700" in failed["permissions"]
    assert "line 1" in failed["audit log"]
    assert "[policy]" in failed["policy"]
    assert "abacus" in failed["training device"]
    assert "vultus-site check" in failed["recordings"]
    assert "did you mean min_fps?" in failed["quality thresholds"]
    assert "--face-model" in failed["face landmarker bundle"]
    assert "first" in failed["dry run of the extraction"]
    assert found["video codecs"]["passed"]
    assert found["keys"]["passed"]
    assert found["privacy ledger"]["passed"]


def test_folder_that_is_no_site_is_told_after_the_machine(tmp_path):
    found = examine(tmp_path)
    assert len(found) == 5
    assert "vultus-site init" in found["site folder, site.toml and study"]["remedy"]


def test_ledger_that_was_edited_is_noticed(site):
    with PrivacyLedger(site.paths.ledger, key=site.ledger_key) as ledger:
        ledger.reserve(
            "r", ["s1"], noise_multiplier=5.0, sample_rate=1.0, steps=1, delta=1e-3,
            purpose="train", cap_epsilon=3.0,
        )  # fmt: skip
    assert folder.ledger(site) == "1 releases, whole"
    with sqlite3.connect(site.paths.ledger) as database:
        triggers = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (trigger,) in triggers.fetchall():
            database.execute(f"DROP TRIGGER {trigger}")
        database.execute("UPDATE releases SET noise_multiplier = 500.0")
    database.close()
    with pytest.raises(Ailment, match="newest backup"):
        folder.ledger(site)


def test_another_identity_in_the_study_is_noticed(site, tmp_path, study):
    other = init_site(tmp_path / "other", site_id="other", consortium_file=study)
    line = other.public_key_file.read_text().strip()
    entry = f'[[sites]]\nid = "north"\nweight = 40\npublic_key = "{line}"\n'
    study.write_text(STUDY + entry)
    with pytest.raises(Ailment, match="another public key"):
        folder.keys(init_site(site.folder, site_id="north", consortium_file=study))


def test_key_file_that_others_can_read_is_noticed(site):
    (site.paths.keys / "storage.key").chmod(0o640)
    assert "chmod 600" in examine(site.folder)["permissions"]["remedy"]


def test_damaged_list_of_forgotten_subjects_is_noticed(site):
    exclusions = open_exclusions(site)
    exclusions.add("s1", ["object"])
    assert folder.exclusions(site) == "1 subjects forgotten, whole"
    (file,) = site.paths.state.glob("exclusions*")
    file.write_bytes(b"")
    with pytest.raises(Exception, match="not as it was written"):
        folder.exclusions(site)


# The machine.


def test_decoder_that_is_missing_is_named(monkeypatch, tmp_path):
    clips = Path(shutil.copytree(machine.CLIPS, tmp_path / "clips"))
    monkeypatch.setattr(machine, "CLIPS", clips)
    (clips / "av1_pattern.mkv").write_bytes(b"none")
    assert "; not av1.mkv" in machine.codecs()
    (clips / "hevc_pattern.mp4").write_bytes((clips / "hevc_pattern.mp4").read_bytes()[:900])
    with pytest.raises(Ailment, match=r"cannot decode hevc\.mp4:"):
        machine.codecs()


def test_clips_are_small_and_say_where_they_come_from():
    assert sum(path.stat().st_size for path in machine.CLIPS.iterdir()) < 100_000
    assert "public domain" in (machine.CLIPS / "ORIGIN.txt").read_text()


def test_little_memory_is_noticed_and_bounds_the_workers(site, monkeypatch):
    monkeypatch.setattr(machine, "memory_bytes", lambda: 3 << 30)
    with pytest.raises(Ailment, match=r"4 GiB of memory, got 3\.0"):
        machine.memory()
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    with pytest.raises(Ailment, match="at most 2 with 64 cores and 3"):
        machine.workers(edit(site, "workers = 1", "workers = 3"))


def test_clock_behind_what_was_written_is_noticed(site):
    future = time.time() + 3600
    site.paths.audit.touch()
    os.utime(site.paths.audit, (future, future))
    with pytest.raises(Ailment, match="set the clock"):
        machine.clock(site)


def test_clock_that_leaps_is_noticed(site, monkeypatch):
    now = time.time
    monkeypatch.setattr(machine.time, "sleep", lambda _: monkeypatch.setattr(
        machine.time, "time", lambda: now() + 30))  # fmt: skip
    with pytest.raises(Ailment, match=r"leapt by 30\.\d s"):
        machine.clock(site)


def test_file_system_with_another_clock_is_noticed(site, monkeypatch):
    now = time.time
    monkeypatch.setattr(machine.time, "time", lambda: now() + 600)
    with pytest.raises(Ailment, match=r"behind this machine's clock.*NTP"):
        machine.clock(site)


@pytest.mark.parametrize(("said", "told"), [("yes", "kept by NTP"), ("no", "set-ntp true")])
def test_word_of_the_time_service_is_passed_on(site, monkeypatch, tmp_path, said, told):
    program = tmp_path / "timedatectl"
    program.write_text(f"#!/bin/sh\necho {said}\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert told in machine.clock(site)


def test_graphics_card_without_free_memory_is_noticed(site, monkeypatch):
    import torch

    site = edit(site, 'torch = "cpu"', 'torch = "cuda:0"')
    monkeypatch.setattr(torch.nn.Conv1d, "to", lambda self, _: self)
    monkeypatch.setattr(torch, "zeros", lambda *shape, **_: torch.ones(*shape))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (8 << 30, 16 << 30))
    assert machine.device(site) == "cuda:0, a card, 8.0 GiB free"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 29, 16 << 30))
    with pytest.raises(Ailment, match=r"1 GiB of free memory.*0\.50"):
        machine.device(site)


def test_proxy_is_named_without_its_password(site):
    told = machine.proxy(site, {"https_proxy": "http://me:secret@proxy:3128", "NO_PROXY": ""})
    assert "https_proxy = http://proxy:3128" in told
    assert "secret" not in told
    assert "directly" in told
    assert "kit alone" in machine.proxy(site, {"SSL_CERT_FILE": "/etc/hospital.pem"})
    assert machine.proxy(site, {}) == "none named in the environment"


def test_full_disk_is_noticed(site, monkeypatch):
    add_video(site, rehearsal.CLIP)
    needed = rehearsal.FRAMES * folder.STORED_BYTES_A_FRAME
    room = (1 << 30) + needed
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, room))
    assert folder.room(site).startswith("1 recordings")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, room - 1))
    with pytest.raises(Ailment, match="for 1 recordings"):
        folder.room(site)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, (1 << 30) - 1))
    with pytest.raises(Ailment, match="make room"):
        folder.disk(site.folder / "not" / "there")


def test_video_that_this_account_cannot_read_is_noticed(site, monkeypatch):
    add_video(site, rehearsal.CLIP)
    assert folder.recordings(site) == "1 of 1 subjects"
    monkeypatch.setattr(folder, "_is_open", lambda _: False)
    with pytest.raises(Ailment, match="recording r1"):
        folder.recordings(site)


# The boundary.


def test_wall_that_does_not_hold_is_noticed(site, monkeypatch):
    if not machine.sys.platform.startswith("linux") or "not possible" in boundary.wall(site):
        pytest.skip("this kernel has no Landlock")
    assert str(site.folder / "videos") in boundary.wall(site)
    broken = boundary.PEEK.replace("raise_wall(find_boundary", "id(find_boundary")
    monkeypatch.setattr(boundary, "PEEK", broken)
    with pytest.raises(Ailment, match="it could be opened"):
        boundary.wall(site)


def test_kernel_without_a_wall_fails_only_where_the_site_requires_one(site, monkeypatch):
    monkeypatch.setattr("client.service.walled_start.landlock_version", lambda: 0)
    assert boundary.wall(site).startswith("not possible here")
    required = edit(site, 'wall = "if_possible"', 'wall = "required"')
    with pytest.raises(Ailment, match="Landlock"):
        boundary.wall(required)


def test_video_among_what_the_service_lives_on_is_to_be_moved(site):
    site.paths.recordings.write_text(f"{HEADER}\nr1,s1,state/a.mp4,x,40,female,3\n")
    with pytest.raises(Ailment, match="move them"):
        boundary.wall(site)


def test_network_that_cannot_be_cut_fails_only_where_the_site_requires_it(site, monkeypatch):
    refusing = boundary.CUT.replace(
        "import sys\n",
        "import sys\nfrom client.extraction import isolation\n"
        "isolation._leave_network = lambda: 'Operation not permitted'\n"
        "isolation.has_only_loopback = lambda: False\n",
    )
    monkeypatch.setattr(boundary, "CUT", refusing)
    assert boundary.network_cut(site).startswith("not possible here")
    strict = edit(site, 'network = "cut_if_possible"', 'network = "cut"')
    with pytest.raises(Ailment, match=r"not permitted.*vultus-site units"):
        boundary.network_cut(strict)
    unguarded = edit(site, 'network = "cut"', 'network = "open"')
    assert "switched off" in boundary.network_cut(unguarded)


# The dry run.


def test_figures_that_differ_from_the_clip_are_noticed():
    smile = np.full(30, 0.11, np.float32)
    smile[20] = 0.87
    assert "0.87 at 2.0 s" in rehearsal._compare_smile(smile)
    for wrong in (smile * 0.5, np.roll(smile, 5), smile + 0.2):
        with pytest.raises(Ailment, match="Reinstall mediapipe"):
            rehearsal._compare_smile(wrong)


@pytest.mark.needs_model
def test_clip_without_a_face_fails_the_dry_run(face_model, monkeypatch):
    monkeypatch.setattr(rehearsal, "CLIP", machine.CLIPS / "h264_pattern.mp4")
    with pytest.raises(Ailment, match="Expected 60 frames with a face"):
        rehearsal.rehearse(face_model)


def test_bundle_that_is_no_bundle_fails_the_dry_run(tmp_path):
    (tmp_path / "fake.task").write_bytes(b"none")
    with pytest.raises(Ailment, match="could not be extracted"):
        rehearsal.rehearse(tmp_path / "fake.task")


# Kit and coordinator.


@pytest.fixture
def joined(site: Site, tmp_path: Path) -> Site:
    """A site that took a kit."""
    workspace = new_coordinator(tmp_path / "co", host="127.0.0.1", port=1)
    kit = kit_for(workspace, repin(site, workspace))
    result = CliRunner().invoke(app, ["join", str(site.folder), str(kit), "--yes"])
    assert result.exit_code == 0, result.output
    return open_site(site.folder)


def test_kit_that_fits_tells_until_when(joined):
    assert re.fullmatch(
        r"number 1 for 127.0.0.1:1, its authority holds until 20\d\d-\d\d-\d\d", folder.kit(joined)
    )


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (f'"{version("vultus")}"', '"9.9.9"', "at the coordinator"),
        (f'"{version("flwr")}"', '"9.9.9"', "got 9.9.9: both must run the same version"),
        ('"consortium.toml" = "', '"consortium.toml" = "00000000', "another study"),
    ],
)
def test_kit_that_does_not_fit_is_noticed(joined, old, new, told):
    text = (joined.folder / "kit.toml").read_text()
    assert old in text
    text = re.sub(r'(consortium.toml" = "\w{64})\w*"', r'\1"', text.replace(old, new))
    (joined.folder / "kit.toml").write_text(text)
    with pytest.raises(Ailment, match=re.escape(told)):
        folder.kit(joined)


def test_kit_of_a_compatible_version_fits(joined):
    ours = Version(version("vultus"))
    text = (joined.folder / "kit.toml").read_text()
    later = f"{ours.major}.{ours.minor}.{ours.micro + 1}"
    (joined.folder / "kit.toml").write_text(text.replace(f'"{ours}"', f'"{later}"'))
    assert "number 1" in folder.kit(joined)


def test_bundle_that_nobody_approves_any_more_is_noticed(joined):
    withdraw(joined, approved_bundles(joined)[0])
    with pytest.raises(Ailment, match="vultus-site approve"):
        folder.kit(joined)


def test_authority_that_is_about_to_end_is_noticed(joined, monkeypatch):
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(days=20)
    monkeypatch.setattr(folder, "_valid_until", lambda _: soon)
    with pytest.raises(Ailment, match=f"ends on {soon:%Y-%m-%d}"):
        folder.kit(joined)


class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def serve() -> Iterator[Callable[[CertificateAuthority], int]]:
    """Start a health server with a certificate of an authority."""
    servers: list[tuple[http.server.HTTPServer, threading.Thread]] = []

    def start(authority: CertificateAuthority) -> int:
        issued = authority.issue_server(("127.0.0.1",))
        server = http.server.HTTPServer(("127.0.0.1", 0), Healthy)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(issued.certificate, issued.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        servers.append((server, thread))
        return server.server_address[1]

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def test_coordinator_with_the_certificate_of_the_kit_is_recognised(joined, serve, tmp_path):
    port = serve(CertificateAuthority.load(tmp_path / "co" / "pki"))
    joined = edit(joined, "127.0.0.1:1", f"127.0.0.1:{port}")
    assert "certificate of the kit's authority" in contact(joined)


def test_device_that_opens_tls_on_the_way_is_named(joined, serve, tmp_path):
    interceptor = CertificateAuthority.create(tmp_path / "interceptor")
    port = serve(interceptor)
    joined = edit(joined, "127.0.0.1:1", f"127.0.0.1:{port}")
    issuer = presented_issuer(Address("127.0.0.1", port))
    assert issuer
    with pytest.raises(Ailment, match=f"issued by: {re.escape(issuer)}"):
        contact(joined)


def test_coordinator_that_is_not_there_is_told(joined):
    found = examine(joined.folder, "--contact")
    assert "nothing listens there" in found["connection to the coordinator"]["remedy"]
