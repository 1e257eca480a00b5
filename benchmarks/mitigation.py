"""What each mitigation gains where a bias was planted: paired by seed, with 95 % intervals.

    python benchmarks/mitigation.py [--seeds 20] [--sites 8] [--subjects 100] [--fresh 150]
                                    [--rounds 30] [--planted age=60] [--weight 4] [--json]

In one group some behaviours show severity the other way round. Each option's rival is the same
training without it, with the same cohort and the same noise. Every figure is exact and taken from
fresh subjects of the same sites, who neither trained a model nor chose or recalibrated one.

The sites' parts are computed for all subjects at once; on each seed's first round the result is
held against the private step that sites run.
"""

from __future__ import annotations

import argparse
import json
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric import ec
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from client.learning.dataset import build_dataset
from client.learning.evaluation import score_subjects, tally_table
from client.learning.training import embed_subjects, item_share, make_items, subject_loss
from privacy.keys import public_line
from privacy.noise import SeededNoise
from privacy.training import clipped_sum
from server.aggregation import ServerOptimizer
from server.history import evaluation_report
from server.recalibration import fold_into_head
from server.release import choose_release
from shared_models.consortium import TALLY_SENSITIVITY
from shared_models.mitigation import GroupWeight, MitigationConfig
from shared_models.networks import make_network
from shared_models.roster import SiteEntry
from shared_models.tallies import GroupTally
from shared_models.weights import freeze_trunk
from simulation.cohort import generate_site
from simulation.comparison.seeds import interval
from simulation.mitigation_options import read_planted_bias
from simulation.study import design_study
from simulation.truth import pool_scores

MODES = ("off", "distributed", "local")
PLAIN, SHORT = "plain", "plain, half the rounds"


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
    cohort = replace(design.cohort, planted=read_planted_bias(given.planted))
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
    limits = (0, 27, 10)
    return pool_scores(
        [
            score_subjects(network.eval(), subjects, limits, embeddings=own)
            for subjects, own in zip(sites, embeddings, strict=True)
        ]
    )


def figures(found, planted):
    """Exact figures of one model on fresh subjects."""
    of = {
        f"{attribute} {group}": names == group
        for attribute, names in found.groups.items()
        for group in sorted(set(names.tolist()))
        if group != "undeclared"
    }
    areas = {g: roc_auc_score(found.positive[m], found.logit[m]) for g, m in of.items()}
    chance = np.clip(expit(found.logit), 1e-6, 1 - 1e-6)
    surprise = -np.log(np.where(found.positive, chance, 1 - chance))
    return {
        "worst group AUROC": min(areas.values()),
        "planted group AUROC": areas[planted],
        "AUROC": roc_auc_score(found.positive, found.logit),
        "log loss": float(surprise.mean()),
    }


def one_seed(job):
    given, seed = job
    torch.set_num_threads(1)
    material = materials(given, seed)
    kept = {
        name: [embed_subjects(material.network, site) for site in sites]
        for name, sites in (("held_out", material.held_out), ("fresh", material.fresh))
    }
    attribute, group = given.planted_group
    weights = MitigationConfig((GroupWeight(attribute, group, given.weight),))
    subjects = [subject for site in material.training for subject in site]
    plain_items = make_items(material.network, subjects, score_range=(0, 27, 10), head_only=True)
    heavy_items = [
        replace(item, share=weights.share_of({"age_band": s.age_band, "sex": s.sex}, above=False))
        for item, s in zip(plain_items, subjects, strict=True)
    ]
    found = {}
    for mode in MODES:

        def told(state):
            return figures(
                scores(material.network, material.fresh, kept["fresh"], state),
                f"{attribute} {group}",
            )

        none = MitigationConfig(recalibrate=True)
        plain = study(given, mode, none, given.rounds, seed)
        models = train(plain, material, plain_items, seed)
        rows = found[mode] = {PLAIN: told(models[-1])}
        heavy = study(given, mode, weights, given.rounds, seed)
        weighed = train(heavy, material, heavy_items, seed)
        rows["weights"] = told(weighed[-1])
        in_loss = train(heavy, material, heavy_items, seed, in_loss=given.weight)
        rows["weights in the loss alone"] = told(in_loss[-1])
        fitted = judge(plain, material, kept["held_out"], models, seed)[-1].recalibration
        rows["recalibrated"] = told(fold_into_head(models[-1], fitted))
        rows["recalibrated"]["applied"] = float(fitted.is_applied)
        for metric in ("auroc", "mae"):
            choosing = MitigationConfig(choose="worst_group", metric=metric)
            design = study(given, mode, choosing, given.rounds, seed)
            release = choose_release(
                judge(design, material, kept["held_out"], models, seed), choosing
            )
            rows[f"worst group by {metric}"] = told(models[release.server_round - 1])
            moved = float(release.server_round != given.rounds)
            rows[f"worst group by {metric}"]["applied"] = moved
        half = study(given, mode, none, max(1, given.rounds // 2), seed)
        early = train(half, material, plain_items, seed)
        rows[SHORT] = told(early[-1])
        fitted = judge(half, material, kept["held_out"], early, seed)[-1].recalibration
        rows["recalibrated, half the rounds"] = told(fold_into_head(early[-1], fitted))
        rows["recalibrated, half the rounds"]["applied"] = float(fitted.is_applied)
    return found


def summarise(found):
    """Mean of each figure and gain of each option, with intervals over seeds."""
    table = {}
    for mode in MODES:
        for option in found[0][mode]:
            rival = SHORT if option.endswith("half the rounds") else PLAIN
            rows = [seed[mode] for seed in found]
            for figure in rows[0][PLAIN]:
                own = np.array([row[option][figure] for row in rows])
                base = np.array([row[rival][figure] for row in rows])
                sign = -1 if figure == "log loss" else 1
                known = [row[option].get("applied") for row in rows]
                table[mode, option, figure] = (
                    interval(own),
                    None if option in (PLAIN, SHORT) else interval(sign * (own - base)),
                    None if known[0] is None else float(np.mean(known)),
                )
    return table


def text_of(estimate, *, sign=""):
    if estimate.low is None:
        return f"{estimate.value:{sign}.4f}"
    return f"{estimate.value:{sign}.4f} [{estimate.low:{sign}.4f}, {estimate.high:{sign}.4f}]"


def verdict(gain):
    if gain.low is None:
        return ""
    if gain.low > 0:
        return "gain"
    return "loss" if gain.high < 0 else "interval includes 0"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--fresh", type=int, default=150, help="fresh subjects a site")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--epsilon", type=float, default=3.0)
    parser.add_argument("--planted", default="age=60")
    parser.add_argument("--weight", type=float, default=4.0, help="of the planted group")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one object as the last line")
    given = parser.parse_args()
    what, _, value = given.planted.partition("=")
    given.planted_group = ("sex", value) if what == "sex" else ("age_band", f"{value}+")
    found = []
    with ProcessPoolExecutor(given.workers) as pool:
        for figures_of_seed in pool.map(one_seed, [(given, s) for s in range(given.seeds)]):
            found.append(figures_of_seed)
            print(f"{len(found)} of {given.seeds} seeds", flush=True)
    table = summarise(found)
    print(f"{'mode':12s} {'option':31s} {'figure':20s} {'value':26s} {'gain':29s} used")
    for (mode, option, figure), (value, gain, used) in table.items():
        told = "" if gain is None else f"{text_of(gain, sign='+'):29s}"
        share = "" if used is None else f"{used:.0%}"
        ending = "" if gain is None else verdict(gain)
        print(f"{mode:12s} {option:31s} {figure:20s} {text_of(value):26s} {told} {share} {ending}")
    if given.json:
        print(json.dumps({"seeds": found}))


if __name__ == "__main__":
    main()
