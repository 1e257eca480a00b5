"""The feature store's folder: where the sealed files lie, under which names, and kept whole.

One folder a subject, one file a recording. Both are named by keyed hashes, so that a listing tells
no pseudonym and no recording id, and a subject is found without the table of recordings.
"""

from __future__ import annotations

import fcntl
import hmac
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from privacy.vault import (
    Vault,
    VaultError,
    destroy_key,
    erase_sealed,
    sync_folder,
    write_atomic,
    write_chunks,
)

SUFFIX = ".features"
NAMES_KEY = "names.2.key"
OLD_NAMES_KEY = "names.key"
LAYOUT = b"vultus feature store 2"


class StoreError(Exception):
    """Stored features that cannot be used; the message names recording and remedy."""

    exit_code = 1


class StoreFolder:
    """The files of a store.

    Args:
        path: The folder; made with mode 0700 if absent.
        vault: Seals the key of the names.

    Raises:
        StoreError: If the folder was sealed under another key, lost the key of its names, or was
            made by an older version.
    """

    def __init__(self, path: Path, vault: Vault) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self._name_key = self._load_name_key(vault)
        self._is_clean = False

    def subject_folder(self, subject_id: str) -> Path:
        """Folder of a subject, whether or not it exists."""
        return self.path / self._name("subject", subject_id)

    def file(self, subject_id: str, recording_id: str) -> Path:
        """File of a recording, whether or not it exists."""
        name = self._name("recording", recording_id)
        return self.subject_folder(subject_id) / f"{name}{SUFFIX}"

    def files(self) -> list[Path]:
        """Every stored file, in no meaningful order."""
        return sorted(self.path.glob(f"*/*{SUFFIX}"))

    def files_of(self, subject_id: str) -> list[Path]:
        """Every stored file of one subject."""
        return sorted(self.subject_folder(subject_id).glob(f"*{SUFFIX}"))

    def write(
        self,
        path: Path,
        chunks: Iterable[bytes],
        *,
        durable: bool,
        allowed: Callable[[], bool],
    ) -> None:
        """Write a sealed file in place of what stood there, whose data key is destroyed.

        Several processes may write at the same time, but none while another erases.

        Args:
            path: As :meth:`file` names it.
            chunks: The sealed bytes.
            durable: Whether to wait for the disk.
            allowed: Asked last, when nobody can begin to erase any more.

        Raises:
            StoreError: If it is not allowed; nothing is written.
        """
        if not self._is_clean:
            self._remove_leftovers()
            self._is_clean = True
        with self._lock(fcntl.LOCK_SH), ExitStack() as stack:
            if not allowed():
                msg = "The subject was forgotten meanwhile: nothing was kept of the recording."
                raise StoreError(msg)
            replaced = None
            if not path.parent.exists():
                self._make_subject_folder(path.parent, durable=durable)
            elif path.exists():
                replaced = stack.enter_context(path.open("r+b"))
            write_chunks(path, chunks, durable=durable)
            if replaced is not None:
                destroy_key(replaced)

    def _make_subject_folder(self, folder: Path, *, durable: bool) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        if durable:
            sync_folder(self.path)

    def erase(self, files: list[Path]) -> int:
        """Destroy the data keys of these files, then the files; their number."""
        with self._lock(fcntl.LOCK_EX):
            existing = [file for file in files if file.exists()]
            for file in existing:
                erase_sealed(file)
            for folder in {file.parent for file in existing}:
                self._remove_if_empty(folder)
        return len(existing)

    def erase_subject(self, subject_id: str) -> int:
        """Destroy everything of a subject, leftovers of a crash included; recordings destroyed."""
        folder = self.subject_folder(subject_id)
        with self._lock(fcntl.LOCK_EX):
            files = sorted(folder.iterdir()) if folder.is_dir() else []
            for file in files:
                erase_sealed(file)
            self._remove_if_empty(folder)
        return sum(file.suffix == SUFFIX for file in files)

    def _remove_leftovers(self) -> None:
        """Remove what a crash left half-written; not while somebody else is writing."""
        with suppress(BlockingIOError), self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
            for pattern in (".*", "*/.*"):
                for leftover in self.path.glob(pattern):
                    erase_sealed(leftover)

    def _remove_if_empty(self, folder: Path) -> None:
        with suppress(OSError):
            folder.rmdir()
            sync_folder(self.path)

    def names_of(self, subject_id: str) -> list[str]:
        """Folder and name of each stored file of one subject, as they stand on the disk."""
        return [str(path.relative_to(self.path)) for path in self.files_of(subject_id)]

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

    def _name(self, kind: str, name: str) -> str:
        return hmac.digest(self._name_key, f"{kind}\0{name}".encode(), "sha256").hex()[:40]

    def _load_name_key(self, vault: Vault) -> bytes:
        """The key of the file names: made once, sealed like everything else here."""
        path = self.path / NAMES_KEY
        associated = LAYOUT + NAMES_KEY.encode()
        if not path.exists():
            self._refuse_without_key(path)
            with self._lock(fcntl.LOCK_SH):
                _create_once(path, vault.seal(secrets.token_bytes(32), associated=associated))
        try:
            return vault.open(path.read_bytes(), associated=associated)
        except VaultError as error:
            msg = (
                f"The store {self.path} cannot be opened ({error}) Restore the storage key that "
                "it was made with, or empty the folder and extract again."
            )
            raise StoreError(msg) from error

    def _refuse_without_key(self, path: Path) -> None:
        if (self.path / OLD_NAMES_KEY).exists() or any(self.path.glob(f"*{SUFFIX}")):
            msg = (
                f"The store {self.path} was made by an older version: empty the folder and run "
                "'vultus-site extract' again."
            )
            raise StoreError(msg)
        if any(self.files()):
            msg = f"Expected {path} beside the stored features: restore it from your backup."
            raise StoreError(msg)


def _create_once(path: Path, data: bytes) -> None:
    """Write a file unless another process was first; nobody ever sees half of it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    write_atomic(temporary, data)
    with suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()
    sync_folder(path.parent)
