"""The comparison as one page, as numbers, and with a figure for a paper beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from server.history import NOTICE
from server.intervals import Estimate
from server.plots import Dot, plot_groups
from simulation.comparison.figure import ALONG, draw, has_epsilons, inline_svg, save_figure
from simulation.comparison.seeds import Comparison
from simulation.comparison.setting import Varied

PAGE, NUMBERS, FIGURE = "comparison.html", "comparison.json", "comparison.pdf"


def write_comparison(
    comparisons: Sequence[Comparison], folder: Path, *, varied: Varied | None = None
) -> Path:
    """Path of the page; the numbers and the figure, as PDF and PNG, lie beside it.

    Args:
        comparisons: One a setting, at least one.
        folder: Made if missing.
        varied: What differs between the settings; None for a single one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [comparison.to_json() for comparison in comparisons]
    (folder / NUMBERS).write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    figure = draw(comparisons, varied)
    for suffix in (".pdf", ".png"):
        save_figure(figure, (folder / FIGURE).with_suffix(suffix))
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
        figure=_inline(comparisons, varied),
        along=ALONG[varied or "epsilon"],
        left_out=any(row.name == "leave_one_site_out" for row in comparisons[0].rows),
        notice=NOTICE,
    )


def _draw(comparison: Comparison, place: int) -> list[str]:
    drawings = []
    for metric, label in (("auroc", "AUROC"), ("kept", "share of gain kept")):
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


def _inline(comparisons: Sequence[Comparison], varied: Varied | None) -> str:
    """The figure that lies beside the page, where it shows more than the panels of a setting do."""
    along = varied or "epsilon"
    if varied is None and not has_epsilons(comparisons[0]):
        return ""
    alt = f"AUROC, and its difference from pooled training, along {along}"
    return inline_svg(draw(comparisons, varied), name="along", alt=alt)


def _limits(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """Ends of an axis that holds every interval with a little air."""
    ends = [
        end for one in estimates for end in (one.value, one.low, one.high) if end is not None
    ] or [0.0, 1.0]
    air = max(0.01, 0.08 * (max(ends) - min(ends)))
    return min(ends) - air, max(ends) + air
