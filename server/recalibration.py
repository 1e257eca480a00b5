r"""Recalibration of a model's log-odds from noised sums: Platt's slope and intercept.

The sites' histograms say how many subjects of each bin of log-odds reach the threshold. A logistic
curve through them gives calibrated log-odds ``slope * log-odds + intercept``: post-processing of
sums that were paid for, so it costs no privacy.

The equations of the fit are linear in the counts and the noise has mean zero, so noise adds no
bias to first order; its variance is known and joins that of the sample. Where the sums do not
contradict the model's present calibration, the model is left as it is: a correction made of noise
would only harm.

Two things bias the fit. The log-odds within a bin are taken for normally distributed, and a model
whose log-odds all lie in two bins tells nothing of its slope: it is refused.

Source: Platt 1999, Probabilistic outputs for support vector machines; Cox 1958,
doi:10.1093/biomet/45.3-4.562 (slope and intercept as calibration).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, ndtr
from scipy.stats import chi2

from shared_models.tallies import Float64Array, GroupTally, bin_edges

if TYPE_CHECKING:
    from shared_models.weights import State

UNCONTRADICTED = float(chi2.ppf(0.95, df=2))
"""Wald statistic of (slope, intercept) = (1, 0) up to which the sums do not speak against it."""

TRUSTED_SLOPES = (0.1, 10.0)
HEAD_WEIGHT, HEAD_BIAS, LOG_ODDS = "head.weight", "head.bias", 1

_STEPS = 50
_MIDDLE_SHARE = 0.95
_TOLERANCE = 1e-9
_LEAST_INFORMATION = 1e-3
"""With less, a coefficient's standard error would be above 30."""


@dataclass(frozen=True)
class Recalibration:
    """Slope and intercept of a model's log-odds, and whether they were applied.

    Attributes:
        slope: Factor of the log-odds; 1 where nothing could be fitted.
        intercept: Added to them; 0 where nothing could be fitted.
        slope_error: Standard error from sample and noise; None where nothing was fitted.
        intercept_error: The same of the intercept.
        is_applied: Whether exported models carry the correction.
        why: One sentence.
    """

    slope: float
    intercept: float
    slope_error: float | None
    intercept_error: float | None
    is_applied: bool
    why: str


def fit_recalibration(tally: GroupTally) -> Recalibration:
    """The correction that the sums over all held-out subjects ask for, if they ask for any.

    Args:
        tally: Histograms of subjects above and below the threshold, exact or noised.

    >>> sums = np.array([1, 2, 3, 4, 9, 8, 7, 6, 6, 7, 8, 9, 4, 3, 2, 1, 0, 0, 0.0])
    >>> fit_recalibration(GroupTally("overall", "all", sums)).is_applied
    False
    """
    counts = tally.positives + tally.negatives
    if fault := _find_fault(tally, counts):
        return _unfitted(fault)
    known = _solve(tally, np.stack([np.ones(tally.bins), _bin_means(counts)], axis=1))
    if known is None:
        return _unfitted("the sums are too noisy for a fit")
    (intercept, slope), covariance = known
    errors = np.sqrt(np.diag(covariance))
    away = np.array([intercept, slope - 1.0])
    distance = float(away @ np.linalg.solve(covariance, away))
    contradicted = distance > UNCONTRADICTED
    why = (
        "the sums contradict the model's own calibration"
        if contradicted
        else "the sums do not contradict the model's own calibration, so it was left as it is"
    )
    return Recalibration(
        float(slope), float(intercept), float(errors[1]), float(errors[0]), contradicted, why
    )


def fold_into_head(state: State, recalibration: Recalibration | None) -> State:
    """The weights with the correction inside the head's log-odds; the score stays as it is.

    Args:
        state: All tensors of a model; not changed.
        recalibration: What the model's record says.
    """
    if recalibration is None or not recalibration.is_applied:
        return state
    weight, bias = state[HEAD_WEIGHT].clone(), state[HEAD_BIAS].clone()
    weight[LOG_ODDS] *= recalibration.slope
    bias[LOG_ODDS] = bias[LOG_ODDS] * recalibration.slope + recalibration.intercept
    return {**state, HEAD_WEIGHT: weight, HEAD_BIAS: bias}


def _unfitted(why: str) -> Recalibration:
    return Recalibration(1.0, 0.0, None, None, is_applied=False, why=why)


def _find_fault(tally: GroupTally, counts: Float64Array) -> str:
    if min(tally.positives.sum(), tally.negatives.sum()) < 1:
        return "too few subjects on one side of the clinical threshold"
    half = tally.bins // 2
    if counts[half - 1 : half + 1].sum() > _MIDDLE_SHARE * counts.sum():
        return "nearly all log-odds lie in the two middle bins, which tell nothing of a slope"
    return ""


def _solve(tally: GroupTally, z: Float64Array) -> tuple[Float64Array, Float64Array] | None:
    """Newton's solution of the logistic equations, and its covariance; None where there is none.

    Args:
        tally: The histograms.
        z: ``[B, 2]``, 1 and the log-odds that a bin stands for.
    """
    counts, beta = tally.positives + tally.negatives, np.array([0.0, 1.0])
    for _ in range(_STEPS):
        p = expit(z @ beta)
        information = (z.T * (counts * p * (1 - p))) @ z
        if np.linalg.eigvalsh(information)[0] <= _LEAST_INFORMATION:
            return None
        step = np.linalg.solve(information, z.T @ (tally.positives - counts * p))
        beta = beta + np.clip(step, -1, 1)
        if np.abs(step).max() < _TOLERANCE:
            break
    else:
        return None
    if not TRUSTED_SLOPES[0] <= beta[1] <= TRUSTED_SLOPES[1]:
        return None
    noise = tally.noise_stddev**2 * (z.T * ((1 - p) ** 2 + p**2)) @ z
    inverse = np.linalg.inv(information)
    return beta, inverse @ (information + noise) @ inverse


def _bin_means(counts: Float64Array) -> Float64Array:
    """``[B]`` mean log-odds within each bin of the normal distribution that fits the counts best.

    Counts below zero are noise around an empty bin and count as empty.
    """
    edges, known = bin_edges(len(counts)), np.maximum(counts, 0)

    def shares(mean: float, log_sd: float) -> Float64Array:
        inside = np.diff(ndtr((edges - mean) / np.exp(log_sd)))
        return np.asarray(np.maximum(inside, 1e-12))

    def surprise(at: Float64Array) -> float:
        return -float(known @ np.log(shares(*at))) / float(known.sum())

    fitted = minimize(surprise, np.zeros(2), method="L-BFGS-B", bounds=[(-2, 2), (-3, 1.5)])
    mean, sd = float(fitted.x[0]), float(np.exp(fitted.x[1]))
    density = np.exp(-(((edges - mean) / sd) ** 2) / 2) / np.sqrt(2 * np.pi)
    inside = mean - sd * np.diff(density) / shares(mean, fitted.x[1])
    return np.asarray(np.clip(inside, *_reach(edges)))


def _reach(edges: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Bounds of a bin's mean; the open outer bins end a width further out."""
    width = edges[2] - edges[1]
    closed = np.clip(edges, edges[1] - width, edges[-2] + width)
    return closed[:-1], closed[1:]
