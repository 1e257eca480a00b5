"""What the size of a group lets one know: the standard error of its AUROC, and how many it takes.

Source: Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747; Newcombe 2006 (method 5),
doi:10.1002/sim.2324.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from server.intervals import Z95, auroc_variance, newcombe_variance
from shared_models.tallies import GroupTally

WANTED = 0.1
"""Half width of a 95 % interval that is worth planning for."""

USUAL_AUROC = 0.75
"""Assumed where the AUROC of all subjects together is not known."""

_ONE_SIDE = "with fewer than two on one side of the clinical threshold say nothing of the AUROC."
_SIZES = np.unique(np.geomspace(4, 1e6, 4000).astype(int)).astype(float)


@dataclass(frozen=True)
class Power:
    """What a group's size allows.

    Attributes:
        standard_error: Of its AUROC, from sample and noise; None with fewer than two subjects, as
            noised, on one side of the clinical threshold.
        smallest_n: Subjects with whom the 95 % interval would be at most 0.1 to either side, with
            the same noise and the same share above the threshold; None if no number helps.
        words: The same in a sentence.
    """

    standard_error: float | None
    smallest_n: int | None
    words: str


def plan_power(tally: GroupTally, *, auroc: float | None) -> Power:
    """Power statement of a group whose count may be shown.

    Args:
        tally: Its sums.
        auroc: AUROC to plan for, 0 to 1: that of all subjects; :data:`USUAL_AUROC` if None.

    >>> sums = np.array([0, 1, 2, 3, 4, 2, 0, 0, 0, 0, 2, 5, 6, 4, 1, 0, 0, 0, 0.0])
    >>> print(plan_power(GroupTally("sex", "male", sums), auroc=0.8).words)
    30 subjects let one know the AUROC to within 0.16; to within 0.10 it would take about 80.
    """
    area = np.array(np.clip(USUAL_AUROC if auroc is None else auroc, 0.5, 0.99))
    positives, negatives = float(tally.positives.sum()), float(tally.negatives.sum())
    if min(positives, negatives) < 2:
        return Power(None, None, f"{_people(tally)} {_ONE_SIDE}")
    noise, count = auroc_variance(tally).noise, tally.count
    error = math.sqrt(newcombe_variance(area, positives, negatives) + noise)
    times = _SIZES / count
    sampling = newcombe_variance(area, times * positives, times * negatives)
    enough = Z95 * np.sqrt(sampling + noise / times**2) <= WANTED
    smallest = int(_SIZES[np.argmax(enough)]) if enough.any() else None
    takes = f"it would take about {smallest}" if smallest else "no number of them is enough"
    words = f"{_people(tally)} let one know the AUROC to within {Z95 * error:.2f}; to within "
    return Power(error, smallest, f"{words}{WANTED:.2f} {takes}.")


def _people(tally: GroupTally) -> str:
    return f"{max(round(tally.count), 0)} subjects"
