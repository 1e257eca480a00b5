"""Differences between two models' figures, with an interval only where the figures allow one.

Two figures are independent if no subject counts in both; then the squares of the half-widths add.
Where subjects may be shared, the correlation of the figures is unknown: sums over subjects do not
hold it. The half-widths themselves then add, which no correlation can exceed.

Source: Zou 2007 (intervals of a difference from the intervals of its parts, with their
correlation), doi:10.1037/1082-989X.12.4.399; Newcombe 1998 for independent parts,
doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from server.comparison.contenders import Contender
from server.models.entries import Figure

Basis = Literal["independent", "any_overlap"]

HEADLINES = ("auroc", "mae", "tpr", "fpr")
"""Metrics of all held-out subjects whose differences are told."""


@dataclass(frozen=True)
class Difference:
    """How far a model's figure lies from the reference's.

    Attributes:
        metric: Which figure.
        model: Number of the model.
        reference: Number of the model that it is held against.
        value: The model's figure minus the reference's.
        low: Lower end: of a 95 % interval if independent, else of a range that covers at least as
            often whatever the overlap of subjects.
        high: Upper end.
        basis: ``independent`` or ``any_overlap``.
    """

    metric: str
    model: int
    reference: int
    value: float
    low: float
    high: float
    basis: Basis

    @property
    def is_shown(self) -> bool:
        """Whether interval or range excludes 0."""
        return self.low > 0 or self.high < 0


def subtract(metric: str, model: Contender, reference: Contender) -> Difference | None:
    """Difference of a headline figure; None where one of them has no point or they do not compare.

    Figures of different instruments or thresholds are of different things.
    """
    figure, other = model.entry.overall.get(metric), reference.entry.overall.get(metric)
    if figure is None or other is None or not same_outcome(model, reference):
        return None
    independent = not (model.possible_sites & reference.possible_sites)
    ends = difference_of(figure, other, independent=independent)
    if ends is None:
        return None
    basis: Basis = "independent" if independent else "any_overlap"
    return Difference(metric, model.entry.number, reference.entry.number, *ends, basis)


def difference_of(
    figure: Figure, other: Figure, *, independent: bool
) -> tuple[float, float, float] | None:
    """Difference of two figures and its ends; None where one has no point or no interval.

    Args:
        figure: With its 95 % interval.
        other: What is subtracted.
        independent: Whether no subject counts in both; otherwise any correlation is allowed for.

    >>> a, b = Figure(0.8, 0.7, 0.9), Figure(0.7, 0.6, 0.8)
    >>> [round(x, 3) for x in difference_of(a, b, independent=True)]
    [0.1, -0.041, 0.241]
    >>> [round(x, 3) for x in difference_of(a, b, independent=False)]
    [0.1, -0.1, 0.3]
    """
    parts = (figure.value, figure.low, figure.high, other.value, other.low, other.high)
    if None in parts:
        return None
    value, low, high, base, base_low, base_high = (float(part or 0.0) for part in parts)
    add = math.hypot if independent else lambda a, b: a + b
    gap = value - base
    return gap, gap - add(value - low, base_high - base), gap + add(high - value, base - base_low)


def same_outcome(one: Contender, other: Contender) -> bool:
    """Whether two models predict the same: instrument, its range, and the clinical threshold."""
    a, b = one.entry, other.entry
    return (a.instrument, a.score_range) == (b.instrument, b.score_range)
