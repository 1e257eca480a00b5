"""The behaviour features: what each column means, its unit and constants, and their tensor.

All parties pin a schema by its digest, so that two sites can never train on columns that differ
in order, unit or scale.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class FeatureSpec:
    """One column of the feature tensor.

    Attributes:
        name: Column name.
        unit: Physical unit; ``"1"`` for a blendshape activation or a ratio.
        low: Smallest plausible value; smaller ones are clipped before training.
        high: Largest plausible value.
        center: Constant subtracted before training. It is public and part of the schema: statistics
            of a site's own data would leak.
        scale: Constant divided by before training, > 0.
        source: Signals of the face tracker that the column is computed from.
    """

    name: str
    unit: str
    low: float
    high: float
    center: float
    scale: float
    source: str


@dataclass(frozen=True)
class FeatureSchema:
    """An ordered set of feature columns and how they are cut into clips.

    Attributes:
        name: Name by which ``consortium.toml`` asks for the set.
        rate_hz: Samples per second after resampling.
        clip_s: Length of a clip in seconds.
        features: The columns, in order.
    """

    name: str
    rate_hz: float
    clip_s: float
    features: tuple[FeatureSpec, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in order."""
        return tuple(feature.name for feature in self.features)

    @property
    def steps(self) -> int:
        """Time steps T in a clip."""
        return round(self.rate_hz * self.clip_s)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every column and constant: equal digests mean comparable tensors."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def normalise(self, values: FloatArray, mask: BoolArray) -> FloatArray:
        """Values as the networks take them: clipped, centred, scaled; 0 where nothing was measured.

        Args:
            values: ``[..., F]`` in the columns' own units.
            mask: ``[..., F]``, True where a value was measured.

        Returns:
            ``[..., F]`` float32 of order one.
        """
        low, high, center, scale = self._constants
        scaled = (np.clip(values, low, high) - center) / scale
        return np.where(mask, scaled, 0.0).astype(np.float32)

    @cached_property
    def _constants(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        table = np.array(
            [(f.low, f.high, f.center, f.scale) for f in self.features], dtype=np.float32
        )
        return table[:, 0], table[:, 1], table[:, 2], table[:, 3]


@dataclass(frozen=True)
class BehaviourFeatures:
    """The feature clips of one recording.

    Attributes:
        values: ``[C, T, F]`` float32 in the schema's units; meaningless where ``mask`` is False.
        mask: ``[C, T, F]`` bool, True where a value was measured.
        clip_start_s: ``[C]`` float64, start of each clip within the recording, in seconds.
        schema_digest: Digest of the :class:`FeatureSchema` the columns follow.
    """

    values: FloatArray
    mask: BoolArray
    clip_start_s: NDArray[np.float64]
    schema_digest: str

    def __post_init__(self) -> None:
        """Refuse tensors whose shapes do not fit together.

        Raises:
            ValueError: If the shapes disagree.
        """
        if self.values.ndim != 3 or self.values.shape != self.mask.shape:
            msg = (
                f"Expected values and mask of one shape [C, T, F], got {self.values.shape} "
                f"and {self.mask.shape}"
            )
            raise ValueError(msg)
        if self.clip_start_s.shape != self.values.shape[:1]:
            msg = f"Expected {self.values.shape[0]} clip starts, got {self.clip_start_s.shape}"
            raise ValueError(msg)


def _ratio(name: str, *constants: float, source: str) -> FeatureSpec:
    low, high, center, scale = constants
    return FeatureSpec(name, "1", low, high, center, scale, source)


# Centres and scales are round numbers near the median and spread of the simulated cohort and of
# adult interview faces; they are constants of the schema and never follow a site's data.
BEHAVIOUR = FeatureSchema(
    name="behaviour",
    rate_hz=10.0,
    clip_s=15.0,
    features=(
        _ratio("smile", 0.0, 1.0, 0.2, 0.25, source="blendshapes mouthSmileLeft, mouthSmileRight"),
        _ratio(
            "corner_elevation", -0.3, 0.3, 0.0, 0.06, source="landmarks 13, 14, 61, 291 over IOD"
        ),
        _ratio(
            "mouth_frown", 0.0, 1.0, 0.05, 0.1, source="blendshapes mouthFrownLeft, mouthFrownRight"
        ),
        _ratio(
            "brow_lowering", 0.0, 1.0, 0.1, 0.15, source="blendshapes browDownLeft, browDownRight"
        ),
        _ratio("brow_gap", 0.05, 0.6, 0.33, 0.04, source="landmarks 107, 336 over IOD"),
        _ratio("brow_height", 0.0, 0.6, 0.25, 0.06, source="landmarks 105, 159, 334, 386 over IOD"),
        _ratio("inner_brow_raise", 0.0, 1.0, 0.15, 0.2, source="blendshape browInnerUp"),
        _ratio("eye_blink", 0.0, 1.0, 0.2, 0.2, source="blendshapes eyeBlinkLeft, eyeBlinkRight"),
        _ratio(
            "eye_aspect_ratio", 0.0, 0.8, 0.3, 0.1, source="landmarks 33, 160, 158, 133, 153, 144"
        ),
        _ratio(
            "gaze_down", 0.0, 1.0, 0.25, 0.2, source="blendshapes eyeLookDownLeft, eyeLookDownRight"
        ),
        _ratio("iris_drop", -0.15, 0.15, 0.0, 0.03, source="landmarks 468, 473, 33, 133, 362, 263"),
        _ratio("jaw_open", 0.0, 1.0, 0.08, 0.12, source="blendshape jawOpen"),
        _ratio("mouth_aspect_ratio", 0.0, 1.0, 0.06, 0.08, source="landmarks 13, 14 over IOD"),
        _ratio(
            "dimple", 0.0, 1.0, 0.05, 0.1, source="blendshapes mouthDimpleLeft, mouthDimpleRight"
        ),
        _ratio(
            "dimple_asymmetry", -1.0, 1.0, 0.0, 0.08, source="mouthDimpleLeft - mouthDimpleRight"
        ),
        _ratio("smile_asymmetry", -1.0, 1.0, 0.0, 0.1, source="mouthSmileLeft - mouthSmileRight"),
        FeatureSpec("head_pitch", "deg", -45, 45, 0, 6, "head matrix, minus session median"),
        FeatureSpec("head_yaw", "deg", -45, 45, 0, 8, "head matrix, minus session median"),
        FeatureSpec("head_roll", "deg", -45, 45, 0, 5, "head matrix, minus session median"),
        FeatureSpec("head_speed", "deg/s", 0, 200, 8, 10, "angle between successive head matrices"),
        FeatureSpec("mouth_speed", "1/s", 0, 5, 0.3, 0.4, "change of mouth_aspect_ratio"),
        FeatureSpec("change_rate", "1/s", 0, 5, 0.15, 0.12, "mean L1 change of all blendshapes"),
        _ratio(
            "cheek", 0.0, 1.0, 0.05, 0.1, source="blendshapes cheekSquintLeft, cheekSquintRight"
        ),
        _ratio(
            "lip_press", 0.0, 1.0, 0.1, 0.15, source="blendshapes mouthPressLeft, mouthPressRight"
        ),
    ),
)

SCHEMAS: dict[str, FeatureSchema] = {BEHAVIOUR.name: BEHAVIOUR}
