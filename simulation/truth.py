"""What only a simulation can know: the model's exact figures on every site's held-out subjects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from client.learning.learner import Learner, open_learner
from server.history import GroupTruth, RunReport, Truth
from server.signing import model_file
from shared_models.signed_models import load_signed_weights
from shared_models.tallies import SubjectScores
from shared_models.weights import State

NOTE = "Exact figures on the held-out subjects of all sites; no coordinator could see them."


def measure_truth(report: RunReport, *, run_folder: Path, sites: Sequence[Path]) -> Truth:
    """Exact figures of every round's model, beside the noised ones in the report.

    Where the trunk is trained too, only of the models that the study judged: each costs a pass of
    every held-out clip through the network.

    Args:
        report: The finished run.
        run_folder: Where the run kept its models.
        sites: Folder of each site, in the order of the study.
    """
    learners = [open_learner((folder / "site.toml").absolute()) for folder in sites]
    curve = []
    released: list[SubjectScores] = []
    kept = learners[0].held_out_embeddings is not None
    for server_round in [r.server_round for r in (report.rounds if kept else report.evaluations)]:
        state = _load(learners[0], run_folder, server_round)
        scores = [_score(learner, state) for learner in learners]
        pooled = pool_scores(scores)
        error = float(np.abs(pooled.predicted - pooled.score).mean()) if len(pooled.score) else None
        curve.append((server_round, _auroc(pooled), error))
        released = scores if server_round <= report.released_round else released
    return Truth(tuple(curve), _by_group(learners, released), NOTE)


def released_truth(report: RunReport) -> tuple[float | None, float | None]:
    """AUROC and MAE of the released model, exactly; None where they are not known."""
    rows = report.truth.curve if report.truth else ()
    known = {server_round: (auroc, mae) for server_round, auroc, mae in rows}
    return known.get(report.released_round, (None, None))


def _load(learner: Learner, run_folder: Path, server_round: int) -> State:
    """A round's model, read and verified once for all sites."""
    return load_signed_weights(
        model_file(run_folder, server_round),
        learner.network.state_dict(),
        public_key=learner.site.consortium.coordinator_key,
    )


def _score(learner: Learner, state: State) -> SubjectScores:
    learner.network.load_state_dict(state)
    return learner.score_held_out()


def _by_group(
    learners: Sequence[Learner], scores: Sequence[SubjectScores]
) -> dict[tuple[str, str], GroupTruth]:
    if not scores:
        return {}
    pooled = pool_scores(scores)
    table = {}
    config = learners[0].config
    for attribute, group in config.subject_groups(config.training.rounds):
        chosen = pooled.members(attribute, group)
        table[attribute, group] = _figures(_select(pooled, chosen))
    for learner, own in zip(learners, scores, strict=True):
        table["site", learner.site.id] = _figures(own)
    return table


def _figures(scores: SubjectScores) -> GroupTruth:
    """Subjects, AUROC, TPR and FPR."""
    reaches = scores.logit > 0
    positive = scores.positive
    tpr = float(reaches[positive].mean()) if positive.any() else None
    fpr = float(reaches[~positive].mean()) if (~positive).any() else None
    return len(positive), _auroc(scores), tpr, fpr


def _auroc(scores: SubjectScores) -> float | None:
    if scores.positive.all() or not scores.positive.any():
        return None
    return float(roc_auc_score(scores.positive, scores.logit))


def pool_scores(parts: Sequence[SubjectScores]) -> SubjectScores:
    """The scores of all sites together."""
    return SubjectScores(
        logit=np.concatenate([part.logit for part in parts]),
        predicted=np.concatenate([part.predicted for part in parts]),
        score=np.concatenate([part.score for part in parts]),
        positive=np.concatenate([part.positive for part in parts]),
        groups={
            name: np.concatenate([part.groups[name] for part in parts]) for name in parts[0].groups
        },
    )


def _select(
    scores: SubjectScores, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> SubjectScores:
    return SubjectScores(
        scores.logit[chosen],
        scores.predicted[chosen],
        scores.score[chosen],
        scores.positive[chosen],
        {name: groups[chosen] for name, groups in scores.groups.items()},
    )
