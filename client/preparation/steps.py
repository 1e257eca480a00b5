"""What ``check`` and ``extract`` do with a site's recordings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from client.extraction.face_model import find_face_model
from client.extraction.parallel import (
    ExtractionJob,
    ExtractionSettings,
    Extractor,
    HeaderResult,
)
from client.preparation.batch import Batch, BatchTally
from client.preparation.batch_progress import FrameProgress, describe
from client.recordings.manifest import read_manifest
from client.recordings.recording import Fault, ManifestError, Recording, RecordingManifest
from client.recordings.treatments import TREATMENTS, treatment_faults
from client.recordings.warnings import find_warnings
from client.site import Site
from client.storage.store import FeatureStore, open_store
from client.storage.stored_recording import StoredRecording
from client.withdrawal.exclusion import ExclusionList, open_exclusions
from shared_models.console import Screen

_NAMED = 5


@dataclass(frozen=True)
class CheckedRecordings:
    """The verdict on a table of recordings.

    Attributes:
        recordings: Rows found.
        subjects: Distinct subjects found.
        faults: What must be corrected.
        warnings: What deserves attention.
    """

    recordings: int
    subjects: int
    faults: tuple[Fault, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The object for machines."""
        return {
            "recordings": self.recordings,
            "subjects": self.subjects,
            "faults": [asdict(fault) for fault in self.faults],
            "warnings": list(self.warnings),
        }


def load_manifest(site: Site, *, require_files: bool = True) -> RecordingManifest:
    """The recordings of a site; a simulated one has none that could be opened.

    Raises:
        ManifestError: With every fault of the table.
    """
    return read_manifest(
        site.paths.recordings,
        consortium=site.consortium.config,
        root=site.paths.videos,
        now=datetime.now(UTC),
        require_files=require_files and site.simulation_seed is None,
        is_forgotten=open_exclusions(site).holds,
    )


def check_recordings(site: Site) -> CheckedRecordings:
    """Faults and warnings of the tables, of the videos and the notes that they name."""
    treatments = treatment_faults(
        site.folder / TREATMENTS, today=datetime.now(UTC).astimezone().date()
    )
    try:
        manifest = load_manifest(site)
    except ManifestError as error:
        faults = (*error.faults, *treatments)
        return CheckedRecordings(error.recordings, error.subjects, faults)
    wanted = site.policy.min_subjects if site.policy else 1
    warnings = [
        *_left_out(manifest),
        *_still_listed(manifest, open_exclusions(site)),
        *find_warnings(manifest.recordings, site.consortium.config, wanted),
        *_unreadable(site, manifest.recordings),
    ]
    return CheckedRecordings(
        len(manifest.recordings),
        len(manifest.subjects),
        faults=treatments,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True)
class ExtractionOptions:
    """What the command line says beyond ``site.toml``.

    Attributes:
        workers: Processes at work; ``device.workers`` if None.
        face_model: The face landmarker bundle; looked for if None.
        analysis_hz: Frames per second to analyse; ``extraction.analysis_hz`` if None.
        prune: Whether stored recordings that the table no longer names are erased.
    """

    workers: int | None = None
    face_model: Path | None = None
    analysis_hz: float | None = None
    prune: bool = False


@dataclass(frozen=True)
class ExtractedRecordings:
    """What came of an extraction.

    Attributes:
        tally: Verdicts, failures, frames.
        seconds: The time it took.
        strays: Stored recordings that the table no longer names.
        pruned: How many of them were erased.
    """

    tally: BatchTally
    seconds: float
    strays: int
    pruned: int

    def to_json(self) -> dict[str, object]:
        """The object for machines."""
        tally = self.tally
        return {
            "extracted": tally.extracted,
            "rejected": tally.rejected,
            "failed": tally.failed,
            "skipped": tally.skipped,
            "frames": tally.frames,
            "seconds": round(self.seconds, 3),
            "failures": [{"recording_id": name, "error": why} for name, why in tally.failures],
            "strays": self.strays,
            "pruned": self.pruned,
        }


def extract_site(
    screen: Screen, site: Site, *, options: ExtractionOptions | None = None
) -> ExtractedRecordings:
    """Extract what is not stored yet.

    Raises:
        ConfigError: If the study needs more frames a second than are analysed.
        FaceModelError: If there is no face landmarker bundle.
        ManifestError: If the table of recordings is faulty.
    """
    started = time.perf_counter()
    chosen = options or ExtractionOptions()
    manifest = load_manifest(site)
    store = open_store(site)
    for recording in manifest.withdrawn:
        if store.erase(recording.subject_id, recording.recording_id):
            screen.say(f"Erased {recording.recording_id}: consent was withdrawn.")
    batch = Batch(site, store, analysis_hz=chosen.analysis_hz)
    if jobs := batch.pending(manifest.recordings):
        model = find_face_model([chosen.face_model, site.paths.face_model])
        screen.say(f"{len(jobs)} recordings to extract.")
        with FrameProgress(screen, jobs) as progress:
            workers = chosen.workers or site.config.device.workers
            batch.run(jobs, model, workers=workers, progress=progress)
    seconds = time.perf_counter() - started
    for recording_id, why in batch.tally.failures:
        screen.say(f"{recording_id}: {why}", style="red")
    news = describe(batch.tally, batch.tally.frames, seconds)
    screen.say(f"{news}, {batch.tally.skipped} done before.")
    strays = batch.strays(manifest.recordings)
    _tidy(screen, store, strays, prune=chosen.prune)
    pruned = len(strays) if chosen.prune else 0
    return ExtractedRecordings(batch.tally, seconds, len(strays), pruned)


def _tidy(
    screen: Screen, store: FeatureStore, strays: list[StoredRecording], *, prune: bool
) -> None:
    """Stored recordings that the table no longer names: told, and erased if that is wanted."""
    if prune:
        for stray in strays:
            store.erase(stray.subject_id, stray.recording_id)
            screen.say(f"Erased {stray.recording_id}: the table no longer names it.")
    elif strays:
        names = ", ".join(one.recording_id for one in strays[:_NAMED])
        more = f" and {len(strays) - _NAMED} more" if len(strays) > _NAMED else ""
        screen.warn(
            f"Stored, but not among the recordings of the study: {names}{more}. "
            "They are not trained on; 'extract --prune' erases them."
        )


def _left_out(manifest: RecordingManifest) -> Iterator[str]:
    if manifest.withdrawn:
        yield f"{len(manifest.withdrawn)} recordings are left out: consent was withdrawn."
    if manifest.other_tasks:
        yield f"{manifest.other_tasks} recordings are left out: the study uses other tasks."


def _still_listed(manifest: RecordingManifest, exclusions: ExclusionList) -> Iterator[str]:
    """Rows of forgotten subjects: left out, and a trace of them all the same."""
    for recording in manifest.withdrawn:
        if exclusions.holds(recording.subject_id):
            yield (
                f"line {recording.line}, {recording.recording_id}: the subject was forgotten. "
                "Remove the row, and the video if it is still there."
            )


def _unreadable(site: Site, recordings: Iterable[Recording]) -> list[str]:
    """What cannot be decoded; the files are opened by a process of its own, which may die."""
    lines = {one.recording_id: one.line for one in recordings}
    jobs = [ExtractionJob(one.recording_id, one.file) for one in recordings if one.file]
    found: list[tuple[int, str]] = []

    def note(result: HeaderResult) -> None:
        if result.error is not None:
            name = result.job.recording_id
            what = f"line {lines[name]}, {name}: will be rejected: {result.error}"
            found.append((lines[name], what))

    network = site.config.extraction.network
    with Extractor(ExtractionSettings(Path()), network=network) as extractor:
        extractor.read_headers(jobs, on_done=note)
    return [what for _, what in sorted(found)]
