"""``vultus-site`` from outside: exit codes, JSON, and what a person reads."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest
from agreed_study import STUDY
from click.testing import Result
from made_kit import kit_for, new_coordinator, repin
from typer.testing import CliRunner

from client.approval.record import approved_bundles
from client.cli import app
from client.preparation.batch import read_thresholds
from client.site import Site, init_site, open_site
from client.site_template import REQUIRED_COLUMNS
from privacy.accounting import epsilon_spent
from privacy.ledger import PrivacyLedger

COMMANDS = ("init", "doctor", "check", "extract", "inspect", "budget", "join", "start", "units")
HEAVY = ("torch", "cv2", "mediapipe", "flwr", "opacus", "numpy", "pydantic", "matplotlib")
VERDICTS = {
    "nod_30fps.mkv": "accepted",
    "single_face_30fps.mp4": "accepted",
    "two_faces_12fps.gif": "two_faces",
    "truncated.mkv": "truncated",
    "empty.mp4": "unreadable",
}


def run(*words: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=answer)


def told(result: Result) -> dict:
    return json.loads(result.stdout.strip().splitlines()[-1])


def write_recordings(site: Site, rows, header=REQUIRED_COLUMNS) -> None:
    with site.paths.recordings.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def row(name, file, *, number=0) -> list[object]:
    when = "2026-03-02T09:30:00+01:00"
    return [name, f"s{number}", file, when, 40, "female", 5 + 10 * (number % 2)]


@pytest.fixture
def study(tmp_path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def site(tmp_path, study) -> Site:
    return init_site(tmp_path / "site", site_id="north", consortium_file=study)


@pytest.fixture
def real_site(site, assets) -> Site:
    for name in VERDICTS:
        shutil.copy(assets / "videos" / name, site.folder / "videos" / name)
    rows = [row(Path(n).stem, f"videos/{n}", number=i) for i, n in enumerate(VERDICTS)]
    write_recordings(site, rows)
    return site


def test_help_names_every_command_and_imports_nothing_heavy():
    script = (
        "import sys; from typer.testing import CliRunner; from client.cli import app;"
        "out = CliRunner().invoke(app, ['--help'], env={'TERMINAL_WIDTH': '100'});"
        f"assert all(c in out.stdout for c in {COMMANDS}), out.stdout;"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert len(result.stdout) > 300


@pytest.mark.parametrize(
    "words",
    [["check", "--nonsense"], ["nonsense"], ["check"], ["extract", "DIR", "--workers", "0"]],
)
def test_wrong_usage_answers_2(words):
    assert run(*words).exit_code == 2


@pytest.mark.parametrize("command", ["check", "extract", "inspect", "budget", "start"])
def test_a_folder_that_is_no_site_is_wrong_input_told_in_a_sentence(tmp_path, command):
    result = run(command, tmp_path)
    assert result.exit_code == 2
    assert "vultus-site init" in result.stderr
    assert "Traceback" not in result.output


def test_init_says_what_to_send_and_what_to_do_next(tmp_path, study):
    result = run("init", tmp_path / "s", "--id", "north", "--consortium", study)
    assert result.exit_code == 0
    assert str(tmp_path / "s" / "keys" / "identity.pub") in result.stdout
    assert result.stdout.strip().splitlines()[-1].startswith("Next:")


def test_init_shows_what_a_new_study_changes_and_asks(site, study):
    study.write_text(STUDY + "[training]\nrounds = 7\n")
    words = ("init", site.folder, "--id", "north", "--consortium", study)
    declined = run(*words, answer="n\n")
    assert declined.exit_code == 2
    assert "training.rounds: 30 -> 7" in declined.stdout
    assert open_site(site.folder).consortium.config.training.rounds == 30
    assert run(*words, "--yes").exit_code == 0
    assert open_site(site.folder).consortium.config.training.rounds == 7


def test_check_answers_2_with_every_fault(site):
    write_recordings(
        site,
        [
            ["r1", "s1", "videos/none.mp4", "yesterday", "forty", "F", 99],
            ["r1", "s2", "../../etc/passwd", "2036-01-01T00:00:00+00:00", -1, "female", 3],
        ],
    )
    result = run("check", site.folder, "--json")
    assert result.exit_code == 2
    answer = told(result)
    assert len(answer["faults"]) == 9
    assert {"line", "column", "fault"} <= set(answer["faults"][0])
    assert (answer["recordings"], answer["subjects"]) == (2, 2)


def test_check_of_a_sound_table_answers_0_with_counts_and_warnings(site):
    (site.folder / "videos" / "a.mp4").write_bytes(b"no video")
    write_recordings(site, [row("r1", "videos/a.mp4")])
    result = run("check", site.folder, "--json")
    assert result.exit_code == 0
    assert told(result) | {"warnings": 0} == {
        "recordings": 1,
        "subjects": 1,
        "faults": [],
        "warnings": 0,
    }
    assert any("will be rejected" in warning for warning in told(result)["warnings"])


def test_json_is_alone_on_stdout(site):
    write_recordings(site, [["r1"]], header=["recording_id"])
    result = run("check", site.folder, "--json")
    assert len(result.stdout.splitlines()) == 1
    assert "subject_id" in result.stderr


def test_extract_refuses_a_faulty_table_before_anything_else(site):
    write_recordings(site, [row("r1", "videos/none.mp4")])
    result = run("extract", site.folder)
    assert result.exit_code == 2
    assert "videos/none.mp4" in result.stderr
    assert "Traceback" not in result.output


def test_extract_names_a_misspelt_threshold(site):
    (site.folder / "videos" / "a.mp4").write_bytes(b"x")
    write_recordings(site, [row("r1", "videos/a.mp4")])
    site.config_file.write_text(site.config_file.read_text() + "\n[quality]\nmin_fp = 9.0\n")
    result = run("extract", site.folder)
    assert result.exit_code == 2
    assert "quality.min_fp" in result.stderr
    assert "did you mean min_fps?" in result.stderr


def test_thresholds_of_the_site_override_the_defaults(site):
    defaults = read_thresholds(site)
    site.config_file.write_text(site.config_file.read_text() + "\n[quality]\nmin_fps = 20\n")
    assert read_thresholds(open_site(site.folder)) == replace(defaults, min_fps=20.0)


def test_extract_refuses_another_face_model(site, tmp_path):
    (site.folder / "videos" / "a.mp4").write_bytes(b"x")
    write_recordings(site, [row("r1", "videos/a.mp4")])
    (tmp_path / "fake.task").write_bytes(b"fake")
    result = run("extract", site.folder, "--face-model", tmp_path / "fake.task")
    assert result.exit_code == 2
    assert "64184e22" in result.stderr


def test_inspect_before_extraction_says_what_is_missing(site):
    (site.folder / "videos" / "a.mp4").write_bytes(b"x")
    write_recordings(site, [row("r1", "videos/a.mp4")])
    result = run("inspect", site.folder, "--json")
    assert result.exit_code == 0
    assert told(result)["not_extracted"] == ["r1"]
    assert run("inspect", site.folder, "--export", "csv").exit_code == 2
    assert run("inspect", site.folder, "--export", "xls").exit_code == 2


def test_join_shows_what_is_asked_and_asks_once_before_anything_is_written(site, tmp_path):
    workspace = new_coordinator(tmp_path / "co", host="coordinator.example")
    kit = kit_for(workspace, repin(site, workspace))
    before = {f: f.read_bytes() for f in site.folder.rglob("*") if f.is_file()}
    declined = run("join", site.folder, kit, answer="n\n")
    assert declined.exit_code == 2
    for part in ("coordinator.example:8443", "epsilon 3", "No code", "never a video", "30 rounds"):
        assert part in declined.stdout
    assert {f: f.read_bytes() for f in site.folder.rglob("*") if f.is_file()} == before
    agreed = run("join", site.folder, kit, answer="y\n")
    assert agreed.exit_code == 0
    assert agreed.stdout.count("Agree?") == 1
    assert "vultus-site start" in agreed.stdout
    joined = open_site(site.folder)
    assert joined.config.coordinator is not None
    assert approved_bundles(joined) == (workspace.bundle.sha256,)


def test_start_before_join_is_wrong_input(site):
    result = run("start", site.folder)
    assert result.exit_code == 2
    assert "vultus-site join" in result.stderr


def test_the_budget_of_a_fresh_site_is_whole_and_creates_no_ledger(site):
    answer = told(run("budget", site.folder, "--json"))
    year = {"cap": None, "spent": 0.0, "remaining": None}
    whole = {"cap": 3.0, "spent": 0.0, "remaining": 3.0, "delta": 1e-3, "releases": []}
    assert answer == {**whole, "year": year}
    assert not site.paths.ledger.exists()


def test_the_budget_shows_what_the_ledger_charged(site):
    with PrivacyLedger(site.paths.ledger, key=site.ledger_key) as ledger:
        ledger.reserve(
            "run-1/1",
            ["s1", "s2"],
            noise_multiplier=5.7,
            sample_rate=1.0,
            steps=10,
            delta=1e-3,
            purpose="train",
            cap_epsilon=3.0,
        )
    result = run("budget", site.folder, "--json")
    answer = told(result)
    spent = epsilon_spent(5.7, 1e-3, steps=10)
    assert answer["spent"] == pytest.approx(spent)
    assert answer["remaining"] == pytest.approx(3.0 - spent)
    assert [one["release_id"] for one in answer["releases"]] == ["run-1/1"]
    assert "s1" not in result.output


@pytest.mark.needs_model
def test_real_videos_from_check_to_export(real_site, face_model, tmp_path):
    site = real_site
    assert run("check", site.folder).exit_code == 0
    result = run("extract", site.folder, "--face-model", face_model, "--json")
    assert result.exit_code == 0
    first = told(result)
    assert (first["extracted"], first["rejected"], first["failed"]) == (2, 3, 0)
    assert first["frames"] == 65 + 72 + 56 + 25

    seen = {
        one["recording_id"]: one
        for one in told(run("inspect", site.folder, "--json"))["recordings"]
    }
    for name, verdict in VERDICTS.items():
        found = seen[Path(name).stem]
        codes = [reason["code"] for reason in found["reasons"]]
        assert verdict in (codes or [found["verdict"]])
        assert (found["verdict"] == "accepted") == (not codes)
    assert seen["nod_30fps"]["indicators"]["head_speed_deg_s"] > 5
    assert seen["nod_30fps"]["indicators"]["smile_rate_per_min"] is None

    again = told(run("extract", site.folder, "--face-model", face_model, "--json"))
    assert (again["extracted"], again["rejected"], again["skipped"]) == (0, 0, 5)

    run("inspect", site.folder, "--export", "csv")
    table = pyarrow.csv.read_csv(site.folder / "indicators.csv")
    parquet = tmp_path / "t.parquet"
    page = tmp_path / "page.html"
    assert run("inspect", site.folder, "--export", "parquet", "--out", parquet).exit_code == 0
    assert run("inspect", site.folder, "--page", page).exit_code == 0
    columns = pyarrow.parquet.read_table(parquet)
    assert table.column_names == columns.column_names
    assert columns.num_rows == 5
    assert columns.schema.field("head_speed_deg_s").metadata == {b"unit": b"deg/s"}
    assert stat.S_IMODE(page.stat().st_mode) == stat.S_IMODE(parquet.stat().st_mode) == 0o600
    html = page.read_text()
    assert html.count('role="img"') > 2
    assert "<img" not in html
    assert "<image" not in html
    assert 'href="http' not in html


@pytest.mark.needs_model
def test_a_changed_video_is_extracted_again_and_a_withdrawn_one_erased(real_site, face_model):
    site = real_site
    names = ("truncated.mkv", "empty.mp4")
    rows = [row(Path(n).stem, f"videos/{n}", number=i) for i, n in enumerate(names)]
    write_recordings(site, rows)
    run("extract", site.folder, "--face-model", face_model)
    (site.folder / "videos" / "empty.mp4").write_bytes(b"still no video")
    again = told(run("extract", site.folder, "--face-model", face_model, "--json"))
    assert (again["rejected"], again["skipped"]) == (1, 1)

    consent = [[*rows[0], "withdrawn"], [*rows[1], "granted"]]
    write_recordings(site, consent, (*REQUIRED_COLUMNS, "consent"))
    result = run("extract", site.folder, "--face-model", face_model)
    assert "Erased truncated" in result.stdout
    assert len(list(site.paths.store.glob("*/*.features"))) == 1


@pytest.mark.needs_model
@pytest.mark.slow
def test_ctrl_c_loses_nothing_that_was_finished(real_site, face_model):
    site = real_site
    words = ["extract", str(site.folder), "--face-model", str(face_model), "--json"]
    entry = site.folder / "entry.py"
    # Workers import the main module again, so it needs the guard of a real script.
    # A test run in the background has SIGINT ignored, and its children inherit that.
    entry.write_text(
        "import signal\nfrom client.cli import app\nif __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n    app()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(entry), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
    )
    deadline = time.monotonic() + 120
    while not list(site.paths.store.glob("*/*.features")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, (out, err)
    assert "run the command again to go on" in err
    assert "Traceback" not in err
    done = len(list(site.paths.store.glob("*/*.features")))
    rest = told(run(*words))
    assert rest["skipped"] == done
    assert rest["extracted"] + rest["rejected"] == len(VERDICTS) - done
