"""A run whose server app is gone is taken up again; one that ended or was stopped is not."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import Result
from played_engine import PlayedEngine
from typer.testing import CliRunner

from privacy.keys import create_identity_key
from server.cli import app
from server.progress import Progress, read_progress, write_progress
from server.resume import BEGINS_WITHIN_S, MOST_FRUITLESS, RunKeeper
from server.run_folder import CHECKPOINT_FILE, HeldError, hold_run, is_held
from server.runs import Life, Run, follow, start_run, stop_run
from server.workspace import Workspace, open_workspace


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    create_identity_key(folder / "keys" / "identity", folder / "keys" / "identity.pub")
    assert call("init", folder / "hub", "--name", "north").exit_code == 0
    key = folder / "keys" / "identity.pub"
    added = call("add-site", folder / "hub", "--id", "a", "--key", key)
    assert added.exit_code == 0, added.output
    return folder / "hub"


@pytest.fixture
def workspace(template: Path) -> Iterator[Workspace]:
    yield open_workspace(template)
    for run in template.glob("runs/run-*"):
        run.rename(template / f"was-{run.name}-{len(list(template.iterdir()))}")


@pytest.fixture
def engine() -> PlayedEngine:
    return PlayedEngine()


@pytest.fixture
def keeper(
    workspace: Workspace, engine: PlayedEngine, monkeypatch: pytest.MonkeyPatch
) -> RunKeeper:
    monkeypatch.setattr("server.resume.LOOK_S", 0.0)
    monkeypatch.setattr("server.runs.FOLLOW_S", 0.01)
    monkeypatch.setattr("server.runs.STOPS_WITHIN_S", 0.05)
    return RunKeeper(workspace, engine)


@pytest.fixture
def run(workspace: Workspace, engine: PlayedEngine) -> Run:
    return start_run(workspace, engine)


@contextmanager
def conducting(run: Run, *, round_done: int = 0) -> Iterator[None]:
    """A server app at work, which ends without a word when the context does."""
    with hold_run(run.folder, life=str(run.life.run_id)):
        write_progress(run.folder, Progress("1", round_done + 1, 9, "training", ("a",)))
        done = {"rounds": [0] * round_done, "evaluations": []}
        (run.folder / CHECKPOINT_FILE).write_text(json.dumps(done))
        yield


def age(run: Run, seconds: float) -> None:
    life = run.life
    run.begin_life(
        Life(life.run_id, life.number, life.fruitless, life.steps, life.began_s - seconds)
    )


def test_a_run_whose_app_died_goes_on_at_once_under_another_number(
    keeper: RunKeeper, engine: PlayedEngine, run: Run
) -> None:
    with conducting(run):
        assert keeper.look() is None
    told = keeper.look()
    assert told is not None
    assert "life 2" in told
    assert engine.stopped == [1]
    assert run.life.run_id == 2
    assert [config for _, _, config in engine.started] == [{"run-folder": str(run.folder)}] * 2


def test_an_app_that_is_about_to_begin_is_waited_for_within_bounds(
    keeper: RunKeeper, engine: PlayedEngine, run: Run
) -> None:
    assert keeper.look() is None
    age(run, BEGINS_WITHIN_S + 1)
    assert keeper.look() is not None
    assert len(engine.started) == 2


def test_an_app_that_never_began_is_not_waited_for_once_the_engine_gave_it_up(
    keeper: RunKeeper, engine: PlayedEngine, run: Run
) -> None:
    engine.end("failed")
    assert keeper.look() is not None
    assert engine.stopped == []


def test_a_run_that_a_lost_database_does_not_know_goes_on(
    keeper: RunKeeper, engine: PlayedEngine, run: Run
) -> None:
    engine.states.clear()
    assert keeper.look() is not None
    assert run.life.number == 2


@pytest.mark.parametrize("phase", ["completed", "failed", "stopped"])
def test_a_run_that_ended_is_never_taken_up(
    keeper: RunKeeper, engine: PlayedEngine, run: Run, phase: str
) -> None:
    with conducting(run):
        write_progress(run.folder, Progress("1", 9, 9, phase))
    assert keeper.look() is None
    assert len(engine.started) == 1


def test_a_stopped_run_stays_stopped_also_if_the_engine_was_away(
    keeper: RunKeeper, engine: PlayedEngine, run: Run
) -> None:
    with conducting(run):
        pass
    engine.is_away = True
    assert not stop_run(run, engine)
    assert run.end is not None
    assert run.end.status == "stopped"
    assert keeper.look() is None
    engine.is_away = False
    assert keeper.look() is None
    assert engine.stopped == [1]
    assert len(engine.started) == 1


def test_a_run_without_steps_forward_is_given_up_by_name(
    keeper: RunKeeper, engine: PlayedEngine, run: Run
) -> None:
    # The first life made the first checkpoint, which is a step.
    for _ in range(1 + MOST_FRUITLESS):
        with conducting(run):
            last = read_progress(run.folder)
            assert last is not None
            write_progress(run.folder, Progress(**{**vars(last), "detail": "OSError: disk full"}))
        told = keeper.look()
    assert told is not None
    assert "given up" in told
    assert run.end is not None
    assert run.end.status == "failed"
    assert "disk full" in run.end.detail
    assert len(engine.started) == 1 + MOST_FRUITLESS


def test_steps_forward_earn_new_lives(keeper: RunKeeper, engine: PlayedEngine, run: Run) -> None:
    for done in range(3 * MOST_FRUITLESS):
        with conducting(run, round_done=done):
            pass
        assert keeper.look() is not None
    assert run.end is None


def test_an_engine_that_is_away_is_asked_again(
    keeper: RunKeeper, engine: PlayedEngine, run: Run
) -> None:
    with conducting(run):
        pass
    engine.is_away = True
    assert keeper.look() is None
    engine.is_away = False
    age(run, BEGINS_WITHIN_S + 1)
    assert keeper.look() is not None


def test_two_apps_never_conduct_one_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.run_folder.TAKEOVER_S", 0.0)
    with hold_run(run.folder, life="1"), pytest.raises(HeldError, match="another process"):
        hold_run(run.folder, life="2").__enter__()
    with hold_run(run.folder, life="2"):
        assert is_held(run.folder)
    assert not is_held(run.folder)


def test_following_goes_on_through_all_lives(
    keeper: RunKeeper, engine: PlayedEngine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter(["die", "look", "end"])

    def act(_seconds: float) -> None:
        match next(moments):
            case "die":
                engine.end("failed")
            case "look":
                assert keeper.look() is not None
            case "end":
                write_progress(run.folder, Progress("1", 9, 9, "completed"))

    monkeypatch.setattr("server.runs.time.sleep", act)
    end = follow(run, engine, show=lambda _: None)
    assert end.status == "completed"
    assert run.life.number == 2


@pytest.mark.parametrize(("by_policy", "code"), [(True, 3), (False, 1)])
def test_run_answers_whether_sites_refused_by_policy(
    workspace: Workspace,
    engine: PlayedEngine,
    monkeypatch: pytest.MonkeyPatch,
    by_policy: bool,
    code: int,
) -> None:
    monkeypatch.setattr("server.deployment.engine_of", lambda _workspace: engine)
    run = start_run(workspace, engine)
    detail = "Round 1 needs 1 sites, 0 took part: a refused (budget: cap reached)"
    ended = Progress("1", 0, 9, "failed", detail=detail, by_policy=by_policy)
    write_progress(run.folder, ended)
    told = call("run", workspace.folder, "--follow", run.name)
    assert told.exit_code == code
    assert "a refused" in told.output


def test_stop_ends_a_run_and_says_so_again(
    workspace: Workspace, engine: PlayedEngine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.deployment.engine_of", lambda _workspace: engine)
    told = call("stop", workspace.folder)
    assert told.exit_code == 0
    assert "stopped run-" in told.output
    assert engine.stopped == [1]
    assert "has ended already" in call("stop", workspace.folder, run.name).output
