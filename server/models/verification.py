"""Whether the registry is whole, and every model in it still what was signed."""

from __future__ import annotations

from dataclasses import dataclass

from privacy import audit
from server.models.entries import RegistryError
from server.models.loading import find_fault
from server.models.registration import (
    coordinator_key,
    find_undone,
    open_registry,
    registry_folder,
)
from server.models.registry import JOURNAL_FILE, Head
from server.workspace import Workspace


@dataclass(frozen=True)
class RegistryVerdict:
    """Result of checking a registry.

    Attributes:
        models: Number of models that were checked.
        faults: Everything that is not as it was signed.
        head: Of the journal, to be kept elsewhere.
    """

    models: int
    faults: tuple[str, ...]
    head: Head | None


def verify_registry(workspace: Workspace, *, known: Head | None = None) -> RegistryVerdict:
    """Check journal, entries, weights and signatures; nothing is written.

    Guarantees:
        Whoever lacks the coordinator's key cannot change, exchange or reorder entries, moves or
        weights unnoticed, nor remove one before the last. An end that was cut off shows by the
        models of the runs' folders, except for a rollback, and always against a ``known`` head.
        Not covered: a coordinator who signs something else.

    Args:
        workspace: The coordinator's folder.
        known: A head that was kept elsewhere; the journal must hold everything that it held then.
    """
    try:
        registry = open_registry(workspace)
    except RegistryError as error:
        return RegistryVerdict(0, tuple(str(error).splitlines()), None)
    key = coordinator_key(workspace)
    faults = [find_fault(workspace, entry, public_key=key) for entry in registry.entries]
    faults += find_undone(workspace, registry)
    if known is not None:
        faults.append(_check_head(workspace, known))
    told = tuple(fault for fault in faults if fault)
    return RegistryVerdict(len(registry.entries), told, registry.head)


def _check_head(workspace: Workspace, known: Head) -> str | None:
    journal = registry_folder(workspace) / JOURNAL_FILE
    if audit.extends(journal, known.events, known.digest):
        return None
    return (
        f"{JOURNAL_FILE} does not hold what it held at {known.events} lines: its end was cut off "
        "or written anew."
    )
