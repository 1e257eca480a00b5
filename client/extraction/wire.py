"""What travels between the batch and its workers: JSON and tensors, nothing that could run.

A worker decodes files that people send in. Whatever takes it over can answer with wrong numbers,
but with no object that executes where it is read, as an unpickled one would.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from client.extraction.behaviour.indicators import Indicator
from client.extraction.pipeline import Extraction
from client.extraction.quality import QualityThresholds, Reason, TrackQuality
from client.extraction.video import VideoHeader
from client.recordings.annotations import NO_ANNOTATIONS, Annotations, Stimulus, Turn
from client.storage.frame_log import FrameLog
from shared_models.features import BEHAVIOUR, BehaviourFeatures

_LENGTH_BYTES = 4
_FEATURES = ("values", "mask", "clip_start_s")
_FRAMES = ("timestamps_s", "outcome", "faces", "head_pose_deg", "blendshapes", "signals")

Tensors = dict[str, NDArray[Any]]


class WireError(ValueError):
    """Bytes that are no message."""


@dataclass(frozen=True)
class ExtractionJob:
    """One recording to extract.

    Attributes:
        recording_id: The caller's name for it; comes back with the result.
        path: The video file.
        annotations: Notes on the recording.
    """

    recording_id: str
    path: Path
    annotations: Annotations = NO_ANNOTATIONS


@dataclass(frozen=True)
class ExtractionSettings:
    """What all jobs of a batch share.

    Attributes:
        face_model: A verified face landmarker bundle.
        thresholds: Limits of the quality gate; the defaults if None.
        clip_s: Seconds in a clip.
        rate_hz: Samples per second in a clip.
        analysis_hz: Frames per second to analyse; all if None.
    """

    face_model: Path
    thresholds: QualityThresholds | None = None
    clip_s: float = BEHAVIOUR.clip_s
    rate_hz: float = BEHAVIOUR.rate_hz
    analysis_hz: float | None = None


def pack_message(facts: Mapping[str, object], tensors: Tensors | None = None) -> bytes:
    """A message as bytes: length and text of a JSON object, then safetensors.

    Args:
        facts: Plain values.
        tensors: Arrays by name.
    """
    text = json.dumps(facts).encode()
    whole = {name: np.ascontiguousarray(one) for name, one in (tensors or {}).items()}
    return len(text).to_bytes(_LENGTH_BYTES, "big") + text + (save(whole) if whole else b"")


def unpack_message(data: bytes) -> tuple[dict[str, Any], Tensors]:
    """The message that :func:`pack_message` made bytes of.

    Raises:
        WireError: If the bytes are none.
    """
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
    try:
        facts = json.loads(data[_LENGTH_BYTES:end])
        tensors = load(data[end:]) if data[end:] else {}
    except (ValueError, SafetensorError) as error:
        msg = f"Expected a message of a worker, got {len(data)} other bytes"
        raise WireError(msg) from error
    if not isinstance(facts, dict):
        msg = f"Expected a message of a worker, got {type(facts).__name__}"
        raise WireError(msg)
    return facts, tensors


def pack_settings(settings: ExtractionSettings) -> bytes:
    """Settings as bytes."""
    return pack_message({**asdict(settings), "face_model": str(settings.face_model)})


def unpack_settings(data: bytes) -> ExtractionSettings:
    """The settings that :func:`pack_settings` made bytes of."""
    facts, _ = unpack_message(data)
    limits = facts.pop("thresholds")
    return ExtractionSettings(
        Path(facts.pop("face_model")),
        thresholds=None if limits is None else QualityThresholds(**limits),
        **facts,
    )


def job_facts(job: ExtractionJob) -> dict[str, object]:
    """A job as plain values."""
    return {**asdict(job), "path": str(job.path)}


def to_job(facts: Mapping[str, Any]) -> ExtractionJob:
    """The job that :func:`job_facts` tells of."""
    notes = facts["annotations"]
    return ExtractionJob(
        facts["recording_id"],
        Path(facts["path"]),
        Annotations(
            stimuli=tuple(Stimulus(**one) for one in notes["stimuli"]),
            turns=tuple(Turn(**one) for one in notes["turns"]),
            pupil_mm=notes["pupil_mm"],
        ),
    )


def header_facts(header: VideoHeader) -> dict[str, object]:
    """A header as plain values."""
    return asdict(header)


def pack_extraction(extraction: Extraction, facts: Mapping[str, object]) -> bytes:
    """An extraction as bytes, with other facts beside it."""
    features, frames = extraction.features, extraction.frames
    tensors: Tensors = {}
    if features is not None:
        tensors |= {name: getattr(features, name) for name in _FEATURES}
    if frames is not None:
        tensors |= {f"frames.{name}": getattr(frames, name) for name in _FRAMES}
    told = {
        "quality": asdict(extraction.quality),
        "indicators": {name: asdict(one) for name, one in extraction.indicators.items()},
        "provenance": extraction.provenance,
        "schema_digest": features.schema_digest if features else None,
        "signal_names": frames.signal_names if frames else None,
    }
    return pack_message({**facts, "extraction": told}, tensors)


def to_extraction(told: Mapping[str, Any], tensors: Tensors) -> Extraction:
    """The extraction that :func:`pack_extraction` made bytes of.

    Raises:
        WireError: If something is missing or of another kind.
    """
    try:
        return Extraction(
            features=_features(told["schema_digest"], tensors),
            indicators={name: Indicator(**one) for name, one in told["indicators"].items()},
            quality=_quality(told["quality"]),
            provenance=dict(told["provenance"]),
            frames=_frames(told["signal_names"], tensors),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"Expected an extraction, got something else: {error}"
        raise WireError(msg) from error


def _quality(facts: Mapping[str, Any]) -> TrackQuality:
    reasons = tuple(Reason(**one) for one in facts["rejected_for"])
    return TrackQuality(**{**facts, "rejected_for": reasons})


def _features(schema_digest: str | None, tensors: Tensors) -> BehaviourFeatures | None:
    if schema_digest is None:
        return None
    return BehaviourFeatures(
        **{name: tensors[name] for name in _FEATURES}, schema_digest=schema_digest
    )


def _frames(signal_names: list[str] | None, tensors: Tensors) -> FrameLog | None:
    if signal_names is None:
        return None
    arrays = {name: tensors[f"frames.{name}"] for name in _FRAMES}
    return FrameLog(**arrays, signal_names=tuple(signal_names))
