"""Video file to features, indicators and a verdict: one call a recording."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from client.extraction.behaviour.features import behaviour_series, cut_clips
from client.extraction.behaviour.frames import frame_log
from client.extraction.behaviour.indicators import (
    Indicator,
    measure_indicators,
    without_indicators,
)
from client.extraction.behaviour.measures import IndicatorLimits
from client.extraction.face import FaceTracker
from client.extraction.face_model import FACE_MODEL_SHA256, sha256_of_file
from client.extraction.quality import (
    QualityThresholds,
    TrackQuality,
    judge_quality,
    unreadable,
)
from client.extraction.track import FaceTrack
from client.extraction.video import VideoError, VideoReader
from client.recordings.annotations import NO_ANNOTATIONS, Annotations
from client.storage.frame_log import FrameLog
from shared_models.features import BEHAVIOUR, BehaviourFeatures, FeatureSchema

_SLOWEST_FPS = 1.0
_PACKAGES = ("vultus", "mediapipe", "opencv-python", "av", "numpy")

Provenance = dict[str, str | int | float | dict[str, str] | None]


class UnsteadyFileError(RuntimeError):
    """A file changed while it was read, so that the figures belong to no version of it."""


@dataclass(frozen=True)
class Extraction:
    """All that is known of one recording.

    Attributes:
        features: The clips to train on; None if the recording was rejected.
        indicators: Name to figure; also of a rejected recording, as far as it was tracked.
        quality: Figures and verdict.
        provenance: What the numbers were made from and by: hashes, versions, frames, seconds.
        frames: What was seen frame by frame; None if no frame could be decoded.
    """

    features: BehaviourFeatures | None
    indicators: dict[str, Indicator]
    quality: TrackQuality
    provenance: Provenance
    frames: FrameLog | None = None


@dataclass(frozen=True)
class _Task:
    """How a recording is to be extracted."""

    schema: FeatureSchema
    thresholds: QualityThresholds | None
    annotations: Annotations
    analysis_hz: float | None
    on_frame: Callable[[int], None]


def extract_recording(  # noqa: PLR0913 - each one a fact of the recording or the study
    path: Path,
    face_model: Path,
    *,
    thresholds: QualityThresholds | None = None,
    clip_s: float = BEHAVIOUR.clip_s,
    rate_hz: float = BEHAVIOUR.rate_hz,
    annotations: Annotations = NO_ANNOTATIONS,
    analysis_hz: float | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> Extraction:
    """Features, indicators and quality of one recording.

    Memory grows by 0.7 kB a frame and by nothing else: pictures are dropped as they are read.

    Args:
        path: The video file.
        face_model: A verified face landmarker bundle.
        thresholds: Limits of the quality gate; the defaults if None.
        clip_s: Seconds in a clip.
        rate_hz: Samples per second in a clip.
        annotations: Notes on the recording.
        analysis_hz: Frames per second to analyse; all if None.
        on_frame: Called with the number of frames decoded so far, often enough to show that the
            work goes on.

    Returns:
        The extraction. A file that cannot be read is a rejection, not an error.

    Raises:
        UnsteadyFileError: If the file changed meanwhile.
    """
    started = time.perf_counter()
    task = _Task(
        schema=replace(BEHAVIOUR, clip_s=clip_s, rate_hz=rate_hz),
        thresholds=thresholds,
        annotations=annotations,
        analysis_hz=analysis_hz,
        on_frame=on_frame or (lambda _: None),
    )
    source = file_facts(path)
    digest = sha256_of_file(path, on_chunk=lambda: task.on_frame(0)) if source else ""
    extraction = _extract(path, face_model, task)
    if file_facts(path) != source:
        msg = f"Expected {path.name} to stay as it is while it is read, but it changed. Try again."
        raise UnsteadyFileError(msg)
    made = {
        **source,
        "file_sha256": digest,
        "schema_digest": task.schema.digest,
        "face_model_sha256": FACE_MODEL_SHA256,
        "annotations_digest": annotations_digest(annotations),
        "analysis_hz": analysis_hz,
        "packages": {name: _version(name) for name in _PACKAGES},
        "frames": extraction.quality.frames,
        "seconds": round(time.perf_counter() - started, 3),
    }
    return replace(extraction, provenance={**extraction.provenance, **made})


def file_facts(path: Path) -> dict[str, int]:
    """Size and moment of change of a file: if neither differs, neither does the content.

    Args:
        path: The file; nothing is told of one that is not there.
    """
    if not path.is_file():
        return {}
    found = path.stat()
    return {"file_bytes": found.st_size, "file_mtime_ns": found.st_mtime_ns}


def annotations_digest(annotations: Annotations) -> str:
    """SHA-256 of the notes on a recording: other notes, other figures."""
    return hashlib.sha256(json.dumps(asdict(annotations), sort_keys=True).encode()).hexdigest()


def _extract(path: Path, face_model: Path, task: _Task) -> Extraction:
    try:
        reader = VideoReader(path, analysis_hz=task.analysis_hz)
        with FaceTracker(face_model) as tracker:
            track = tracker.track(reader, on_frame=lambda _: task.on_frame(reader.frames_decoded))
    except VideoError as error:
        nothing = without_indicators("The file could not be read")
        return Extraction(None, nothing, unreadable(str(error)), {})
    return _of_track(track, reader, task)


def _of_track(track: FaceTrack, reader: VideoReader, task: _Task) -> Extraction:
    quality = judge_quality(
        track,
        reader.header,
        thresholds=task.thresholds,
        decoded_s=reader.decoded_s,
        interlaced=reader.interlaced,
    )
    log = frame_log(track, reader.decoded_s)
    codec: Provenance = {"codec": reader.header.codec}
    if track.fps < _SLOWEST_FPS:
        # Timestamps that leap by hours would ask for hours of samples.
        nothing = without_indicators("The frames are seconds apart")
        return Extraction(None, nothing, quality, codec, log)
    series = behaviour_series(track, rate_hz=task.schema.rate_hz)
    indicators = measure_indicators(
        track,
        series,
        annotations=task.annotations,
        limits=IndicatorLimits(rate_s=task.schema.clip_s),
    )
    features = cut_clips(series, schema=task.schema) if quality.accepted else None
    return Extraction(features, indicators, quality, codec, log)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
