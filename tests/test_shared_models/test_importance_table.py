"""The importance table: bounded for every subject, whatever a network makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
from safetensors import safe_open

from privacy.accounting import epsilon_spent
from shared_models import importance
from shared_models.behaviour_groups import BEHAVIOUR_GROUPS, group_columns
from shared_models.consortium import (
    TALLY_SENSITIVITY,
    ConsortiumConfig,
    FairnessConfig,
    StudyConfig,
    TrainingConfig,
)
from shared_models.features import BEHAVIOUR
from shared_models.importance import BEHAVIOURS, IMPORTANCE, importance_table, unit_vectors
from shared_models.typical_clips import CLIPS, FILE, typical_clips

COLUMNS = 11
"""Width of the narrowest table that a study may declare: two histograms of four bins."""


def hostile_attributions() -> np.ndarray:
    """Attributions of every size, among them what no sound network would give."""
    rng = np.random.default_rng(0)
    ordinary = rng.normal(0, 1, (40, BEHAVIOURS))
    single = np.zeros((2, BEHAVIOURS))
    single[0, 3], single[1, 3] = 1e-300, -1e300
    broken = np.ones((3, BEHAVIOURS))
    broken[0, 0], broken[1, 1], broken[2] = np.nan, np.inf, 0.0
    return np.concatenate([ordinary, 1e12 * ordinary, 1e-12 * ordinary, single, broken])


def moves(attributions: np.ndarray) -> np.ndarray:
    """How far the table moves, in L2, when each subject in turn is taken out."""
    whole = importance_table(attributions, columns=COLUMNS)
    without = [
        importance_table(np.delete(attributions, subject, axis=0), columns=COLUMNS)
        for subject in range(len(attributions))
    ]
    return np.array([np.linalg.norm(whole - one) for one in without])


def test_one_subject_moves_the_table_by_at_most_the_sensitivity_of_every_tally() -> None:
    found = moves(hostile_attributions())
    assert found.max() <= TALLY_SENSITIVITY + 1e-9
    # Whose score one behaviour alone has moved reaches it: a smaller claim would be false.
    alone = importance_table(np.eye(BEHAVIOURS)[:1], columns=COLUMNS)
    assert np.linalg.norm(alone) == pytest.approx(TALLY_SENSITIVITY)


@pytest.mark.parametrize(
    "broken",
    [
        np.abs,
        lambda a: np.abs(a) / np.maximum(np.abs(a).max(axis=1, keepdims=True), 1e-300),
        lambda a: 1.02 * unit_vectors(a),
    ],
    ids=["not scaled", "scaled by the largest entry", "slightly too long"],
)
def test_a_table_of_unbounded_vectors_is_caught(broken, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken variants: without the right length, one subject could move the sums at will."""
    sound = hostile_attributions()[:40]
    monkeypatch.setattr(importance, "unit_vectors", broken)
    longest = np.concatenate([sound, np.eye(BEHAVIOURS)[:1]])
    assert moves(longest).max() > TALLY_SENSITIVITY + 1e-9


def test_what_is_not_finite_counts_as_nothing() -> None:
    vectors = unit_vectors(hostile_attributions())
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.isfinite(vectors).all()
    assert lengths[:-3] == pytest.approx(1.0)
    assert not lengths[-3:].any()


def test_the_table_holds_sums_and_halved_squares_and_no_sign() -> None:
    attributions = np.zeros((2, BEHAVIOURS))
    attributions[0, :2], attributions[1, :2] = (3, -4), (-5, 0)
    table = importance_table(attributions, columns=COLUMNS)
    assert table[0, :3] == pytest.approx([1.6, 0.8, 0])
    assert table[1, :3] == pytest.approx([0.5 * 1.36, 0.5 * 0.64, 0])
    assert not table[:, BEHAVIOURS:].any()
    assert not importance_table(np.zeros((0, BEHAVIOURS)), columns=COLUMNS).any()


@pytest.mark.parametrize(("behaviours", "columns"), [(BEHAVIOURS - 1, 11), (BEHAVIOURS, 9)])
def test_a_table_of_another_form_is_refused(behaviours: int, columns: int) -> None:
    with pytest.raises(ValueError, match=f"Expected {BEHAVIOURS} behaviours"):
        importance_table(np.zeros((1, behaviours)), columns=columns)


def test_every_column_of_the_schema_is_in_one_behaviour() -> None:
    member = group_columns(BEHAVIOUR)
    assert member.shape == (len(BEHAVIOUR.names), len(BEHAVIOUR_GROUPS))
    assert (member.sum(axis=1) == 1).all()
    assert member.sum(axis=0).min() >= 1
    more = replace(BEHAVIOUR.features[0], name="tears")
    with pytest.raises(ValueError, match="tears"):
        group_columns(replace(BEHAVIOUR, features=(*BEHAVIOUR.features, more)))


def study(*, importance: bool) -> ConsortiumConfig:
    return ConsortiumConfig(
        study=StudyConfig(name="study", instrument="phq9"),
        training=TrainingConfig(rounds=10, evaluate_every=4),
        fairness=FairnessConfig(bins=4, importance=importance),
    )


def test_importance_is_one_more_table_at_the_end_and_its_noise_is_paid_for() -> None:
    asked, plain = study(importance=True), study(importance=False)
    assert IMPORTANCE not in plain.tally_attributes(10)
    assert asked.tally_attributes(10) == (*plain.tally_attributes(10), IMPORTANCE)
    assert asked.tally_attributes(4) == plain.tally_attributes(4)
    rows = list(asked.tally_groups(10))
    assert rows == [*plain.tally_groups(10), (IMPORTANCE, "sum"), (IMPORTANCE, "square")]
    plan = asked.tally_plan()
    assert plan.steps == plain.tally_plan().steps + 1
    assert plan.noise_multiplier > plain.tally_plan().noise_multiplier
    spent = epsilon_spent(plan.noise_multiplier, plan.delta, steps=plan.steps)
    assert spent <= 3.0 * 1.001
    assert 2 * asked.fairness.bins + 3 >= BEHAVIOURS


def test_typical_clips_are_of_the_schema_and_ship_with_the_package() -> None:
    clips = typical_clips()
    assert tuple(clips.shape) == (CLIPS, BEHAVIOUR.steps, len(BEHAVIOUR.names))
    assert bool(clips.isfinite().all())
    # Of order one, neither of one pose nor out of every range.
    assert 0.3 < float(clips.std()) < 2.0
    with safe_open(str(files("shared_models") / FILE), "np") as file:
        assert json.loads(json.dumps(file.metadata())) == {"schema_digest": BEHAVIOUR.digest}
