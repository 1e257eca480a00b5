"""Video file to features, indicators and a verdict: one call a recording."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from client.extraction.behaviour.features import behaviour_series, cut_clips
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
from client.extraction.video import VideoError, VideoHeader, probe_video, read_frames
from shared_models.features import BEHAVIOUR, BehaviourFeatures, FeatureSchema

_SLOWEST_FPS = 1.0
_PACKAGES = ("vultus", "mediapipe", "opencv-python", "numpy")

Provenance = dict[str, str | int | float | dict[str, str]]


@dataclass(frozen=True)
class Extraction:
    """All that is known of one recording.

    Attributes:
        features: The clips to train on; None if the recording was rejected.
        indicators: Name to figure; also of a rejected recording, as far as it was tracked.
        quality: Figures and verdict.
        provenance: What the numbers were made from and by: hashes, versions, frames, seconds.
    """

    features: BehaviourFeatures | None
    indicators: dict[str, Indicator]
    quality: TrackQuality
    provenance: Provenance


def extract_recording(
    path: Path,
    face_model: Path,
    *,
    thresholds: QualityThresholds | None = None,
    clip_s: float = BEHAVIOUR.clip_s,
    rate_hz: float = BEHAVIOUR.rate_hz,
) -> Extraction:
    """Features, indicators and quality of one recording.

    Memory grows by 0.7 kB a frame and by nothing else: pictures are dropped as they are read.

    Args:
        path: The video file.
        face_model: A verified face landmarker bundle.
        thresholds: Limits of the quality gate; the defaults if None.
        clip_s: Seconds in a clip.
        rate_hz: Samples per second in a clip.

    Returns:
        The extraction. A file that cannot be read is a rejection, not an error.
    """
    started = time.perf_counter()
    schema = replace(BEHAVIOUR, clip_s=clip_s, rate_hz=rate_hz)
    try:
        header = probe_video(path)
        with FaceTracker(face_model) as tracker:
            track = tracker.track(read_frames(path))
    except VideoError as error:
        quality, indicators, features = _of_nothing(str(error))
    else:
        quality, indicators, features = _of_track(track, header, schema, thresholds)
    provenance = _provenance(path, schema, quality.frames, time.perf_counter() - started)
    return Extraction(features, indicators, quality, provenance)


def _of_track(
    track: FaceTrack,
    header: VideoHeader,
    schema: FeatureSchema,
    thresholds: QualityThresholds | None,
) -> tuple[TrackQuality, dict[str, Indicator], BehaviourFeatures | None]:
    quality = judge_quality(track, header, thresholds=thresholds)
    if track.fps < _SLOWEST_FPS:
        # Timestamps that leap by hours would ask for hours of samples.
        return quality, without_indicators("The frames are seconds apart"), None
    series = behaviour_series(track, rate_hz=schema.rate_hz)
    limits = IndicatorLimits(rate_s=schema.clip_s)
    indicators = measure_indicators(track, series, limits=limits)
    features = cut_clips(series, schema=schema) if quality.accepted else None
    return quality, indicators, features


def _of_nothing(reason: str) -> tuple[TrackQuality, dict[str, Indicator], None]:
    return unreadable(reason), without_indicators("The file could not be read"), None


def _provenance(path: Path, schema: FeatureSchema, frames: int, seconds: float) -> Provenance:
    return {
        "file_sha256": sha256_of_file(path) if path.is_file() else "",
        "schema_digest": schema.digest,
        "face_model_sha256": FACE_MODEL_SHA256,
        "packages": {name: _version(name) for name in _PACKAGES},
        "frames": frames,
        "seconds": round(seconds, 3),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
