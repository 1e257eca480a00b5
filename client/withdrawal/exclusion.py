"""The subjects that a site has forgotten: a list that only grows and names nobody.

Each line holds a keyed hash of the pseudonym and the names of the sealed files that are to be
destroyed; it carries the hash of the line before and a MAC. How many lines there are also stands in
the audit log.

Guarantees:
    A changed, removed, inserted or reordered line is noticed, a cut tail by the count in the audit
    log. Not covered: whoever holds the ledger's private key, and a whole state folder that is put
    back from an old copy.
"""

from __future__ import annotations

import fcntl
import hmac
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from client.site import Site
from privacy import audit
from privacy.vault import sync_folder

EXCLUSIONS_FILE = "exclusions.jsonl"
EXCLUDED = "subject excluded"
GENESIS = "0" * 64


class ExclusionError(Exception):
    """The list of forgotten subjects is not whole; nothing may be trained on until it is.

    Args:
        path: The list.
        fault: What is wrong with it.
    """

    exit_code = 1

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(
            f"The list of forgotten subjects {path} is not as it was written: {fault}. Restore it "
            "from your newest backup; until then this site extracts and trains on nobody."
        )


@dataclass(frozen=True)
class Exclusion:
    """One forgotten subject.

    Attributes:
        sequence: From 1, without gaps.
        at: When the subject was forgotten, ISO 8601 in UTC.
        subject: Keyed hash of the pseudonym, hexadecimal.
        objects: Names of the sealed files that were to be destroyed; keyed hashes too.
        previous: MAC of the line before.
        mac: HMAC-SHA256 (hex) of all of the above.
    """

    sequence: int
    at: str
    subject: str
    objects: tuple[str, ...]
    previous: str
    mac: str = ""


class ExclusionList:
    """The forgotten subjects of one site; several processes may share the file.

    Args:
        path: The list, made with mode 0600 when it is first needed.
        key: The ledger's key, from which the keys of the list are derived.
        audit_log: The site's audit log, which holds the count.
    """

    def __init__(self, path: Path, *, key: Ed25519PrivateKey, audit_log: Path) -> None:
        self._path = path
        self._audit_log = audit_log
        self._subject_key = _derive(key, b"vultus exclusion subject v1")
        self._line_key = _derive(key, b"vultus exclusion line v1")
        self._seen: tuple[int, ...] | None = None
        self._lines: tuple[Exclusion, ...] = ()

    def holds(self, subject_id: str) -> bool:
        """Whether a subject was forgotten.

        Raises:
            ExclusionError: If the list is not whole.
        """
        return self.find(subject_id) is not None

    def find(self, subject_id: str) -> Exclusion | None:
        """The line of a subject; None if it was not forgotten.

        Raises:
            ExclusionError: If the list is not whole.
        """
        tag = self._tag(subject_id)
        return next((line for line in self.read() if line.subject == tag), None)

    def read(self) -> tuple[Exclusion, ...]:
        """Every line, oldest first; the file is read only if it changed.

        Raises:
            ExclusionError: If the list is not whole.
        """
        state = self._state()
        if state != self._seen:
            self._lines = self._whole_lines()
            self._seen = state
        return self._lines

    def add(self, subject_id: str, objects: Sequence[str]) -> Exclusion:
        """Exclude a subject for good; durable when this returns, and counted in the audit log.

        A subject that is excluded already keeps its line.

        Args:
            subject_id: The site's pseudonym.
            objects: Names of the sealed files that are about to be destroyed.

        Raises:
            ExclusionError: If the list is not whole.
        """
        with self._lock(fcntl.LOCK_EX):
            line = self.find(subject_id)
            if line is None:
                line = self._append(self._tag(subject_id), tuple(objects))
        self._count(line)
        return line

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Context in which nobody is added: what is reserved within is on record before."""
        with self._lock(fcntl.LOCK_SH):
            yield

    def _append(self, tag: str, objects: tuple[str, ...]) -> Exclusion:
        lines = self._lines
        line = Exclusion(
            sequence=len(lines) + 1,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            subject=tag,
            objects=objects,
            previous=lines[-1].mac if lines else GENESIS,
        )
        line = Exclusion(**{**asdict(line), "mac": self._mac(line), "objects": objects})
        data = json.dumps(asdict(line), sort_keys=True).encode() + b"\n"
        with self._path.open("r+b") as file:
            # A crash may have left half a line: it was never acted upon.
            file.seek(len(_complete(file.read())))
            file.truncate()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self._path.parent)
        return line

    def _count(self, line: Exclusion) -> None:
        """Tell the audit log of a line once, whatever crashed before."""
        counted = {one.details.get("exclusions") for one in self._audited()}
        if line.sequence not in counted:
            log = audit.AuditLog(self._audit_log)
            log.append(EXCLUDED, exclusions=line.sequence, head=line.mac)

    def _whole_lines(self) -> tuple[Exclusion, ...]:
        data = _complete(self._path.read_bytes()) if self._path.exists() else b""
        lines = tuple(
            self._checked(number, text) for number, text in enumerate(data.splitlines(), start=1)
        )
        previous = [GENESIS, *(line.mac for line in lines)]
        for number, line in enumerate(lines, start=1):
            if line.previous != previous[number - 1]:
                raise ExclusionError(self._path, f"line {number} does not follow the one before")
        for counted in self._audited():
            if counted.details.get("head") not in previous[1:]:
                fault = f"line {counted.details.get('exclusions')} of the audit log's count is gone"
                raise ExclusionError(self._path, fault)
        return lines

    def _checked(self, number: int, text: bytes) -> Exclusion:
        try:
            found = json.loads(text)
            line = Exclusion(**{**found, "objects": tuple(found["objects"])})
            genuine = hmac.compare_digest(line.mac, self._mac(line))
        except (ValueError, TypeError, KeyError) as error:
            raise ExclusionError(self._path, f"line {number} is damaged") from error
        if not genuine:
            raise ExclusionError(self._path, f"line {number} was changed")
        return line

    def _audited(self) -> Iterator[audit.AuditEntry]:
        return (one for one in audit.read(self._audit_log) if one.event == EXCLUDED)

    def _mac(self, line: Exclusion) -> str:
        values = asdict(line)
        del values["mac"]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hmac.digest(self._line_key, text.encode(), "sha256").hex()

    def _tag(self, subject_id: str) -> str:
        return hmac.digest(self._subject_key, subject_id.encode(), "sha256").hex()

    def _state(self) -> tuple[int, ...]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)


def open_exclusions(site: Site) -> ExclusionList:
    """The forgotten subjects of a site."""
    return ExclusionList(
        site.paths.state / EXCLUSIONS_FILE, key=site.ledger_key, audit_log=site.paths.audit
    )


def short_id(exclusion: Exclusion) -> str:
    """A name for the forgotten subject that tells nothing of the pseudonym."""
    return exclusion.subject[:12]


def _derive(key: Ed25519PrivateKey, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(
        key.private_bytes_raw()
    )


def _complete(data: bytes) -> bytes:
    """Without a last line that a crash left unfinished."""
    return data[: data.rfind(b"\n") + 1]
