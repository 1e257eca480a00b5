"""Calibration from histograms against the subjects themselves, and coverage of its intervals."""

import doctest
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

import server.calibration
from server.calibration import calibration_slope, ece, ece_error_bound, place_bins
from shared_models.tallies import GroupTally, SubjectScores, bin_edges, count_tally

SEPARATION, PREVALENCE = 1.2, 0.4
TILTED = {"calibrated": 1.0, "too bold": 0.5, "too timid": 2.0}


def tally_of(scores, bins=8):
    return count_tally(scores, "overall", "all", bins=bins, error_limit=9.0)


def draw_scores(subjects, rng, slope=1.0):
    """Subjects whose true log-odds are ``slope`` times the predicted ones."""
    positive = rng.random(subjects) < PREVALENCE
    trait = rng.normal(np.where(positive, 0.5, -0.5) * SEPARATION)
    predicted = (SEPARATION * trait + logit(PREVALENCE)) / slope
    zeros = np.zeros(subjects)
    return SubjectScores(predicted, zeros, zeros, positive, {})


def chances(slope, bins=8):
    """Probability of each class and bin of the same subjects, positives first."""
    edges = (bin_edges(bins) * slope - logit(PREVALENCE)) / SEPARATION
    high, low = (np.diff(norm.cdf(edges, loc=s * SEPARATION / 2)) for s in (1, -1))
    return np.concatenate([PREVALENCE * high, (1 - PREVALENCE) * low])


def tally_from(histograms, stddev=0.0):
    return GroupTally("overall", "all", np.append(histograms, np.zeros(3)), stddev)


def endless(slope):
    """Figures of a cohort without end."""
    tally = tally_from(chances(slope) * 1e8)
    return {"calibration_slope": calibration_slope(tally).value, "ece": ece(tally).value}


def coverage_of(estimate, slope, *, subjects, stddev, runs=500, claimed=None):
    rng, chance = np.random.default_rng(3), chances(slope)
    truth, covered = endless(slope)[estimate.__name__], 0
    for _ in range(runs):
        drawn = rng.multinomial(subjects, chance) + rng.normal(0, stddev, len(chance))
        found = estimate(tally_from(drawn, stddev if claimed is None else claimed))
        covered += found.low is None or found.low <= truth <= found.high
    return covered / runs


def exact_slope(scores):
    model = LogisticRegression(C=np.inf, tol=1e-8)
    return model.fit(scores.logit[:, None], scores.positive).coef_[0, 0]


def exact_ece(scores, bins=8):
    """Mean distance of predicted and true share over the same bins, from every subject's own."""
    cell = np.digitize(scores.logit, bin_edges(bins)[1:-1])
    gap = np.bincount(cell, scores.positive - expit(scores.logit), bins)
    return np.abs(gap).sum() / len(cell)


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(server.calibration).failed == 0


@pytest.mark.parametrize("bins", [8, 16])
@pytest.mark.parametrize("slope", TILTED.values(), ids=TILTED)
def test_the_slope_is_that_of_a_logistic_regression_on_the_subjects(slope, bins):
    scores = draw_scores(20_000, np.random.default_rng(1), slope)
    exact = exact_slope(scores)
    assert exact == pytest.approx(slope, rel=0.05)
    assert calibration_slope(tally_of(scores, bins)).value == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("bins", [8, 16])
@pytest.mark.parametrize("slope", TILTED.values(), ids=TILTED)
def test_the_ece_is_that_of_the_subjects_within_the_stated_error(slope, bins):
    scores = draw_scores(20_000, np.random.default_rng(1), slope)
    tally, exact = tally_of(scores, bins), exact_ece(scores, bins)
    assert ece(tally).value == pytest.approx(exact, abs=0.012)
    assert abs(ece(tally).value - exact) < ece_error_bound(tally) < 0.16


SHAPES = {
    "uniform": lambda rng: rng.uniform(-2.5, 2.5, 40_000),
    "two peaks": lambda rng: rng.normal(rng.choice([-1.3, 1.3], 40_000), 0.5),
    "skewed": lambda rng: rng.exponential(1.2, 40_000) - 1.5,
    "heavy tails": lambda rng: 0.8 * rng.standard_t(3, 40_000),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("slope", [0.6, 1.6])
def test_predictions_that_are_not_normal_stay_within_the_stated_error(shape, slope):
    rng = np.random.default_rng(1)
    predicted, zeros = SHAPES[shape](rng), np.zeros(40_000)
    positive = rng.random(40_000) < expit(slope * predicted)
    scores = SubjectScores(predicted, zeros, zeros, positive, {})
    tally = tally_of(scores)
    assert calibration_slope(tally).value == pytest.approx(exact_slope(scores), abs=0.11)
    assert ece(tally).value == pytest.approx(exact_ece(scores), abs=0.015)


def test_open_outer_bins_taken_for_ordinary_ones_are_caught():
    # A bold model: more than half of its subjects are beyond the last edges.
    scores = draw_scores(20_000, np.random.default_rng(1), TILTED["too bold"])
    tally, places = tally_of(scores), place_bins(tally_of(scores))
    outside = scores.logit[scores.logit > 1.5]
    assert len(outside) > 0.15 * len(scores.logit)
    assert places.logit[-1] == pytest.approx(outside.mean(), abs=0.1)
    assert places.variance[-1] == pytest.approx(outside.var(), rel=0.2)
    middle = expit(np.arange(-1.75, 2, 0.5))
    naive = np.abs(tally.positives - (tally.positives + tally.negatives) * middle).sum()
    assert abs(naive / tally.count - exact_ece(scores)) > 0.01


def test_subjects_lie_in_their_bins_wherever_the_histogram_is():
    for centre in (-3.0, 0.0, 1.9):
        scores = replace(draw_scores(500, np.random.default_rng(2)), logit=np.full(500, centre))
        places = place_bins(tally_of(scores))
        assert np.all(places.logit >= bin_edges(8)[:-1])
        assert np.all(places.logit <= bin_edges(8)[1:])
        assert np.isfinite(places.logit).all()


@pytest.mark.parametrize("slope", [1.0, 0.5])
@pytest.mark.parametrize(("subjects", "stddev"), [(300, 0.0), (1000, 4.0)])
def test_intervals_of_the_slope_cover_95_times_in_100(slope, subjects, stddev):
    coverage = coverage_of(calibration_slope, slope, subjects=subjects, stddev=stddev)
    assert 0.93 <= coverage <= 0.97


@pytest.mark.parametrize("slope", [0.5, 2.0])
@pytest.mark.parametrize(("subjects", "stddev"), [(300, 0.0), (1000, 4.0)])
def test_intervals_of_the_ece_cover_95_times_in_100(slope, subjects, stddev):
    coverage = coverage_of(ece, slope, subjects=subjects, stddev=stddev)
    assert 0.925 <= coverage <= 0.975


def test_a_calibrated_model_is_covered_at_least_as_often():
    assert coverage_of(ece, 1.0, subjects=300, stddev=2.0) >= 0.93


@pytest.mark.parametrize("estimate", [calibration_slope, ece])
def test_intervals_that_ignore_the_noise_are_caught_by_their_coverage(estimate):
    assert coverage_of(estimate, 0.5, subjects=300, stddev=4.0, runs=100, claimed=0.0) < 0.9


def test_chance_is_taken_off_an_ece():
    # The plain sum of distances would call a perfectly calibrated model of 300 subjects 0.05 off.
    rng, chance = np.random.default_rng(4), chances(1.0)
    tallies = [tally_from(rng.multinomial(300, chance)) for _ in range(100)]
    share = place_bins(tally_from(chance * 1e6)).probability()
    plain = [
        np.abs(t.positives * (1 - share) - t.negatives * share).sum() / t.count for t in tallies
    ]
    assert np.mean(plain) > 0.05
    assert np.mean([ece(tally).value for tally in tallies]) < 0.025
    assert all((ece(t).value == 0) == ("chance" in ece(t).note) for t in tallies)
    assert np.mean([ece(tally).low == 0 for tally in tallies]) >= 0.93


def test_predictions_that_are_all_equal_have_an_ece_and_no_slope():
    scores = replace(draw_scores(400, np.random.default_rng(5)), logit=np.zeros(400))
    found = calibration_slope(tally_of(scores))
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.note == "predictions lie too close together for the bins"
    assert ece(tally_of(scores)).value is not None


def test_one_class_has_an_ece_and_no_slope():
    healthy = tally_from(np.array([0.0] * 8 + [0, 3, 9, 12, 9, 5, 2, 0]))
    assert "one side of the clinical threshold" in calibration_slope(healthy).note
    assert ece(healthy).low > 0.3


def test_no_subjects_have_neither():
    nobody = tally_from(np.zeros(16))
    assert calibration_slope(nobody).value is None
    assert ece(nobody).note == "no subjects to compute it from"
    assert ece_error_bound(nobody) == 0.0
    assert np.isfinite(place_bins(nobody).logit).all()


def test_few_subjects_get_an_interval_and_no_point():
    rng = np.random.default_rng(6)
    found = calibration_slope(tally_of(draw_scores(25, rng)))
    assert found.value is None
    assert "too few subjects" in found.note


@pytest.mark.parametrize("estimate", [calibration_slope, ece])
def test_no_noise_makes_an_estimate_stumble(estimate):
    rng = np.random.default_rng(7)
    for _ in range(300):
        found = estimate(tally_from(rng.normal(1, 10, 16), 10.0))
        if found.low is not None:
            assert found.low <= found.high
            assert np.isfinite([found.low, found.high]).all()
