"""What each mitigation gains where a bias was planted: paired by seed, with 95 % intervals.

    python benchmarks/mitigation.py [--seeds 20] [--sites 8] [--subjects 100] [--fresh 150]
                                    [--rounds 30] [--planted age=60|none] [--group age_band.60+]
                                    [--weight 4] [--workers 2] [--json]

In one group some behaviours show severity the other way round. Each option's rival is the same
training without it, with the same cohort and the same noise. Every figure is exact and taken from
fresh subjects of the same sites, who neither trained a model nor chose or recalibrated one. A gain
is an increase of AUROC or a decrease of log loss; ``used`` is how often the model was another one.
Two causes of bad calibration are planted too: half the rounds, and subjects above the threshold
counted three times.

The sites' parts are computed for all subjects at once; on each seed's first round the result is
held against the private step that sites run.
"""

from __future__ import annotations

import argparse
import itertools
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
from client.learning.training import (
    embed_subjects,
    item_share,
    make_items,
    subject_loss,
    subject_share,
)
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

RANGE = (0.0, 27.0, 10.0)
MODES = ("off", "distributed", "local")
FIGURES = ("worst group AUROC", "weighted group AUROC", "AUROC", "log loss")
PLAIN, SHORT, ALARMED = "plain", "half the rounds", "above the threshold x 3"
ABOVE = MitigationConfig(tuple(GroupWeight("sex", sex, 3.0, "above") for sex in ("female", "male")))


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


def figures(found, group):
    """Exact figures of one model on fresh subjects."""
    of = {
        f"{attribute} {name}": names == name
        for attribute, names in found.groups.items()
        for name in sorted(set(names.tolist()))
        if name != "undeclared"
    }
    areas = {g: roc_auc_score(found.positive[m], found.logit[m]) for g, m in of.items()}
    chance = np.clip(expit(found.logit), 1e-6, 1 - 1e-6)
    surprise = -np.log(np.where(found.positive, chance, 1 - chance))
    return {
        "worst group AUROC": min(areas.values()),
        "weighted group AUROC": areas[group],
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
    subjects = [subject for site in material.training for subject in site]
    embedded = make_items(material.network, subjects, score_range=RANGE, head_only=True)
    items = {
        name: [
            replace(item, share=subject_share(subject, RANGE[2], declared))
            for item, subject in zip(embedded, subjects, strict=True)
        ]
        for name, declared in (
            ("plain", MitigationConfig()),
            ("group", MitigationConfig((GroupWeight(*given.group, given.weight),))),
            ("above", ABOVE),
        )
    }
    found = {}
    for mode in MODES:
        found[mode] = Trial(given, seed, mode, material, kept).rows(items)
    return found


@dataclass
class Trial:
    """One seed in one mode."""

    given: argparse.Namespace
    seed: int
    mode: str
    material: Material
    kept: dict

    def rows(self, items):
        """Figures of every option, by its name."""
        given = self.given
        group = MitigationConfig((GroupWeight(*given.group, given.weight),))
        plain = self.study(MitigationConfig())
        models = self.train(plain, items["plain"])
        rows = {PLAIN: self.told(models[-1])}
        heavy = self.study(group)
        rows["group weights"] = self.told(self.train(heavy, items["group"])[-1])
        inert = self.train(heavy, items["group"], in_loss=given.weight)
        rows["weights in the loss alone"] = self.told(inert[-1])
        for metric in ("auroc", "mae"):
            rows[f"worst group by {metric}"] = self.choose(models, metric)
        rows[f"{PLAIN}, recalibrated"] = self.recalibrate(plain, models)
        half = self.study(MitigationConfig(), rounds=max(1, given.rounds // 2))
        early = self.train(half, items["plain"])
        rows[SHORT] = self.told(early[-1])
        rows[f"{SHORT}, recalibrated"] = self.recalibrate(half, early)
        above = self.study(ABOVE)
        alarmed = self.train(above, items["above"])
        rows[ALARMED] = self.told(alarmed[-1])
        rows[f"{ALARMED}, recalibrated"] = self.recalibrate(above, alarmed)
        return rows

    def study(self, mitigation, rounds=None):
        return study(self.given, self.mode, mitigation, rounds or self.given.rounds, self.seed)

    def train(self, design, items, **options):
        return train(design, self.material, items, self.seed, **options)

    def told(self, state, **more):
        found = scores(self.material.network, self.material.fresh, self.kept["fresh"], state)
        return {**figures(found, " ".join(self.given.group)), **more}

    def judge(self, design, models):
        return judge(design, self.material, self.kept["held_out"], models, self.seed)

    def choose(self, models, metric):
        """The model that the noised figures of the groups choose, of the plain ones."""
        choosing = MitigationConfig(choose="worst_group", metric=metric)
        release = choose_release(self.judge(self.study(choosing), models), choosing)
        moved = release.server_round != self.given.rounds
        return self.told(models[release.server_round - 1], used=float(moved))

    def recalibrate(self, design, models):
        fitted = self.judge(design, models)[-1].recalibration
        return self.told(fold_into_head(models[-1], fitted), used=float(fitted.is_applied))


def rival_of(option):
    """What an option is compared with; None for what is itself a rival of others."""
    if option.endswith(", recalibrated"):
        return option.removesuffix(", recalibrated")
    return None if option in (PLAIN, SHORT) else PLAIN


def summarise(found):
    """Mean of each figure and gain of each option, with intervals over seeds."""
    table = {}
    for mode in MODES:
        rows = [seed[mode] for seed in found]
        for option, figure in itertools.product(rows[0], FIGURES):
            rival = rival_of(option)
            own = np.array([row[option][figure] for row in rows])
            gain = None
            if rival is not None:
                base = np.array([row[rival][figure] for row in rows])
                gain = interval((base - own) if figure == "log loss" else (own - base))
            used = [row[option].get("used", 1.0) for row in rows]
            table[mode, option, figure] = (interval(own), gain, float(np.mean(used)))
    return table


def text_of(estimate, *, sign=""):
    if estimate.low is None:
        return f"{estimate.value:{sign}.3f}"
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def mark(gain):
    """Whether a gain may be claimed."""
    if gain.low is None:
        return "?"
    if gain.low == gain.high == 0:
        return "="
    if gain.low <= 0 <= gain.high:
        return "0"
    return "+" if gain.low > 0 else "-"


def show(table):
    """A row an option: its gains, or the values of what others are compared with."""
    columns = [figure for figure in FIGURES if figure != "weighted group AUROC"]
    print(f"{'mode':12s} {'option':36s} {'used':>5s}  " + "".join(f"{c:31s}" for c in columns))
    for mode, option in dict.fromkeys((mode, option) for mode, option, _ in table):
        cells = [table[mode, option, figure] for figure in columns]
        told = [
            text_of(v) if g is None else f"{text_of(g, sign='+')} {mark(g)}" for v, g, _ in cells
        ]
        used = "" if cells[0][1] is None else f"{cells[0][2]:.0%}"
        print(f"{mode:12s} {option:36s} {used:>5s}  " + "".join(f"{cell:31s}" for cell in told))
    print("+ a gain, - a loss: the interval excludes 0; 0: it does not; = the same figure")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--fresh", type=int, default=150, help="fresh subjects a site")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--epsilon", type=float, default=3.0)
    parser.add_argument("--planted", default="age=60", help="or sex=female, sex=male, none")
    parser.add_argument("--group", default="age_band.60+", help="that counts more often")
    parser.add_argument("--weight", type=float, default=4.0, help="how often it counts")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one object as the last line")
    given = parser.parse_args()
    given.group = tuple(given.group.split(".", 1))
    found = []
    with ProcessPoolExecutor(given.workers) as pool:
        for figures_of_seed in pool.map(one_seed, [(given, s) for s in range(given.seeds)]):
            found.append(figures_of_seed)
            print(f"{len(found)} of {given.seeds} seeds", flush=True)
    table = summarise(found)
    show(table)
    if given.json:
        print(json.dumps({"seeds": found}))


if __name__ == "__main__":
    main()
