"""Behaviours by name: which feature columns show the same thing, so that their shares add up.

An explanation in 24 columns is read by nobody, and twins (a blendshape and its landmark distance)
share one movement between them. Sites and coordinator must agree on the groups: the sums of the
importance table are in their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared_models.features import FeatureSchema


@dataclass(frozen=True)
class BehaviourGroup:
    """Columns of a feature schema that show one behaviour.

    Attributes:
        name: Stable name for machines.
        title: What people call it.
        columns: Names of the schema's columns; the first is the one to draw.
    """

    name: str
    title: str
    columns: tuple[str, ...]


BEHAVIOUR_GROUPS: tuple[BehaviourGroup, ...] = (
    BehaviourGroup("smiling", "Smiling", ("smile", "corner_elevation", "cheek")),
    BehaviourGroup("frowning", "Lowered brows", ("brow_lowering", "brow_gap")),
    BehaviourGroup("brow_raising", "Raised brows", ("inner_brow_raise", "brow_height")),
    BehaviourGroup("eyelids", "Blinks and eyelids", ("eye_blink", "eye_aspect_ratio")),
    BehaviourGroup("gaze_down", "Downward gaze", ("gaze_down", "iris_drop")),
    BehaviourGroup(
        "mouth_movement",
        "Mouth movement and speech",
        ("jaw_open", "mouth_aspect_ratio", "mouth_speed"),
    ),
    BehaviourGroup("mouth_tension", "Pressed or drooping mouth", ("lip_press", "mouth_frown")),
    BehaviourGroup(
        "dimples", "Dimples and one-sided smiles", ("dimple", "dimple_asymmetry", "smile_asymmetry")
    ),
    BehaviourGroup("head_position", "Head position", ("head_pitch", "head_yaw", "head_roll")),
    BehaviourGroup("pace", "Pace of head and face", ("head_speed", "change_rate")),
)
"""Every column of the ``behaviour`` schema stands in exactly one group."""


def group_columns(schema: FeatureSchema) -> NDArray[np.float64]:
    """``[F, K]`` membership of each column: a sum over columns times this is a sum by group.

    Raises:
        ValueError: If a column of the schema is in no group, or in two.
    """
    member = np.array(
        [[float(name in group.columns) for group in BEHAVIOUR_GROUPS] for name in schema.names]
    )
    if not (member.sum(axis=1) == 1).all():
        stray = [n for n, row in zip(schema.names, member, strict=True) if row.sum() != 1]
        msg = f"Expected each column in one behaviour group, got {', '.join(stray)} in none or two"
        raise ValueError(msg)
    return member
