"""``vultus-coordinator report``: the page of a run that ended, goes on, stopped or never began."""

import json

import pytest
from ended_runs import add_run, make_hub
from reported_runs import round_of
from typer.testing import CliRunner

from server.checkpoints import Checkpoint, CheckpointStore
from server.cli import app
from server.history import RunReport
from server.progress import Progress, write_progress
from server.run_folder import mark_stopped
from server.runs import Life, Run


@pytest.fixture
def hub(tmp_path):
    return make_hub(tmp_path / "hub")


def call(*words):
    return CliRunner().invoke(app, ["report", *map(str, words)])


def begun_run(hub, *, rounds=2):
    """A run whose server app has not written a report."""
    folder = hub.runs / "run-0001"
    folder.mkdir()
    (folder / "consortium.toml").write_bytes(hub.consortium_file.read_bytes())
    Run(folder).begin_life(Life(7, 1, 0, 0, 0.0))
    write_progress(folder, Progress("7", rounds + 1, 3, "training"))
    if rounds:
        trained = tuple(round_of(r, ("north", "south")) for r in range(1, rounds + 1))
        spent = {"north": {"training": 0.5}, "south": {"training": float("inf")}}
        study = hub.consortium.digest
        made = Checkpoint("7", study, 0, trained, (), spent, {}, None, 3.0, "")
        CheckpointStore(folder).write(made)
    return folder


def test_a_finished_run_gets_its_pages_and_one_alone_where_it_is_asked_for(hub, tmp_path):
    folder = add_run(hub)
    Run(folder).begin_life(Life(7, 1, 0, 0, 0.0))
    out = tmp_path / "page.html"
    told = call(hub.folder, "--language", "zh", "--out", out)
    assert told.exit_code == 0, told.output
    assert "run-0001 (completed)" in told.output
    alone = out.read_text(encoding="utf-8")
    assert '<html lang="zh-Hans">' in alone
    assert 'href="report' not in alone
    english = (folder / "report.html").read_text(encoding="utf-8")
    assert 'href="report.zh.html"' in english
    assert 'href="report.html"' in (folder / "report.zh.html").read_text(encoding="utf-8")


def test_a_run_under_way_gets_a_page_that_says_so_and_no_report(hub):
    folder = begun_run(hub)
    told = call(hub.folder)
    assert told.exit_code == 0, told.output
    assert "interim.html" in told.output.replace("\n", "")
    page = (folder / "interim.html").read_text(encoding="utf-8")
    assert "This run has not ended." in page
    assert "What follows holds after 2 rounds and will change." in page
    assert ">0.50<" in page
    assert "not reported" in page
    assert 'href="interim.zh.html"' in page
    assert not (folder / "report.json").exists()


@pytest.mark.parametrize(
    ("end", "said"),
    [("stopped", "This run was stopped before its end."), ("failed", "This run failed.")],
)
def test_a_run_that_ended_without_a_report_says_how(hub, end, said):
    folder = begun_run(hub)
    if end == "stopped":
        mark_stopped(folder)
    else:
        write_progress(folder, Progress("7", 3, 3, "failed", detail="The server app ended"))
    assert call(hub.folder).exit_code == 0
    assert said in (folder / "interim.html").read_text(encoding="utf-8")


def test_a_run_before_its_first_checkpoint_has_spent_nothing(hub):
    folder = begun_run(hub, rounds=0)
    assert call(hub.folder).exit_code == 0
    page = (folder / "interim.html").read_text(encoding="utf-8")
    assert "none spent" in page
    assert "No round was trained." in page


def test_a_damaged_checkpoint_is_told_in_a_line(hub):
    folder = begun_run(hub)
    (folder / "checkpoint.json").write_text("{")
    told = call(hub.folder)
    assert told.exit_code == 1
    assert "Expected a checkpoint in" in told.output
    assert "Traceback" not in told.output


def test_an_unknown_language_is_refused_with_those_that_there_are(hub):
    told = call(hub.folder, "--language", "tlh")
    assert told.exit_code == 2
    assert "'en', 'zh'" in told.output


def test_reports_written_before_there_was_a_reliability_curve_still_give_a_page(hub):
    folder = add_run(hub)
    Run(folder).begin_life(Life(7, 1, 0, 0, 0.0))
    file = folder / "report.json"
    text = file.read_text(encoding="utf-8")
    report = RunReport.from_json(text)
    assert report.evaluations[0].reliability
    numbers = json.loads(text)
    for evaluation in numbers["evaluations"]:
        del evaluation["reliability"]
    file.write_text(json.dumps(numbers), encoding="utf-8")
    assert call(hub.folder).exit_code == 0
    assert "predicted probability" not in (folder / "report.html").read_text(encoding="utf-8")
