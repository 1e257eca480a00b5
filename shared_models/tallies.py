"""Sums over subjects from which the model can be judged: they add across sites, scores stay home.

A tally of a group holds, for its subjects, a histogram of predicted log-odds for those above and
below the clinical threshold, and three sums of the score's error. One subject adds a one-hot vector
(norm 1) and an error vector (norm at most 1/2): L2 sensitivity sqrt(5/4) a table, because a subject
falls into one group of each table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

LOGIT_LIMIT = 2.0
"""Histogram range: log-odds from -2 to 2 (probability 0.12 to 0.88); the outer bins are open."""

INTERSECTION = "age_band x sex"
"""Attribute whose groups are an age band and a sex together."""

ERROR_SUMS = 3
ERROR_WEIGHT = 0.5
"""Norm of one subject's error vector: sums stand noise better than histograms do."""

_ERROR_SCALE = ERROR_WEIGHT / math.sqrt(ERROR_SUMS)


@dataclass(frozen=True)
class SubjectScores:
    """Predictions and truth of S held-out subjects; never leaves a site.

    Attributes:
        logit: ``[S]`` predicted log-odds of reaching the clinical threshold.
        predicted: ``[S]`` predicted severity, in points of the instrument.
        score: ``[S]`` recorded severity, in points.
        positive: ``[S]`` True where the recorded severity reaches the threshold.
        groups: For ``"age_band"`` and ``"sex"``, ``[S]`` names of the subjects' groups.
    """

    logit: Float64Array
    predicted: Float64Array
    score: Float64Array
    positive: NDArray[np.bool_]
    groups: dict[str, NDArray[np.str_]]

    def members(self, attribute: str, group: str) -> NDArray[np.bool_]:
        """``[S]`` True for the subjects of a group; of ``"overall"`` everybody.

        >>> sexes, bands = np.array(["female", "male"]), np.array(["60+", "60+"])
        >>> none = np.zeros(2)
        >>> scores = SubjectScores(none, none, none, none > 0, {"sex": sexes, "age_band": bands})
        >>> scores.members("age_band x sex", "60+ male").tolist()
        [False, True]
        """
        if attribute == "overall":
            return np.ones(len(self.score), dtype=bool)
        if attribute != INTERSECTION:
            return np.asarray(self.groups[attribute] == group)
        pairs = zip(self.groups["age_band"], self.groups["sex"], strict=True)
        return np.array([cross_groups([a], [b]) == (group,) for a, b in pairs], dtype=bool)


@dataclass(frozen=True)
class GroupTally:
    """Addable sums over the subjects of one group, with or without noise.

    Attributes:
        attribute: ``"overall"``, ``"age_band"``, ``"sex"``, ``"age_band x sex"`` or ``"site"``.
        group: Name of the group.
        sums: ``[2 B + 3]``: histogram of positives, histogram of negatives, scaled error sums.
        noise_stddev: Standard deviation of the noise in each entry; 0 without noise.
    """

    attribute: str
    group: str
    sums: Float64Array
    noise_stddev: float = 0.0

    def __add__(self, other: GroupTally) -> GroupTally:
        """Tally of both sites' subjects together; independent noises add in quadrature.

        Raises:
            ValueError: If the tallies are of different cells.
        """
        if (self.attribute, self.group) != (other.attribute, other.group):
            expected, got = f"{self.attribute} {self.group}", f"{other.attribute} {other.group}"
            msg = f"Expected a tally of {expected}, got {got}"
            raise ValueError(msg)
        stddev = math.hypot(self.noise_stddev, other.noise_stddev)
        return GroupTally(self.attribute, self.group, self.sums + other.sums, stddev)

    @property
    def bins(self) -> int:
        """Bins B of each histogram."""
        return (len(self.sums) - ERROR_SUMS) // 2

    @property
    def positives(self) -> Float64Array:
        """``[B]`` subjects at or above the clinical threshold, by predicted log-odds."""
        return self.sums[: self.bins]

    @property
    def negatives(self) -> Float64Array:
        """``[B]`` subjects below the clinical threshold, by predicted log-odds."""
        return self.sums[self.bins : 2 * self.bins]

    @property
    def count(self) -> float:
        """Number of subjects, as noised."""
        return float(self.sums[: 2 * self.bins].sum())

    @property
    def errors(self) -> Float64Array:
        """``[3]`` sums of |e|, e and e^2, with e in units of the largest error counted."""
        return self.sums[2 * self.bins :] / _ERROR_SCALE

    @property
    def error_noise_stddev(self) -> float:
        """Standard deviation of the noise in each of :attr:`errors`."""
        return self.noise_stddev / _ERROR_SCALE


def cross_groups(age_bands: Iterable[str], sexes: Sequence[str]) -> tuple[str, ...]:
    """Names of the groups of one age band and one sex, the sexes of each band together.

    >>> cross_groups(["18-39", "40+"], ["female", "male"])
    ('18-39 female', '18-39 male', '40+ female', '40+ male')
    """
    return tuple(f"{band} {sex}" for band in age_bands for sex in sexes)


def bin_edges(bins: int) -> Float64Array:
    """``[B + 1]`` edges in log-odds; an edge at 0 separates the predicted classes."""
    edges = np.linspace(-LOGIT_LIMIT, LOGIT_LIMIT, bins + 1)
    edges[0], edges[-1] = -np.inf, np.inf
    return edges


def largest_error(score_range: tuple[float, float, float]) -> float:
    """Error in points that larger ones are counted as: a third of the instrument's range."""
    low, high, _ = score_range
    return (high - low) / 3


def count_tally(
    scores: SubjectScores, attribute: str, group: str, *, bins: int, error_limit: float
) -> GroupTally:
    """Exact tally of one group; zeros for an empty one.

    Args:
        scores: The held-out subjects of a site.
        attribute: Attribute to group by; ``"overall"`` takes every subject.
        group: Group within the attribute.
        bins: Histogram bins B.
        error_limit: Errors larger than this many points count as this many.
    """
    chosen = scores.members(attribute, group)
    inner = bin_edges(bins)[1:-1]
    cell = np.digitize(scores.logit[chosen], inner)
    positive = scores.positive[chosen]
    error = (scores.predicted - scores.score)[chosen] / error_limit
    error = np.clip(error, -1, 1)
    sums = np.concatenate(
        [
            np.bincount(cell[positive], minlength=bins),
            np.bincount(cell[~positive], minlength=bins),
            np.array([np.abs(error).sum(), error.sum(), (error**2).sum()]) * _ERROR_SCALE,
        ]
    )
    return GroupTally(attribute, group, sums.astype(np.float64))


def sum_tallies(tallies: Iterable[GroupTally]) -> dict[tuple[str, str], GroupTally]:
    """Sum of the tallies of each cell, in order of first appearance."""
    totals: dict[tuple[str, str], GroupTally] = {}
    for tally in tallies:
        cell = (tally.attribute, tally.group)
        totals[cell] = totals[cell] + tally if cell in totals else tally
    return totals
