"""The comparison as one page, as numbers, and as a figure for a paper."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from server.history import NOTICE
from server.intervals import Estimate
from server.plots import Dot, plot_groups, plot_lines
from simulation.comparison.seeds import Comparison
from simulation.comparison.setting import Varied

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE, NUMBERS, FIGURE = "comparison.html", "comparison.json", "comparison.pdf"


def write_comparison(
    comparisons: Sequence[Comparison], folder: Path, *, varied: Varied | None = None
) -> Path:
    """Path of the page; the numbers and a vector figure lie beside it.

    Args:
        comparisons: One a setting, at least one.
        folder: Made if missing.
        varied: What differs between the settings; None for a single one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [comparison.to_json() for comparison in comparisons]
    (folder / NUMBERS).write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    _save_figure(comparisons, folder / FIGURE, varied=varied)
    page = folder / PAGE
    page.write_text(render_comparison(comparisons, varied=varied), encoding="utf-8")
    return page


def render_comparison(comparisons: Sequence[Comparison], *, varied: Varied | None = None) -> str:
    """HTML of the page; it loads nothing from anywhere."""
    import jinja2

    loader = jinja2.ChoiceLoader(
        [jinja2.PackageLoader("simulation.comparison"), jinja2.PackageLoader("server")]
    )
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("comparison.html.j2").render(
        comparisons=comparisons,
        first=comparisons[0],
        drawings=[_draw(c, place) for place, c in enumerate(comparisons)],
        sweeps=_draw_sweep(comparisons, varied) if varied else [],
        along=varied,
        left_out=any(row.name == "leave_one_site_out" for row in comparisons[0].rows),
        notice=NOTICE,
    )


def _draw(comparison: Comparison, place: int) -> list[str]:
    drawings = []
    for metric, label in (("auroc", "AUROC"), ("kept", "share of the pooled gain")):
        dots = [Dot(row.label, getattr(row, metric)) for row in comparison.rows]
        pooled = dots[0].estimate
        drawings.append(
            plot_groups(
                dots,
                name=f"ways-{place}-{metric}",
                label=label,
                reference=pooled.value if pooled else None,
                limits=_limits([dot.estimate for dot in dots if dot.estimate]),
            )
        )
    return drawings


def _draw_sweep(comparisons: Sequence[Comparison], varied: Varied) -> list[str]:
    return [
        plot_lines(
            _lines(comparisons, varied, metric), name=f"along-{metric}", label=label, along=varied
        )
        for metric, label in (("auroc", "AUROC"), ("kept", "share of the pooled gain"))
    ]


def _lines(
    comparisons: Sequence[Comparison], varied: Varied, metric: str
) -> dict[str, list[tuple[float, Estimate]]]:
    return {
        row.label: [
            (float(getattr(c.setting, varied)), getattr(c.rows[place], metric)) for c in comparisons
        ]
        for place, row in enumerate(comparisons[0].rows)
    }


def _limits(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """Ends of an axis that holds every interval with a little air."""
    ends = [
        end for one in estimates for end in (one.value, one.low, one.high) if end is not None
    ] or [0.0, 1.0]
    air = max(0.01, 0.08 * (max(ends) - min(ends)))
    return min(ends) - air, max(ends) + air


def _save_figure(comparisons: Sequence[Comparison], path: Path, *, varied: Varied | None) -> None:
    """A vector figure with text as text, of one column's width."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Without a date the same numbers give the same bytes.
    with mpl.rc_context({"pdf.fonttype": 42, "font.size": 8}):
        figure = Figure(figsize=(5.5, 3.0), layout="constrained")
        axes = figure.add_subplot()
        if varied is None:
            rows = comparisons[0].rows
            for place, row in enumerate(rows):
                _mark(axes, row.auroc, place)
            axes.set_yticks(range(len(rows)), [row.label for row in rows])
            axes.invert_yaxis()
            axes.set_xlabel("AUROC, mean over cohorts with 95 % interval")
        else:
            for label, points in _lines(comparisons, varied, "auroc").items():
                known = [(x, e.value, _half(e)) for x, e in points if e.value is not None]
                axes.errorbar(
                    [x for x, _, _ in known],
                    [value for _, value, _ in known],
                    yerr=[half for _, _, half in known],
                    label=label,
                    marker="o",
                    capsize=2,
                )
            axes.set(xlabel=varied, ylabel="AUROC")
            axes.legend(frameon=False, fontsize=7)
        figure.savefig(path, metadata={"CreationDate": None})


def _mark(axes: Axes, estimate: Estimate, place: int) -> None:
    if estimate.value is not None:
        axes.errorbar(
            estimate.value, place, xerr=_half(estimate), marker="o", color="black", capsize=2
        )


def _half(estimate: Estimate) -> float:
    if estimate.value is None or estimate.high is None:
        return 0.0
    return estimate.high - estimate.value
