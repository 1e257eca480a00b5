"""Estimates and intervals against second implementations, and their coverage under noise."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, t
from sklearn.metrics import precision_score, roc_auc_score, root_mean_squared_error

from server.intervals import Estimate, auroc, auroc_variance, judge_width, mean_error, rate
from shared_models.tallies import GroupTally, SubjectScores, bin_edges, count_tally

BINS = 8
LIMIT = 9.0


def draw_scores(subjects, rng, separation=1.2):
    positive = rng.random(subjects) < 0.4
    logit = rng.normal(np.where(positive, separation / 2, -separation / 2))
    score = np.where(positive, 15.0, 5.0) + rng.normal(0, 2, subjects)
    return SubjectScores(logit, score + rng.normal(1, 4, subjects), score, positive, {})


def tally_of(scores, bins=BINS):
    return count_tally(scores, "overall", "all", bins=bins, error_limit=LIMIT)


def add_noise(tally, stddev, rng):
    noised = tally.sums + rng.normal(0, stddev, len(tally.sums))
    return replace(tally, sums=noised, noise_stddev=stddev)


def exact_delong_variance(positives, negatives):
    """DeLong's variance from the scores themselves, by placements."""
    wins = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    by_positive, by_negative = wins.mean(axis=1), wins.mean(axis=0)
    return by_positive.var(ddof=1) / len(positives) + by_negative.var(ddof=1) / len(negatives)


def covers(estimate: Estimate, truth: float) -> bool:
    return estimate.low is None or estimate.low <= truth <= estimate.high


class Population:
    """A cohort without end: its binned probabilities and therefore its exact figures."""

    def __init__(self, separation=1.2, prevalence=0.4, error_stddev=0.25):
        from scipy.stats import norm

        edges = bin_edges(BINS)
        self.positives = np.diff(norm.cdf(edges, loc=separation / 2))
        self.negatives = np.diff(norm.cdf(edges, loc=-separation / 2))
        self.separation, self.prevalence = separation, prevalence
        self.error_stddev = error_stddev
        below = np.cumsum(self.negatives) - self.negatives / 2
        tpr, fpr = self.positives[BINS // 2 :].sum(), self.negatives[BINS // 2 :].sum()
        selected = prevalence * tpr + (1 - prevalence) * fpr
        self.truth = {
            "auroc": self.positives @ below,
            "tpr": tpr,
            "fpr": fpr,
            "selection_rate": selected,
            "ppv": prevalence * tpr / selected,
            "mae": error_stddev * np.sqrt(2 / np.pi),
            "bias": 0.0,
            "rmse": error_stddev,
        }

    def draw(self, subjects, stddev, rng):
        positive = rng.random(subjects) < self.prevalence
        logit = rng.normal(np.where(positive, self.separation / 2, -self.separation / 2))
        error = rng.normal(0, self.error_stddev, subjects)
        scores = SubjectScores(logit, error, np.zeros(subjects), positive, {})
        tally = count_tally(scores, "overall", "all", bins=BINS, error_limit=1.0)
        return add_noise(tally, stddev, rng)

    def coverage(self, metric, *, subjects, stddev, runs=800, ignore_noise=False):
        rng = np.random.default_rng(11)
        covered = 0
        for _ in range(runs):
            tally = self.draw(subjects, stddev, rng)
            if ignore_noise:
                tally = replace(tally, noise_stddev=0.0)
            covered += covers(measure(tally, metric), self.truth[metric])
        return covered / runs


def measure(tally, metric):
    if metric == "auroc":
        return auroc(tally)
    if metric in ("mae", "bias", "rmse"):
        return mean_error(tally, metric, error_limit=1.0)
    return rate(tally, metric)


METRICS = ["auroc", "tpr", "fpr", "selection_rate", "ppv", "mae", "bias", "rmse"]


def test_auroc_is_that_of_the_binned_scores():
    scores = draw_scores(300, np.random.default_rng(0))
    cells = np.digitize(scores.logit, bin_edges(BINS)[1:-1])
    assert auroc(tally_of(scores)).value == pytest.approx(roc_auc_score(scores.positive, cells))


@pytest.mark.parametrize(("subjects", "tolerance"), [(50, 0.0143), (200, 0.0055), (1000, 0.0021)])
def test_auroc_from_32_bins_is_close_to_the_exact_one(subjects, tolerance):
    scores = draw_scores(subjects, np.random.default_rng(1))
    exact = roc_auc_score(scores.positive, scores.logit)
    assert auroc(tally_of(scores, bins=32)).value == pytest.approx(exact, abs=tolerance)


def test_sampling_variance_is_delongs():
    scores = draw_scores(200, np.random.default_rng(2))
    cells = np.digitize(scores.logit, bin_edges(BINS)[1:-1])
    binned = exact_delong_variance(cells[scores.positive], cells[~scores.positive])
    exact = exact_delong_variance(scores.logit[scores.positive], scores.logit[~scores.positive])
    assert auroc_variance(tally_of(scores)).sampling == pytest.approx(binned)
    fine = auroc_variance(tally_of(scores, bins=32)).sampling
    assert np.sqrt(fine) == pytest.approx(np.sqrt(exact), rel=0.02)


def test_noise_variance_is_that_of_many_noised_copies():
    tally, rng = tally_of(draw_scores(300, np.random.default_rng(3))), np.random.default_rng(4)
    copies = [add_noise(tally, 3.0, rng) for _ in range(2000)]
    areas = [auroc(copy).value for copy in copies]
    claimed = np.mean([auroc_variance(copy).noise for copy in copies])
    assert claimed == pytest.approx(np.var(areas), rel=0.12)


def test_noise_hardly_moves_the_sampling_variance():
    tally, rng = tally_of(draw_scores(300, np.random.default_rng(3))), np.random.default_rng(4)
    claimed = [auroc_variance(add_noise(tally, 4.0, rng)).sampling for _ in range(1500)]
    assert np.mean(claimed) == pytest.approx(auroc_variance(tally).sampling, rel=0.08)


def test_interval_of_the_bias_is_students_without_noise():
    scores = draw_scores(25, np.random.default_rng(9))
    error = scores.predicted - scores.score
    assert np.abs(error).max() < 3 * LIMIT
    tally = count_tally(scores, "overall", "all", bins=BINS, error_limit=3 * LIMIT)
    found = mean_error(tally, "bias", error_limit=3 * LIMIT)
    half = t.ppf(0.975, 24) * error.std(ddof=1) / np.sqrt(25)
    assert (found.low, found.high) == pytest.approx((error.mean() - half, error.mean() + half))


def test_an_interval_cut_short_by_the_edge_of_the_range_is_seen_through():
    assert judge_width(0.98, 0.7, 1.0, widest=0.5).value == 0.98
    cut = judge_width(0.98, 0.7, 1.0, blur=0.2, widest=0.5)
    assert (cut.value, cut.low, cut.high) == (None, 0.7, 1.0)


def test_variance_of_one_class_is_refused():
    with pytest.raises(ValueError, match=r"at least 2 subjects a class, got 3.0 and 0.0"):
        auroc_variance(GroupTally("sex", "other", np.array([0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0.0])))


@pytest.mark.parametrize(("hits", "total"), [(0, 5), (8, 10), (10, 10), (37, 200)])
def test_interval_of_a_rate_is_wilsons_without_noise(hits, total):
    sums = np.array([0, total - hits, hits, 0, 0, 0, 0, 0, 0, 0, 0], dtype=float)
    found = rate(GroupTally("overall", "all", sums), "tpr")
    wilson = binomtest(hits, total).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high))


def test_rates_and_errors_are_those_of_the_subjects():
    scores = draw_scores(400, np.random.default_rng(5))
    tally, flagged = tally_of(scores), scores.logit >= 0
    error = scores.predicted - scores.score
    error = np.clip(error, -LIMIT, LIMIT)
    values = {name: rate(tally, name).value for name in ("tpr", "fpr", "selection_rate", "ppv")}
    assert values == pytest.approx(
        {
            "tpr": flagged[scores.positive].mean(),
            "fpr": flagged[~scores.positive].mean(),
            "selection_rate": flagged.mean(),
            "ppv": precision_score(scores.positive, flagged),
        }
    )
    mae, bias, rmse = (
        mean_error(tally, name, error_limit=LIMIT).value for name in ("mae", "bias", "rmse")
    )
    assert (mae, bias) == pytest.approx((np.abs(error).mean(), error.mean()))
    assert rmse == pytest.approx(root_mean_squared_error(error, np.zeros(len(error))))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("subjects", "stddev"), [(300, 0.0), (300, 1.5), (1000, 4.0)])
def test_intervals_cover_the_truth_95_times_in_100(metric, subjects, stddev):
    coverage = Population().coverage(metric, subjects=subjects, stddev=stddev)
    assert 0.93 <= coverage <= 0.97


@pytest.mark.parametrize("metric", ["auroc", "tpr", "selection_rate", "mae"])
def test_intervals_that_ignore_the_noise_are_caught_by_their_coverage(metric):
    coverage = Population().coverage(metric, subjects=300, stddev=3.0, ignore_noise=True)
    assert coverage < 0.93


@pytest.mark.parametrize("metric", METRICS)
def test_small_groups_under_noise_are_covered_at_least_as_often(metric):
    assert Population().coverage(metric, subjects=40, stddev=2.0, runs=500) >= 0.93


def test_an_auroc_near_one_has_an_interval_that_covers():
    coverage = Population(separation=4.0).coverage("auroc", subjects=100, stddev=0.0)
    assert 0.93 <= coverage <= 0.985


def test_negative_entries_leave_the_estimate_unbiased_and_cutting_them_does_not():
    population, rng = Population(separation=2.0), np.random.default_rng(6)
    tallies = [population.draw(400, 6.0, rng) for _ in range(600)]
    assert min(tally.sums.min() for tally in tallies) < 0
    areas = [float(np.clip(auroc_of(tally), 0, 1)) for tally in tallies]
    cut = [auroc_of(replace(t, sums=np.maximum(t.sums, 0))) for t in tallies]
    truth = population.truth["auroc"]
    assert np.mean(areas) == pytest.approx(truth, abs=0.006)
    assert truth - np.mean(cut) > 0.012


def auroc_of(tally):
    from server.intervals import WIDEST_INTERVAL

    estimate = auroc(tally, confidence=0.01)
    assert estimate.high - estimate.low < WIDEST_INTERVAL
    return estimate.value if estimate.value is not None else estimate.low


@pytest.mark.parametrize("metric", METRICS)
def test_figures_stay_in_their_range_whatever_the_noise(metric):
    rng = np.random.default_rng(7)
    for _ in range(200):
        estimate = measure(add_noise(tally_of(draw_scores(12, rng)), 20.0, rng), metric)
        floor = -1.0 if metric == "bias" else 0.0
        assert floor <= estimate.low <= estimate.high <= 1.0


def test_a_group_too_small_for_its_noise_gets_no_point():
    rng = np.random.default_rng(8)
    estimate = auroc(add_noise(tally_of(draw_scores(17, rng)), 3.0, rng))
    assert estimate.value is None
    assert "too few subjects" in estimate.note


def test_noise_that_pushes_an_auroc_past_one_does_not_make_it_sure():
    sums = np.array([-4, -3, 5, 12, 14, 4, -3, -4, 0, 0, 0.0])
    exact, noised = GroupTally("site", "a", sums, 0.0), GroupTally("site", "a", sums, 4.0)
    assert auroc(noised).value is None
    assert auroc(noised).low < auroc(exact).low - 0.2


def test_one_class_leaves_the_auroc_undefined_and_the_rest_measured():
    healthy = GroupTally("sex", "other", np.array([0, 0, 0, 0, 8, 9, 2, 1, 1, 0, 0.1]))
    assert auroc(healthy) == Estimate(
        None, None, None, "no subjects on one side of the clinical threshold"
    )
    assert rate(healthy, "tpr").value is None
    assert rate(healthy, "fpr").value == pytest.approx(0.15)


def test_a_measured_zero_is_a_zero():
    sums = np.array([0, 0, 4, 4, 9, 9, 0, 0, 0, 0, 0.0])
    assert rate(GroupTally("sex", "male", sums), "fpr").value == 0.0
