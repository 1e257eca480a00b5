"""What the size of a group lets one know: the standard error of its AUROC, and how many it takes.

Source: Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747; Newcombe 2006 (method 5),
doi:10.1002/sim.2324.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from server.intervals import Z95, auroc_noise, newcombe_variance
from shared_models.tallies import GroupTally

WANTED = 0.1
"""Half width of a 95 % interval that is worth planning for."""

USUAL_AUROC = 0.75
"""Assumed where the AUROC of all subjects together is not known."""

_SIZES = np.unique(np.geomspace(4, 1e6, 4000).astype(int)).astype(float)


@dataclass(frozen=True)
class Power:
    """What a group's size allows.

    Attributes:
        standard_error: Of its AUROC, from sample and noise; None with nobody on one side of the
            clinical threshold.
        smallest_n: Subjects with whom the 95 % interval would be at most 0.1 to either side, with
            the same noise and the same share above the threshold; None if no number helps.
        words: The same in a sentence.
    """

    standard_error: float | None
    smallest_n: int | None
    words: str


def plan_power(tally: GroupTally, *, auroc: float | None, prevalence: float) -> Power:
    """Power statement of a group whose count may be shown.

    Args:
        tally: Its sums.
        auroc: AUROC to plan for, 0 to 1: that of all subjects; :data:`USUAL_AUROC` if None.
        prevalence: Share of all subjects above the threshold, for groups with too few of either.

    >>> sums = np.array([0, 1, 2, 3, 4, 2, 0, 0, 0, 0, 2, 5, 6, 4, 1, 0, 0, 0, 0.0])
    >>> print(plan_power(GroupTally("sex", "male", sums), auroc=0.8, prevalence=0.4).words)
    30 subjects let one know the AUROC to within 0.17; to within 0.10 it would take about 82.
    """
    area = float(np.clip(auroc if auroc is not None else USUAL_AUROC, 0.5, 0.99))
    count, positives = tally.count, float(tally.positives.sum())
    if min(positives, count - positives) < 1:
        share, error = float(np.clip(prevalence, 0.05, 0.95)), None
        noise = np.zeros(1) if tally.noise_stddev == 0 else np.array([math.nan])
    else:
        share = positives / count
        noise = auroc_noise(tally, area) * (count / _SIZES) ** 2
        error = math.sqrt(_variance(area, share, np.array([count]))[0] + auroc_noise(tally, area))
    enough = Z95 * np.sqrt(_variance(area, share, _SIZES) + noise) <= WANTED
    smallest = math.ceil(_SIZES[np.argmax(enough)]) if enough.any() else None
    return Power(error, smallest, _tell(count, error, smallest))


def _variance(area: float, share: float, sizes: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return newcombe_variance(np.array(area), share * sizes, (1 - share) * sizes)


def _tell(count: float, error: float | None, smallest: int | None) -> str:
    needed = f"it would take about {smallest}" if smallest else "the noise is too large for any size"
    subjects = f"{max(round(count), 0)} subjects"
    if error is None:
        return f"{subjects}, nobody on one side of the clinical threshold: nothing is known of the AUROC; to know it to within {WANTED:.2f}, {needed}."
    return f"{subjects} let one know the AUROC to within {Z95 * error:.2f}; to within {WANTED:.2f} {needed}."
