"""Trains the trunk that ships with the package, on a simulated cohort and nothing else.

The cohort is drawn with other effect sizes than any study is simulated with (``effects_spread``),
and without privacy, because nobody is in it. A consortium then needs to train only a small head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from client.learning.training import severity_loss, standardise_scores
from shared_models.consortium import INSTRUMENTS
from shared_models.features import BEHAVIOUR
from shared_models.networks.behaviour_net import CHANNELS, BehaviourNet
from shared_models.weights import State
from simulation.cohort import CohortDesign, generate_cohort


@dataclass(frozen=True)
class PretrainingDesign:
    """How the trunk is trained.

    Attributes:
        size: Size of the network.
        seed: Fixes cohort, initial weights and order.
        sites: Simulated sites.
        subjects_per_site: Subjects of each.
        epochs: Passes over all clips.
        batch_clips: Clips a step.
        learning_rate: Largest step of Adam, on a cosine schedule.
    """

    size: str = "small"
    seed: int = 20_251_101
    sites: int = 24
    subjects_per_site: int = 100
    epochs: int = 6
    batch_clips: int = 128
    learning_rate: float = 2e-3


def pretrain_trunk(
    design: PretrainingDesign, on_step: Callable[[int, int], None] = lambda _done, _total: None
) -> State:
    """The trunk's tensors after training; the head is thrown away.

    Args:
        design: Cohort and schedule.
        on_step: Told how many steps are done, and how many there are.

    Source: Kingma, Ba 2015 (Adam, arXiv:1412.6980); Loshchilov, Hutter 2017 (cosine schedule,
    arXiv:1608.03983).
    """
    # One thread: sums then keep their order, and the same machine gives the same bytes again.
    torch.set_num_threads(1)
    torch.manual_seed(design.seed)
    network = BehaviourNet(len(BEHAVIOUR.features), CHANNELS[design.size])
    values, mask, target = _load_clips(design)
    steps = design.epochs * (len(values) // design.batch_clips)
    optimizer = torch.optim.AdamW(network.parameters(), lr=design.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(design.seed)
    for _ in range(design.epochs):
        shuffled = torch.randperm(len(values), generator=order)
        for batch in torch.split(shuffled, design.batch_clips)[:-1]:
            loss = severity_loss(network(values[batch], mask[batch]), target[batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            on_step(schedule.last_epoch, steps)
    return {
        name: tensor for name, tensor in network.state_dict().items() if not name.startswith("head")
    }


def _load_clips(design: PretrainingDesign) -> tuple[Tensor, Tensor, Tensor]:
    """``[C, T, F]`` values, mask, and ``[C]`` standardised severity of the whole cohort."""
    cohort = CohortDesign(
        sites=design.sites,
        subjects_per_site=design.subjects_per_site,
        seed=design.seed,
        effects_spread=1.0,
    )
    values, masks, scores = [], [], []
    for site in generate_cohort(cohort):
        for recording, features in zip(site.recordings, site.features, strict=True):
            if recording.rejected_for:
                continue
            values.append(BEHAVIOUR.normalise(features.values, features.mask))
            masks.append(features.mask)
            scores.append(np.full(len(features.values), recording.score, np.float32))
    target = standardise_scores(
        torch.from_numpy(np.concatenate(scores)), INSTRUMENTS[cohort.instrument]
    )
    return (
        torch.from_numpy(np.concatenate(values)),
        torch.from_numpy(np.concatenate(masks)),
        target,
    )
