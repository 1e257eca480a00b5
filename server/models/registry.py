"""The registry's files: one entry a model, and a signed journal that binds them in their order.

==============================  ====================================================
``models/entries/0001.json``      entry of model 1; canonical JSON, read-only
``models/journal.jsonl``          one line a registration or a move of the current model
``models/lock``                   held while something is added
==============================  ====================================================

Each line of the journal is signed by the coordinator's key and bound to all lines before it
(:mod:`privacy.audit`); the line of a registration holds the SHA-256 of the entry. So a changed,
removed or exchanged entry or line shows. A tail that was cut off shows against a head that was kept
elsewhere. Weights stay in the folders of their runs.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from privacy import audit
from privacy.keys import sign, verify
from privacy.vault import write_atomic
from server.models.entries import ModelEntry, RegistryError
from shared_models.console import InputError

REGISTRY_FOLDER = "models"
JOURNAL_FILE = "journal.jsonl"
REGISTERED = "model_registered"
MOVED = "current_moved"


@dataclass(frozen=True)
class Move:
    """The model that was made the current one, and why.

    Attributes:
        number: Number of the move, from 1.
        model: Number of the model.
        why: Reason, as given.
        at: When, ISO 8601 with offset.
    """

    number: int
    model: int
    why: str
    at: str


@dataclass(frozen=True)
class Head:
    """How far the journal has come, to be kept where this disk is not.

    Attributes:
        events: Number of lines on the unbroken chain.
        digest: Hash of the chain.
    """

    events: int
    digest: str

    def __str__(self) -> str:
        return f"{self.events}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """The head in ``EVENTS:DIGEST``.

        Raises:
            InputError: If the text has another form.
        """
        events, _, digest = text.partition(":")
        if not events.isdecimal() or len(digest) != 64:
            msg = f"Expected a head as EVENTS:DIGEST, as 'models verify' prints it, got {text!r}."
            raise InputError(msg)
        return cls(int(events), digest)


@dataclass(frozen=True)
class Registry:
    """The registry as it was found, all signatures checked.

    Attributes:
        entries: Models in order of number.
        moves: Every move of the current model, oldest first.
        head: Of the journal.
    """

    entries: tuple[ModelEntry, ...]
    moves: tuple[Move, ...]
    head: Head

    @property
    def current(self) -> int | None:
        """Number of the current model; None before the first run was completed."""
        return self.moves[-1].model if self.moves else None

    def entry(self, number: int) -> ModelEntry:
        """The entry of a model.

        Raises:
            InputError: If there is none of that number.
        """
        if not 1 <= number <= len(self.entries):
            known = f"1 to {len(self.entries)}" if self.entries else "none yet"
            msg = f"Expected the number of a registered model, got {number}: there are {known}."
            raise InputError(msg)
        return self.entries[number - 1]


def read_registry(folder: Path, *, public_key: str | None) -> Registry:
    """The registry in a folder.

    Args:
        folder: ``models/`` of a coordinator; without a journal it is empty.
        public_key: OpenSSH line of the coordinator's key; without one nothing counts.

    Raises:
        RegistryError: With everything that is not as the coordinator signed it.
    """
    journal = folder / JOURNAL_FILE
    verdict = audit.verify(journal)
    if verdict.first_broken is not None and not _is_torn_end(journal, verdict.first_broken):
        msg = (
            f"Line {verdict.first_broken} of {journal} was changed, moved, or follows one that was "
            "removed: restore the folder from a copy."
        )
        raise RegistryError(msg)
    reader = _Reader(folder, public_key)
    for event in audit.read(journal):
        reader.take(event)
    if reader.faults:
        raise RegistryError("\n".join(reader.faults))
    return Registry(tuple(reader.entries), tuple(reader.moves), Head(*audit.head(journal)))


class RegistryWriter:
    """Adds to a registry that :func:`writing` has opened.

    Args:
        folder: ``models/`` of a coordinator.
        key: The coordinator's.
    """

    def __init__(self, folder: Path, key: EllipticCurvePrivateKey) -> None:
        self._folder = folder
        self._key = key
        self._log = audit.AuditLog(folder / JOURNAL_FILE)

    def add(self, entry: ModelEntry) -> None:
        """Write an entry, then the line that makes it count."""
        file = entry_file(self._folder, entry.number)
        file.parent.mkdir(mode=0o700, exist_ok=True)
        content = entry.to_bytes()
        write_atomic(file, content, mode=0o444)
        self._log.append(
            REGISTERED, signer=self._sign, number=entry.number, entry_sha256=_sha256(content)
        )

    def move(self, number: int, *, model: ModelEntry, why: str) -> None:
        """Make a model the current one.

        Args:
            number: Number of this move.
            model: The model.
            why: Reason, kept for good.
        """
        self._log.append(MOVED, signer=self._sign, number=number, model=model.number, why=why)

    def _sign(self, statement: bytes) -> bytes:
        return sign(self._key, statement)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait for, then hold, the right to add to a registry; the folder is made if it is missing."""
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def entry_file(folder: Path, number: int) -> Path:
    """Where the entry of a model lies."""
    return folder / "entries" / f"{number:04d}.json"


class _Reader:
    """Takes in the journal line by line and collects what does not fit."""

    def __init__(self, folder: Path, public_key: str | None) -> None:
        self._folder = folder
        self._public_key = public_key
        self.entries: list[ModelEntry] = []
        self.moves: list[Move] = []
        self.faults: list[str] = []

    def take(self, event: audit.AuditEntry) -> None:
        if event.event not in {REGISTERED, MOVED}:
            return  # closes a line that a crash left torn; says nothing of a model
        if not self._is_signed(event):
            where = f"Line {event.sequence} of {JOURNAL_FILE}"
            self.faults.append(f"{where} is not signed by the key that the study names.")
            return
        try:
            if event.event == REGISTERED:
                self.entries.append(self._entry(event))
            else:
                self.moves.append(self._move(event))
        except RegistryError as error:
            self.faults.append(str(error))

    def _is_signed(self, event: audit.AuditEntry) -> bool:
        if self._public_key is None or event.signature is None:
            return False
        return verify(self._public_key, event.signature, event.statement)

    def _entry(self, event: audit.AuditEntry) -> ModelEntry:
        number = _number(event, "number")
        file = entry_file(self._folder, number)
        if not file.is_file():
            msg = f"The entry of model {number} is missing ({file}): restore it from a copy."
            raise RegistryError(msg)
        content = file.read_bytes()
        if _sha256(content) != event.details.get("entry_sha256"):
            msg = f"The entry of model {number} was changed ({file}): restore it from a copy."
            raise RegistryError(msg)
        return ModelEntry.from_bytes(content)

    def _move(self, event: audit.AuditEntry) -> Move:
        return Move(
            _number(event, "number"),
            _number(event, "model"),
            str(event.details.get("why")),
            event.at,
        )


def _is_torn_end(journal: Path, line: int) -> bool:
    """Whether a line is the last one, cut short by a crash; the next addition closes it."""
    content = journal.read_bytes()
    return not content.endswith(b"\n") and content.count(b"\n") + 1 == line


def _number(event: audit.AuditEntry, name: str) -> int:
    number = event.details.get(name)
    if not isinstance(number, int):
        msg = f"Line {event.sequence} of {JOURNAL_FILE} names no {name}."
        raise RegistryError(msg)
    return number


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
