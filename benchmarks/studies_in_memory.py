"""Many small studies in memory, for benchmarks: the sites' parts for all subjects at once.

Each training's first round is held against the private step that sites run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric import ec

from client.learning.dataset import build_dataset
from client.learning.evaluation import score_subjects, tally_table
from client.learning.training import item_share, subject_loss
from privacy.keys import public_line
from privacy.noise import SeededNoise
from privacy.training import clipped_sum
from server.aggregation import ServerOptimizer
from server.history import evaluation_report
from shared_models.consortium import TALLY_SENSITIVITY
from shared_models.mitigation import MitigationConfig
from shared_models.networks import make_network
from shared_models.roster import SiteEntry
from shared_models.tallies import GroupTally
from shared_models.weights import freeze_trunk
from simulation.cohort import generate_site
from simulation.mitigation_options import read_planted_bias
from simulation.study import design_study
from simulation.truth import pool_scores

RANGE = (0.0, 27.0, 10.0)


@dataclass
class Material:
    """One seed: heads see nothing but embeddings, so these are all that is kept."""

    network: torch.nn.Module
    training: list
    held_out: list
    fresh: list


def materials(given, seed):
    """Training, held-out and fresh subjects of every site of a cohort."""
    design = study(given, "off", MitigationConfig(), given.rounds, seed)
    features = len(design.config.features.schema.features)
    network = make_network("behaviour_net", "small", features=features)
    freeze_trunk(network, trainable="head")
    everybody = replace(design.cohort, subjects_per_site=given.subjects + given.fresh)
    training, held_out, fresh = [], [], []
    for index in range(given.sites):
        site = generate_site(everybody, index)
        features = dict(zip([r.recording_id for r in site.recordings], site.features, strict=True))
        of_study = [r for r in site.recordings if number(r) <= given.subjects]
        others = [r for r in site.recordings if number(r) > given.subjects]
        known = build_dataset(of_study, features, design.config)
        unseen = build_dataset(others, features, design.config)
        training.append(known.training)
        held_out.append(known.held_out)
        fresh.append((*unseen.training, *unseen.held_out))
    return Material(network, training, held_out, fresh)


@cache
def some_keys(sites):
    return [public_line(ec.generate_private_key(ec.SECP384R1())) for _ in range(sites)]


def number(recording):
    return int(recording.subject_id.rpartition("p")[2])


def study(given, mode, mitigation, rounds, seed):
    """The study of ``vultus-simulate run`` with an evaluation after each third of the rounds."""
    design = design_study(
        sites=given.sites, subjects=given.subjects, rounds=rounds, epsilon=given.epsilon,
        mode=mode, network="behaviour_net", trainable="head", seed=seed,
    )  # fmt: skip
    weight = round(given.subjects * (1 - design.config.fairness.holdout_fraction))
    entries = [
        SiteEntry(f"site-{i + 1:02d}", weight, key) for i, key in enumerate(some_keys(given.sites))
    ]
    config = replace(
        design.config,
        training=replace(design.config.training, evaluate_every=max(1, rounds // 3)),
        mitigation=mitigation,
        sites=tuple(entries),
    )
    planted = None if given.planted == "none" else read_planted_bias(given.planted)
    cohort = replace(design.cohort, planted=planted)
    return replace(design, config=config, cohort=cohort)


def head_gradients(network, items, *, factor=None):
    """``[S, P]`` gradient of each subject's loss in the head: weights, then biases."""
    clips = torch.cat([item.inputs[0] for item in items])
    with_one = torch.cat([clips, torch.ones(len(clips), 1)], dim=1)
    judged = network.judge(clips).detach().requires_grad_()
    targets = torch.cat([item.target for item in items])
    loss = torch.nn.functional.huber_loss(judged[:, 0], targets, reduction="sum")
    loss = loss + torch.nn.functional.binary_cross_entropy_with_logits(
        judged[:, 1], (targets >= 0).float(), reduction="sum"
    )
    (slope,) = torch.autograd.grad(loss, judged)
    owner = torch.repeat_interleave(
        torch.arange(len(items)), torch.tensor([len(item.target) for item in items])
    )
    counts = torch.bincount(owner).float()
    outer = slope[:, :, None] * with_one[:, None, :]
    summed = torch.zeros(len(items), 2, with_one.shape[1]).index_add_(0, owner, outer)
    mean = summed / counts[:, None, None]
    if factor is not None:
        mean = mean * factor[:, None, None]
    return torch.cat([mean[:, :, :-1].flatten(1), mean[:, :, -1]], dim=1)


def summed_parts(network, items, *, clip_at, in_loss=0.0):
    """Sum over subjects as the sites compute it, as a state.

    ``in_loss`` is the largest weight where the weights are factors of the loss and nothing else.
    """
    share = torch.tensor([item.share for item in items])
    gradients = head_gradients(network, items, factor=share * in_loss if in_loss else None)
    if clip_at is not None:
        norms = gradients.norm(dim=1, keepdim=True)
        gradients = gradients * (clip_at / norms).clamp(max=1)
    if not in_loss:
        gradients = gradients * share[:, None]
    total, width = gradients.sum(dim=0), network.head.weight.numel()
    return {
        "head.weight": total[:width].view_as(network.head.weight),
        "head.bias": total[width:],
    }


def train(design, material, items, seed, *, in_loss=0.0):
    """Averaged weights after each round."""
    config, network = design.config, material.network
    plan = config.training_plan()
    off = plan.mode == "off"
    set_head(network, None)
    training = config.training
    state = {n: p.detach().clone() for n, p in network.head.named_parameters(prefix="head")}
    optimizer = ServerOptimizer(
        state,
        training.learning_rate * (1.0 if in_loss else config.mitigation.largest_weight),
        training.momentum,
        training.ema,
    )
    counted = sum(entry.weight for entry in config.sites)
    sites = len(config.sites) if plan.mode == "local" else 1
    noise_sd = plan.released_noise_multiplier * plan.max_grad_norm * math.sqrt(sites)
    noise, models = SeededNoise(1_000_000 + seed), []
    clip_at = None if off else plan.max_grad_norm
    for server_round in range(training.rounds):
        part = summed_parts(network, items, clip_at=clip_at, in_loss=in_loss)
        if server_round == 0 and not off and not in_loss:
            hold_against_the_step(network, items, plan, part)
        if not off:
            part = {n: p + noise.normal(p.shape, noise_sd, dtype=p.dtype) for n, p in part.items()}
        optimizer.step({name: value / counted for name, value in part.items()})
        set_head(network, optimizer.weights)
        models.append({name: value.clone() for name, value in optimizer.average.items()})
    return models


def hold_against_the_step(network, items, plan, part):
    some = items[:40]
    mine = summed_parts(network, some, clip_at=plan.max_grad_norm)
    theirs = clipped_sum(
        network.train(), some, subject_loss, plan=plan, noise=SeededNoise(0), share_of=item_share
    )
    assert set(mine) == set(part)
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-3, atol=1e-4)


def set_head(network, state):
    with torch.no_grad():
        for name, parameter in network.head.named_parameters(prefix="head"):
            parameter.copy_(torch.zeros_like(parameter) if state is None else state[name])


def judge(design, material, embeddings, models, seed):
    """The evaluations of a run, as the coordinator would see them."""
    config = design.config
    plan = config.tally_plan()
    sites = len(config.sites) if plan.mode == "local" else 1
    sd = plan.released_noise_multiplier * TALLY_SENSITIVITY * math.sqrt(sites)
    rng = np.random.default_rng((7, seed))
    found = []
    for server_round in range(1, config.training.rounds + 1):
        cells = list(config.tally_groups(server_round))
        if not cells:
            continue
        pooled = scores(material.network, material.held_out, embeddings, models[server_round - 1])
        table = tally_table(pooled, config, server_round=server_round)
        noised = table + sd * rng.standard_normal(table.shape)
        found.append(
            evaluation_report(
                server_round,
                [GroupTally(*cell, row, sd) for cell, row in zip(cells, noised, strict=True)],
                score_range=config.study.score_range,
                min_cell=config.fairness.min_cell,
                recalibrate=True,
            )
        )
    return found


def scores(network, sites, embeddings, state):
    set_head(network, state)
    return pool_scores(
        [
            score_subjects(network.eval(), subjects, RANGE, embeddings=own)
            for subjects, own in zip(sites, embeddings, strict=True)
        ]
    )
