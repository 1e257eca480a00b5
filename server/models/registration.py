"""From run folders to the registry: what is not there yet gets its number, also after a crash."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from server.models.entries import ModelEntry, Parent, RegistryError
from server.models.lineage import (
    EndedRun,
    begun_with,
    describe_model,
    read_ended_run,
    shipped_digest,
)
from server.models.registry import (
    REGISTRY_FOLDER,
    Registry,
    RegistryWriter,
    locked,
    read_registry,
)
from server.signing import open_signing_key
from server.workspace import Workspace
from shared_models.console import InputError
from shared_models.consortium import Consortium, load_consortium
from shared_models.roster import RosterError


@dataclass(frozen=True)
class Registration:
    """What registering found.

    Attributes:
        registry: The registry afterwards.
        added: Models that got a number.
        faults: Models that could not get one, and why.
    """

    registry: Registry
    added: tuple[ModelEntry, ...]
    faults: tuple[str, ...]


def registry_folder(workspace: Workspace) -> Path:
    """Where the registry of a coordinator lies."""
    return workspace.folder / REGISTRY_FOLDER


def coordinator_key(workspace: Workspace) -> str | None:
    """OpenSSH line of the key whose signatures count: the study's."""
    return _study(workspace).coordinator_key


def open_registry(workspace: Workspace) -> Registry:
    """The registry as it stands, all signatures checked.

    Raises:
        RegistryError: With everything that is not as the coordinator signed it.
    """
    return read_registry(registry_folder(workspace), public_key=coordinator_key(workspace))


def register_models(workspace: Workspace) -> Registration:
    """Give a number to every model of an ended run that has none, and make final ones current.

    Doing it twice, or after a crash at any moment, comes to the same. The order is that of the
    runs and of their rounds.

    Raises:
        RegistryError: If the registry is not as it was signed.
        SigningKeyError: If something has to be signed and the coordinator's key is not there.
    """
    folder = registry_folder(workspace)
    with locked(folder):
        runs, faults = _ended_runs(workspace)
        work = _Work(workspace, open_registry(workspace), faults)
        for run in runs:
            for report in run.report.rounds:
                work.add(run, report.server_round)
            work.follow_finals()
        return Registration(open_registry(workspace), tuple(work.added), tuple(work.faults))


def roll_back(workspace: Workspace, number: int, *, why: str) -> Registration:
    """Make another model the current one; nothing is deleted, and the reason is kept for good.

    Args:
        workspace: The coordinator's folder.
        number: The model.
        why: Reason.

    Raises:
        InputError: If there is no such model, it is the current one, or no reason is given.
        RegistryError: If the registry is not as it was signed.
    """
    registration = register_models(workspace)
    if not why.strip():
        msg = "Expected a reason with --why, got none: it stands beside the move for good."
        raise InputError(msg)
    with locked(registry_folder(workspace)):
        registry = open_registry(workspace)
        entry = registry.entry(number)
        if registry.current == number:
            msg = f"Expected another model than the current one, got {number}."
            raise InputError(msg)
        _writer(workspace).move(len(registry.moves) + 1, model=entry, why=why.strip())
        registry = open_registry(workspace)
    return Registration(registry, registration.added, registration.faults)


def find_undone(workspace: Workspace, registry: Registry) -> list[str]:
    """What registering would do: models without a number, final ones that never were current.

    A crash leaves such things, and so does a journal whose end was cut off.
    """
    known = {(entry.run, entry.server_round) for entry in registry.entries}
    runs, faults = _ended_runs(workspace)
    faults += [
        f"The model of {run.folder.name}, round {report.server_round}, has no number."
        for run in runs
        for report in run.report.rounds
        if (run.folder.name, report.server_round) not in known
    ]
    late = never_current(registry.entries, [move.model for move in registry.moves])
    return faults + [f"Model {entry.number} is final and was never made current." for entry in late]


def never_current(entries: Iterable[ModelEntry], moved: Collection[int]) -> list[ModelEntry]:
    """Final models that no move has named, as a crash leaves them."""
    return [entry for entry in entries if entry.is_final and entry.number not in moved]


@dataclass
class _Work:
    """One pass over the folders of the runs."""

    workspace: Workspace
    registry: Registry
    faults: list[str]
    added: list[ModelEntry] = field(default_factory=list)
    _open_writer: RegistryWriter | None = None

    def __post_init__(self) -> None:
        self._known = {(e.run, e.server_round): e for e in self.registry.entries}
        self._moved = [move.model for move in self.registry.moves]
        self._public_key = coordinator_key(self.workspace)

    def add(self, run: EndedRun, server_round: int) -> None:
        """Register one model unless it is known."""
        if (run.folder.name, server_round) in self._known:
            return
        try:
            entry = describe_model(
                run,
                server_round,
                number=len(self._known) + 1,
                parent=self._parent(run, server_round),
                public_key=self._public_key,
            )
        except (RegistryError, RosterError) as error:
            self.faults.append(str(error))
            return
        self._writer.add(entry)
        self._known[run.folder.name, server_round] = entry
        self.added.append(entry)

    def follow_finals(self) -> None:
        """Make each completed run's model current that never was."""
        for entry in never_current(self._known.values(), self._moved):
            self._writer.move(len(self._moved) + 1, model=entry, why=f"{entry.run} completed")
            self._moved.append(entry.number)

    @property
    def _writer(self) -> RegistryWriter:
        if self._open_writer is None:
            self._open_writer = _writer(self.workspace)
        return self._open_writer

    def _parent(self, run: EndedRun, server_round: int) -> Parent:
        before = [r for r in run.report.rounds if r.server_round < server_round]
        if before:
            known = self._known.get((run.folder.name, before[-1].server_round))
            return Parent(known.number if known else None, before[-1].weights_digest)
        number = begun_with(run.folder)
        if number is None:
            return Parent(None, shipped_digest(run))
        earlier = [entry for entry in self._known.values() if entry.number == number]
        if not earlier:
            msg = f"Expected {run.folder.name} to begin with a registered model, got {number}."
            raise RegistryError(msg)
        return Parent(number, earlier[0].weights_digest)


def _ended_runs(workspace: Workspace) -> tuple[list[EndedRun], list[str]]:
    """Runs with a report, in order, and what kept others from being read."""
    runs, faults = [], []
    for folder in sorted(workspace.runs.glob("run-*")):
        try:
            run = read_ended_run(folder)
        except RegistryError as error:
            faults.append(str(error))
        else:
            runs += [run] if run else []
    return runs, faults


def _writer(workspace: Workspace) -> RegistryWriter:
    key = open_signing_key(workspace.runs, _study(workspace))
    return RegistryWriter(registry_folder(workspace), key)


def _study(workspace: Workspace) -> Consortium:
    """The study's terms; who takes part does not matter here."""
    return load_consortium(workspace.consortium_file)
