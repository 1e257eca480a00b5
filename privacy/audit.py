"""Audit log of a site: one JSON line an event, each bound to all before it by a hash chain.

Guarantees:
    A changed, removed or inserted line is noticed by :func:`verify`, and so is a line that a
    crash left torn. Whoever may write the file can cut its tail or write it anew from some line
    on; that shows in :func:`extends` against a head that was kept elsewhere, and in a signed event
    (``signer``), which vouches for its own place and so for every line before it.

Size:
    A line takes about a kilobyte at most, a site writes some hundred in a run: a few megabytes a
    year. Nothing rotates, because a chain has to be kept whole.
"""

import copy
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

GENESIS = "0" * 64
SIGNATURE = "signature"
_REPAIR = "torn_line_closed"
_MODE = 0o600

Plain = str | float | bool | None
Signer = Callable[[bytes], bytes]


class AuditVerdict(NamedTuple):
    """Result of checking a log.

    Attributes:
        entries: events that hang on an unbroken chain from the start.
        whole: whether that is all of the file.
        first_broken: number of the first line that does not fit, from 1; None if whole.
    """

    entries: int
    whole: bool
    first_broken: int | None


@dataclass(frozen=True)
class AuditEntry:
    """One event of the log.

    Attributes:
        sequence: from 1, without gaps.
        at: ISO 8601 with offset.
        event: what happened, a short name.
        details: plain values that belong to it.
        previous: hash of the chain before it.
    """

    sequence: int
    at: str
    event: str
    details: dict[str, object]
    previous: str

    @property
    def signature(self) -> bytes | None:
        """Over :attr:`statement`; None for an event that nobody signed."""
        try:
            return bytes.fromhex(str(self.details[SIGNATURE]))
        except (KeyError, ValueError):
            return None

    @property
    def statement(self) -> bytes:
        """What a signature covers: the event, its details, and all that came before it."""
        details = {name: value for name, value in self.details.items() if name != SIGNATURE}
        return _statement({**vars(self), "details": details})


class AuditLog:
    """Appends events to a log file; several processes may share it.

    Args:
        path: the file, created with mode 0600 on the first event.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._chain = _Chain()
        self._followed_bytes = 0

    def append(
        self, event: str, /, *, signer: Signer | None = None, **details: Plain
    ) -> AuditEntry:
        """Add one event and make it durable before returning.

        Args:
            event: a short name.
            signer: signs the event at its place in the chain.
            **details: plain values; never a secret, a path or anything of a subject.

        Raises:
            TypeError: a value is not plain.
            ValueError: a value is not a finite number.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, _MODE)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if stat.S_IMODE(os.fstat(descriptor).st_mode) != _MODE:
                os.fchmod(descriptor, _MODE)
            chain, repair = self._catch_up(file)
            if not chain.sequence:
                _sync_folder(self._path.parent)
            record = chain.record(event, details, signer)
            file.seek(0, os.SEEK_END)
            file.write(repair + record)
            file.flush()
            os.fsync(file.fileno())
            self._chain, self._followed_bytes = chain, file.tell()
        return _entry(json.loads(record))

    def _catch_up(self, file: IO[bytes]) -> tuple["_Chain", bytes]:
        """The chain to the end of the file, and what must end a line that a crash left torn."""
        start = self._followed_bytes
        chain = copy.copy(self._chain)
        if file.seek(0, os.SEEK_END) < start:
            chain, start = _Chain(), 0
        file.seek(start)
        for line in file:
            fits = chain.follow(line.rstrip(b"\n") + b"\n")
            if not line.endswith(b"\n"):
                return chain, b"\n" if fits else b"\n" + chain.record(_REPAIR, {})
        return chain, b""


def verify(path: Path) -> AuditVerdict:
    """Whether every line of the log is as it was written, and in its place.

    Args:
        path: the log file; an absent one is empty and whole.
    """
    if not path.exists():
        return AuditVerdict(0, whole=True, first_broken=None)
    chain, entries = _Chain(), 0
    torn_at: int | None = None
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            entry = chain.follow(line)
            # Only the event that closes a torn line may follow one.
            fits = entry is not None and (torn_at is None or entry.event == _REPAIR)
            if fits:
                torn_at, entries = None, chain.sequence
            elif torn_at is None and _parse(line) is None:
                torn_at = number
            else:
                return AuditVerdict(entries, whole=False, first_broken=torn_at or number)
    return AuditVerdict(entries, whole=torn_at is None, first_broken=torn_at)


def head(path: Path) -> tuple[int, str]:
    """Number of events on an unbroken chain and its hash, to be kept where this disk is not.

    A last line without an end is left out: another process may still be writing it.
    """
    chain = _Chain()
    for _ in _follow(path, chain):
        pass
    return chain.sequence, chain.head


def extends(path: Path, count: int, chain_hash: str) -> bool:
    """Whether the log still holds everything it held when its head was ``(count, chain_hash)``.

    Args:
        path: the log file.
        count: number of events then.
        chain_hash: hash of the chain then.
    """
    chain = _Chain()
    if (count, chain_hash) == (chain.sequence, chain.head):
        return True
    return any((count, chain_hash) == (chain.sequence, chain.head) for _ in _follow(path, chain))


def _follow(path: Path, chain: "_Chain") -> Iterator[None]:
    """Take in the file line by line, stopping before each next one."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                chain.follow(line)
                yield


def read(path: Path) -> list[AuditEntry]:
    """The events of the log as they stand, without any check; torn lines are left out."""
    return list(read_lines(path).values())


def read_lines(path: Path) -> dict[int, AuditEntry]:
    """The events as :func:`read` gives them, by the number of their line, from 1."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        records = {number: _parse(line) for number, line in enumerate(file, start=1)}
    return {number: _entry(record) for number, record in records.items() if record is not None}


class _Chain:
    """Running hash over the lines seen, and the number of events among them."""

    def __init__(self) -> None:
        self.head = GENESIS
        self.sequence = 0

    def follow(self, line: bytes) -> AuditEntry | None:
        """Take in one line; its event, or None if the line does not fit here."""
        record = _parse(line)
        fits = (
            record is not None
            and record["previous"] == self.head
            and record["sequence"] == self.sequence + 1
            and line == _encode(record)
        )
        self.head = hashlib.sha256(self.head.encode() + line.rstrip(b"\n")).hexdigest()
        if record is None or not fits:
            return None
        self.sequence += 1
        return _entry(record)

    def record(
        self, event: str, details: Mapping[str, Plain], signer: Signer | None = None
    ) -> bytes:
        """The line of the next event, taken into the chain."""
        body: dict[str, object] = {
            "sequence": self.sequence + 1,
            "at": datetime.now(UTC).isoformat(),
            "event": event,
            "details": dict(details),
            "previous": self.head,
        }
        if signer is not None:
            body["details"] = {**details, SIGNATURE: signer(_statement(body)).hex()}
        line = _encode(body)
        self.follow(line)
        return line


def _encode(record: dict[str, object]) -> bytes:
    body = {name: value for name, value in record.items() if name != "hash"}
    text = json.dumps(body, sort_keys=True, allow_nan=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({**body, "hash": digest}, sort_keys=True).encode() + b"\n"


def _statement(body: Mapping[str, object]) -> bytes:
    # The name in front keeps the signature from standing for any other statement of the key.
    return b"vultus log entry|" + json.dumps(body, sort_keys=True, allow_nan=False).encode()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse(line: bytes) -> dict[str, object] | None:
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    kinds = {
        "sequence": int,
        "at": str,
        "event": str,
        "details": dict,
        "previous": str,
        "hash": str,
    }
    if not isinstance(record, dict) or set(record) != set(kinds):
        return None
    fits = all(isinstance(record[name], kind) for name, kind in kinds.items())
    return record if fits else None


def _refuse_constant(name: str) -> float:
    msg = f"Expected finite numbers, got {name}."
    raise ValueError(msg)


def _entry(record: dict[str, object]) -> AuditEntry:
    values: dict[str, Any] = {name: value for name, value in record.items() if name != "hash"}
    return AuditEntry(**values)
