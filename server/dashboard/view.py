"""What the coordinator's dashboard shows, from the functions that the commands use; only read.

Each part is read by itself: a broken file of one takes nothing from the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from server.control import Engine, NotRunningError
from server.dashboard.figures import RunFigures, figure_files, read_figures
from server.dashboard.memory import Remembered
from server.deployment import engine_of
from server.models.entries import ModelEntry
from server.models.registration import find_undone, open_registry, registry_folder
from server.models.registry import JOURNAL_FILE, Move, Registry
from server.roster import site_states
from server.run_status import RunStatus, describe_run, unseen_sites
from server.runs import REPORT_JSON, Run, RunEnd, all_runs, latest_run
from server.workspace import Workspace, open_workspace
from shared_models.consortium import load_consortium
from shared_models.roster import ROSTER_FILE
from shared_models.toml import ConfigError
from shared_models.web.findings import Finding, look_at

RECENT = 10


@dataclass(frozen=True)
class SiteLine:
    """A site of the study.

    Attributes:
        id: Its name.
        state: ``online``, ``offline``, ``never seen`` or ``unknown``.
        last_seen_s: Seconds since its last sign of life; None if there was none.
    """

    id: str
    state: str
    last_seen_s: float | None


@dataclass(frozen=True)
class Sites:
    """Who is there.

    Attributes:
        is_up: Whether the coordinator's engine answers.
        lines: The study's sites.
    """

    is_up: bool
    lines: tuple[SiteLine, ...]

    @property
    def online(self) -> int:
        """How many are connected."""
        return sum(line.state == "online" for line in self.lines)


@dataclass(frozen=True)
class PastRun:
    """A run in the list of runs.

    Attributes:
        name: Its name.
        end: How it ended; None while it goes on.
        server_round: How far it came.
        rounds: Rounds in all; 0 before it began.
    """

    name: str
    end: RunEnd | None
    server_round: int
    rounds: int


@dataclass(frozen=True)
class Models:
    """The registry.

    Attributes:
        current: Number of the current model; None before the first run was completed.
        finals: The last final models, newest first.
        count: Models of all rounds.
        move: How the current model became it; None before the first.
        undone: What the next ``models`` command will still register, or why it cannot.
    """

    current: int | None
    finals: tuple[ModelEntry, ...]
    count: int
    move: Move | None
    undone: tuple[str, ...]

    @property
    def current_entry(self) -> ModelEntry | None:
        """The current model."""
        return next((entry for entry in self.finals if entry.number == self.current), None)


@dataclass(frozen=True)
class HubView:
    """One look at a coordinator's folder.

    Attributes:
        sites: Who is there.
        run: The latest run; its value is None before the first.
        figures: Of the latest run; None before its first step.
        runs: The last runs, newest first.
        models: The registry.
    """

    sites: Finding[Sites]
    run: Finding[RunStatus | None]
    figures: Finding[RunFigures | None]
    runs: Finding[tuple[PastRun, ...]]
    models: Finding[Models]


@dataclass
class HubReader:
    """Looks at a coordinator's folder again and again, and reads anew what has changed.

    Attributes:
        folder: The coordinator's folder.
        engine: Asked who is there; the folder's own by default.
    """

    folder: Path
    engine: Engine | None = None
    _figures: dict[Path, Remembered[RunFigures | None]] = field(default_factory=dict, init=False)
    _models: Remembered[Models] | None = field(default=None, init=False)

    def look(self) -> Finding[HubView]:
        """The folder as it is now."""
        return look_at("the coordinator's folder", self._read)

    def _read(self) -> HubView:
        workspace = open_workspace(self.folder)
        sites = look_at("the study's sites", lambda: self._read_sites(workspace))
        is_up = sites.value.is_up if sites.value else False
        return HubView(
            sites=sites,
            run=look_at("the run's progress", lambda: _read_run(workspace, is_up=is_up)),
            figures=look_at("the run's figures", lambda: self._read_figures(workspace)),
            runs=look_at("the list of runs", lambda: _read_runs(workspace)),
            models=look_at("the registry of models", lambda: self._read_models(workspace)),
        )

    def _read_sites(self, workspace: Workspace) -> Sites:
        try:
            states, is_up = site_states(workspace, self._engine(workspace)), True
        except NotRunningError:
            states, is_up = unseen_sites(workspace), False
        return Sites(is_up, tuple(SiteLine(**state) for state in states))  # type: ignore[arg-type]

    def _engine(self, workspace: Workspace) -> Engine:
        if self.engine is not None:
            return self.engine
        # To ask an engine that never ran would make its port and its certificate.
        if workspace.settings.behind_nginx and not (workspace.engine / "port").exists():
            msg = "The coordinator was never started."
            raise NotRunningError(msg)
        return engine_of(workspace)

    def _read_figures(self, workspace: Workspace) -> RunFigures | None:
        run = latest_run(workspace)
        if run is None:
            return None
        if run.folder not in self._figures:
            self._figures = {run.folder: Remembered(lambda: read_figures(run))}
        return self._figures[run.folder].get(figure_files(run))

    def _read_models(self, workspace: Workspace) -> Models:
        if self._models is None:
            self._models = Remembered(lambda: _summarize(workspace, open_registry(workspace)))
        return self._models.get(_model_files(workspace))


def study_name(workspace: Workspace) -> str:
    """Name of the study; of the folder, if the study file cannot be read."""
    try:
        return load_consortium(workspace.consortium_file).config.study.name
    except ConfigError:
        return workspace.folder.name


def _read_run(workspace: Workspace, *, is_up: bool) -> RunStatus | None:
    run = latest_run(workspace)
    return describe_run(run, is_up=is_up) if run else None


def _read_runs(workspace: Workspace) -> tuple[PastRun, ...]:
    return tuple(_past(run) for run in reversed(all_runs(workspace)[-RECENT:]))


def _past(run: Run) -> PastRun:
    progress = run.progress
    return PastRun(
        run.name,
        run.end,
        progress.server_round if progress else 0,
        progress.rounds if progress else 0,
    )


def _summarize(workspace: Workspace, registry: Registry) -> Models:
    finals = [entry for entry in registry.entries if entry.is_final]
    shown = finals[-RECENT:]
    if registry.current is not None and registry.current not in {entry.number for entry in shown}:
        shown = [registry.entry(registry.current), *shown]
    return Models(
        current=registry.current,
        finals=tuple(reversed(shown)),
        count=len(registry.entries),
        move=registry.moves[-1] if registry.moves else None,
        undone=tuple(find_undone(workspace, registry)),
    )


def _model_files(workspace: Workspace) -> Iterator[Path]:
    """All that the registry's answer depends on."""
    folder = registry_folder(workspace)
    yield from (folder / JOURNAL_FILE, workspace.consortium_file, workspace.roster_file)
    yield from sorted((folder / "entries").glob("*.json"))
    yield from sorted(workspace.runs.glob(f"run-*/{REPORT_JSON}"))
    yield from sorted(workspace.runs.glob(f"run-*/{ROSTER_FILE}"))
