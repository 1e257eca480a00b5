"""Performance of a score, with an interval, from the noised sums of one group.

Every interval is an inversion: it holds each value that the observed sums do not contradict, where
the sums vary for two independent reasons, the sample of subjects and the noise that was added on
purpose. Ratios of noised sums are handled as Fieller did, so a denominator that noise could have
made gives a wide interval and never a confident one. Without noise the intervals of rates are
Wilson's. Noised histograms have negative entries; the estimators are linear or bilinear in the raw
entries and therefore unbiased, and only the final figures are cut to their range.

Source: Wilson 1927, doi:10.1080/01621459.1927.10502953; Fieller 1954,
doi:10.1111/j.2517-6161.1954.tb00159.x; DeLong, DeLong and Clarke-Pearson 1988, doi:10.2307/2531595;
Newcombe 2006 (method 5), doi:10.1002/sim.2324.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri, stdtrit

from shared_models.tallies import Float64Array, GroupTally

Rate = Literal["tpr", "fpr", "selection_rate", "ppv"]
ErrorMean = Literal["mae", "bias", "rmse"]

WIDEST_INTERVAL = 0.5
"""A wider interval (as a fraction of the largest value) says too little for a point."""

_GRID = np.linspace(0.0, 1.0, 2001)
_TRUSTED_DELONG = (0.5, 2.0)
Z95 = 1.96
"""Standard errors on either side of a 95 % interval."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval, or the reason why there is none.

    Attributes:
        value: Point estimate; None where it would mislead, zero only where zero was measured.
        low: Lower end of the interval, None where nothing can be said.
        high: Upper end of the interval.
        note: Why there is no point, or how the interval must be read; empty otherwise.
    """

    value: float | None
    low: float | None
    high: float | None
    note: str = ""


@dataclass(frozen=True)
class AurocVariance:
    """The two independent variances of an AUROC.

    Attributes:
        sampling: Variance because other subjects could have come (DeLong).
        noise: Variance because of the noise added to the histograms.
    """

    sampling: float
    noise: float


def auroc(tally: GroupTally, *, confidence: float = 0.95) -> Estimate:
    """Probability that a subject above the threshold scores higher than one below it, 0 to 1.

    Ties within a bin count one half. The interval inverts the statistic U - a P N over a, with
    DeLong's sampling variance carried from the estimate to a by Newcombe's formula.

    Args:
        tally: Histograms of both classes, exact or noised.
        confidence: Probability that the interval covers, 0 to 1.

    >>> sums = np.array([0, 2, 3, 15, 15, 3, 2, 0, 0, 0, 0.0])
    >>> estimate = auroc(GroupTally("overall", "all", sums))
    >>> [round(x, 2) for x in (estimate.value, estimate.low, estimate.high)]
    [0.97, 0.91, 0.99]
    """
    positives, negatives = tally.positives.sum(), tally.negatives.sum()
    if min(positives, negatives) < 1:
        return one_class(tally)
    pairs = positives * negatives
    # Noise can push the estimate past its range; the interval must not shrink there.
    value = float(np.clip(tally.positives @ _negatives_below(tally) / pairs, 0, 1))
    noise = _noise_curve(tally, _GRID) / pairs**2
    z = ndtri((1 + confidence) / 2)
    covered = _GRID[(value - _GRID) ** 2 <= z**2 * (_sampling_curve(tally) + noise)]
    low = min(value, float(covered.min(initial=1)))
    high = max(value, float(covered.max(initial=0)))
    blur = math.sqrt(np.interp(value, _GRID, noise))
    return judge_width(value, low, high, blur=blur, widest=WIDEST_INTERVAL)


def auroc_variance(tally: GroupTally) -> AurocVariance:
    """Variance of the AUROC of a group with subjects in both classes.

    Raises:
        ValueError: If a class has fewer than two subjects, as noised.
    """
    positives, negatives = tally.positives.sum(), tally.negatives.sum()
    if min(positives, negatives) < 2:
        msg = f"Expected at least 2 subjects a class, got {positives:.1f} and {negatives:.1f}"
        raise ValueError(msg)
    pairs = positives * negatives
    area = float(np.clip(tally.positives @ _negatives_below(tally) / pairs, 0, 1))
    noise = float(_noise_curve(tally, np.array([area]))[0]) / pairs**2
    return AurocVariance(_delong(tally, area), noise)


def rate(tally: GroupTally, name: Rate, *, confidence: float = 0.95) -> Estimate:
    """Fraction of subjects at the decision threshold (log-odds 0), 0 to 1.

    Args:
        tally: Histograms of both classes, exact or noised.
        name: ``tpr``, ``fpr``, ``selection_rate`` or ``ppv``.
        confidence: Probability that the interval covers, 0 to 1.

    >>> sums = np.array([0, 2, 8, 0, 0, 0, 0, 0, 0, 0, 0.0])
    >>> estimate = rate(GroupTally("overall", "all", sums), "tpr")
    >>> [round(x, 2) for x in (estimate.value, estimate.low, estimate.high)]
    [0.8, 0.49, 0.94]
    """
    hits, misses = _hits_and_misses(tally, name)
    total = float(hits.sum() + misses.sum())
    if total < 1:
        return no_subjects(tally, 0.0, 1.0)
    count = float(np.clip(hits.sum(), 0, total))
    noise = len(hits) * tally.noise_stddev**2
    z2 = ndtri((1 + confidence) / 2) ** 2
    low, high = _between_roots(
        total**2 + z2 * (total - 2 * noise),
        -2 * count * total - z2 * (total - 2 * noise),
        count**2 - z2 * noise,
    )
    value = count / total
    blur = math.sqrt(noise * (value**2 + (1 - value) ** 2)) / total
    # At a rate of 0 or 1 the roots meet the value but for rounding.
    low, high = min(max(low, 0), value), max(min(high, 1), value)
    return judge_width(value, low, high, blur=blur, widest=WIDEST_INTERVAL)


def mean_error(
    tally: GroupTally, name: ErrorMean, *, error_limit: float, confidence: float = 0.95
) -> Estimate:
    """Mean absolute error, signed bias or root mean square error, in points of the instrument.

    The interval of the RMSE takes errors for normal, because their fourth moment is not sent.

    Args:
        tally: Error sums, exact or noised.
        name: ``mae``, ``bias`` (predicted minus recorded) or ``rmse``.
        error_limit: Largest error counted, in points.
        confidence: Probability that the interval covers, 0 to 1.
    """
    floor = -1.0 if name == "bias" else 0.0
    if tally.count < 2:
        return no_subjects(tally, floor * error_limit, error_limit)
    total, variance = _error_sum(tally, name)
    count, noise = tally.count, tally.error_noise_stddev**2
    value = float(np.clip(total / count, floor, 1))
    quantile = (1 + confidence) / 2
    spread = stdtrit(count - 1, quantile) ** 2 * variance * count
    denominator = 2 * tally.bins * tally.noise_stddev**2
    # The spread of a mean square grows with the mean square itself, so it moves with the candidate.
    growth = spread / value**2 if name == "rmse" and value > 0 else 0.0
    low, high = _between_roots(
        count**2 - ndtri(quantile) ** 2 * denominator - growth,
        -2 * value * count**2,
        (value * count) ** 2 - ndtri(quantile) ** 2 * noise - (0.0 if growth else spread),
    )
    blur = math.sqrt(noise + value**2 * denominator) / count
    figures = np.clip([value, low, high], floor, 1)
    if name == "rmse":
        figures = np.sqrt(figures)
        blur = math.sqrt(value + blur) - math.sqrt(value)
    return judge_width(
        *(figures * error_limit), blur=blur * error_limit, widest=WIDEST_INTERVAL * error_limit
    )


def _negatives_below(tally: GroupTally) -> Float64Array:
    return np.cumsum(tally.negatives) - tally.negatives / 2


def _positives_above(tally: GroupTally) -> Float64Array:
    return np.cumsum(tally.positives[::-1])[::-1] - tally.positives / 2


def _delong(tally: GroupTally, area: float) -> float:
    """DeLong's variance; noise moves it a little (2 % at a standard deviation of 4, n = 300)."""
    parts = []
    for own, wins in (
        (tally.positives, _negatives_below(tally) / tally.negatives.sum()),
        (tally.negatives, _positives_above(tally) / tally.positives.sum()),
    ):
        total = own.sum()
        parts.append(own @ (wins - area) ** 2 / (total - 1) / total)
    return float(sum(parts))


def newcombe_variance(
    area: Float64Array, positives: Float64Array | float, negatives: Float64Array | float
) -> Float64Array:
    """Sampling variance of an AUROC as a function of the AUROC and the counts alone (method 5)."""
    half = (positives + negatives) / 2 - 1
    shape = 1 + half * (1 - area) / (2 - area) + half * area / (1 + area)
    return np.asarray(area * (1 - area) * shape / (positives * negatives))


def _sampling_curve(tally: GroupTally) -> Float64Array:
    """Sampling variance at each AUROC of the grid."""
    positives, negatives = float(tally.positives.sum()), float(tally.negatives.sum())
    curve = newcombe_variance(_GRID, positives, negatives)
    if min(positives, negatives) < 2:
        return curve
    area = float(tally.positives @ _negatives_below(tally)) / (positives * negatives)
    if not 0 < area < 1:
        return curve
    shape = float(newcombe_variance(np.array([area]), positives, negatives)[0])
    return curve * float(np.clip(_delong(tally, area) / shape, *_TRUSTED_DELONG))


def _noise_curve(tally: GroupTally, area: Float64Array) -> Float64Array:
    """Variance of U - a P N because of noise, at each AUROC a.

    The statistic is bilinear, so its variance is known exactly; squares of noised entries exceed
    the squares of the true ones by a known amount, which is taken off.
    """
    bins, noise = tally.bins, tally.noise_stddev**2
    a = area[:, None]
    rows = ((_negatives_below(tally) - a * tally.negatives.sum()) ** 2).sum(axis=1)
    columns = ((_positives_above(tally) - a * tally.positives.sum()) ** 2).sum(axis=1)
    pairs = bins * (bins - 1) / 2
    both = pairs * ((1 - area) ** 2 + area**2) + bins * (0.5 - area) ** 2
    return np.asarray(np.maximum(noise * (rows + columns) - noise**2 * both, noise**2 * both))


def _hits_and_misses(tally: GroupTally, name: Rate) -> tuple[Float64Array, Float64Array]:
    half = tally.bins // 2
    found, missed = tally.positives[half:], tally.positives[:half]
    alarmed, passed = tally.negatives[half:], tally.negatives[:half]
    return {
        "tpr": (found, missed),
        "fpr": (alarmed, passed),
        "selection_rate": (np.append(found, alarmed), np.append(missed, passed)),
        "ppv": (found, alarmed),
    }[name]


def _error_sum(tally: GroupTally, name: ErrorMean) -> tuple[float, float]:
    """Sum of the terms of a mean, and the variance of one term; unit: the largest error."""
    absolute, signed, squared = (float(total) for total in tally.errors)
    count = tally.count
    square = float(np.clip(squared / count, 0, 1))
    if name == "mae":
        return absolute, _spread(square, absolute, count)
    spread = _spread(square, signed, count)
    if name == "bias":
        return signed, spread
    centre = max(square - spread, 0)
    return squared, min(2 * spread**2 + 4 * centre * spread, square * (1 - square))


def _spread(square: float, total: float, count: float) -> float:
    """Variance of a term from its mean square and its sum."""
    return max(square - (total / count) ** 2, 0.0) * count / (count - 1)


def _between_roots(a: float, b: float, c: float) -> tuple[float, float]:
    """Where a x^2 + b x + c <= 0; everywhere if the denominator may be nothing but noise."""
    if a <= 0:
        return -math.inf, math.inf
    root = math.sqrt(max(b**2 - 4 * a * c, 0.0))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def no_subjects(tally: GroupTally, low: float, high: float) -> Estimate:
    """What is said of a figure for which there are no subjects; noise leaves that open."""
    if tally.noise_stddev == 0:
        return Estimate(None, None, None, "no subjects to compute it from")
    return Estimate(None, low, high, "too few subjects for the noise")


def one_class(tally: GroupTally) -> Estimate:
    """What is said of a figure that needs subjects on both sides of the clinical threshold."""
    if tally.noise_stddev == 0:
        return Estimate(None, None, None, "no subjects on one side of the clinical threshold")
    return Estimate(None, 0.0, 1.0, "too few subjects on one side of the clinical threshold")


def judge_width(
    value: float, low: float, high: float, *, widest: float, blur: float = 0.0
) -> Estimate:
    """The estimate, without its point where the interval is too wide for one.

    Args:
        value: Point estimate.
        low: Lower end of the interval.
        high: Upper end of the interval.
        widest: Width from which on a point would mislead.
        blur: Standard error from noise alone. An interval that ends at the edge of the range
            looks narrower than the doubt is; this sees through it.
    """
    if max(high - low, 2 * Z95 * blur) <= widest:
        return Estimate(float(value), float(low), float(high))
    note = f"too few subjects: the interval is wider than {widest:.2g}"
    return Estimate(None, float(low), float(high), note)
