"""What a run waits for is told by name, also when nobody conducts it."""

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from played_engine import PlayedEngine
from test_resume import call

from privacy.keys import create_identity_key
from server.progress import Progress, write_progress
from server.run_folder import hold_run, mark_stopped
from server.run_status import LATE_S, describe_run, tell_run
from server.runs import Run, start_run
from server.workspace import open_workspace


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    create_identity_key(folder / "keys" / "identity", folder / "keys" / "identity.pub")
    assert call("init", folder / "hub", "--name", "north", "--port", 1).exit_code == 0
    added = call("add-site", folder / "hub", "--id", "a", "--key", folder / "keys" / "identity.pub")
    assert added.exit_code == 0, added.output
    start_run(open_workspace(folder / "hub"), PlayedEngine())
    return folder / "hub"


@pytest.fixture
def run(hub: Path) -> Iterator[Run]:
    run = Run(hub / "runs" / "run-0001")
    since = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=LATE_S + 5)
    moment = Progress(
        run_id="1",
        server_round=3,
        rounds=9,
        phase="training",
        waiting_for=("b", "c"),
        since=since.isoformat(),
        attempt=2,
        quorum=3,
        answered=1,
        lost=("c",),
        missing=("d",),
        refused=(("e", "budget", "cap reached"),),
    )
    write_progress(run.folder, moment)
    yield run
    (run.folder / "stopped").unlink(missing_ok=True)


def test_a_stalled_round_names_everybody_it_waits_for_and_why(run: Run) -> None:
    with hold_run(run.folder, life="1"):
        described = describe_run(run, is_up=True)
    assert described["conducted"] == "running"
    assert (described["waiting_for"], described["lost"]) == (["b", "c"], ["c"])
    assert (described["late"], described["missing"]) == (["b"], ["d"])
    assert described["refused"] == [{"site": "e", "code": "budget", "reason": "cap reached"}]
    assert LATE_S < (described["waited_s"] or 0) < LATE_S + 60
    told = tell_run(described)
    assert "round 3 of 9" in told
    assert "1 answered in attempt 2, 3 are needed. It waits for b, c since" in told
    assert "Lost their connection: c.\nLate: b.\nNot connected: d." in told
    assert "e refused (budget): cap reached" in told


def test_a_run_that_nobody_conducts_says_what_becomes_of_it(run: Run) -> None:
    assert "being started (life 1)" in tell_run(describe_run(run, is_up=True))
    assert "coordinator does not run" in tell_run(describe_run(run, is_up=False))


def test_a_run_that_ended_waits_for_nobody(run: Run) -> None:
    mark_stopped(run.folder)
    described = describe_run(run, is_up=True)
    assert (described["phase"], described["conducted"]) == ("stopped", "ended")
    assert described["waiting_for"] == described["late"] == described["lost"] == []


def test_status_shows_the_last_progress_while_the_coordinator_is_down(run: Run, hub: Path) -> None:
    told = call("status", hub, "--json")
    assert told.exit_code == 1
    assert "vultus-coordinator start" in told.stderr
    answer = json.loads(told.stdout.splitlines()[-1])
    assert answer["coordinator"] == "down"
    assert answer["sites"] == [{"id": "a", "state": "unknown", "last_seen_s": None}]
    assert answer["run"]["round"] == 3
    assert answer["run"]["conducted"] == "down"
