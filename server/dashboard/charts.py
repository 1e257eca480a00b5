"""Drawings of the coordinator's dashboard."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from shared_models.web.drawing import Axes, Point, area, curve, interval_bar

if TYPE_CHECKING:
    from markupsafe import Markup

    from server.dashboard.figures import RunFigures
    from server.groups import GroupMetrics
    from server.intervals import Estimate

CHANCE = 0.5


def draw_auroc(figures: RunFigures) -> Markup | None:
    """AUROC over rounds with its 95 % band; None with fewer than two judgements."""
    points = [
        Point(entry.server_round, *_ends(entry.fairness.overall.metrics.get("auroc")))
        for entry in figures.evaluations
    ]
    known = [point for point in points if point.value is not None]
    if len(known) < 2:
        return None
    lowest = min(CHANCE, *(point.low if point.low is not None else CHANCE for point in known))
    last = max(figures.planned, *(round(point.x) for point in known))
    return curve(known, Axes(last, math.floor(lowest * 10) / 10, 1.0))


def draw_participation(figures: RunFigures) -> Markup | None:
    """Sites in each round, and the quorum; None before the first round."""
    if not figures.rounds:
        return None
    points = [Point(entry.server_round, len(entry.participants)) for entry in figures.rounds]
    most = max(2, *(round(point.value or 0) for point in points))
    last = max(figures.planned, figures.rounds[-1].server_round)
    axes = Axes(last, 0, most + most % 2, digits=0)
    return area(points, axes, limit=figures.quorum)


def draw_group(group: GroupMetrics, overall: GroupMetrics) -> Markup | None:
    """AUROC of a group with its interval, beside that of all subjects."""
    estimate, whole = group.metrics.get("auroc"), overall.metrics.get("auroc")
    if estimate is None or estimate.low is None:
        return None
    return interval_bar(
        Point(0, *_ends(estimate)), reference=whole.value if whole is not None else None
    )


def _ends(estimate: Estimate | None) -> tuple[float | None, float | None, float | None]:
    return (estimate.value, estimate.low, estimate.high) if estimate else (None, None, None)


FUNCTIONS = {
    "draw_auroc": draw_auroc,
    "draw_participation": draw_participation,
    "draw_group": draw_group,
}
