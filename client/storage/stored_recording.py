"""What is kept of an extracted recording, and its bytes before they are sealed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from client.storage.frame_log import FrameLog
from shared_models.features import BehaviourFeatures

Verdict = Literal["accepted", "rejected"]
Scalar = str | int | float | bool | None

FACTS = "facts"
FEATURES = "features"
FRAMES = "frames"
_NAMES = "signal_names"


@dataclass(frozen=True)
class StoredReason:
    """Why a recording was rejected.

    Attributes:
        code: Stable name for machines.
        text: Sentence for people.
    """

    code: str
    text: str


@dataclass(frozen=True)
class StoredIndicator:
    """One behavioural figure of a recording.

    Attributes:
        value: The figure; None where the recording cannot support it.
        unit: Its unit.
        coverage: Share of the recording that it rests on, 0..1; None if unknown.
        reason: Why there is no value.
        note: What a reader of the value must know; None if nothing.
    """

    value: float | None
    unit: str
    coverage: float | None = None
    reason: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class StoredRecording:
    """The facts of an extracted recording; its arrays are read from the store when needed.

    Attributes:
        recording_id: As in the table of recordings.
        subject_id: The site's pseudonym of the subject.
        verdict: Whether it may be trained on.
        reasons: Why not.
        quality: Figures of the quality gate by name.
        indicators: Behavioural figures by name.
        provenance: What the numbers were made from and by; it decides whether the recording must be
            extracted again.
    """

    recording_id: str
    subject_id: str
    verdict: Verdict
    reasons: tuple[StoredReason, ...] = ()
    quality: dict[str, Scalar] = field(default_factory=dict)
    indicators: dict[str, StoredIndicator] = field(default_factory=dict)
    provenance: dict[str, Scalar | dict[str, str]] = field(default_factory=dict)


def pack(
    record: StoredRecording, features: BehaviourFeatures | None, frames: FrameLog | None
) -> dict[str, bytes]:
    """The parts of a recording's file, by name; what there is none of is left out.

    Raises:
        ValueError: If a figure is not finite, or verdict and features disagree: nothing could keep
            features of a rejected recording out of training.
    """
    if (record.verdict == "accepted") != (features is not None):
        has = "without" if features is None else "with"
        msg = f"Expected features exactly for accepted recordings, got {record.verdict} {has}"
        raise ValueError(msg)
    parts = {FACTS: json.dumps(asdict(record), allow_nan=False).encode()}
    if features is not None:
        parts[FEATURES] = _save(
            values=features.values, mask=features.mask, clip_start_s=features.clip_start_s
        )
    if frames is not None:
        parts[FRAMES] = _pack_frames(frames)
    return parts


def unpack_facts(data: bytes) -> StoredRecording:
    """The facts that :func:`pack` made bytes of."""
    facts = json.loads(data)
    reasons = tuple(StoredReason(**reason) for reason in facts.pop("reasons"))
    found = {name: StoredIndicator(**one) for name, one in facts.pop("indicators").items()}
    return StoredRecording(**facts, reasons=reasons, indicators=found)


def unpack_features(data: bytes, schema_digest: str) -> BehaviourFeatures:
    """The features that :func:`pack` made bytes of."""
    return BehaviourFeatures(**load(data), schema_digest=schema_digest)


def unpack_frames(data: bytes) -> FrameLog:
    """The frame log that :func:`pack` made bytes of."""
    tensors = load(data)
    names = json.loads(tensors.pop(_NAMES).tobytes())
    return FrameLog(**tensors, signal_names=tuple(names))


def _pack_frames(frames: FrameLog) -> bytes:
    """All of the log in one safetensors block; names as the bytes of their JSON."""
    names = np.frombuffer(json.dumps(frames.signal_names).encode(), np.uint8)
    return _save(
        timestamps_s=frames.timestamps_s,
        outcome=frames.outcome,
        faces=frames.faces,
        head_pose_deg=frames.head_pose_deg,
        blendshapes=frames.blendshapes,
        signals=frames.signals,
        **{_NAMES: names},
    )


def _save(**tensors: NDArray[np.generic]) -> bytes:
    # safetensors writes the buffer of a strided array as if it were contiguous.
    return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
