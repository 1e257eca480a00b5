"""Extraction of all recordings of a site: what still has to be done, and keeping what was done."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from client.extraction.face_model import FACE_MODEL_SHA256, sha256_of_file
from client.extraction.parallel import (
    ExtractionJob,
    ExtractionResult,
    ExtractionSettings,
    Extractor,
    HeaderResult,
)
from client.extraction.pipeline import Extraction, annotations_digest, file_facts
from client.extraction.quality import QualityThresholds
from client.recordings.annotation_files import read_annotations
from client.recordings.recording import Recording
from client.site import SITE_FILE, Site
from client.storage.store import FeatureStore, StoreError
from client.storage.stored_recording import Scalar, StoredIndicator, StoredReason, StoredRecording
from shared_models.features import FeatureSchema
from shared_models.toml import ConfigError


@dataclass
class BatchTally:
    """How far a batch has come.

    Attributes:
        extracted: Recordings newly accepted.
        rejected: Recordings newly rejected by the quality gate.
        failed: Recordings that could not be judged; they are tried again next time.
        skipped: Recordings that were done before.
        frames: Frames decoded.
        failures: Recording id and reason of each failure.
    """

    extracted: int = 0
    rejected: int = 0
    failed: int = 0
    skipped: int = 0
    frames: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Recordings dealt with in this batch."""
        return self.extracted + self.rejected + self.failed


class BatchProgress(Protocol):
    """What is told of a batch while it runs."""

    def expect(self, result: HeaderResult) -> None:
        """What the header of a recording promises."""
        ...

    def advance(self, recording_id: str, frames: int) -> None:
        """So many frames of a recording are done."""
        ...

    def finish(self, recording_id: str, frames: int | None, tally: BatchTally) -> None:
        """A recording is done and held so many frames; None if it failed."""
        ...


class Batch:
    """One pass over the recordings of a site; interrupted, the next pass goes on.

    Args:
        site: The opened site.
        store: Where the results are kept.
        analysis_hz: Frames per second to analyse, in place of ``[extraction] analysis_hz``.

    Raises:
        ConfigError: If ``[quality]`` names a threshold that does not exist, or the study needs
            more frames a second than are analysed.
    """

    def __init__(
        self, site: Site, store: FeatureStore, *, analysis_hz: float | None = None
    ) -> None:
        self.tally = BatchTally()
        self._store = store
        self._site = site
        self._schema: FeatureSchema = site.consortium.config.features.schema
        self._thresholds = read_thresholds(site)
        self._analysis_hz = analysis_hz or site.config.extraction.analysis_hz
        refuse_low_rate(site.consortium.config.features.indicators, self._analysis_hz)
        self._wanted: dict[str, Scalar] = {
            "schema_digest": self._schema.digest,
            "face_model_sha256": FACE_MODEL_SHA256,
            "quality_digest": _digest(self._thresholds),
            "analysis_hz": self._analysis_hz,
        }
        self._subjects: dict[str, str] = {}
        self._stored = _stored_facts(store)

    def pending(self, recordings: Iterable[Recording]) -> list[ExtractionJob]:
        """The recordings that are not stored as they are now; the others are counted as skipped."""
        jobs = []
        for recording in recordings:
            job = self._job(recording)
            if job is None:
                self.tally.skipped += 1
            else:
                self._subjects[recording.recording_id] = recording.subject_id
                jobs.append(job)
        return jobs

    def run(
        self,
        jobs: list[ExtractionJob],
        face_model: Path,
        *,
        workers: int,
        progress: BatchProgress,
    ) -> None:
        """Extract and store each recording, telling all the while how far it is."""

        def keep(result: ExtractionResult) -> None:
            self._keep(result)
            frames = result.extraction.quality.frames if result.extraction else None
            progress.finish(result.job.recording_id, frames, self.tally)

        settings = ExtractionSettings(
            face_model,
            thresholds=self._thresholds,
            clip_s=self._schema.clip_s,
            rate_hz=self._schema.rate_hz,
            analysis_hz=self._analysis_hz,
        )
        network = self._site.config.extraction.network
        with Extractor(settings, workers=workers, network=network) as extractor:
            extractor.read_headers(jobs, on_done=progress.expect)
            extractor.extract(jobs, on_done=keep, on_frames=progress.advance)

    def _job(self, recording: Recording) -> ExtractionJob | None:
        """What is to be done for a recording; None if it is stored as it is now."""
        if recording.file is None:
            return None
        notes = read_annotations(recording)
        wanted = {**self._wanted, "annotations_digest": annotations_digest(notes)}
        if self._is_done(recording, recording.file, wanted):
            return None
        return ExtractionJob(recording.recording_id, recording.file, notes)

    def strays(self, recordings: Iterable[Recording]) -> list[StoredRecording]:
        """What is stored of recordings that are not among these, or belong to other subjects."""
        listed = {(one.subject_id, one.recording_id) for one in recordings}
        return [record for key, record in self._stored.items() if key not in listed]

    def _is_done(self, recording: Recording, file: Path, wanted: Mapping[str, Scalar]) -> bool:
        record = self._stored.get((recording.subject_id, recording.recording_id))
        seen = file_facts(file)
        if not seen or record is None or not _agree(record, wanted):
            return False
        if _agree(record, seen):
            return True
        # A copied folder has new times; only another content is worth another extraction.
        if not _agree(record, {"file_sha256": sha256_of_file(file)}):
            return False
        self._note(record, seen)
        return True

    def _note(self, record: StoredRecording, seen: Mapping[str, Scalar]) -> None:
        """Keep the file's new time, so that it is not hashed again at every call."""
        key = (record.subject_id, record.recording_id)
        self._store.put(
            dataclasses.replace(record, provenance={**record.provenance, **seen}),
            features=self._store.features(*key),
            frames=self._store.frames(*key),
        )

    def _keep(self, result: ExtractionResult) -> None:
        recording_id = result.job.recording_id
        if result.extraction is None:
            self.tally.failed += 1
            self.tally.failures.append((recording_id, result.error or "unknown"))
            return
        self.tally.frames += result.extraction.quality.frames
        record = to_stored(
            recording_id,
            result.extraction,
            subject_id=self._subjects[recording_id],
            provenance=self._wanted,
        )
        try:
            self._store.put(
                record, features=result.extraction.features, frames=result.extraction.frames
            )
        except StoreError as error:
            self.tally.failed += 1
            self.tally.failures.append((recording_id, str(error)))
            return
        if record.verdict == "accepted":
            self.tally.extracted += 1
        else:
            self.tally.rejected += 1


def _stored_facts(store: FeatureStore) -> dict[tuple[str, str], StoredRecording]:
    """All stored facts by subject and recording, read once; damaged ones are left out."""
    known = {}
    for record in store.readable_records():
        known[record.subject_id, record.recording_id] = record
    return known


def _agree(record: StoredRecording, wanted: Mapping[str, Scalar]) -> bool:
    """Whether the provenance of a recording holds all that is wanted."""
    missing = object()
    return all(record.provenance.get(name, missing) == value for name, value in wanted.items())


def refuse_low_rate(indicators: Iterable[str], analysis_hz: float | None) -> None:
    """Refuse to analyse fewer frames a second than the study's indicators need.

    Args:
        indicators: Names that ``[features] indicators`` of the study file lists.
        analysis_hz: Frames per second that are analysed; all if None.

    Raises:
        ConfigError: With each indicator that needs more or does not exist.
    """
    from client.extraction.behaviour.catalogue import CATALOGUE

    faults = []
    for name in indicators:
        if name not in CATALOGUE:
            close = difflib.get_close_matches(name, CATALOGUE, n=1)
            hint = f": did you mean {close[0]}?" if close else "."
            faults.append(f"Unknown indicator {name!r} in features.indicators of the study{hint}")
        elif analysis_hz is not None and analysis_hz < CATALOGUE[name].min_fps:
            faults.append(
                f"Expected analysis_hz >= {CATALOGUE[name].min_fps:g}, which {name} of the study "
                f"needs, got {analysis_hz:g} ({SITE_FILE} [extraction] or --analysis-hz)."
            )
    if faults:
        raise ConfigError(faults)


def read_thresholds(site: Site) -> QualityThresholds:
    """The quality gate's defaults with what ``[quality]`` overrides.

    Raises:
        ConfigError: With every name that is no threshold.
    """
    known = [one.name for one in dataclasses.fields(QualityThresholds)]
    faults = []
    for name in site.config.quality:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}."
            faults.append(f"Unknown key quality.{name} ({SITE_FILE}): {hint}")
    if faults:
        raise ConfigError(faults)
    return dataclasses.replace(QualityThresholds(), **site.config.quality)


def to_stored(
    recording_id: str,
    extraction: Extraction,
    *,
    subject_id: str,
    provenance: Mapping[str, Scalar] | None = None,
) -> StoredRecording:
    """The facts of an extraction as the store keeps them: plain values, None if not finite.

    Args:
        recording_id: As in the table of recordings.
        extraction: What came out.
        subject_id: The site's pseudonym of the subject.
        provenance: What else the figures depend on, beside what the extraction says of itself.
    """
    quality: dict[str, Any] = asdict(extraction.quality)
    quality.pop("rejected_for")
    return StoredRecording(
        recording_id,
        subject_id,
        "accepted" if extraction.quality.accepted else "rejected",
        reasons=tuple(StoredReason(r.code, r.text) for r in extraction.quality.rejected_for),
        quality={name: _finite(value) for name, value in quality.items()},
        indicators={
            name: StoredIndicator(
                _number(one.value),
                one.unit,
                _number(one.coverage),
                reason=one.reason,
                note=one.note,
            )
            for name, one in extraction.indicators.items()
        },
        provenance={**extraction.provenance, **(provenance or {})},
    )


def _finite(value: Scalar) -> Scalar:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _digest(thresholds: QualityThresholds) -> str:
    """SHA-256 of the thresholds: other limits, other verdicts."""
    return hashlib.sha256(json.dumps(asdict(thresholds), sort_keys=True).encode()).hexdigest()
