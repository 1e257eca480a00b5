"""How a site judges a global model: its held-out subjects become noised tallies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from client.learning.dataset import SubjectClips
from client.learning.training import embed_subjects, restore_scores
from privacy.noise import NoiseSource
from privacy.plan import PrivacyPlan
from shared_models.consortium import ConsortiumConfig
from shared_models.networks import BehaviourNet
from shared_models.tallies import Float64Array, SubjectScores, count_tally, largest_error


@torch.no_grad()
def score_subjects(
    network: BehaviourNet,
    subjects: Sequence[SubjectClips],
    score_range: tuple[float, float, float],
    *,
    embeddings: Sequence[Tensor] | None = None,
) -> SubjectScores:
    """One prediction a subject: the mean over all of the subject's clips.

    Args:
        network: The model to judge.
        subjects: Held-out subjects.
        score_range: Lowest score, highest score and clinical threshold, in points.
        embeddings: ``[C, H]`` of each subject, where a frozen trunk has made them before.
    """
    if embeddings is None:
        embeddings = embed_subjects(network, subjects)
    judged = [network.judge(embedding).mean(dim=0) for embedding in embeddings]
    table = torch.stack(judged).cpu() if judged else torch.zeros(0, 2)
    predicted = restore_scores(table[:, 0], score_range)
    score = np.array([float(subject.score.mean()) for subject in subjects], dtype=np.float64)
    return SubjectScores(
        logit=table[:, 1].numpy().astype(np.float64),
        predicted=predicted.numpy().astype(np.float64),
        score=score,
        positive=score >= score_range[2],
        groups={
            "age_band": np.array([subject.age_band for subject in subjects], dtype=np.str_),
            "sex": np.array([subject.sex for subject in subjects], dtype=np.str_),
        },
    )


def tally_table(
    scores: SubjectScores, config: ConsortiumConfig, *, server_round: int
) -> Float64Array:
    """``[G, 2 B + 3]`` exact tallies of every declared group, in the order all parties know."""
    limit = largest_error(config.study.score_range)
    return np.stack(
        [
            count_tally(scores, attribute, group, bins=config.fairness.bins, error_limit=limit).sums
            for attribute, group in config.subject_groups(server_round)
        ]
    )


def add_tally_noise(table: Float64Array, plan: PrivacyPlan, noise: NoiseSource) -> Float64Array:
    """The tallies with Gaussian noise of the plan in every entry, empty cells included.

    Guarantees:
        Unit: the subject. Adding or removing one changes one row of each attribute by at most
        ``plan.max_grad_norm`` in L2, so each attribute's rows are one Gaussian mechanism. The set
        of rows is fixed by the study and tells nothing. In mode ``off`` nothing is promised.
    """
    stddev = plan.noise_multiplier * plan.max_grad_norm
    if plan.mode == "off" or math.isclose(stddev, 0.0):
        return table
    drawn = noise.normal(table.shape, stddev, dtype=torch.float64)
    noised: Float64Array = table + drawn.numpy()
    return noised
