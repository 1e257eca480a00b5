"""Figures of comparisons as inline SVG: the same bytes for the same numbers, light and dark.

Colours are CSS variables of the page, so one drawing serves both schemes; text stays text, so it
can be searched, read aloud and takes the page's font. Meaning never rests on colour alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from server.intervals import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GROUPS_IN = 3.7
_INK, _MUTED, _MAIN, _SECOND = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _MAIN: "var(--main)",
    _SECOND: "var(--second)",
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vultus",
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "text.color": _INK,
    "xtick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.color": _MUTED,
    "ytick.labelcolor": _INK,
}


@dataclass(frozen=True)
class Dot:
    """One row of a dot plot.

    Attributes:
        label: Name of the group.
        estimate: Its figure, or None where nothing may be shown.
        words: What is written in place of a figure.
        truth: Exact figure, only in a simulation.
    """

    label: str
    estimate: Estimate | None
    words: str = ""
    truth: float | None = None


def plot_groups(
    dots: Sequence[Dot],
    *,
    name: str,
    label: str,
    reference: float | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
) -> str:
    """A metric by group: a dot with its interval, words where there is no figure.

    Args:
        dots: Groups from top to bottom.
        name: Unique on the page.
        label: The metric.
        reference: The figure of all groups together, drawn as a line.
        limits: Ends of the axis.
    """
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        figure, axes = _figure(_GROUPS_IN, 0.9 + 0.34 * len(dots))
        for row, dot in enumerate(dots):
            _draw_dot(axes, dot, row)
        if reference is not None:
            axes.axvline(reference, color=_MUTED, linewidth=1, linestyle=":", zorder=0)
        axes.set(title=label, xlim=limits, ylim=(len(dots) - 0.5, -0.5))
        axes.set_yticks(range(len(dots)), [dot.label for dot in dots])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=_MUTED, alpha=0.25, linewidth=0.6)
        return _svg(figure, name=name, alt=f"{label} by group with 95 % intervals")


def _figure(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _draw_dot(axes: Axes, dot: Dot, row: int) -> None:
    if dot.truth is not None:
        axes.plot(dot.truth, row, "D", color=_SECOND, markersize=6, fillstyle="none")
    if dot.estimate is None or dot.estimate.value is None:
        left = dot.truth is None or dot.truth > 0.5
        place, side = (0.02, "left") if left else (0.98, "right")
        axes.text(
            place, row, dot.words, color=_MUTED, ha=side, va="center", fontsize=9, style="italic"
        )
        return
    _draw_interval(axes, dot.estimate, row, vertical=False)
    axes.plot(dot.estimate.value, row, "o", color=_MAIN, markersize=7)


def _draw_interval(axes: Axes, estimate: Estimate, place: float, *, vertical: bool) -> None:
    if estimate.low is None or estimate.high is None:
        return
    draw = axes.vlines if vertical else axes.hlines
    known = estimate.value is not None
    draw(
        place,
        estimate.low,
        estimate.high,
        color=_MAIN if known else _MUTED,
        linewidth=2 if known else 1,
        linestyle="-" if known else ":",
    )


def _svg(figure: Figure, *, name: str, alt: str) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    blank = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # savefig would lay the figure out twice.
    FigureCanvasSVG(figure).print_svg(buffer, metadata=blank)  # type: ignore[no-untyped-call]
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    # One page holds several drawings: their ids must not meet.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
