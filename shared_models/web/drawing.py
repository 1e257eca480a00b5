"""Small drawings inside a page: shares, intervals, curves; without style, which no page lets in.

A drawing says nothing that does not also stand beside it in words; screen readers skip it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 640.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 8.0, 10.0, 24.0
MOST_MARKED = 60


@dataclass(frozen=True)
class Point:
    """A figure at a place, with its interval.

    Attributes:
        x: Place, such as a round.
        value: The figure; None where there is none.
        low: Lower end; None without an interval.
        high: Upper end.
    """

    x: float
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Axes:
    """The range of a chart.

    Attributes:
        x_high: Largest place, > 0; the smallest is 0.
        y_low: Lowest figure.
        y_high: Highest figure, > ``y_low``.
        digits: Of the labels of the figures.
    """

    x_high: float
    y_low: float
    y_high: float
    digits: int = 2

    def x(self, place: float) -> float:
        """Horizontal place on the paper."""
        return LEFT + (WIDTH - LEFT - RIGHT) * place / self.x_high

    def y(self, figure: float) -> float:
        """Vertical place on the paper; figures outside the range lie on its edge."""
        inside = min(max(figure, self.y_low), self.y_high)
        share = (inside - self.y_low) / (self.y_high - self.y_low)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)


def share_bar(share: float, *, large: bool = False) -> Markup:
    """How much of something is used up; past the whole it is drawn full, in another colour.

    Args:
        share: 0 for nothing, 1 for all.
        large: Whether it spans its place.
    """
    filled, kind = 100 * min(max(share, 0.0), 1.0), " over" if share >= 1 else ""
    return Markup(
        '<svg class="bar{}" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="6"/>'
        '<rect class="fill{}" width="{}" height="6"/></svg>'
    ).format(" large" if large else "", kind, f"{filled:.2f}")


def interval_bar(estimate: Point, *, reference: float | None = None) -> Markup:
    """A figure between 0 and 1 with its interval, and another figure to compare it with."""
    parts = [Markup('<line class="axis" x1="0" x2="140" y1="9" y2="9"/>')]
    if reference is not None:
        parts.append(_line("reference", 140 * reference, 1, 140 * reference, 17))
    if estimate.low is not None and estimate.high is not None:
        parts.append(_line("range", 140 * estimate.low, 9, 140 * estimate.high, 9))
    if estimate.value is not None:
        parts.append(_dot("dot", 140 * estimate.value, 9, 4))
    return Markup('<svg class="interval" viewBox="-5 0 150 18" aria-hidden="true">{}</svg>').format(
        Markup().join(parts)
    )


def curve(points: Sequence[Point], axes: Axes) -> Markup:
    """A figure over rounds, with a band for its intervals.

    Args:
        points: In order of their place; those without a figure are left out.
        axes: The range.
    """
    known = [point for point in points if point.value is not None]
    banded = [p for p in points if p.low is not None and p.high is not None]
    parts = [_grid(axes)]
    if len(banded) > 1:
        there = [(axes.x(p.x), axes.y(p.high or 0.0)) for p in banded]
        back = [(axes.x(p.x), axes.y(p.low or 0.0)) for p in reversed(banded)]
        parts.append(_path("band", [*there, *back], closed=True))
    places = [(axes.x(p.x), axes.y(p.value or 0.0)) for p in known]
    parts.append(_path("line", places))
    if len(known) <= MOST_MARKED:
        parts += [_dot("point", x, y, 3) for x, y in places]
    return _chart(parts)


def area(points: Sequence[Point], axes: Axes, *, limit: float | None = None) -> Markup:
    """A count over rounds, and a limit that it should not fall below."""
    parts = [_grid(axes)]
    if points:
        steps = [
            place
            for point in points
            for place in (
                (axes.x(point.x - 1), axes.y(point.value or 0.0)),
                (axes.x(point.x), axes.y(point.value or 0.0)),
            )
        ]
        ground = axes.y(axes.y_low)
        parts.append(
            _path("area", [(steps[0][0], ground), *steps, (steps[-1][0], ground)], closed=True)
        )
        parts.append(_path("line", steps))
    if limit is not None:
        parts.append(
            _path("limit", [(axes.x(0), axes.y(limit)), (axes.x(axes.x_high), axes.y(limit))])
        )
    return _chart(parts)


def _chart(parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {:.0f} {:.0f}" aria-hidden="true">{}</svg>'
    ).format(WIDTH, HEIGHT, Markup().join(parts))


def _grid(axes: Axes) -> Markup:
    parts = []
    for step in range(3):
        figure = axes.y_low + (axes.y_high - axes.y_low) * step / 2
        y = axes.y(figure)
        parts.append(_line("grid", LEFT, y, WIDTH - RIGHT, y))
        parts.append(_text(LEFT - 6, y + 4, f"{figure:.{axes.digits}f}", "end"))
    for place, anchor in ((0.0, "start"), (axes.x_high, "end")):
        parts.append(_text(axes.x(place), HEIGHT - 6, f"{place:.0f}", anchor))
    return Markup().join(parts)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        kind, *(f"{value:.1f}" for value in (x1, y1, x2, y2))
    )


def _dot(kind: str, x: float, y: float, radius: float) -> Markup:
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>').format(
        kind, f"{x:.1f}", f"{y:.1f}", radius
    )


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
        f"{x:.1f}", f"{y:.1f}", anchor, text
    )


def _path(kind: str, places: Sequence[tuple[float, float]], *, closed: bool = False) -> Markup:
    drawn = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return Markup('<path class="{}" d="{}"/>').format(
        kind, f"M{drawn}{'Z' if closed else ''}" if drawn else ""
    )
