"""What ``check`` and ``extract`` do with a site's recordings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from client.batch import Batch, BatchTally
from client.exclusion import ExclusionList, open_exclusions
from client.extraction.face_model import find_face_model
from client.extraction.video import VideoError, probe_video
from client.manifest import read_manifest
from client.manifest_warnings import find_warnings
from client.recording import Fault, ManifestError, Recording, RecordingManifest
from client.site import Site
from client.store import open_store
from client.treatments import TREATMENTS, treatment_faults
from shared_models.console import Screen


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
        *_unreadable(manifest.recordings),
    ]
    return CheckedRecordings(
        len(manifest.recordings),
        len(manifest.subjects),
        faults=treatments,
        warnings=tuple(warnings),
    )


def extract_site(
    screen: Screen, site: Site, *, workers: int | None, face_model: Path | None
) -> tuple[BatchTally, float]:
    """Extract what is not stored yet; what came of it, and the seconds it took.

    Raises:
        FaceModelError: If there is no face landmarker bundle.
        ManifestError: If the table of recordings is faulty.
    """
    started = time.perf_counter()
    manifest = load_manifest(site)
    store = open_store(site)
    for recording in manifest.withdrawn:
        if store.erase(recording.subject_id, recording.recording_id):
            screen.say(f"Erased {recording.recording_id}: consent was withdrawn.")
    batch = Batch(site, store)
    jobs = batch.pending(manifest.recordings)
    if jobs:
        model = find_face_model([face_model, site.paths.face_model])
        screen.say(f"{len(jobs)} recordings to extract.")
        with screen.progress("news") as progress:
            bar = progress.add_task("Extracting", total=len(jobs), news="")
            batch.run(
                jobs,
                model,
                workers=workers or site.config.device.workers,
                on_progress=lambda tally: progress.update(
                    bar, completed=tally.done, news=_news(tally, time.perf_counter() - started)
                ),
            )
    seconds = time.perf_counter() - started
    for recording_id, why in batch.tally.failures:
        screen.say(f"{recording_id}: {why}", style="red")
    screen.say(_news(batch.tally, seconds) + f", {batch.tally.skipped} done before.")
    return batch.tally, seconds


def _news(tally: BatchTally, seconds: float) -> str:
    rate = tally.frames / seconds if seconds > 0 else 0.0
    return (
        f"{rate:.0f} frames/s, {tally.extracted} accepted, {tally.rejected} rejected, "
        f"{tally.failed} failed"
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


def _unreadable(recordings: Iterable[Recording]) -> Iterator[str]:
    for recording in recordings:
        if recording.file is None:
            continue
        try:
            probe_video(recording.file)
        except VideoError as error:
            yield f"line {recording.line}, {recording.recording_id}: will be rejected: {error}"
