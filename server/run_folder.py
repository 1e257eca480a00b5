"""A run's folder: who conducts it right now, whether it was stopped, and whose sites it has.

Several processes look at the folder of one run: the server app that conducts it, in several lives
if it dies, the coordinator that has it taken up again, and commands. The kernel drops the app's
lock when its process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privacy.vault import write_atomic
from shared_models.console import CommandError
from shared_models.consortium import Consortium, load_consortium
from shared_models.roster import ROSTER_FILE, RosterError, keep_roster

STUDY_FILE = "consortium.toml"
LOCK_FILE = "app.lock"
CHECKPOINT_FILE = "checkpoint.json"
STOP_FILE = "stopped"
TAKEOVER_S = 5.0
"""How long a server app waits for whoever only looks whether the folder is held."""
_LOOK_S = 0.1


class HeldError(CommandError):
    """Another process conducts the run already."""


class StoppedError(CommandError):
    """Somebody stopped the run."""


@contextmanager
def hold_run(folder: Path, *, life: str) -> Iterator[None]:
    """Be the only process that conducts a run.

    Args:
        folder: The run's folder.
        life: The engine's number for this life of the run, for those who look.

    Raises:
        HeldError: If another process does.
    """
    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as file:
        until = time.monotonic() + TAKEOVER_S
        while not _lock(file.fileno()):
            if time.monotonic() > until:
                msg = f"{folder.name} is conducted by another process already."
                raise HeldError(msg)
            time.sleep(_LOOK_S)
        file.truncate(0)
        file.write(life)
        file.flush()
        yield


def is_held(folder: Path) -> bool:
    """Whether a server app conducts the run right now."""
    file = folder / LOCK_FILE
    if not file.exists():
        return False
    with file.open("rb") as held:
        return not _lock(held.fileno(), shared=True)


def last_life(folder: Path) -> str:
    """The engine's number for the life that conducted the run last; empty before the first."""
    file = folder / LOCK_FILE
    return file.read_text(encoding="utf-8") if file.exists() else ""


def steps_done(folder: Path) -> int:
    """How far the run has come: one for each round and judgement in its checkpoint, and for it.

    Read from the file alone, by processes that load no network.
    """
    file = folder / CHECKPOINT_FILE
    if not file.exists():
        return 0
    try:
        checkpoint = json.loads(file.read_bytes())
        return 1 + len(checkpoint["rounds"]) + len(checkpoint["evaluations"])
    except (ValueError, KeyError):
        return 0


def mark_stopped(folder: Path) -> None:
    """Have the run never taken up again, durably."""
    write_atomic(folder / STOP_FILE, b"")


def is_stopped(folder: Path) -> bool:
    """Whether somebody stopped the run."""
    return (folder / STOP_FILE).exists()


def check_stopped(folder: Path) -> None:
    """Go on only if nobody stopped the run.

    Raises:
        StoppedError: If somebody did.
    """
    if is_stopped(folder):
        msg = "stopped on request"
        raise StoppedError(msg)


def has_roster(folder: Path) -> bool:
    """Whether the sites of a run come and go by a roster."""
    return (folder.parent / ROSTER_FILE).exists()


def load_present(folder: Path) -> Consortium:
    """The study of a run, with its sites as they are by now.

    Sites come and go by the roster beside the folders of all runs. The run keeps a copy of the one
    that it followed last: the study may be edited, for later runs, while this one is under way.

    Raises:
        ConfigError: If the study file is faulty.
        RosterError: If the roster belongs to another study and the run has followed none.
    """
    study, kept = folder / STUDY_FILE, folder / ROSTER_FILE
    own = load_consortium(study, roster=kept)
    try:
        shared = load_consortium(study, roster=folder.parent / ROSTER_FILE)
    except RosterError:
        if own.roster is None:
            raise
        return own
    if shared.roster is None or (own.roster and own.roster.number >= shared.roster.number):
        return own
    keep_roster(kept, shared.signed_roster)
    return shared


def _lock(descriptor: int, *, shared: bool = False) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
