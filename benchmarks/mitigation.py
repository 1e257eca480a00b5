"""What each mitigation gains where a bias was planted: paired by seed, with 95 % intervals.

    python benchmarks/mitigation.py [--seeds 20] [--sites 8] [--subjects 100] [--fresh 100]
                                    [--rounds 30] [--planted age=60|none] [--group age_band.60+]
                                    [--weight 4] [--workers 2] [--json]

In one group some behaviours show severity the other way round. Each option's rival is the same
training without it, with the same cohort and the same noise. Every figure is exact and taken from
fresh subjects of the same sites, who neither trained a model nor chose or recalibrated one. A gain
is an increase of AUROC or a decrease of log loss; ``used`` is how often the model was another one.
Two causes of bad calibration are planted too: half the rounds, and subjects above the threshold
counted three times.
"""

from __future__ import annotations

import argparse
import itertools
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from studies_in_memory import RANGE, Material, judge, materials, scores, study, train

from client.learning.training import embed_subjects, make_items, subject_share
from server.recalibration import fold_into_head
from server.release import choose_release
from shared_models.mitigation import GroupWeight, MitigationConfig
from simulation.comparison.seeds import interval

MODES = ("off", "distributed", "local")
FIGURES = ("worst group AUROC", "weighted group AUROC", "AUROC", "log loss")
PLAIN, SHORT, ALARMED = "plain", "half the rounds", "above the threshold x 3"
ABOVE = MitigationConfig(tuple(GroupWeight("sex", sex, 3.0, "above") for sex in ("female", "male")))


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
    parser.add_argument("--fresh", type=int, default=100, help="fresh subjects a site")
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
