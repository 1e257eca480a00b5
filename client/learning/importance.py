"""Which behaviours move the scores of a site's held-out subjects, for the sums of a study.

Cheaper than the explanation of one subject: fewer typical clips, fewer nodes, a few clips a
subject. What leaves are noised sums of bounded vectors, never an explanation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from client.learning.attribution import attribute_score
from client.learning.dataset import SubjectClips
from shared_models.behaviour_groups import BEHAVIOUR_GROUPS, group_columns
from shared_models.consortium import ConsortiumConfig
from shared_models.importance import importance_table
from shared_models.networks import BehaviourNet
from shared_models.tallies import Float64Array
from shared_models.typical_clips import typical_clips

MOST_CLIPS = 6
"""Clips of a subject that are looked at, evenly spread over what there is."""

_TYPICAL = 8
_STEPS = 4


def measure_importance(
    network: BehaviourNet,
    subjects: Sequence[SubjectClips],
    config: ConsortiumConfig,
    *,
    columns: int,
) -> Float64Array:
    """``[2, columns]`` exact importance table of a site; see :mod:`shared_models.importance`.

    Args:
        network: The model to judge.
        subjects: Held-out subjects.
        config: The study.
        columns: Width of the table.
    """
    member = group_columns(config.features.schema)
    rows = [_attribute(network, subject, config) @ member for subject in subjects]
    attributions = np.stack(rows) if rows else np.zeros((0, len(BEHAVIOUR_GROUPS)))
    return importance_table(attributions, columns=columns)


def _attribute(
    network: BehaviourNet, subject: SubjectClips, config: ConsortiumConfig
) -> Float64Array:
    """``[F]`` net attribution of each column."""
    kept = _spread(len(subject.values))
    moved = attribute_score(
        network,
        subject.values[kept],
        subject.mask[kept],
        score_range=config.study.score_range,
        typical=typical_clips()[:_TYPICAL],
        steps=_STEPS,
    )
    summed: Float64Array = moved.points.sum(axis=(0, 1))
    return summed


def _spread(clips: int) -> Tensor:
    """Places of at most :data:`MOST_CLIPS` clips, evenly spread."""
    places = np.linspace(0, clips - 1, min(clips, MOST_CLIPS))
    return torch.from_numpy(np.rint(places).astype(np.int64))
