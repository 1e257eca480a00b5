"""What is kept of an extracted recording, and its bytes before they are sealed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
from safetensors.numpy import load, save

from shared_models.features import BehaviourFeatures

Verdict = Literal["accepted", "rejected"]
Scalar = str | int | float | bool | None

_LENGTH_BYTES = 4


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
    """

    value: float | None
    unit: str
    coverage: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class StoredRecording:
    """An extracted recording.

    Attributes:
        recording_id: As in the table of recordings.
        verdict: Whether it may be trained on.
        reasons: Why not.
        quality: Figures of the quality gate by name.
        indicators: Behavioural figures by name.
        provenance: What the numbers were made from and by; ``file_sha256``, ``schema_digest`` and
            ``face_model_sha256`` decide whether it must be extracted again.
        features: The clips; None if rejected.
    """

    recording_id: str
    verdict: Verdict
    reasons: tuple[StoredReason, ...] = ()
    quality: dict[str, Scalar] = field(default_factory=dict)
    indicators: dict[str, StoredIndicator] = field(default_factory=dict)
    provenance: dict[str, Scalar | dict[str, str]] = field(default_factory=dict)
    features: BehaviourFeatures | None = None


def pack(record: StoredRecording) -> bytes:
    """A recording as bytes: length and text of a JSON object, then safetensors.

    Raises:
        ValueError: If a figure is not finite, or verdict and features disagree: nothing could keep
            features of a rejected recording out of training.
    """
    features = record.features
    if (record.verdict == "accepted") != (features is not None):
        has = "without" if features is None else "with"
        msg = f"Expected features exactly for accepted recordings, got {record.verdict} {has}"
        raise ValueError(msg)
    facts = {
        "recording_id": record.recording_id,
        "verdict": record.verdict,
        "reasons": [asdict(reason) for reason in record.reasons],
        "quality": record.quality,
        "indicators": {name: asdict(one) for name, one in record.indicators.items()},
        "provenance": record.provenance,
        "schema_digest": features.schema_digest if features else None,
    }
    text = json.dumps(facts, allow_nan=False).encode()
    tensors = b""
    if features is not None:
        tensors = save(
            {
                # safetensors writes the buffer of a strided array as if it were contiguous.
                "values": np.ascontiguousarray(features.values),
                "mask": np.ascontiguousarray(features.mask),
                "clip_start_s": np.ascontiguousarray(features.clip_start_s),
            }
        )
    return len(text).to_bytes(_LENGTH_BYTES, "big") + text + tensors


def unpack(data: bytes) -> StoredRecording:
    """The recording that :func:`pack` made bytes of."""
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
    facts = json.loads(data[_LENGTH_BYTES:end])
    features = None
    if facts["schema_digest"] is not None:
        features = BehaviourFeatures(**load(data[end:]), schema_digest=facts["schema_digest"])
    return StoredRecording(
        recording_id=facts["recording_id"],
        verdict=facts["verdict"],
        reasons=tuple(StoredReason(**reason) for reason in facts["reasons"]),
        quality=facts["quality"],
        indicators={name: StoredIndicator(**one) for name, one in facts["indicators"].items()},
        provenance=facts["provenance"],
        features=features,
    )
