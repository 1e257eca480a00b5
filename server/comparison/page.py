"""The comparison as one self-contained page; it loads nothing from anywhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from server.comparison.side_by_side import CONTRASTED, Column, SideBySide
from server.history import NOTICE
from server.intervals import Estimate
from server.models.entries import Figure
from server.plots import Dot, plot_groups
from server.report import ATTRIBUTES, LABELS, STATE_WORDS, format_epsilon, format_number

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN = ("auroc", "tpr", "fpr", "mae")
"""Metrics in the tables; ``--json`` holds all of them."""
IN_POINTS = frozenset({"mae", "rmse", "bias"})
_WORDS = {**STATE_WORDS, "not_measured": "not measured", "reported": "too few to say"}


def render_page(found: SideBySide) -> str:
    """HTML of the page, the same bytes for the same comparison."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("server"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=format_number, epsilon=format_epsilon)
    environment.globals.update(
        LABELS=LABELS, ATTRIBUTES=ATTRIBUTES, WORDS=_WORDS, digits=digits_of, sites=tell_sites
    )
    return environment.get_template("model_comparison.html.j2").render(
        found=found,
        metrics=SHOWN,
        contrasted=CONTRASTED,
        attributes=tuple(dict.fromkeys(row.attribute for row in found.groups)),
        drawings=draw_headlines(found.models),
        notice=NOTICE,
    )


def draw_headlines(models: Sequence[Column]) -> list[str]:
    """AUROC and mean absolute error of each judged model, the reference as a line."""
    drawings = []
    for metric in ("auroc", "mae"):
        dots = [
            Dot(
                f"model {model.number}",
                _estimate(model.figures.get(metric)),
                "not judged" if not model.is_judged else "withheld",
            )
            for model in models
        ]
        if any(dot.estimate for dot in dots):
            drawings.append(_draw(metric, dots))
    return drawings


def digits_of(metric: str) -> int:
    """Decimal places of a figure: errors are points, everything else is a fraction."""
    return 1 if metric in IN_POINTS else 2


def tell_sites(model: Column) -> str:
    """Sites with the rounds that each took part in, left out where that is every round."""
    last = model.server_round
    return ", ".join(
        site if parts == ((1, last),) else f"{site} (rounds {_rounds(parts)})"
        for site, parts in model.sites.items()
    )


def _rounds(parts: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{a} to {b}" if a < b else str(a) for a, b in parts)


def _draw(metric: str, dots: list[Dot]) -> str:
    ends = [
        end
        for dot in dots
        if dot.estimate
        for end in (dot.estimate.low, dot.estimate.high)
        if end is not None
    ] or [0.0, 1.0]
    limits = (0.4, 1.0) if min(ends) >= 0.4 else (0.0, 1.0)
    if metric in IN_POINTS:
        limits = (0.0, math.ceil(max(ends)) + 0.5)
    reference = dots[0].estimate.value if dots[0].estimate else None
    label = LABELS[metric] + (", points" if metric in IN_POINTS else "")
    return plot_groups(
        dots, name=f"models-{metric}", label=label, reference=reference, limits=limits
    )


def _estimate(figure: Figure | None) -> Estimate | None:
    return Estimate(figure.value, figure.low, figure.high) if figure else None
