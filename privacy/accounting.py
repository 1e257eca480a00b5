r"""Epsilon of subject-level Gaussian releases, and the noise that meets a target epsilon.

With every subject in every step (``sample_rate`` 1) the composition is again one Gaussian
mechanism, so the numbers here are exact: T releases with noise multiplier sigma are
mu-Gaussian-DP with mu = sqrt(T) / sigma, and

    delta(epsilon) = Phi(-epsilon/mu + mu/2) - exp(epsilon) Phi(-epsilon/mu - mu/2).

With subsampling the privacy loss is composed numerically by Opacus (upper bound).

Guarantees:
    Unit: the subject. Adjacency: add or remove one subject with everything recorded of them.
    Assumes that every release has L2 sensitivity max_grad_norm and noise of
    noise_multiplier * max_grad_norm. Not covered: choices made by looking at unreleased values.

Source:
    Balle and Wang 2018, arXiv:1805.06530, theorem 8. Dong, Roth and Su 2019, arXiv:1905.02383,
    corollary 2.13 and theorem 2.7. Gopi, Lee and Wutschitz 2021, arXiv:2106.02848 (subsampled).
"""

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import erfcx, log_ndtr, ndtri, ndtri_exp

# Noise is rounded up by this share, so that float rounding over a run never passes the target.
_ROUNDING_MARGIN = 1e-9


@dataclass(frozen=True)
class Release:
    """Equal Gaussian releases of one quantity with L2 sensitivity 1 a subject.

    Attributes:
        noise_multiplier: noise standard deviation over sensitivity, >= 0.
        steps: how many such releases, >= 1.
        sample_rate: probability that a subject takes part in a release, in (0, 1].

    Raises:
        ValueError: a value is out of range or not a number.
    """

    noise_multiplier: float
    steps: int
    sample_rate: float = 1.0

    def __post_init__(self) -> None:
        checks = (
            ("noise_multiplier", ">= 0", self.noise_multiplier >= 0),
            ("steps", ">= 1", self.steps >= 1),
            ("sample_rate", "in (0, 1]", 0 < self.sample_rate <= 1),
        )
        faults = [
            f"Expected {name} {expected}, got {getattr(self, name)!r}."
            for name, expected, holds in checks
            if not holds
        ]
        if faults:
            raise ValueError("\n".join(faults))


def gaussian_mu(noise_multiplier: float, steps: int = 1) -> float:
    """Gaussian-DP parameter mu of ``steps`` releases in which every subject takes part.

    Args:
        noise_multiplier: noise standard deviation over sensitivity, >= 0.
        steps: number of releases, >= 1.

    Returns:
        sqrt(steps) / noise_multiplier; infinite without noise.
    """
    if noise_multiplier == 0:
        return math.inf
    return math.sqrt(steps) / noise_multiplier


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Smallest delta at which a mu-Gaussian-DP mechanism is (epsilon, delta)-DP.

    Args:
        mu: Gaussian-DP parameter, >= 0.
        epsilon: privacy loss bound, >= 0.

    Returns:
        delta in [0, 1].

    Example:
        >>> round(gaussian_delta(1.0, 1.0), 6)
        0.126937
    """
    return math.exp(_log_gaussian_delta(mu, epsilon))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon at which a mu-Gaussian-DP mechanism is (epsilon, delta)-DP.

    Args:
        mu: Gaussian-DP parameter, >= 0; infinite means no privacy.
        delta: in (0, 1).

    Returns:
        epsilon >= 0, possibly infinite.
    """
    _check_delta(delta)
    log_delta = math.log(delta)
    if mu == 0 or _log_gaussian_delta(mu, 0.0) <= log_delta:
        return 0.0
    # The first term of delta(epsilon) alone reaches delta here, so the root lies below.
    highest = mu * (mu / 2 - float(ndtri_exp(log_delta)))
    if not math.isfinite(highest):
        return math.inf
    return _root(lambda epsilon: _log_gaussian_delta(mu, epsilon) - log_delta, 0.0, highest)


def calibrate_noise_multiplier(
    target_epsilon: float, delta: float, *, steps: int, sample_rate: float = 1.0
) -> float:
    """Smallest noise multiplier whose ``steps`` releases stay within (target_epsilon, delta).

    Args:
        target_epsilon: epsilon after all steps, > 0.
        delta: in (0, 1).
        steps: number of releases, >= 1.
        sample_rate: probability that a subject takes part in a release, in (0, 1].

    Returns:
        The noise multiplier, rounded up.

    Raises:
        ValueError: a value is out of range.

    Example:
        >>> [round(calibrate_noise_multiplier(e, 1e-3, steps=30), 2) for e in (1, 3, 8)]
        [14.1, 5.68, 2.63]
    """
    _check_delta(delta)
    if not 0 < target_epsilon < math.inf:
        msg = f"Expected target_epsilon > 0, got {target_epsilon!r}."
        raise ValueError(msg)
    Release(1.0, steps, sample_rate)
    if sample_rate < 1:
        return _calibrate_subsampled(target_epsilon, delta, steps=steps, sample_rate=sample_rate)
    noise_multiplier = math.sqrt(steps) / _gaussian_mu_for(target_epsilon, delta)
    return noise_multiplier * (1 + _ROUNDING_MARGIN)


def epsilon_spent(
    noise_multiplier: float, delta: float, *, steps: int, sample_rate: float = 1.0
) -> float:
    """Epsilon of ``steps`` equal releases at the given delta.

    Args:
        noise_multiplier: noise standard deviation over sensitivity, >= 0.
        delta: in (0, 1).
        steps: number of releases, >= 1.
        sample_rate: probability that a subject takes part in a release, in (0, 1].

    Returns:
        epsilon >= 0; infinite without noise.

    Example:
        >>> round(epsilon_spent(5.70, 1e-3, steps=30), 3)
        2.988
        >>> epsilon_spent(0.0, 1e-3, steps=30)
        inf
    """
    return compose([Release(noise_multiplier, steps, sample_rate)], delta)


def compose(releases: Iterable[Release], delta: float) -> float:
    """Epsilon of all releases together at the given delta.

    Args:
        releases: the releases, in any order; none at all spends nothing.
        delta: in (0, 1).

    Returns:
        epsilon >= 0: exact where every subject took part in every release, otherwise an upper
        bound.

    Example:
        >>> round(compose([Release(5.70, 10), Release(5.70, 20)], 1e-3), 3)
        2.988
    """
    _check_delta(delta)
    everything = list(releases)
    # Leaving out the amplification by sampling is always an upper bound, and always computable.
    full = gaussian_epsilon(math.sqrt(_squared_mu(everything)), delta)
    if all(release.sample_rate == 1 for release in everything) or not math.isfinite(full):
        return full
    return min(full, _subsampled_epsilon(everything, delta))


def site_noise_multiplier(
    noise_multiplier: float, *, sites: int, tolerated_dropouts: int = 0
) -> float:
    """Noise multiplier each site adds so that the sum carries at least ``noise_multiplier``.

    Args:
        noise_multiplier: wanted of the sum, > 0.
        sites: sites that take part, >= 1.
        tolerated_dropouts: sites whose noise may be missing or known, >= 0 and < ``sites``.

    Returns:
        noise_multiplier / sqrt(sites - tolerated_dropouts).

    Raises:
        ValueError: as many sites may drop out as take part.

    Example:
        >>> round(site_noise_multiplier(5.70, sites=10, tolerated_dropouts=1), 2)
        1.9
    """
    if not 0 <= tolerated_dropouts < sites:
        msg = (
            f"Expected 0 <= tolerated_dropouts < sites, got {tolerated_dropouts} of {sites}: "
            "the sum must keep the noise of at least one site."
        )
        raise ValueError(msg)
    return noise_multiplier / math.sqrt(sites - tolerated_dropouts)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        msg = f"Expected delta in (0, 1), got {delta!r}."
        raise ValueError(msg)


def _squared_mu(releases: Iterable[Release]) -> float:
    return math.fsum(
        r.steps * gaussian_mu(r.noise_multiplier) * gaussian_mu(r.noise_multiplier)
        for r in releases
    )


def _log_gaussian_delta(mu: float, epsilon: float) -> float:
    """Log of :func:`gaussian_delta`, by scaled tails so that it neither cancels nor underflows."""
    if mu == 0:
        return -math.inf
    if math.isinf(mu):
        return 0.0
    upper, lower = mu / 2 - epsilon / mu, mu / 2 + epsilon / mu
    # exp(epsilon) * phi(lower) == phi(upper): both terms share that density as a factor.
    second = float(erfcx(lower / math.sqrt(2)))
    if upper <= 0:
        difference = float(erfcx(-upper / math.sqrt(2))) - second
        return -(upper**2) / 2 + math.log(difference / 2) if difference > 0 else -math.inf
    ratio = second / 2 * math.exp(-(upper**2) / 2 - float(log_ndtr(upper)))
    return float(log_ndtr(upper)) + math.log1p(-ratio) if ratio < 1 else -math.inf


def _gaussian_mu_for(epsilon: float, delta: float) -> float:
    quantile = float(ndtri(delta))
    slope = math.sqrt(quantile**2 + 2 * epsilon)
    # Where the first term of delta(epsilon) alone equals delta; the other form would cancel.
    lowest = 2 * epsilon / (slope - quantile) if quantile < 0 else slope + quantile
    log_delta = math.log(delta)
    highest = 2 * lowest
    while _log_gaussian_delta(highest, epsilon) <= log_delta:
        highest *= 2
    return _root(lambda mu: _log_gaussian_delta(mu, epsilon) - log_delta, lowest, highest)


def _root(function: Callable[[float], float], lowest: float, highest: float) -> float:
    return float(brentq(function, lowest, highest, xtol=1e-300, rtol=1e-14, maxiter=1000))


def _prv_history(releases: Iterable[Release]) -> list[tuple[float, float, int]]:
    """Opacus history with one entry for all full releases and one for each subsampled kind."""
    kinds: dict[tuple[float, float], int] = {}
    full = []
    for release in releases:
        if release.sample_rate == 1:
            full.append(release)
        else:
            kind = (release.noise_multiplier, release.sample_rate)
            kinds[kind] = kinds.get(kind, 0) + release.steps
    history = [(noise, rate, steps) for (noise, rate), steps in sorted(kinds.items())]
    if full:
        history.append((1 / math.sqrt(_squared_mu(full)), 1.0, 1))
    return history


def _subsampled_epsilon(releases: Iterable[Release], delta: float) -> float:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = _prv_history(releases)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Opacus warns that its first guess of the numeric domain is wide; the result is a bound.
        warnings.simplefilter("ignore")
        try:
            epsilon = float(accountant.get_epsilon(delta=delta))
        except (ArithmeticError, MemoryError, RuntimeError, ValueError):
            return math.inf
    return epsilon if epsilon >= 0 else math.inf


def _calibrate_subsampled(
    target_epsilon: float, delta: float, *, steps: int, sample_rate: float
) -> float:
    # Subsampling never needs more noise than full participation, nor less than none.
    high = calibrate_noise_multiplier(target_epsilon, delta, steps=steps)
    low = 0.0
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        spent = epsilon_spent(middle, delta, steps=steps, sample_rate=sample_rate)
        low, high = (low, middle) if spent <= target_epsilon else (middle, high)
    return high
