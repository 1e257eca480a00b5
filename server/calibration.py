"""How well predicted log-odds say the truth, with intervals, from the noised sums of one group.

A histogram says how many subjects of a bin were above the threshold, not where in the bin they
lay; the outer bins have no end. A normal law fitted to the histogram gives the place of the
subjects within each bin. What is estimated afterwards is linear in the entries, so noise, negative
entries included, moves no estimate on average, and the variances of sample and noise add.

Source: Cox 1958 (calibration slope), doi:10.1111/j.2517-6161.1958.tb00292.x; Dempster, Laird and
Rubin 1977 (fit to grouped data), doi:10.1111/j.2517-6161.1977.tb01600.x; Naeini, Cooper and
Hauskrecht 2015 (ECE), doi:10.1609/aaai.v29i1.9602; Leone, Nelson and Nottingham 1961 (folded
normal), doi:10.1080/00401706.1961.10489974.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.special import expit, ndtr, ndtri

from server.intervals import Estimate, judge_width, no_subjects, one_class
from shared_models.tallies import LOGIT_LIMIT, Float64Array, GroupTally, bin_edges

WIDEST_SLOPE = 1.0
"""A slope from 0.5 to 1.5 cannot tell too bold from too timid; a steeper one may be less sure."""

WIDEST_ECE = 0.25
"""Half of the ECE of a model that is always sure and right half of the time."""

_SLOPES = np.linspace(-4.0, 8.0, 161)
"""Candidates; an interval that reaches either end is none."""

_SCALES = np.linspace(0.0, 4.0, 201)
"""Candidates of an ECE, as multiples of what was seen."""

_UNSURE_PROFILE = 1.05
"""Intervals of an ECE are this much longer, because how the distances share it is itself estimated.

Without it, coverage at a truth of 0.05 to 0.1 is 92 to 95 in 100 (``benchmarks/coverage.py``).
"""

_NO_MORE_THAN_CHANCE = "no more than chance alone would give"
_FIT_STEPS = 60
_FIT_TOLERANCE = 1e-3
_NEWTON_STEPS = 12
_LARGEST_STEP = 2.0
_NARROWEST_BINS = 1.0
_SMALLEST_MASS = 1e-9


class BinPlaces(NamedTuple):
    """Where the subjects of each bin lie, by a normal law.

    Attributes:
        logit: ``[B]`` mean predicted log-odds.
        variance: ``[B]`` variance of the predicted log-odds within the bin.
        spread: Standard deviation of the log-odds of the whole group.
    """

    logit: Float64Array
    variance: Float64Array
    spread: float

    def probability(
        self, intercept: Float64Array | float = 0.0, slope: Float64Array | float = 1.0
    ) -> Float64Array:
        """Mean probability in each bin after recalibration; the last axis runs over bins.

        Source: MacKay 1992 (logistic of a normal), doi:10.1162/neco.1992.4.5.720.
        """
        shrink = np.sqrt(1 + math.pi / 8 * np.square(slope) * self.variance)
        return np.asarray(expit((intercept + slope * self.logit) / shrink))


def place_bins(tally: GroupTally) -> BinPlaces:
    """Mean and variance of the prediction in each bin, from the histogram of both classes.

    >>> sums = np.array([0, 1, 2, 4, 6, 8, 6, 3, 2, 5, 9, 7, 4, 2, 1, 0, 0, 0, 0.0])
    >>> [round(float(x), 2) for x in place_bins(GroupTally("sex", "male", sums)).logit[:3]]
    [-1.88, -1.22, -0.73]
    """
    return _fit_places(tuple(np.maximum(tally.positives + tally.negatives, 0)))


@functools.lru_cache(maxsize=256)
def _fit_places(counts: tuple[float, ...]) -> BinPlaces:
    """Places by expectation and maximisation; kept, as several figures ask for the same ones."""
    weight, edges = np.array(counts), bin_edges(len(counts))
    places = _truncated(edges, 0.0, LOGIT_LIMIT)
    total = float(weight.sum())
    if total <= 0:
        return places
    last = (math.inf, math.inf)
    for _ in range(_FIT_STEPS):
        centre = float(weight @ places.logit) / total
        square = float(weight @ (places.variance + (places.logit - centre) ** 2)) / total
        places = _truncated(edges, centre, math.sqrt(square))
        if max(abs(centre - last[0]), abs(places.spread - last[1])) < _FIT_TOLERANCE:
            break
        last = (centre, places.spread)
    return places


def calibration_slope(tally: GroupTally, *, confidence: float = 0.95) -> Estimate:
    """Slope of the true log-odds over the predicted ones: 1 is right, below 1 is too bold.

    The interval inverts the score test of each slope with the intercept fitted to it. Where the
    predictions are normal with a standard deviation of 1 to 6 bins, binning moves the slope by
    less than 2 %; where they are uniform, skewed, two-peaked or heavy-tailed, by up to 0.11.

    Args:
        tally: Histograms of both classes, exact or noised.
        confidence: Probability that the interval covers, 0 to 1.
    """
    if min(tally.positives.sum(), tally.negatives.sum()) < 1:
        return Estimate(None, None, None, one_class(tally).note)
    places = place_bins(tally)
    if places.spread < _NARROWEST_BINS * 2 * LOGIT_LIMIT / tally.bins:
        return Estimate(None, None, None, "predictions lie too close together for the bins")
    statistic = _slope_statistic(tally, places)
    z = ndtri((1 + confidence) / 2)
    value, low, high = (_cross(level, statistic, _SLOPES) for level in (0.0, z, -z))
    if value is None or low is None or high is None:
        return Estimate(None, None, None, "too few subjects: the slope could be anything")
    widest = WIDEST_SLOPE * max(1.0, value)
    return judge_width(value, min(value, low), max(value, high), widest=widest)


def ece(tally: GroupTally, *, confidence: float = 0.95) -> Estimate:
    """Expected calibration error: mean distance of predicted and true share over the bins, 0 to 1.

    A sum of distances exceeds zero by chance alone; chance, of sample and noise, is taken off. The
    interval holds every multiple of the distances seen that could have given their sum. Binning
    moves the ECE by up to 0.012 where the predictions are normal with a standard deviation of 1 to
    6 bins, and by up to 0.015 for other shapes; the worst case is :func:`ece_error_bound`.

    Args:
        tally: Histograms of both classes, exact or noised.
        confidence: Probability that the interval covers, 0 to 1; for a model that is perfectly
            calibrated it covers more often, because zero is the end of the range.
    """
    total = tally.count
    if total < 1:
        return no_subjects(tally, 0.0, 1.0)
    share = place_bins(tally).probability()
    gap = np.abs(tally.positives * (1 - share) - tally.negatives * share)
    noise = tally.noise_stddev**2 * ((1 - share) ** 2 + share**2)
    drawn = tally.positives * (1 - share) ** 2 + tally.negatives * share**2 - gap**2 / total
    mean, variance = _folded_sum(gap, np.sqrt(np.maximum(drawn, 0) + noise))
    statistic = (gap.sum() - mean) / np.sqrt(variance)
    z = ndtri((1 + confidence) / 2) * _UNSURE_PROFILE
    value, low, high = (_cross(level, statistic, _SCALES) or 0.0 for level in (0.0, z, -z))
    figures = np.clip(np.array([value, low, high]) * gap.sum() / total, 0, 1)
    found = judge_width(*figures, widest=WIDEST_ECE, blur=math.sqrt(noise.sum()) / total)
    return replace(found, note=_NO_MORE_THAN_CHANCE) if found.value == 0 else found


def ece_error_bound(tally: GroupTally) -> float:
    """What the bins alone can change in the ECE of a group: half a bin of probability, 0 to 1.

    Nothing is known of where in a bin the subjects lie but what the normal law says; this is the
    largest distance between that and a bin's edges, over the subjects. Mostly it is far less.
    """
    weight = np.maximum(tally.positives + tally.negatives, 0)
    if weight.sum() <= 0:
        return 0.0
    share, edges = place_bins(tally).probability(), expit(bin_edges(tally.bins))
    farthest = np.maximum(share - edges[:-1], edges[1:] - share)
    return float(weight @ farthest / weight.sum())


def _truncated(edges: Float64Array, centre: float, spread: float) -> BinPlaces:
    """Places in each bin under one normal law; the middle of a bin too far away to matter."""
    z = (edges - centre) / spread
    mass, density = np.diff(ndtr(z)), np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    moment = np.where(np.isfinite(z), z, 0) * density
    near = mass > _SMALLEST_MASS
    safe = np.where(near, mass, 1)
    shift = -np.diff(density) / safe
    square = np.maximum(1 - np.diff(moment) / safe - shift**2, 0)
    width = 2 * LOGIT_LIMIT / len(mass)
    middle = -LOGIT_LIMIT + width * (np.arange(len(mass)) + 0.5)
    return BinPlaces(
        np.where(near, centre + spread * shift, middle),
        np.where(near, spread**2 * square, width**2 / 12),
        spread,
    )


def _slope_statistic(tally: GroupTally, places: BinPlaces) -> Float64Array:
    """Score of each candidate slope over its standard deviation; it falls as the slope grows."""
    counts = tally.positives + tally.negatives
    share = places.probability(_fit_intercepts(tally, places)[:, None], _SLOPES[:, None])
    weight = np.maximum(counts, 0) * share * (1 - share)
    centre = weight @ places.logit / np.maximum(weight.sum(axis=1), _SMALLEST_MASS)
    lever = places.logit - centre[:, None]
    score = ((tally.positives - counts * share) * lever).sum(axis=1)
    sampling = np.maximum((counts * share * (1 - share) * lever**2).sum(axis=1), 0)
    noise = tally.noise_stddev**2 * (((1 - share) ** 2 + share**2) * lever**2).sum(axis=1)
    return np.asarray(score / np.sqrt(np.maximum(sampling + noise, _SMALLEST_MASS)))


def _fit_intercepts(tally: GroupTally, places: BinPlaces) -> Float64Array:
    """Intercept with which each candidate slope predicts as many positives as there are."""
    counts = np.maximum(tally.positives + tally.negatives, 0)
    share = float(tally.positives.sum()) / tally.count
    intercept = (
        math.log(share / (1 - share)) - _SLOPES * float(counts @ places.logit) / counts.sum()
    )
    for _ in range(_NEWTON_STEPS):
        expected = places.probability(intercept[:, None], _SLOPES[:, None])
        rise = np.maximum((expected * (1 - expected)) @ counts, _SMALLEST_MASS)
        step = (share * counts.sum() - expected @ counts) / rise
        intercept = intercept + np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
    return np.asarray(intercept)


def _folded_sum(gap: Float64Array, stddev: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Mean and variance of the sum of distances, were the true ones a multiple of those seen."""
    centre = _SCALES[:, None] * gap
    stddev = np.maximum(stddev, _SMALLEST_MASS)
    z = centre / stddev
    density = np.exp(-(z**2) / 2) * math.sqrt(2 / math.pi)
    mean = stddev * density + centre * (2 * ndtr(z) - 1)
    variance = centre**2 + stddev**2 - mean**2
    return mean.sum(axis=1), np.maximum(variance.sum(axis=1), _SMALLEST_MASS)


def _cross(level: float, statistic: Float64Array, candidates: Float64Array) -> float | None:
    """Where a falling statistic passes a level, for the last time below zero; None if nowhere."""
    above = statistic > level
    if not above[0] or above[-1]:
        return None
    at = int(np.argmin(above)) - 1 if level > 0 else int(np.flatnonzero(above)[-1])
    step = (statistic[at] - level) / (statistic[at] - statistic[at + 1])
    return float(candidates[at] + step * (candidates[at + 1] - candidates[at]))
