"""The heat map of groups: every figure beside that of all subjects, shaded by what is known.

A shade is strong only where the interval leaves out the figure of all subjects: colour that
follows points alone would paint noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from server.fairness import FairnessReport
from server.groups import GroupMetrics, State
from server.intervals import Estimate
from server.reporting.phrases import ATTRIBUTES, N_

Better = Literal["high", "low", "neither"]
Tone = Literal["none", "better", "worse", "differs"]
Side = Literal["", "higher", "lower"]

STRONG = (0.08, 0.16)
"""Distances from the figure of all subjects at which a shade becomes stronger, of the scale."""


class Column(NamedTuple):
    """A metric of the page.

    Attributes:
        metric: Its key.
        label: Its name.
        meaning: What it says, in a sentence.
        better: Which direction is better.
        low: Lower end of its axis.
        high: Upper end of its axis; None for the largest error counted.
        digits: Decimals shown.
    """

    metric: str
    label: str
    meaning: str
    better: Better
    low: float
    high: float | None
    digits: int


COLUMNS: tuple[Column, ...] = (
    Column(
        "auroc",
        N_("AUROC"),
        N_(
            "how often a subject at or above the threshold is ranked above one below it; "
            "0.5 is chance"
        ),
        "high",
        0,
        1,
        2,
    ),
    Column("tpr", N_("TPR"), N_("of those at or above the threshold, flagged"), "high", 0, 1, 2),
    Column("fpr", N_("FPR"), N_("of those below the threshold, flagged"), "low", 0, 1, 2),
    Column("ppv", N_("PPV"), N_("of those flagged, at or above the threshold"), "high", 0, 1, 2),
    Column("selection_rate", N_("Selection"), N_("of all, flagged"), "neither", 0, 1, 2),
    Column("mae", N_("MAE"), N_("mean size of the error, in points"), "low", 0, None, 1),
    Column("bias", N_("Bias"), N_("predicted minus recorded, in points"), "neither", -1, None, 1),
    Column(
        "calibration_slope",
        N_("Slope"),
        N_("calibration slope; 1 is right, below 1 is too sure"),
        "neither",
        0,
        2,
        2,
    ),
    Column(
        "ece",
        N_("ECE"),
        N_("mean distance of promised from observed probability"),
        "low",
        0,
        1,
        2,
    ),
)


@dataclass(frozen=True)
class HeatCell:
    """One figure of one group.

    Attributes:
        column: The metric.
        estimate: The figure; None where it was not measured.
        tone: Better or worse than all subjects together, or neither.
        strength: 0 where the interval holds the figure of all subjects, else 1 to 3 by distance.
        side: Where the interval lies, if it leaves out the figure of all subjects.
    """

    column: Column
    estimate: Estimate | None
    tone: Tone = "none"
    strength: int = 0
    side: Side = ""


@dataclass(frozen=True)
class HeatRow:
    """One group.

    Attributes:
        attribute: What it is a group of.
        group: Its name.
        state: What may be said of it.
        count: Subjects, as noised; None where withheld or unknown.
        count_noise: Standard deviation of the noise in the count.
        cells: One a column; empty where nothing may be said.
        source: The group itself, for what else is known of it.
    """

    attribute: str
    group: str
    state: State
    count: int | None
    count_noise: float
    cells: tuple[HeatCell, ...]
    source: GroupMetrics


def shown_columns(final: FairnessReport) -> tuple[Column, ...]:
    """The metrics that any group of a report has."""
    present = {m for group in (final.overall, *final.by_group) for m in group.metrics}
    return tuple(column for column in COLUMNS if column.metric in present)


def axis_of(column: Column, final: FairnessReport) -> tuple[float, float]:
    """Ends of a metric's axis."""
    high = final.error_limit if column.high is None else column.high
    return column.low * high if column.low < 0 else column.low, high


def ordered(final: FairnessReport) -> tuple[str, ...]:
    """The attributes of a report, known ones first and always in the same order."""
    known = [attribute for attribute in ATTRIBUTES if attribute in final.attributes]
    return (*known, *(a for a in final.attributes if a not in ATTRIBUTES))


def heat_rows(final: FairnessReport, attribute: str) -> tuple[HeatRow, ...]:
    """Groups of an attribute, each figure beside that of all subjects together."""
    return tuple(heat_row(group, final) for group in final.groups(attribute))


def heat_row(group: GroupMetrics, final: FairnessReport) -> HeatRow:
    """One group, or all subjects together, in which nothing stands out."""
    cells = tuple(_cell(column, group, final) for column in shown_columns(final))
    return HeatRow(
        attribute=group.attribute,
        group=group.group,
        state=group.state,
        count=group.count,
        count_noise=group.count_noise,
        cells=cells if group.metrics else (),
        source=group,
    )


def figure_of(group: GroupMetrics, metric: str) -> Estimate | None:
    """The figure of a group by the name of its metric; None where it was not measured."""
    return next((e for name, e in group.metrics.items() if name == metric), None)


def _cell(column: Column, group: GroupMetrics, final: FairnessReport) -> HeatCell:
    estimate, total = figure_of(group, column.metric), figure_of(final.overall, column.metric)
    if group is final.overall or not estimate or not total:
        return HeatCell(column, estimate)
    side = _side(estimate, total)
    if estimate.value is None or total.value is None or not side:
        return HeatCell(column, estimate)
    low, high = axis_of(column, final)
    distance = abs(estimate.value - total.value) / (high - low)
    strength = 1 + sum(distance >= limit for limit in STRONG)
    return HeatCell(column, estimate, _tone(column.better, side), strength, side)


def _side(estimate: Estimate, total: Estimate) -> Side:
    if estimate.low is None or estimate.high is None or total.value is None:
        return ""
    if estimate.low > total.value:
        return "higher"
    return "lower" if estimate.high < total.value else ""


def _tone(better: Better, side: Side) -> Tone:
    if better == "neither":
        return "differs"
    return "better" if (better == "high") == (side == "higher") else "worse"
