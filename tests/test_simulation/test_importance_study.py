"""Importance through a whole run, in every mode: from the sites' features to the history."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.learning.learner import open_learner
from server.history import RunReport
from server.importance import measure_importance
from server.signing import model_file
from shared_models.behaviour_groups import BEHAVIOUR_GROUPS
from shared_models.importance import IMPORTANCE, IMPORTANCE_ROWS
from shared_models.signed_models import load_signed_weights
from shared_models.tallies import GroupTally
from simulation.study import RUN, design_study, run_study

SITES = 3


def run(folder: Path, mode: str) -> RunReport:
    design = design_study(
        sites=SITES, subjects=6, rounds=1, epsilon=3.0, mode=mode,
        network="behaviour_net", trainable="head", seed=5,
    )  # fmt: skip
    fairness = replace(design.config.fairness, importance=True, min_cell=5)
    config = replace(design.config, fairness=fairness)
    cohort = replace(design.cohort, clips_per_recording=1, visits=(1.0,))
    return run_study(replace(design, config=config, cohort=cohort), folder, lambda *_: None)


def exact_rows(folder: Path) -> np.ndarray:
    """The importance table of all sites together, as only a simulation can know it."""
    tables = []
    for site in sorted((folder / "sites").iterdir()):
        learner = open_learner((site / "site.toml").absolute())
        weights = load_signed_weights(
            model_file(folder / RUN, 1), learner.network.state_dict(),
            public_key=learner.site.consortium.coordinator_key,
        )  # fmt: skip
        learner.network.load_state_dict(weights)
        tables.append(learner._tally_exactly(1)[-2:])
    return np.sum(tables, axis=0)


def test_without_privacy_the_history_holds_the_exact_shares(tmp_path: Path) -> None:
    report = run(tmp_path, "off")
    (evaluation,) = report.evaluations
    assert evaluation.importance is not None
    assert evaluation.importance.state == "reported"
    rows = [
        GroupTally(IMPORTANCE, name, values)
        for name, values in zip(IMPORTANCE_ROWS, exact_rows(tmp_path), strict=True)
    ]
    assert evaluation.importance == measure_importance(rows, evaluation.fairness.overall)
    assert IMPORTANCE not in evaluation.fairness.attributes
    assert {one.name for one in evaluation.importance.behaviours} == {
        group.name for group in BEHAVIOUR_GROUPS
    }


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_with_privacy_it_is_noised_and_charged_with_the_other_tables(
    tmp_path: Path, mode: str
) -> None:
    report = run(tmp_path, mode)
    (evaluation,) = report.evaluations
    assert evaluation.importance is not None
    assert evaluation.importance.state in {"reported", "suppressed"}
    for site in sorted((tmp_path / "sites").iterdir()):
        learner = open_learner((site / "site.toml").absolute())
        (charged,) = (row for row in learner.ledger.releases() if row.purpose == "evaluate")
        assert charged.steps == 4
        assert charged.epsilon_after <= 3.0 * 1.001
    assert RunReport.from_json(report.to_json()).evaluations == report.evaluations
