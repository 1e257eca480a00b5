"""The encrypted feature store: the only place where the halves of a site meet.

The extractor puts one sealed file a recording; the learner reads features from it, and nothing
else. Facts, features and frames are parts of their own, so that a thousand verdicts are read
without the arrays beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from client.recordings.columns import nobody
from client.recordings.recording import Recording
from client.site import Site
from client.storage.folder import LAYOUT, StoreError, StoreFolder
from client.storage.frame_log import FrameLog
from client.storage.stored_recording import (
    FACTS,
    FEATURES,
    FRAMES,
    Scalar,
    StoredRecording,
    pack,
    unpack_facts,
    unpack_features,
    unpack_frames,
)
from client.withdrawal.exclusion import open_exclusions
from privacy.sealed_parts import SealedFile, seal_parts
from privacy.vault import ErasedError, Vault, VaultError
from shared_models.features import BehaviourFeatures

__all__ = ["FeatureStore", "StoreError", "StoredRecording", "open_store"]

Found = TypeVar("Found")


class FeatureStore:
    """Extracted recordings at rest, one sealed file each.

    Args:
        folder: Where the files lie; made with mode 0700 if absent.
        vault: Seals and opens them.
        site_id: The site that they belong to; another site's files do not open.
        durable: Whether each write waits for the disk; simulated cohorts need not.
        is_forgotten: Whether a subject was forgotten: nothing of it is ever kept.

    Raises:
        StoreError: If the folder was sealed under another key or made by an older version.
    """

    def __init__(
        self,
        folder: Path,
        vault: Vault,
        *,
        site_id: str,
        durable: bool = True,
        is_forgotten: Callable[[str], bool] = nobody,
    ) -> None:
        self._folder = StoreFolder(folder, vault)
        self._vault = vault
        self._site_id = site_id
        self._durable = durable
        self._is_forgotten = is_forgotten

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return self._folder.path

    def put(
        self,
        record: StoredRecording,
        *,
        features: BehaviourFeatures | None,
        frames: FrameLog | None = None,
    ) -> None:
        """Keep a recording, in place of what was stored under its id.

        A crash at any moment leaves what was stored before, or all of the new.

        Args:
            record: Its facts.
            features: The clips to train on; None exactly if it was rejected.
            frames: What was seen frame by frame.

        Raises:
            StoreError: If the subject was forgotten.
            ValueError: If a figure is not finite, or verdict and features disagree.
        """
        path = self._folder.file(record.subject_id, record.recording_id)
        sealed = seal_parts(
            pack(record, features, frames),
            vault=self._vault,
            associated=self._associated(path),
            label=_label(features.schema_digest if features else None),
        )
        self._folder.write(
            path,
            sealed,
            durable=self._durable,
            allowed=lambda: not self._is_forgotten(record.subject_id),
        )

    def get(self, subject_id: str, recording_id: str) -> StoredRecording:
        """The facts of a recording as they were put.

        Raises:
            StoreError: If it is not stored, was changed, or belongs to another store.
        """
        return self._read_one(subject_id, recording_id, _facts)

    def features(
        self, subject_id: str, recording_id: str, *, schema_digest: str | None = None
    ) -> BehaviourFeatures | None:
        """The clips of a recording; None if it was rejected.

        Args:
            subject_id: The site's pseudonym.
            recording_id: As in the table of recordings.
            schema_digest: The schema that they must follow; any if None.

        Raises:
            StoreError: If it is not stored, was changed, belongs to another store, or follows
                another schema.
        """
        return self._read_one(
            subject_id,
            recording_id,
            lambda file: _features(file, schema_digest, recording_id),
        )

    def frames(self, subject_id: str, recording_id: str) -> FrameLog | None:
        """What was seen of a recording frame by frame; None if that was not kept.

        Raises:
            StoreError: If it is not stored, was changed, or belongs to another store.
        """
        return self._read_one(
            subject_id,
            recording_id,
            lambda file: unpack_frames(file.read(FRAMES)) if FRAMES in file.parts else None,
        )

    def records(self) -> Iterator[StoredRecording]:
        """The facts of every stored recording, in no meaningful order.

        Raises:
            StoreError: At the first record that was changed or belongs to another store.
        """
        return self._facts_of(self._folder.files())

    def readable_records(self) -> Iterator[StoredRecording]:
        """The facts of every stored recording that opens; damaged ones are left out."""
        for path in self._folder.files():
            with suppress(StoreError):
                yield from self._facts_of([path])

    def records_of(self, subject_id: str) -> Iterator[StoredRecording]:
        """The facts of every stored recording of one subject.

        Raises:
            StoreError: At the first record that was changed or belongs to another store.
        """
        return self._facts_of(self._folder.files_of(subject_id))

    def load_features(
        self, recordings: Iterable[Recording], *, schema_digest: str | None = None
    ) -> dict[str, BehaviourFeatures]:
        """Features of those recordings that are stored and were accepted, by recording id.

        Args:
            recordings: Rows of the table.
            schema_digest: The schema that all must follow; any if None.

        Raises:
            StoreError: If a record was changed, belongs to another store or follows another
                schema.
        """
        loaded = {}
        for one in recordings:
            if self._folder.file(one.subject_id, one.recording_id).exists():
                found = self.features(one.subject_id, one.recording_id, schema_digest=schema_digest)
                if found is not None:
                    loaded[one.recording_id] = found
        return loaded

    def is_current(self, recording: Recording, wanted: Mapping[str, Scalar]) -> bool:
        """Whether a recording is stored and its provenance holds all that is wanted.

        False for a damaged record too: extracting again is its remedy.
        """
        with suppress(StoreError):
            provenance = self.get(recording.subject_id, recording.recording_id).provenance
            return all(
                name in provenance and provenance[name] == value for name, value in wanted.items()
            )
        return False

    def strays(self, recordings: Iterable[Recording]) -> list[StoredRecording]:
        """What is stored of recordings that are not among these, or belong to other subjects."""
        listed = {(one.subject_id, one.recording_id) for one in recordings}
        return [one for one in self.records() if (one.subject_id, one.recording_id) not in listed]

    def find_damaged(self) -> list[StoreError]:
        """What is wrong with each stored file, after reading all of every part."""
        damaged = []
        for path in self._folder.files():
            with suppress(ErasedError, FileNotFoundError):
                try:
                    self._read(path, _read_all, f"stored file {path.name}")
                except StoreError as error:
                    damaged.append(error)
        return damaged

    def erase(self, subject_id: str, recording_id: str) -> bool:
        """Destroy what is stored of a recording; False if nothing was."""
        return bool(self._folder.erase([self._folder.file(subject_id, recording_id)]))

    def names_of(self, subject_id: str) -> list[str]:
        """Names of the sealed files of a subject: keyed hashes, found without opening any."""
        return self._folder.names_of(subject_id)

    def erase_subject(self, subject_id: str) -> int:
        """Destroy what is stored of a subject; the number of recordings destroyed."""
        return self._folder.erase_subject(subject_id)

    def _facts_of(self, files: Iterable[Path]) -> Iterator[StoredRecording]:
        for path in files:
            # Another process may be erasing.
            with suppress(ErasedError, FileNotFoundError):
                yield self._read(path, _facts, f"stored file {path.name}")

    def _read_one(
        self, subject_id: str, recording_id: str, take: Callable[[SealedFile], Found]
    ) -> Found:
        path = self._folder.file(subject_id, recording_id)
        try:
            return self._read(path, take, f"recording {recording_id!r}")
        except (FileNotFoundError, ErasedError):
            msg = f"Recording {recording_id!r} is not in the store: run 'vultus-site extract'."
            raise StoreError(msg) from None

    def _read(self, path: Path, take: Callable[[SealedFile], Found], what: str) -> Found:
        try:
            with SealedFile(path, vault=self._vault, associated=self._associated(path)) as file:
                return take(file)
        except ErasedError:
            raise
        except VaultError as error:
            msg = (
                f"The features of {what} cannot be opened ({error}) "
                "Run 'vultus-site extract' to make them again from the video."
            )
            raise StoreError(msg) from error

    def _associated(self, path: Path) -> bytes:
        """What a file is bound to: layout, site, subject and recording."""
        names = (self._site_id, path.parent.name, path.name)
        return b"\0".join((LAYOUT, *(name.encode() for name in names)))


def open_store(site: Site) -> FeatureStore:
    """The feature store of a site; it keeps nothing of forgotten subjects.

    Raises:
        StoreError: If the folder was sealed under another key or made by an older version.
    """
    return FeatureStore(
        site.paths.store,
        Vault(site.storage_key),
        site_id=site.id,
        is_forgotten=open_exclusions(site).holds,
    )


def _label(schema_digest: str | None) -> bytes:
    """The schema of the features in the open, so that it is known before they are decrypted."""
    return schema_digest.encode() if schema_digest else b""


def _facts(file: SealedFile) -> StoredRecording:
    return unpack_facts(file.read(FACTS))


def _features(
    file: SealedFile, schema_digest: str | None, recording_id: str
) -> BehaviourFeatures | None:
    if FEATURES not in file.parts:
        return None
    own = file.label.decode()
    if schema_digest is not None and schema_digest != own:
        msg = (
            f"Expected features of schema {schema_digest[:12]} for recording {recording_id!r}, got "
            f"{own[:12]}: run 'vultus-site extract' to make them again from the video."
        )
        raise StoreError(msg)
    return unpack_features(file.read(FEATURES), own)


def _read_all(file: SealedFile) -> None:
    for name in file.parts:
        file.read(name)
