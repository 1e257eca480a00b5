"""Tallies: sums that add, with the sensitivity that the privacy plan claims."""

import math

import numpy as np
import pytest

from shared_models.consortium import TALLY_SENSITIVITY
from shared_models.tallies import (
    INTERSECTION,
    GroupTally,
    SubjectScores,
    bin_edges,
    count_tally,
    cross_groups,
    largest_error,
    sum_tallies,
)

BINS = 8


def make_scores(count: int, *, seed: int = 0) -> SubjectScores:
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 28, count).astype(float)
    return SubjectScores(
        logit=rng.normal(0, 2, count),
        predicted=np.clip(score + rng.normal(0, 12, count), 0, 27),
        score=score,
        positive=score >= 10,
        groups={"sex": rng.choice(["female", "male"], count)},
    )


def without(scores: SubjectScores, index: int) -> SubjectScores:
    kept = np.arange(len(scores.score)) != index
    return SubjectScores(
        scores.logit[kept], scores.predicted[kept], scores.score[kept], scores.positive[kept],
        {name: groups[kept] for name, groups in scores.groups.items()},
    )  # fmt: skip


def table(scores: SubjectScores) -> np.ndarray:
    return np.concatenate(
        [
            count_tally(scores, "sex", sex, bins=BINS, error_limit=9.0).sums
            for sex in ("female", "male")
        ]
    )


def test_one_subject_moves_a_table_by_at_most_the_declared_sensitivity() -> None:
    scores = make_scores(60)
    moves = [np.linalg.norm(table(scores) - table(without(scores, i))) for i in range(60)]
    assert max(moves) <= TALLY_SENSITIVITY + 1e-12
    # Someone with the largest error reaches it: a smaller claim would be false.
    worst = SubjectScores(
        np.zeros(1), np.array([27.0]), np.zeros(1), np.zeros(1, bool), {"sex": np.array(["male"])}
    )
    assert np.linalg.norm(table(worst)) == pytest.approx(TALLY_SENSITIVITY)
    assert math.isclose(TALLY_SENSITIVITY, math.sqrt(1.25))


def test_counts_and_errors_are_those_of_the_subjects() -> None:
    scores = make_scores(200)
    tally = count_tally(scores, "overall", "all", bins=BINS, error_limit=9.0)
    error = np.clip((scores.predicted - scores.score) / 9.0, -1, 1)
    expected, _ = np.histogram(scores.logit[scores.positive], bin_edges(BINS))
    assert tally.positives.tolist() == expected.tolist()
    assert tally.count == pytest.approx(200)
    np.testing.assert_allclose(
        tally.errors, [np.abs(error).sum(), error.sum(), (error**2).sum()], rtol=1e-12
    )


def test_groups_partition_the_subjects_and_an_empty_group_is_all_zeros() -> None:
    scores = make_scores(50)
    parts = [count_tally(scores, "sex", s, bins=BINS, error_limit=9) for s in ("female", "male")]
    overall = count_tally(scores, "overall", "all", bins=BINS, error_limit=9)
    np.testing.assert_allclose(parts[0].sums + parts[1].sums, overall.sums)
    assert not count_tally(scores, "sex", "other", bins=BINS, error_limit=9).sums.any()


def test_one_subject_moves_one_cell_of_a_table_of_intersections() -> None:
    scores = make_scores(40)
    rng = np.random.default_rng(1)
    scores = SubjectScores(
        scores.logit, scores.predicted, scores.score, scores.positive,
        {**scores.groups, "age_band": rng.choice(["18-39", "40+"], 40)},
    )  # fmt: skip
    names = cross_groups(["18-39", "40+"], ["female", "male"])

    def cells(of: SubjectScores) -> np.ndarray:
        return np.stack(
            [count_tally(of, INTERSECTION, name, bins=BINS, error_limit=9.0).sums for name in names]
        )

    whole = cells(scores)
    overall = count_tally(scores, "overall", "all", bins=BINS, error_limit=9.0)
    np.testing.assert_allclose(whole.sum(axis=0), overall.sums)
    for index in range(40):
        moved = whole - cells(without(scores, index))
        assert (np.abs(moved).sum(axis=1) > 0).sum() == 1
        assert np.linalg.norm(moved) <= TALLY_SENSITIVITY + 1e-12


def test_sites_add_and_their_noises_add_in_quadrature() -> None:
    sums = np.arange(2 * BINS + 3.0)
    one, two = GroupTally("sex", "male", sums, 3.0), GroupTally("sex", "male", sums, 4.0)
    (total,) = sum_tallies([one, two]).values()
    assert total.noise_stddev == 5.0
    assert total.sums.tolist() == (2 * sums).tolist()
    with pytest.raises(ValueError, match="sex male"):
        one + GroupTally("sex", "female", sums)


def test_the_predicted_classes_are_separated_by_an_edge() -> None:
    assert 0.0 in bin_edges(BINS)
    assert largest_error((0, 27, 10)) == 9.0
