"""How far groups lie apart: largest difference and ratio, with intervals that hold for all pairs.

Source: Newcombe 1998 (square-and-add intervals of a difference),
doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I; Bonferroni for the pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from server.calibration import WIDEST_SLOPE
from server.groups import METRICS, Cell, GroupMetrics, Metric, measure
from server.intervals import WIDEST_INTERVAL, Estimate, judge_width
from shared_models.tallies import GroupTally

ContrastName = Literal[Metric, "equalized_odds"]

_ALPHA = 0.05
_IN_POINTS = frozenset({"mae", "rmse", "bias"})
_HAVE_SIGN = frozenset({"bias", "calibration_slope"})
_SIGNED = Estimate(None, None, None, "no ratio: the figure has a sign")


class _Interval(NamedTuple):
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Contrast:
    """How far the groups of one attribute lie apart in one metric.

    A largest difference exceeds zero by chance alone, so its lower end says more than its value.
    The intervals hold for all pairs of groups at once (Bonferroni), hence cover at least 95 %.

    Attributes:
        attribute: The attribute whose groups are compared.
        metric: A metric, or ``"equalized_odds"``: the larger difference of TPR and FPR.
        group_min: Group with the lowest value.
        group_max: Group with the highest value.
        difference: Highest minus lowest value.
        ratio: Lowest over highest value; no value where that has no meaning.
        groups: The groups compared; all others were too few, withheld or not reported.
        lowest: Lowest value of the groups compared; None for equalised odds.
        highest: Highest value of the groups compared; None for equalised odds.
    """

    attribute: str
    metric: ContrastName
    group_min: str
    group_max: str
    difference: Estimate
    ratio: Estimate
    groups: tuple[str, ...]
    lowest: Estimate | None = None
    highest: Estimate | None = None


def contrast_groups(
    groups: Sequence[GroupMetrics], sums: Mapping[Cell, GroupTally], *, error_limit: float
) -> list[Contrast]:
    """Contrasts of one attribute: every metric that two reported groups have, equalised odds last.

    Args:
        groups: The groups of one attribute.
        sums: Their tallies by cell.
        error_limit: Largest error counted, in points.
    """
    contrasts = []
    names: list[tuple[ContrastName, tuple[Metric, ...]]] = [
        (metric, (metric,)) for metric in METRICS
    ]
    for name, metrics in (*names, ("equalized_odds", ("tpr", "fpr"))):
        usable = [group for group in groups if _has(group, metrics)]
        if len(usable) >= 2:
            parts = [
                _contrast(usable, sums, metric, family=len(metrics), error_limit=error_limit)
                for metric in metrics
            ]
            contrasts.append(_combine(name, parts))
    return contrasts


def _has(group: GroupMetrics, metrics: Sequence[Metric]) -> bool:
    if group.state != "reported":
        return False
    return all(group.metrics[metric].value is not None for metric in metrics)


def _contrast(
    groups: Sequence[GroupMetrics],
    sums: Mapping[Cell, GroupTally],
    metric: Metric,
    *,
    family: int,
    error_limit: float,
) -> Contrast:
    """Contrast of one metric whose intervals leave room for ``family`` such metrics."""

    def intervals(comparisons: int) -> list[_Interval]:
        confidence = 1 - _ALPHA / (comparisons * family)
        return [
            _interval(group, sums, metric, error_limit=error_limit, confidence=confidence)
            for group in groups
        ]

    together = intervals(len(groups))
    ranked = sorted(groups, key=lambda group: group.metrics[metric].value or 0.0)
    unit = {"calibration_slope": 2 * WIDEST_SLOPE}.get(metric, 1.0)
    unit = error_limit if metric in _IN_POINTS else unit
    return Contrast(
        attribute=groups[0].attribute,
        metric=metric,
        group_min=ranked[0].group,
        group_max=ranked[-1].group,
        difference=_difference(intervals(math.comb(len(groups), 2)), unit=unit),
        ratio=_SIGNED if metric in _HAVE_SIGN else _ratio(together),
        groups=tuple(group.group for group in groups),
        lowest=Estimate(*(min(ends) for ends in zip(*together, strict=True))),
        highest=Estimate(*(max(ends) for ends in zip(*together, strict=True))),
    )


def _interval(
    group: GroupMetrics,
    sums: Mapping[Cell, GroupTally],
    metric: Metric,
    *,
    error_limit: float,
    confidence: float,
) -> _Interval:
    tally = sums[group.attribute, group.group]
    wide = measure(tally, metric, error_limit=error_limit, confidence=confidence)
    value = group.metrics[metric].value
    assert value is not None  # noqa: S101 - only groups with a point are compared
    low = value if wide.low is None else wide.low
    high = value if wide.high is None else wide.high
    return _Interval(value, low, high)


def _difference(groups: Sequence[_Interval], *, unit: float) -> Estimate:
    """Largest difference of any two groups."""
    value, low, high = np.array(groups).T
    gap = value[:, None] - value
    below = np.hypot((value - low)[:, None], high - value)
    # Row minus column; each pair stands there both ways round, so the largest entry is the answer.
    figures = (float(np.max(part, initial=0)) for part in (gap, gap - below, gap + below.T))
    return judge_width(*figures, widest=WIDEST_INTERVAL * unit)


def _ratio(groups: Sequence[_Interval]) -> Estimate:
    """Lowest over highest value."""
    highest = max(group.value for group in groups)
    if highest <= 0:
        return Estimate(None, None, None, "no ratio: the highest value is 0")
    value = min(group.value for group in groups) / highest
    low = min(group.low for group in groups) / max(group.high for group in groups)
    floor = max(group.low for group in groups)
    high = min(1.0, min(group.high for group in groups) / floor) if floor > 0 else 1.0
    return judge_width(value, low, high, widest=WIDEST_INTERVAL)


def _combine(name: ContrastName, parts: Sequence[Contrast]) -> Contrast:
    """The contrast with the largest difference, under a name; the smallest ratio of all."""
    worst = max(parts, key=lambda part: part.difference.value or 0.0)
    if len(parts) == 1:
        return worst
    differences = [part.difference for part in parts]
    ratios = [part.ratio for part in parts]
    return replace(
        worst,
        metric=name,
        difference=_extreme(differences, max),
        ratio=_extreme(ratios, min),
        lowest=None,
        highest=None,
    )


def _extreme(estimates: Sequence[Estimate], choose: Callable[[list[float]], float]) -> Estimate:
    """Largest or smallest of several figures; no point where one of them has none."""
    lows = [estimate.low for estimate in estimates if estimate.low is not None]
    highs = [estimate.high for estimate in estimates if estimate.high is not None]
    values = [estimate.value for estimate in estimates if estimate.value is not None]
    note = next((estimate.note for estimate in estimates if estimate.note), "")
    return Estimate(
        choose(values) if len(values) == len(estimates) else None,
        choose(lows) if lows else None,
        choose(highs) if highs else None,
        note,
    )
