"""Where the marks of the page's drawings go: places in per cent, so that a drawing fits any width.

Text stays text, at the page's own size, on a phone as on paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from server.history import EvaluationReport, RunReport
from server.intervals import Estimate
from server.reliability import ReliabilityBin
from server.reporting.heat import figure_of
from server.reporting.phrases import N_

TOP, BOTTOM = 5.0, 88.0
"""Ends of the upright axis, in per cent of the drawing."""
LEFT, RIGHT = 8.0, 98.0
"""Ends of the lying axis, in per cent of the drawing."""
FINE = 1000
"""Units a line's drawing has in each direction."""
PLOT_SIZE, PLOT_BEGIN, PLOT_END = 330, 40, 315
"""Size of the square calibration drawing, and the ends of its axes."""

CURVES = (("auroc", N_("AUROC"), 2), ("mae", N_("Mean absolute error, points"), 1))


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis.

    Attributes:
        place: In per cent of the drawing.
        label: What is written there.
    """

    place: float
    label: str


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation.

    Attributes:
        server_round: Its round.
        estimate: The figure.
        x: Place of the round.
        y: Place of the point; None where it would mislead.
        low: Place of the interval's lower end; None where nothing is known.
        high: Place of the interval's upper end.
    """

    server_round: int
    estimate: Estimate
    x: float
    y: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Curve:
    """A figure by round of training.

    Attributes:
        name: Key of the metric.
        label: What is drawn.
        digits: Decimals of its figures.
        points: One an evaluation.
        truth: Line of the exact figures, in units of :data:`FINE`; empty outside a simulation.
        upright: Ticks of the figure.
        lying: Ticks of the rounds.
    """

    name: str
    label: str
    digits: int
    points: tuple[CurvePoint, ...]
    truth: str
    upright: tuple[Tick, ...]
    lying: tuple[Tick, ...]


@dataclass(frozen=True)
class CalibrationMark:
    """One bin of the calibration drawing, in units of its square.

    Attributes:
        bin: The bin.
        left: Where its predictions begin.
        right: Where they end.
        y: Height of the observed fraction; None where it would mislead.
        low: Height of the interval's lower end; None where nothing is known.
        high: Height of the interval's upper end.
    """

    bin: ReliabilityBin
    left: float
    right: float
    y: float | None
    low: float | None
    high: float | None


def draw_curves(report: RunReport) -> list[Curve]:
    """AUROC and MAE by round of training, each only where there is anything to draw."""
    drawn = [_draw_curve(report, metric, label, digits) for metric, label, digits in CURVES]
    return [curve for curve in drawn if curve.points or curve.truth]


def draw_calibration(bins: Sequence[ReliabilityBin]) -> list[CalibrationMark]:
    """The bins of a reliability curve, from low to high predictions."""
    return [
        CalibrationMark(
            bin=one,
            left=across(one.low),
            right=across(one.high),
            y=_upward(one.observed.value),
            low=_upward(one.observed.low),
            high=_upward(one.observed.high),
        )
        for one in bins
    ]


def across(fraction: float) -> float:
    """Place of a probability from left to right in the calibration drawing."""
    return PLOT_BEGIN + fraction * (PLOT_END - PLOT_BEGIN)


def place_in(value: float, ends: tuple[float, float]) -> float:
    """Place of a value on a bar, in per cent; what lies outside is put at the end.

    >>> place_in(0.25, (0, 1)), place_in(9, (-1, 1))
    (25.0, 100.0)
    """
    low, high = ends
    return round(min(max(100 * (value - low) / (high - low), 0.0), 100.0), 2)


def _draw_curve(report: RunReport, metric: str, label: str, digits: int) -> Curve:
    last = max([1, *(r.server_round for r in report.rounds), *_judged(report)])
    found = _estimates(report.evaluations, metric)
    exact = _exact(report, metric)
    ends, marks = _upright_axis([value for _, value in exact], [e for _, e in found])
    return Curve(
        name=metric,
        label=label,
        digits=digits,
        points=tuple(_point(r, e, last=last, ends=ends) for r, e in found),
        truth=" ".join(
            f"{10 * _lying(r, last):.0f},{10 * _upright(v, ends):.0f}" for r, v in exact
        ),
        upright=tuple(Tick(_upright(mark, ends), f"{mark:g}") for mark in marks),
        lying=tuple(Tick(_lying(mark, last), f"{mark:g}") for mark in _round_marks(last)),
    )


def _judged(report: RunReport) -> list[int]:
    return [evaluation.server_round for evaluation in report.evaluations]


def _estimates(evaluations: Sequence[EvaluationReport], metric: str) -> list[tuple[int, Estimate]]:
    found = []
    for evaluation in evaluations:
        estimate = figure_of(evaluation.fairness.overall, metric)
        if estimate and estimate.low is not None:
            found.append((evaluation.server_round, estimate))
    return found


def _exact(report: RunReport, metric: str) -> list[tuple[int, float]]:
    place = 1 if metric == "auroc" else 2
    rows = report.truth.curve if report.truth else ()
    return [(row[0], value) for row in rows if (value := row[place]) is not None]


def _upright_axis(
    exact: Sequence[float], estimates: Sequence[Estimate]
) -> tuple[tuple[float, float], list[float]]:
    ends = [end for e in estimates for end in (e.value, e.low, e.high) if end is not None]
    marks = _round_numbers([*exact, *ends] or [0.0, 1.0], most=5)
    return (marks[0], marks[-1]), marks


def _round_marks(last: int) -> list[float]:
    return [m for m in _round_numbers([0, last], most=6) if 1 <= m <= last and m == round(m)]


def _round_numbers(values: Sequence[float], *, most: int) -> list[float]:
    """Round numbers, evenly apart, that hold all values between the first and the last."""
    low, high = min(values), max(values)
    span = max(high - low, 0.1 * max(abs(low), abs(high), 0.1))
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(s * power for s in (1, 2, 5, 10, 20) if span <= (most - 1) * s * power)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [float(f"{place * step:.6g}") for place in range(first, last + 1)]


def _point(
    server_round: int, estimate: Estimate, *, last: int, ends: tuple[float, float]
) -> CurvePoint:
    def height(value: float | None) -> float | None:
        return None if value is None else _upright(value, ends)

    return CurvePoint(
        server_round=server_round,
        estimate=estimate,
        x=_lying(server_round, last),
        y=height(estimate.value),
        low=height(estimate.low),
        high=height(estimate.high),
    )


def _lying(server_round: float, last: int) -> float:
    return round(LEFT + (RIGHT - LEFT) * server_round / (last + 0.5), 2)


def _upright(value: float, ends: tuple[float, float]) -> float:
    low, high = ends
    return round(BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low), 2)


def _upward(fraction: float | None) -> float | None:
    if fraction is None:
        return None
    return round(PLOT_SIZE - across(fraction), 1)
