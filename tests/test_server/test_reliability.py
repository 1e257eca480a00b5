"""Observed fraction by predicted probability: values, intervals, and what is left unsaid."""

import itertools
import json

import numpy as np
import pytest
from scipy.special import expit
from sklearn.calibration import calibration_curve

from server.history import evaluation_report
from server.reliability import measure_reliability
from shared_models.tallies import ERROR_SUMS, GroupTally, SubjectScores, count_tally

RANGE = (0.0, 27.0, 10.0)


def drawn_scores(subjects, seed):
    """Subjects whose predicted probability is the true one."""
    draw = np.random.default_rng(seed)
    logit = draw.normal(0, 1.2, subjects)
    positive = draw.random(subjects) < expit(logit)
    score = np.where(positive, 14.0, 5.0)
    return SubjectScores(logit, score, score, positive, {})


def tally_of(scores, bins=16):
    return count_tally(scores, "overall", "all", bins=bins, error_limit=9.0)


def test_fractions_are_those_of_scikit_learn_in_the_same_bins():
    scores = drawn_scores(4000, seed=2)
    bins = measure_reliability(tally_of(scores, bins=4), min_cell=10)
    assert len(bins) == 4
    edges = [b.low for b in bins] + [1.0]
    inside = [
        (expit(scores.logit) > low) & (expit(scores.logit) <= high)
        for low, high in itertools.pairwise(edges)
    ]
    for one, chosen in zip(bins, inside, strict=True):
        expected, _ = calibration_curve(
            scores.positive[chosen], expit(scores.logit[chosen]), n_bins=1
        )
        assert one.observed.value == pytest.approx(expected[0], abs=1e-9)


def test_intervals_of_a_calibrated_score_cover_what_was_predicted():
    covered = []
    for seed in range(60):
        scores = drawn_scores(400, seed=100 + seed)
        for one in measure_reliability(tally_of(scores), min_cell=1):
            chosen = (expit(scores.logit) > one.low) & (expit(scores.logit) <= one.high)
            if one.observed.value is not None:
                truth = expit(scores.logit[chosen]).mean()
                covered.append(one.observed.low <= truth <= one.observed.high)
    assert len(covered) > 400
    assert 0.92 <= np.mean(covered) <= 0.99


def test_noise_takes_bins_together_until_most_of_them_say_something():
    scores = drawn_scores(300, seed=3)
    exact = tally_of(scores)
    draw = np.random.default_rng(4)
    noised = GroupTally("overall", "all", exact.sums + draw.normal(0, 3, 35), 3.0)
    fine, coarse = (measure_reliability(t, min_cell=10) for t in (exact, noised))
    assert len(fine) > len(coarse) >= 2
    assert fine[0].low == coarse[0].low == 0
    assert fine[-1].high == coarse[-1].high == 1
    assert all(a.high == b.low for a, b in itertools.pairwise(coarse))


def test_no_division_crosses_the_decision_threshold():
    for subjects in (30, 300, 3000):
        bins = measure_reliability(tally_of(drawn_scores(subjects, seed=5)), min_cell=5)
        assert 0.5 in [one.high for one in bins]


def test_a_bin_of_few_subjects_has_no_figure_at_all():
    sums = np.array([20, 20, 20, 2, 20, 20, 20, 1] + [0.0] * ERROR_SUMS)
    bins = measure_reliability(GroupTally("overall", "all", sums), min_cell=5)
    last = bins[-1].observed
    assert (last.value, last.low, last.high) == (None, None, None)


@pytest.mark.parametrize(
    "sums",
    [
        [0] * 16,
        [0, 0, 0, 0, 0, 0, 40, 0] + [0] * 8,
        [0, 0, 0, 0, 40, 0, 0, 0] * 2,
    ],
    ids=["nobody", "one class", "all predictions equal"],
)
def test_odd_histograms_give_bins_and_no_fault(sums):
    tally = GroupTally("overall", "all", np.array([*sums, 0.0, 0.0, 0.0]))
    for one in measure_reliability(tally, min_cell=5):
        assert one.observed.value is None or 0 <= one.observed.value <= 1


def test_a_withheld_total_has_no_curve():
    few = tally_of(drawn_scores(6, seed=6))
    assert evaluation_report(1, [few], score_range=RANGE, min_cell=10).reliability == ()


def test_histograms_are_not_in_what_is_published():
    report = evaluation_report(1, [tally_of(drawn_scores(400, 7))], score_range=RANGE, min_cell=5)
    text = json.dumps([vars(one.observed) for one in report.reliability])
    assert "sums" not in text
    assert "count" not in text
