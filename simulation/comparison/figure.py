"""The comparison as a figure for a paper: AUROC, and beside it the paired differences.

Cohorts differ more than ways of training do, so intervals of AUROC overlap even where every cohort
agrees; the difference from pooled training, cohort by cohort, takes that out.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from server.intervals import Estimate
from simulation.comparison.seeds import Comparison, Row
from simulation.comparison.setting import POOLED, Varied

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Lines = Mapping[str, Sequence[tuple[float, Estimate]]]
Metric = Literal["auroc", "gain"]

METRICS: tuple[tuple[Metric, str], ...] = (
    ("auroc", "AUROC"),
    ("gain", "AUROC minus that of pooled training"),
)
PNG_DPI = 200
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C510A")
"""Told apart with any colour vision. Source: Okabe and Ito 2008, and a brown."""
_MARKS = "osD^vP*X"
_DASHES = ("--", ":", "-.", (0, (6, 1)))
_STYLE: Any = {
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "lines.markersize": 4.5,
    "lines.linewidth": 1.2,
}
ALONG = {
    "sites": "sites",
    "subjects": "subjects at each site",
    "rounds": "rounds of training",
    "heterogeneity": "differences between sites (1: as described)",
    "epsilon": "epsilon",
}


def draw_ways(comparison: Comparison) -> Figure:
    """One setting: each way of training with its 95 % intervals over cohorts.

    Several epsilons become a curve, with what needs no epsilon as level lines.
    """
    if has_epsilons(comparison):
        lines = {metric: epsilon_lines(comparison, metric) for metric, _ in METRICS}
        levels = {row.label for row in comparison.rows if row.target_epsilon is None}
        return _draw_lines(lines, along="epsilon", levels=levels)
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        rows = comparison.rows
        figure, panels = _panels(height_in=0.9 + 0.24 * len(rows), share_y=True)
        for axes, (metric, label) in zip(panels, METRICS, strict=True):
            shown = [row for row in rows if metric != "gain" or not _is_reference(row)]
            for row in shown:
                _mark(axes, getattr(row, metric), rows.index(row))
            axes.set(title=label, ylim=(len(rows) - 0.5, -0.5))
            axes.grid(axis="x", color="0.9", linewidth=0.6)
            axes.set_axisbelow(True)
        panels[0].set_yticks(range(len(rows)), [row.label for row in rows])
        panels[1].axvline(0, color="0.4", linewidth=0.8)
        for axes in panels:
            axes.tick_params(axis="y", length=0)
        return figure


def has_epsilons(comparison: Comparison) -> bool:
    """Whether there are several epsilons, so that there is something along which to draw."""
    return len({row.target_epsilon for row in comparison.rows if row.target_epsilon}) > 1


def draw_sweep(comparisons: Sequence[Comparison], varied: Varied) -> Figure:
    """Several settings: each way of training along what varies, with 95 % intervals."""
    return _draw_lines({m: lines_along(comparisons, varied, m) for m, _ in METRICS}, along=varied)


def draw(comparisons: Sequence[Comparison], varied: Varied | None = None) -> Figure:
    """The figure of a comparison: of one setting, or along what varies."""
    return draw_sweep(comparisons, varied) if varied else draw_ways(comparisons[0])


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure; the same figure gives the same bytes.

    Args:
        figure: What to write.
        path: ``.pdf``, with text as text, or ``.png``.
    """
    import matplotlib as mpl

    # A date would differ each time.
    blank = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
    with mpl.rc_context(_STYLE):
        figure.savefig(path, dpi=PNG_DPI, metadata=blank)


def inline_svg(figure: Figure, *, name: str, alt: str) -> str:
    """The figure as a drawing within a page, in the page's own font and ink.

    Args:
        figure: What to draw.
        name: Unique on the page: ids of several drawings must not meet.
        alt: What a screen reader says.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    blank = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.patch.set_alpha(0)
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "vultus"}):
        figure.savefig(buffer, format="svg", metadata=blank)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    for colour, variable in (("#000000", "--ink"), ("#ffffff", "--card"), ("#e6e6e6", "--line")):
        svg = svg.replace(colour, f"var({variable})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)


def lines_along(comparisons: Sequence[Comparison], varied: Varied, metric: str) -> Lines:
    """Points of each way along what varies between the settings."""
    return {
        row.label: [
            (float(getattr(c.setting, varied)), getattr(c.rows[place], metric)) for c in comparisons
        ]
        for place, row in enumerate(comparisons[0].rows)
    }


def epsilon_lines(comparison: Comparison, metric: str) -> Lines:
    """Points of each private way along epsilon; the other ways at every epsilon alike."""
    targets = sorted({row.target_epsilon for row in comparison.rows if row.target_epsilon})
    lines: dict[str, list[tuple[float, Estimate]]] = {}
    for row in comparison.rows:
        estimate = getattr(row, metric)
        if row.target_epsilon is None:
            level = Estimate(estimate.value, None, None)
            lines[row.label] = [(target, level) for target in targets]
        else:
            lines.setdefault(row.label.partition(",")[0], []).append((row.target_epsilon, estimate))
    return {label: sorted(points, key=lambda point: point[0]) for label, points in lines.items()}


def _draw_lines(
    lines: Mapping[Metric, Lines], *, along: str, levels: Collection[str] = ()
) -> Figure:
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        figure, panels = _panels(height_in=3.0, share_y=False)
        for axes, (metric, label) in zip(panels, METRICS, strict=True):
            known = {
                way: points
                for way, points in lines[metric].items()
                if any(estimate.value is not None for _, estimate in points)
            }
            if metric == "gain":
                known.pop(POOLED.label, None)
            _draw_panel(axes, known, levels=levels, order=list(lines["auroc"]))
            axes.set(title=label, xlabel=ALONG[along])
        panels[1].axhline(0, color="0.4", linewidth=0.8, zorder=0)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7)
        return figure


def _draw_panel(axes: Axes, lines: Lines, *, levels: Collection[str], order: Sequence[str]) -> None:
    """One metric, each way in the colour of its place among all ways."""
    values = sorted({x for points in lines.values() for x, _ in points})
    # Even steps: 1, 3 and 8, or 10, 100 and 1 000, would crowd together on a straight axis.
    place_of = {value: place for place, value in enumerate(values)}
    curves = [way for way in lines if way not in levels]
    for way, points in lines.items():
        known = [(place_of[x], e) for x, e in points if e.value is not None]
        number = order.index(way)
        colour = _COLOURS[number % len(_COLOURS)]
        if way in levels:
            dashes = _DASHES[number % len(_DASHES)]
            axes.axhline(known[0][1].value or 0.0, color=colour, linestyle=dashes, label=way)
            continue
        # Side by side, or intervals of ways that are alike would hide one another.
        beside = 0.05 * (curves.index(way) - (len(curves) - 1) / 2)
        axes.errorbar(
            [x + beside for x, _ in known],
            [e.value or 0.0 for _, e in known],
            yerr=_arms([e for _, e in known]),
            color=colour,
            marker=_MARKS[number % len(_MARKS)],
            elinewidth=0.9,
            capsize=1.5,
            label=way,
        )
    axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def _panels(*, height_in: float, share_y: bool) -> tuple[Figure, tuple[Axes, Axes]]:
    """Two panels in the width of a page's text."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, height_in), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=share_y)
    return figure, (left, right)


def _mark(axes: Axes, estimate: Estimate, place: int) -> None:
    if estimate.value is not None:
        axes.errorbar(
            estimate.value, place, xerr=_arms([estimate]), marker="o", color=_COLOURS[0], capsize=2
        )


def _arms(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Lengths of the intervals below and above; 0 where there is none."""
    known = [(e.value or 0.0, e.low, e.high) for e in estimates]
    below = [0.0 if low is None else value - low for value, low, _ in known]
    above = [0.0 if high is None else high - value for value, _, high in known]
    return [below, above]


def _is_reference(row: Row) -> bool:
    return row.label == POOLED.label
