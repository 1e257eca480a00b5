"""The outbox: what a site last answered, so that the same question gets the same bytes again.

A reply that is lost on its way, or with the coordinator's process, can be asked for again. Sending
it again is free: the second copy is a function of the first, so that whoever has both knows no more
than whoever has one. Computing it again would not be free.

For each question there are two marks. The one that it was *asked* is made before the release is
reserved and goes once its receipt is written; the *reply* appears whole, before the receipt.
A reply without the first mark was told before; the first mark alone says that nothing left yet.

Guarantees:
    What :meth:`Outbox.keep` returned from is found again after a crash, as it was or not at all:
    it is sealed for its question. While :meth:`Outbox.locked` is held, no other process of this
    machine reads or changes anything here; a process that is killed gives it back. Not covered:
    whoever may write the folder and the log, and a whole state folder put back from an old copy,
    which the coordinator's anchor finds.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.site import Site
from privacy.vault import Vault, VaultError, erase_sealed, write_chunks

OUTBOX_FOLDER = "outbox"
LOCK_FILE = "outbox.lock"
RUNS_KEPT = 3
"""Runs whose last replies are kept: two can be at work at once, and one may just have ended."""

_ASKED, _REPLY = ".asked", ".reply"
_POLL_S = 0.02


class OutboxBusyError(Exception):
    """Another process of the site is answering for longer than a round may take."""

    exit_code = 1


@dataclass(frozen=True)
class Entry:
    """Where the answer to one question has its place.

    Attributes:
        run_id: Run that the question belongs to.
        purpose: ``train`` or ``evaluate``.
        question: SHA-256 (hex) over all that the answer depends on.
    """

    run_id: str
    purpose: str
    question: str

    @property
    def run(self) -> str:
        """The run as it stands in names of files."""
        return hashlib.sha256(self.run_id.encode()).hexdigest()[:16]

    @property
    def line(self) -> str:
        """What begins the names of all questions of this run and purpose."""
        return f"{self.run}-{self.purpose}-"

    @property
    def name(self) -> str:
        """Name of the question's files, without their ending."""
        return f"{self.line}{self.question[:32]}"


class Outbox:
    """The last reply of each run and purpose; several processes may share it.

    Args:
        state: The site's state folder.
        vault: Seals the replies.
        owner: The site they are bound to.
        patience_s: How long to wait for another process.
        durable: Whether a reply must survive a crash of the machine, not only of the process.
    """

    def __init__(
        self, state: Path, *, vault: Vault, owner: str, patience_s: float, durable: bool = True
    ) -> None:
        self._folder = state / OUTBOX_FOLDER
        self._lock_file = state / LOCK_FILE
        self._vault = vault
        self._owner = owner
        self._patience_s = patience_s
        self._durable = durable

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Context in which no other process of the site answers, tells or forgets.

        Raises:
            OutboxBusyError: If another process does so for too long.
        """
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._wait_for(descriptor)
            yield
        finally:
            os.close(descriptor)

    def note_asked(self, entry: Entry) -> None:
        """Mark that a question was asked, before its release is reserved."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        # Not durable: if the machine loses it, the question is refused and never answered anew.
        (self._folder / (entry.name + _ASKED)).touch(mode=0o600)
        self._tidy(entry, outdated=(_ASKED,))

    def is_untold(self, entry: Entry) -> bool:
        """Whether the question was asked, and no receipt for an answer was finished."""
        return (self._folder / (entry.name + _ASKED)).exists()

    def note_told(self, entry: Entry) -> None:
        """Mark that the answer has its receipt and is about to leave."""
        (self._folder / (entry.name + _ASKED)).unlink(missing_ok=True)

    def keep(self, entry: Entry, reply: bytes) -> None:
        """Put a finished reply into the outbox, in place of the one before."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        sealed = self._vault.seal(reply, associated=self._binding(entry))
        write_chunks(self._file(entry), [sealed], durable=self._durable)
        self._tidy(entry, outdated=(_ASKED, _REPLY))

    def find(self, entry: Entry) -> bytes | None:
        """The reply to exactly this question; None if there is none, or it is not whole."""
        try:
            return self._vault.open(self._file(entry).read_bytes(), associated=self._binding(entry))
        except (FileNotFoundError, VaultError):
            return None

    def empty(self) -> None:
        """Destroy every reply; nothing that was asked is answered anew after that.

        Raises:
            OutboxBusyError: If another process is answering for too long.
        """
        with self.locked():
            for path in self._files():
                erase_sealed(path)

    def _file(self, entry: Entry) -> Path:
        return self._folder / (entry.name + _REPLY)

    def _binding(self, entry: Entry) -> bytes:
        return f"vultus outbox 1|{self._owner}|{entry.name}|{entry.question}".encode()

    def _files(self) -> list[Path]:
        return sorted(self._folder.iterdir()) if self._folder.is_dir() else []

    def _tidy(self, entry: Entry, *, outdated: tuple[str, ...]) -> None:
        """Remove what is superseded, what belongs to runs of long ago, and what a crash left."""
        files = self._files()
        kept_runs = self._latest_runs(files, entry)
        for path in files:
            superseded = (
                path.name.startswith(entry.line)
                and path.stem != entry.name
                and path.suffix in outdated
            )
            if superseded or _run_of(path) not in kept_runs:
                path.unlink()

    def _latest_runs(self, files: list[Path], entry: Entry) -> set[str]:
        """The present run, whatever the clock says, and those before it."""
        changed: dict[str, int] = {}
        for path in files:
            # A name that begins with a dot was never finished.
            if not path.name.startswith("."):
                run = _run_of(path)
                changed[run] = max(changed.get(run, 0), path.stat().st_mtime_ns)
        changed.pop(entry.run, None)
        before = sorted(changed, key=lambda run: changed[run], reverse=True)
        return {entry.run, *before[: RUNS_KEPT - 1]}

    def _wait_for(self, descriptor: int) -> None:
        """Take the lock, which the kernel takes back from a process that ends in whatever way."""
        end = time.monotonic() + self._patience_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    msg = (
                        "Expected the site's other process to be done within "
                        f"{self._patience_s:g} s, got none of it: see what holds {self._lock_file}."
                    )
                    raise OutboxBusyError(msg) from None
                time.sleep(_POLL_S)
            else:
                return


def open_outbox(site: Site) -> Outbox:
    """The outbox of a site."""
    return Outbox(
        site.paths.state,
        vault=Vault(site.storage_key),
        owner=site.id,
        patience_s=site.consortium.config.training.round_timeout_s,
        # A simulated site whose machine crashed is simulated again.
        durable=site.simulation_seed is None,
    )


def _run_of(path: Path) -> str:
    return path.name.split("-", 1)[0]
