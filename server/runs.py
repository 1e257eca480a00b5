"""One training run: a folder, started at the engine, followed to its end.

The server app writes progress and report into the run's folder; the engine knows whether the app
still lives. Following reads both, so that it ends when either says so.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from privacy.vault import write_atomic
from server.bundle import RUN_FOLDER
from server.control import Engine, NotRunningError, RunState
from server.progress import Progress, read_progress
from server.signing import open_signing_key
from server.workspace import CONSORTIUM_FILE, Workspace
from shared_models.console import CommandError, InputError

RUN_FILE = "run.json"
REPORT_JSON = "report.json"
REPORT_PAGE = "report.html"
FOLLOW_S = 0.5
SILENCE_S = 180.0
"""The engine's server may be away this long, being restarted, before following gives up."""


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        folder: ``runs/NAME``.
        run_id: The engine's number.
    """

    folder: Path
    run_id: int

    @property
    def name(self) -> str:
        """Name of the run, which is its folder's."""
        return self.folder.name

    @property
    def progress(self) -> Progress | None:
        """The server app's last word; None before it began."""
        return read_progress(self.folder)

    @property
    def report(self) -> Mapping[str, object] | None:
        """The report as numbers; None before the end."""
        file = self.folder / REPORT_JSON
        if not file.is_file():
            return None
        report: Mapping[str, object] = json.loads(file.read_text(encoding="utf-8"))
        return report


def start_run(workspace: Workspace, engine: Engine) -> Run:
    """Begin a run of the study as it stands now, with the bundle that sites have approved.

    Raises:
        InputError: If the study has no sites.
        SigningKeyError: If the coordinator's key is not the one that the study names.
        CommandError: If another run is under way: sites would wait for each other.
        NotRunningError: If the engine does not answer.
    """
    if not workspace.consortium.config.sites:
        msg = "Expected sites in consortium.toml, got none: add them with add-site."
        raise InputError(msg)
    open_signing_key(workspace.runs, workspace.consortium)
    current = latest_run(workspace)
    if current and not engine.run_state(current.run_id).is_over:
        msg = f"Expected no run under way, got {current.name}: wait for it, or stop its command."
        raise CommandError(msg)
    folder = _new_folder(workspace.runs)
    study = workspace.consortium_file.read_bytes()
    write_atomic(folder / CONSORTIUM_FILE, study, mode=0o644)
    bundle = workspace.bundle
    try:
        run_id = engine.start_run(bundle.content, bundle.sha256, config={RUN_FOLDER: str(folder)})
    except CommandError:
        shutil.rmtree(folder)
        raise
    write_atomic(folder / RUN_FILE, json.dumps({"run_id": run_id}).encode(), mode=0o644)
    return Run(folder, run_id)


def follow(run: Run, engine: Engine, *, show: Callable[[Progress], None]) -> RunState:
    """Watch a run to its end; how the engine says it ended.

    Args:
        run: The run.
        engine: The engine, which may be away for a while.
        show: Called with each new progress.

    Raises:
        NotRunningError: If the engine stays away.
    """
    shown: Progress | None = None
    heard_s = time.monotonic()
    while True:
        if (progress := run.progress) and progress != shown:
            show(progress)
            shown = progress
        try:
            state = engine.run_state(run.run_id)
            heard_s = time.monotonic()
        except NotRunningError:
            if time.monotonic() - heard_s > SILENCE_S:
                raise
        else:
            if state.is_over:
                return state
        time.sleep(FOLLOW_S)


def summarize(run: Run, state: RunState) -> dict[str, object]:
    """The answer of ``vultus-coordinator run --json``."""
    report = run.report or {}
    rounds = report.get("rounds", [])
    page = run.folder / REPORT_PAGE
    return {
        "run_id": run.name,
        "status": report.get("status") if state.outcome == "completed" else state.outcome,
        "rounds": len(rounds) if isinstance(rounds, list) else 0,
        "weights_digest": report.get("weights_digest"),
        "epsilon": {"sum": report.get("epsilon_sum"), "site": report.get("epsilon_site")},
        "report": str(page) if page.is_file() else None,
        "detail": _detail(run, state),
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
    for folder in reversed(_folders(workspace.runs)):
        if run := _read_run(folder):
            return run
    return None


def _detail(run: Run, state: RunState) -> str:
    """Why a run failed: the app's own reason if it had one, else the engine's."""
    report = run.report or {}
    told = str(report.get("status_detail") or "")
    if state.outcome == "stopped":
        return "stopped on request"
    return "" if state.outcome == "completed" else told or state.details


def _read_run(folder: Path) -> Run | None:
    file = folder / RUN_FILE
    if not file.is_file():
        return None
    return Run(folder, int(json.loads(file.read_text(encoding="utf-8"))["run_id"]))


def _folders(runs: Path) -> list[Path]:
    return sorted(folder for folder in runs.glob("run-*") if folder.is_dir())


def _new_folder(runs: Path) -> Path:
    earlier = _folders(runs)
    number = int(earlier[-1].name.removeprefix("run-")) + 1 if earlier else 1
    folder = runs / f"run-{number:04d}"
    folder.mkdir(mode=0o700)
    return folder
