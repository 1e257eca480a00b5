"""One seed of a comparison: every way of training judged on the same held-out subjects, exactly."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from client.learning.learner import Learner
from client.learning.training import SubjectItem, item_share, make_items, subject_loss
from client.site import open_site
from privacy.training import plain_gradient
from server.aggregation import ServerOptimizer
from shared_models.tallies import SubjectScores
from shared_models.weights import State, trainable_state
from simulation.cohort import CohortDesign, generate_cohort
from simulation.comparison.setting import Arm, Setting
from simulation.study import StudyDesign, run_study, write_cohort
from simulation.truth import pool_scores, released_truth

BEST_ALONE = "best site alone"
"""Chosen as sites could choose it: by held-out subjects of its own."""
REACHABLE = "reachable"


@dataclass(frozen=True)
class Epsilon:
    """Privacy spent on training.

    Attributes:
        sum: Of who sees the sums over sites alone.
        site: Of who sees one site's releases: the coordinator where each site noises for itself,
            nobody with secure sums unless they are broken.
    """

    sum: float | None
    site: float | None


@dataclass(frozen=True)
class Figures:
    """How good a model is, exactly.

    Attributes:
        auroc: At the clinical threshold; nan where one class is missing.
        mae: Mean absolute error in points.
        epsilon: What was spent, as the run's report has it; None without privacy.
    """

    auroc: float
    mae: float
    epsilon: Epsilon | None = None


def compare_seed(setting: Setting, arms: Sequence[Arm], seed: int) -> dict[str, Figures]:
    """Figures of every way of training, by its label, and of what no model could exceed.

    Args:
        setting: The cohort and the length of training.
        arms: The ways.
        seed: Names the cohort and all noise.
    """
    torch.set_num_threads(1)
    found: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as folder:
        plain = setting.design(Arm("federated"), seed)
        learners = _learners(plain, Path(folder) / "cohort")
        found[REACHABLE] = judge_severity(learners, plain.cohort)
        for arm in arms:
            if arm.family.startswith("federated"):
                place = Path(folder) / f"study-{len(found)}"
                found[arm.label] = _run(setting.design(arm, seed), place)
            else:
                found |= _train_here(arm, learners, setting.rounds)
    return found


def train_together(learners: Sequence[Learner], rounds: int) -> State:
    """Trainable tensors after training without privacy on the subjects of these sites, pooled.

    Start, optimizer, loss and number of steps are those of a federated run.
    """
    first = learners[0]
    config, network = first.config, first.network
    start = trainable_state(Learner(first.site).network)
    network.load_state_dict({**network.state_dict(), **start})
    training = config.training
    optimizer = ServerOptimizer(
        start,
        training.learning_rate * config.mitigation.largest_weight,
        momentum=training.momentum,
        ema=training.ema,
    )
    items = [item for learner in learners for item in _items(learner)]
    for _ in range(rounds):
        optimizer.step(plain_gradient(network.train(), items, subject_loss, item_share))
        network.load_state_dict({**network.state_dict(), **optimizer.weights})
    return optimizer.average


def judge(learners: Sequence[Learner], weights: State) -> Figures:
    """Figures of these weights on the held-out subjects of these sites together."""
    scores = []
    for learner in learners:
        learner.network.load_state_dict({**learner.network.state_dict(), **weights})
        scores.append(learner.score_held_out())
    return _figures(pool_scores(scores))


def judge_severity(learners: Sequence[Learner], cohort: CohortDesign) -> Figures:
    """Figures of the true severity itself, as if a model had measured it without any error.

    What is left is the raters' error: no model that measures severity, and nothing else, can be
    expected to come closer to what they wrote down.
    """
    severity: dict[str, list[float]] = {}
    for site in generate_cohort(cohort):
        for recording in (r for r in site.recordings if not r.rejected_for):
            severity.setdefault(recording.subject_id, []).append(recording.severity)
    truth = [
        np.array([np.mean(severity[s.subject_id]) for s in learner.dataset.held_out])
        for learner in learners
    ]
    rated = pool_scores([learner.score_held_out() for learner in learners])
    known = np.concatenate(truth)
    return Figures(_auroc(rated.positive, known), float(np.abs(known - rated.score).mean()))


def _learners(design: StudyDesign, folder: Path) -> list[Learner]:
    folder.mkdir()
    return [Learner(open_site(site)) for site in write_cohort(design, folder, lambda *_: None)]


def _run(design: StudyDesign, folder: Path) -> Figures:
    """Through the very apps that sites and coordinator run."""
    report = run_study(design, folder, lambda *_: None)
    auroc, mae = released_truth(report)
    return Figures(
        float("nan") if auroc is None else auroc,
        float("nan") if mae is None else mae,
        Epsilon(report.epsilon_sum, report.epsilon_site) if report.mode != "off" else None,
    )


def _train_here(arm: Arm, learners: Sequence[Learner], rounds: int) -> dict[str, Figures]:
    """Ways that need no consortium, since somebody has all the data that they use."""
    if arm.family == "pooled":
        return {arm.label: judge(learners, train_together(learners, rounds))}
    if arm.family == "local":
        return _train_apart(arm, learners, rounds)
    left_out = [
        judge([one], train_together([o for o in learners if o is not one], rounds))
        for one in learners
        if len(learners) > 1
    ]
    return {arm.label: _mean(left_out)}


def _train_apart(arm: Arm, learners: Sequence[Learner], rounds: int) -> dict[str, Figures]:
    """Each site by itself; beside the mean, the one that its own held-out subjects speak for.

    The best by the figure that is compared is nobody's to choose: the largest of several noisy
    figures is larger than any of them is expected to be.
    """
    models = [train_together([learner], rounds) for learner in learners]
    known = [judge([own], weights).auroc for own, weights in zip(learners, models, strict=True)]
    judged = [judge(learners, weights) for weights in models]
    chosen = int(np.argmax([-np.inf if np.isnan(value) else value for value in known]))
    return {arm.label: _mean(judged), BEST_ALONE: judged[chosen]}


def _items(learner: Learner) -> list[SubjectItem]:
    config = learner.config
    return make_items(
        learner.network.eval(),
        learner.dataset.training,
        score_range=config.study.score_range,
        head_only=config.network.trainable == "head",
        mitigation=config.mitigation,
    )


def _mean(figures: Sequence[Figures]) -> Figures:
    return Figures(
        float(np.nanmean([one.auroc for one in figures])) if figures else float("nan"),
        float(np.nanmean([one.mae for one in figures])) if figures else float("nan"),
    )


def _figures(scores: SubjectScores) -> Figures:
    error = float(np.abs(scores.predicted - scores.score).mean())
    return Figures(_auroc(scores.positive, scores.logit), error)


def _auroc(positive: np.ndarray, ranked: np.ndarray) -> float:
    if positive.all() or not positive.any():
        return float("nan")
    return float(roc_auc_score(positive, ranked))
