"""The encrypted feature store: the only place where the halves of a site meet.

The extractor puts one sealed file a recording; the learner reads features from it. File names are
keyed hashes, so that a listing of the folder tells no recording id.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from client.stored_recording import StoredRecording, pack, unpack
from privacy.vault import Vault, VaultError, erase_sealed, sync_folder, write_atomic
from shared_models.features import BehaviourFeatures

__all__ = ["FeatureStore", "StoreError", "StoredRecording"]

SUFFIX = ".features"
NAMES_KEY = "names.key"
_BOUND_TO = b"vultus feature store 1/"


class StoreError(Exception):
    """Stored features that cannot be used; the message names recording and remedy."""

    exit_code = 1


class FeatureStore:
    """Extracted recordings at rest, one sealed file each.

    Args:
        folder: Where the files lie; made with mode 0700 if absent.
        vault: Seals and opens them.
        durable: Whether each write waits for the disk; simulated cohorts need not.

    Raises:
        StoreError: If the folder was sealed under another key.
    """

    def __init__(self, folder: Path, vault: Vault, *, durable: bool = True) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self._vault = vault
        self._durable = durable
        self._name_key = self._load_name_key()

    def put(self, record: StoredRecording) -> None:
        """Keep a recording, in place of what was stored under its id."""
        path = self._path(record.recording_id)
        sealed = self._vault.seal(pack(record), associated=_BOUND_TO + path.name.encode())
        if self._durable:
            write_atomic(path, sealed)
        else:
            _replace_file(path, sealed)

    def get(self, recording_id: str) -> StoredRecording:
        """A recording as it was put.

        Raises:
            StoreError: If it is not stored, was changed, or belongs to another store.
        """
        path = self._path(recording_id)
        if not path.exists():
            msg = f"Recording {recording_id!r} is not in the store: run 'vultus-site extract'."
            raise StoreError(msg)
        return self._open(path, f"recording {recording_id!r}")

    def contains(
        self,
        recording_id: str,
        *,
        file_sha256: str,
        schema_digest: str,
        model_sha256: str,
        quality_digest: str = "",
    ) -> bool:
        """Whether this very file was extracted under this schema, face model and quality gate.

        False for a damaged record too: extracting again is its remedy.
        """
        wanted = {
            "file_sha256": file_sha256,
            "schema_digest": schema_digest,
            "face_model_sha256": model_sha256,
            "quality_digest": quality_digest,
        }
        with suppress(StoreError):
            provenance = self.get(recording_id).provenance
            return all(provenance.get(name, "") == value for name, value in wanted.items())
        return False

    def records(self) -> Iterator[StoredRecording]:
        """Every stored recording, in no meaningful order.

        Raises:
            StoreError: At the first record that was changed or belongs to another store.
        """
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            yield self._open(path, f"stored file {path.name}")

    def load_features(self, recording_ids: Iterable[str]) -> dict[str, BehaviourFeatures]:
        """Features of those recordings that are stored and were accepted, by recording id.

        Raises:
            StoreError: If a record was changed or belongs to another store.
        """
        features = {}
        for recording_id in recording_ids:
            if self._path(recording_id).exists():
                record = self.get(recording_id)
                if record.features is not None:
                    features[recording_id] = record.features
        return features

    def erase(self, recording_id: str) -> bool:
        """Destroy what is stored of a recording; False if nothing was."""
        path = self._path(recording_id)
        stored = path.exists()
        erase_sealed(path)
        return stored

    def _path(self, recording_id: str) -> Path:
        name = hmac.new(self._name_key, recording_id.encode(), hashlib.sha256).hexdigest()[:40]
        return self.folder / f"{name}{SUFFIX}"

    def _open(self, path: Path, what: str) -> StoredRecording:
        try:
            associated = _BOUND_TO + path.name.encode()
            return unpack(self._vault.open(path.read_bytes(), associated=associated))
        except VaultError as error:
            msg = (
                f"The features of {what} cannot be opened ({error}) "
                "Run 'vultus-site extract' to make them again from the video."
            )
            raise StoreError(msg) from error

    def _load_name_key(self) -> bytes:
        """The key of the file names: made once, sealed like everything else here."""
        path = self.folder / NAMES_KEY
        associated = _BOUND_TO + NAMES_KEY.encode()
        if not path.exists():
            if any(self.folder.glob(f"*{SUFFIX}")):
                msg = f"Expected {path} beside the stored features: restore it from your backup."
                raise StoreError(msg)
            _create_once(path, self._vault.seal(secrets.token_bytes(32), associated=associated))
        try:
            return self._vault.open(path.read_bytes(), associated=associated)
        except VaultError as error:
            msg = (
                f"The store {self.folder} cannot be opened ({error}) Restore the storage key that "
                "it was made with, or empty the folder and extract again."
            )
            raise StoreError(msg) from error


def _create_once(path: Path, data: bytes) -> None:
    """Write a file unless another process was first; nobody ever sees half of it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    write_atomic(temporary, data)
    with suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()
    sync_folder(path.parent)


def _replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, without waiting for the disk."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    temporary.replace(path)
