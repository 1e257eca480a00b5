"""Predicted against observed: how many subjects of a predicted probability reach the threshold.

The curve comes from the histograms that were summed for the other figures, so it costs no privacy
of its own. Neighbouring bins are taken together until most of them say something.

Source: Murphy and Winkler 1977 (reliability diagram), doi:10.2307/2346866.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from server.intervals import Estimate, rate
from shared_models.tallies import ERROR_SUMS, GroupTally, bin_edges


@dataclass(frozen=True)
class ReliabilityBin:
    """Subjects whose predicted probability lies between two values.

    Attributes:
        low: Lowest predicted probability, 0 to 1.
        high: Highest predicted probability, 0 to 1.
        observed: Fraction of them at or above the clinical threshold.
    """

    low: float
    high: float
    observed: Estimate


def measure_reliability(tally: GroupTally, *, min_cell: int) -> tuple[ReliabilityBin, ...]:
    """Observed fraction by predicted probability, from low to high.

    The finest division is taken of which at least half the bins have a point; noise decides it,
    not a single subject. The outermost bins are open: their predictions lie anywhere beyond.

    Args:
        tally: Histograms of both classes, exact or noised.
        min_cell: Bins with fewer subjects, as noised, have no figure.

    Guarantees:
        Computed from noised sums alone. Without noise (mode ``off``) nothing is protected.

    >>> sums = np.array([2, 5, 15, 18, 18, 15, 5, 2, 0, 0, 0.0])
    >>> bins = measure_reliability(GroupTally("overall", "all", sums), min_cell=5)
    >>> [round(b.observed.value, 2) for b in bins]
    [0.1, 0.25, 0.75, 0.9]
    """
    half = tally.bins // 2
    widths = [width for width in range(1, half + 1) if half % width == 0]
    divisions = [_divide(tally, width, min_cell=min_cell) for width in widths]
    telling = (bins for bins in divisions if _known(bins) * 2 >= len(bins))
    return next(telling, divisions[-1])


def _divide(tally: GroupTally, width: int, *, min_cell: int) -> tuple[ReliabilityBin, ...]:
    edges = expit(bin_edges(tally.bins))
    starts = range(0, tally.bins, width)
    return tuple(
        ReliabilityBin(
            low=float(edges[start]),
            high=float(edges[start + width]),
            observed=_fraction(tally, slice(start, start + width), min_cell=min_cell),
        )
        for start in starts
    )


def _fraction(tally: GroupTally, chosen: slice, *, min_cell: int) -> Estimate:
    positives, negatives = tally.positives[chosen], tally.negatives[chosen]
    if positives.sum() + negatives.sum() < max(min_cell, 1):
        return Estimate(None, None, None, "too few subjects")
    # The chosen bins as the flagged half of a tally: their PPV is the fraction asked for.
    none = np.zeros_like(positives)
    sums = np.concatenate([none, positives, none, negatives, np.zeros(ERROR_SUMS)])
    return rate(GroupTally(tally.attribute, tally.group, sums, tally.noise_stddev), "ppv")


def _known(bins: tuple[ReliabilityBin, ...]) -> int:
    return sum(one.observed.value is not None for one in bins)
