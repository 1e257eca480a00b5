"""One training run: a folder, begun at the engine, followed to its end through all its lives.

The server app writes progress and report into the run's folder, and that is where a run's end is
read. The engine knows the run under a new number whenever the app had to be started anew
(:mod:`server.resume`).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from privacy.vault import write_atomic
from server.bundle import RUN_FOLDER
from server.control import Engine, EngineError, NotRunningError
from server.models.entries import RegistryError
from server.progress import Progress, read_progress, write_progress
from server.run_folder import is_held, is_stopped, mark_stopped
from server.signing import open_signing_key
from server.workspace import CONSORTIUM_FILE, Workspace
from shared_models.console import DONE, FAILED, REFUSED, CommandError, InputError

RUN_FILE = "run.json"
REPORT_JSON = "report.json"
REPORT_PAGE = "report.html"
FOLLOW_S = 0.5
SILENCE_S = 180.0
"""The engine's server may be away this long, being restarted, before following gives up."""
RESUMED_WITHIN_S = 90.0
"""A run whose server app is gone is taken up again by then, or is told as failed."""
STOPS_WITHIN_S = 10.0
"""How long a server app that is told to stop may take to write its report."""


@dataclass(frozen=True)
class Life:
    """The present life of a run, from one start of its server app to the next.

    Attributes:
        run_id: The engine's number for it; None until the engine has given one.
        number: From 1.
        fruitless: Lives before it, in a row, that brought the run no step further.
        steps: Steps that the run had come when it began.
        began_s: When it began, seconds since 1970.
    """

    run_id: int | None
    number: int
    fruitless: int
    steps: int
    began_s: float


_LIFE = TypeAdapter(Life)


@dataclass(frozen=True)
class RunEnd:
    """How a run ended.

    Attributes:
        status: ``completed``, ``failed`` or ``stopped``.
        detail: Why, if not completed.
        by_policy: Whether sites refused by policy or budget.
    """

    status: str
    detail: str = ""
    by_policy: bool = False

    @property
    def exit_code(self) -> int:
        """What the command that followed the run answers."""
        if self.status == "completed":
            return DONE
        return REFUSED if self.by_policy else FAILED


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        folder: ``runs/NAME``.
    """

    folder: Path

    @property
    def name(self) -> str:
        """Name of the run, which is its folder's."""
        return self.folder.name

    @property
    def life(self) -> Life:
        """Its present life."""
        return _LIFE.validate_json((self.folder / RUN_FILE).read_bytes())

    def begin_life(self, life: Life) -> None:
        """Replace what is known of its life, durably."""
        write_atomic(self.folder / RUN_FILE, _LIFE.dump_json(life), mode=0o644)

    @property
    def progress(self) -> Progress | None:
        """The server app's last word; None before it began."""
        return read_progress(self.folder)

    @property
    def end(self) -> RunEnd | None:
        """How it ended; None while it goes on, or would if its server app lived."""
        progress = self.progress
        if progress and progress.has_ended:
            return RunEnd(progress.phase, progress.detail, progress.by_policy)
        return RunEnd("stopped", "stopped on request") if is_stopped(self.folder) else None

    @property
    def report(self) -> Mapping[str, object] | None:
        """The report as numbers; None before the end."""
        file = self.folder / REPORT_JSON
        if not file.is_file():
            return None
        report: Mapping[str, object] = json.loads(file.read_text(encoding="utf-8"))
        return report


def start_run(workspace: Workspace, engine: Engine, *, model: int | None = None) -> Run:
    """Begin a run of the study as it stands now, with the bundle that sites have approved.

    Args:
        workspace: The coordinator's folder.
        engine: The engine that starts the server app.
        model: Number of the registered model to begin with; None for the weights that ship.

    Raises:
        InputError: If the study has no sites, or there is no such model.
        RegistryError: If the model is not as it was signed, or of another network.
        SigningKeyError: If the coordinator's key is not the one that the study names.
        CommandError: If another run is under way: sites would wait for each other.
        NotRunningError: If the engine does not answer.
    """
    if not workspace.consortium.config.sites:
        msg = "Expected sites in the study, got none: add them with add-site."
        raise InputError(msg)
    open_signing_key(workspace.runs, workspace.consortium)
    _refuse_second(workspace)
    run = Run(_new_folder(workspace.runs))
    study = workspace.consortium_file.read_bytes()
    write_atomic(run.folder / CONSORTIUM_FILE, study, mode=0o644)
    # Written before the engine is asked: a run that begins there is never without its file.
    run.begin_life(Life(None, 1, 0, 0, time.time()))
    try:
        if model is not None:
            from server.models.beginning import prepare_beginning  # needs torch

            prepare_beginning(workspace, model, run.folder)
        begin_at_engine(run, workspace, engine)
    except (CommandError, RegistryError):
        shutil.rmtree(run.folder)
        raise
    return run


def begin_at_engine(run: Run, workspace: Workspace, engine: Engine) -> None:
    """Have the engine start a server app for the present life of a run.

    Raises:
        CommandError: If it does not.
    """
    bundle, life = workspace.bundle, run.life
    run_id = engine.start_run(bundle.content, bundle.sha256, config={RUN_FOLDER: str(run.folder)})
    run.begin_life(Life(run_id, life.number, life.fruitless, life.steps, life.began_s))


def stop_run(run: Run, engine: Engine) -> bool:
    """End a run for good; False if the engine could not be told because it does not run.

    The server app sees the mark, writes its report and ends. What sites spent stays spent.
    """
    mark_stopped(run.folder)
    until = time.monotonic() + STOPS_WITHIN_S
    while is_held(run.folder) and time.monotonic() < until:
        time.sleep(FOLLOW_S)
    try:
        stop_at_engine(run, engine)
    except NotRunningError:
        return False
    finally:
        note_stopped(run)
    return True


def stop_at_engine(run: Run, engine: Engine) -> None:
    """Have the engine forget the run, if it still counts it as running.

    Raises:
        NotRunningError: If the engine does not answer.
    """
    run_id = run.life.run_id
    if run_id is None:
        return
    try:
        if not engine.run_state(run_id).is_over:
            engine.stop_run(run_id)
    except EngineError:
        # It knows no such run, or the run ended this moment.
        return


def note_stopped(run: Run) -> None:
    """Let the progress say that the run was stopped, if no server app did."""
    progress = run.progress
    if progress is None or progress.has_ended or is_held(run.folder):
        return
    ended = {"phase": "stopped", "waiting_for": (), "detail": "stopped on request"}
    write_progress(run.folder, Progress(**{**vars(progress), **ended}))


def follow(run: Run, engine: Engine, *, show: Callable[[Progress], None]) -> RunEnd:
    """Watch a run to its end, through all its lives.

    Args:
        run: The run.
        engine: The engine, which may be away for a while.
        show: Called with each new progress.

    Raises:
        NotRunningError: If the engine stays away.
    """
    shown: Progress | None = None
    watch = _Watch(run, engine)
    while True:
        if (progress := run.progress) and progress != shown:
            show(progress)
            shown = progress
        if (end := run.end or watch.look()) is not None:
            return end
        time.sleep(FOLLOW_S)


class _Watch:
    """Notices that a run which has not ended is not conducted by anybody either."""

    def __init__(self, run: Run, engine: Engine) -> None:
        self._run = run
        self._engine = engine
        self._heard_s = self._conducted_s = time.monotonic()

    def look(self) -> RunEnd | None:
        """The end of a run that nobody takes up again."""
        now = time.monotonic()
        if is_held(self._run.folder):
            self._heard_s = self._conducted_s = now
            return None
        try:
            details = self._details_if_over()
        except NotRunningError:
            if now - self._heard_s > SILENCE_S:
                raise
            return None
        self._heard_s = now
        if details is None:
            self._conducted_s = now
        if now - self._conducted_s <= RESUMED_WITHIN_S:
            return None
        return RunEnd("failed", details or "")

    def _details_if_over(self) -> str | None:
        run_id = self._run.life.run_id
        if run_id is None:
            return ""
        state = self._engine.run_state(run_id)
        return state.details if state.is_over else None


def summarize(run: Run, end: RunEnd) -> dict[str, object]:
    """The answer of ``vultus-coordinator run --json``."""
    report = run.report or {}
    rounds = report.get("rounds", [])
    page = run.folder / REPORT_PAGE
    return {
        "run_id": run.name,
        "status": end.status,
        "rounds": len(rounds) if isinstance(rounds, list) else 0,
        "weights_digest": report.get("weights_digest"),
        "epsilon": {"sum": report.get("epsilon_sum"), "site": report.get("epsilon_site")},
        "report": str(page) if page.is_file() else None,
        "detail": end.detail,
    }


def find_run(workspace: Workspace, name: str | None) -> Run:
    """A run by name, or the latest.

    Raises:
        InputError: If there is none of that name, or none at all.
    """
    run = _read_run(workspace.runs / name) if name else latest_run(workspace)
    if run is None:
        known = ", ".join(folder.name for folder in _folders(workspace.runs)) or "none yet"
        msg = f"Expected the name of a run, got {name or 'no run'}: there are {known}."
        raise InputError(msg)
    return run


def latest_run(workspace: Workspace) -> Run | None:
    """The run that was started last, or None."""
    runs = all_runs(workspace)
    return runs[-1] if runs else None


def all_runs(workspace: Workspace) -> list[Run]:
    """Every run, oldest first."""
    return [run for folder in _folders(workspace.runs) if (run := _read_run(folder))]


def _refuse_second(workspace: Workspace) -> None:
    current = latest_run(workspace)
    if current is None or (current.end and not is_held(current.folder)):
        return
    msg = (
        f"Expected no run under way, got {current.name}: follow it with 'run --follow', or end it "
        "with 'stop'."
    )
    raise CommandError(msg)


def _read_run(folder: Path) -> Run | None:
    return Run(folder) if (folder / RUN_FILE).is_file() else None


def _folders(runs: Path) -> list[Path]:
    return sorted(folder for folder in runs.glob("run-*") if folder.is_dir())


def _new_folder(runs: Path) -> Path:
    earlier = _folders(runs)
    number = int(earlier[-1].name.removeprefix("run-")) + 1 if earlier else 1
    folder = runs / f"run-{number:04d}"
    folder.mkdir(mode=0o700)
    return folder
