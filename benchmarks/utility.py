"""What privacy costs: AUROC of private federated models against the pooled non-private one.

    python benchmarks/utility.py [--seeds 10] [--sites 10] [--subjects 100] [--rounds 30]
                                 [--trainable head|all] [--workers 1] [--json]

For each seed the same simulated cohort is studied by the real apps: with privacy off, where summing
the sites' exact gradients every round is the same as training on the pooled data; in mode
distributed at epsilon 3 and 1; in mode local at epsilon 3. Beside them every site trains alone
without any privacy, as long and with the same optimizer. All are judged exactly, on the same
held-out subjects of all sites. Intervals are Student's t over seeds, of figures paired by seed.

The best site's own model is chosen as sites could choose it: each judges its model on held-out
subjects of its own, and the one with the best figure there is judged with the others. Beside it
stands the best by the figure that is compared, which nobody could have chosen beforehand: the
largest of several noisy figures is larger than any of them is expected to be.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from client.learning.learner import Learner, open_learner
from client.learning.training import make_items, site_gradient
from privacy.noise import ChaChaNoise
from server.aggregation import ServerOptimizer
from shared_models.weights import trainable_state
from simulation.study import design_study, run_study

ARMS = {
    "distributed, epsilon 3": ("distributed", 3.0, 0.97),
    "distributed, epsilon 1": ("distributed", 1.0, 0.95),
    "local, epsilon 3": ("local", 3.0, 0.90),
}
"""Mode, epsilon, and the share of (AUROC - 0.5) that is asked for."""
BEST = "best site alone"
ORACLE = "best alone, afterwards"


def design_of(seed, mode, epsilon, given):
    return design_study(
        sites=given.sites,
        subjects=given.subjects,
        rounds=given.rounds,
        epsilon=epsilon,
        mode=mode,
        network="behaviour_net",
        trainable=given.trainable,
        seed=seed,
        workers=given.workers,
    )


def run_arm(seed, mode, epsilon, given):
    with tempfile.TemporaryDirectory() as folder:
        design = design_of(seed, mode, epsilon, given)
        report = run_study(design, Path(folder), lambda *_: None)
        return report.truth.curve[-1][1]


def run_pooled_and_alone(seed, given):
    """AUROC of the study without privacy, and of what the sites reach by themselves."""
    with tempfile.TemporaryDirectory() as folder:
        design = design_of(seed, "off", 1.0, given)
        report = run_study(design, Path(folder), lambda *_: None)
        files = sorted(Path(folder).glob("sites/*/site.toml"))
        learners = [open_learner(file.absolute()) for file in files]
        torch.set_num_threads(1)
        models = [train_alone(learner, given) for learner in learners]
        alone = [judge(learners, weights) for weights in models]
        known = [judge([own], weights) for own, weights in zip(learners, models, strict=True)]
    return {
        "pooled": report.truth.curve[-1][1],
        BEST: alone[choose_beforehand(known)],
        ORACLE: max(alone),
        "mean site alone": float(np.mean(alone)),
    }


def choose_beforehand(known):
    """Which site stands out by its own held-out subjects; one without both classes does not."""
    return int(np.argmax([-np.inf if np.isnan(value) else value for value in known]))


def train_alone(learner, given):
    """Weights of a site that trains for itself, from the same start."""
    config, network = learner.config, learner.network
    start = trainable_state(Learner(learner.site).network)
    network.load_state_dict({**network.state_dict(), **start})
    optimizer = ServerOptimizer(
        start,
        config.training.learning_rate,
        config.training.momentum,
        config.training.ema,
    )
    items = make_items(
        network.eval(),
        learner.dataset.training,
        score_range=config.study.score_range,
        head_only=given.trainable == "head",
    )
    for _ in range(given.rounds):
        gradient = site_gradient(
            network.train(),
            items,
            plan=config.training_plan(),
            expected_subjects=len(items),
            noise=ChaChaNoise(),
        )
        optimizer.step(gradient)
        network.load_state_dict({**network.state_dict(), **optimizer.weights})
    return optimizer.average


def judge(learners, weights):
    scores = []
    for learner in learners:
        learner.network.load_state_dict({**learner.network.state_dict(), **weights})
        scores.append(learner.score_held_out())
    positive, logit = (
        np.concatenate([getattr(score, name) for score in scores]) for name in ("positive", "logit")
    )
    if positive.all() or not positive.any():
        return float("nan")
    return float(roc_auc_score(positive, logit))


def interval(values):
    """Mean with its 95 % interval."""
    mean, half = float(values.mean()), float("nan")
    if len(values) > 1:
        half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return mean, float(mean - half), float(mean + half)


def text_of(values):
    mean, low, high = interval(values)
    return f"{mean:.4f} [{low:.4f}, {high:.4f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--trainable", choices=("head", "all"), default="head")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one object as the last line")
    given = parser.parse_args()
    rows = []
    for seed in range(given.seeds):
        started = time.perf_counter()
        row = run_pooled_and_alone(seed, given)
        row |= {n: run_arm(seed, mode, eps, given) for n, (mode, eps, _) in ARMS.items()}
        rows.append(row)
        figures = ", ".join(f"{name} {value:.4f}" for name, value in row.items())
        print(f"seed {seed} ({time.perf_counter() - started:.0f} s): {figures}", flush=True)
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    gain = columns["pooled"] - 0.5
    print(f"{'':24s} {'AUROC':26s} {'share of (AUROC - 0.5) kept':30s} asked  above best site")
    for name, values in columns.items():
        asked = f"{ARMS[name][2]:.2f}" if name in ARMS else ""
        above = text_of(values - columns[BEST])
        kept = text_of((values - 0.5) / gain)
        print(f"{name:24s} {text_of(values):26s} {kept:30s} {asked:5s}  {above}")
    if given.json:
        summary = {
            name: {"auroc": interval(values), "kept": interval((values - 0.5) / gain)}
            for name, values in columns.items()
        }
        print(json.dumps({"utility": summary, "seeds": given.seeds}))


if __name__ == "__main__":
    main()
