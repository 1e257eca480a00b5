"""What all compared runs together reveal of somebody who took part in every one of them.

Guarantees:
    Unit: the subject; adjacency: add or remove one. Each run is Gaussian-DP with the parameter that
    its epsilon stands for at its delta, because every subject takes part in every step; the squares
    of the parameters add (Dong, Roth and Su 2022). Not covered: runs that are not compared.

Source: Dong, Roth and Su 2022, doi:10.1111/rssb.12454.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from privacy.accounting import Release, calibrate_noise_multiplier, compose
from server.comparison.contenders import Contender

Bound = tuple[float | None, float]
"""Epsilon, None where nothing bounds it, and the delta it holds at."""


@dataclass(frozen=True)
class JointPrivacy:
    """Bounds over several runs.

    Attributes:
        runs: The runs, each counted once.
        sites: Sites that took part in all of them; only their subjects can have spent all of it.
        delta: Of the bounds.
        epsilon_sum: What the sums of sites reveal together; None without a bound.
        epsilon_site: What one site's releases reveal together; None without a bound.
    """

    runs: tuple[str, ...]
    sites: tuple[str, ...]
    delta: float
    epsilon_sum: float | None
    epsilon_site: float | None


def join_privacy(contenders: Sequence[Contender]) -> JointPrivacy | None:
    """Bounds over the runs of these models; None for a single run, or if no site was in all."""
    runs = {one.entry.run: one for one in contenders}
    sites = frozenset.intersection(*(one.possible_sites for one in runs.values()))
    if len(runs) < 2 or not sites:
        return None
    terms = [one.entry.privacy for one in runs.values()]
    delta = max(term.delta for term in terms)
    return JointPrivacy(
        tuple(runs),
        tuple(sorted(sites)),
        delta,
        add_epsilons([(term.epsilon_sum, term.delta) for term in terms], delta),
        add_epsilons([(term.epsilon_site, term.delta) for term in terms], delta),
    )


def add_epsilons(bounds: Sequence[Bound], delta: float) -> float | None:
    """Epsilon at ``delta`` of Gaussian mechanisms known by their own bounds, rounded up.

    >>> add_epsilons([(3.0, 1e-3), (3.0, 1e-3)], 1e-3)
    4.55
    >>> add_epsilons([(3.0, 1e-3), (None, 1e-3)], 1e-3) is None
    True
    """
    if any(epsilon is None for epsilon, _ in bounds):
        return None
    releases = [
        Release(calibrate_noise_multiplier(epsilon, own, steps=1), 1)
        for epsilon, own in bounds
        if epsilon
    ]
    return math.ceil(100 * compose(releases, delta)) / 100
