"""What may be said of each group: measured, too uncertain, withheld, empty or missing.

These are five different things from the sums to the page: a withheld group is not an empty one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from server.calibration import calibration_slope, ece
from server.intervals import Estimate, Rate, auroc, mean_error, rate
from server.power import Power
from server.suppression import hide_cells
from shared_models.tallies import GroupTally

Metric = Literal[
    "auroc",
    "tpr",
    "fpr",
    "selection_rate",
    "ppv",
    "mae",
    "rmse",
    "bias",
    "calibration_slope",
    "ece",
]
State = Literal["reported", "too_few", "suppressed", "zero", "not_reported"]
Cell = tuple[str, str]

METRICS: tuple[Metric, ...] = get_args(Metric)
OVERALL: Cell = ("overall", "all")
BY_SITE = "site x "
"""How attributes begin whose groups are those of another one within a site."""

_FROM_HISTOGRAMS = {"auroc": auroc, "calibration_slope": calibration_slope, "ece": ece}


@dataclass(frozen=True)
class GroupMetrics:
    """What may be said of one group.

    Attributes:
        attribute: ``"overall"``, ``"age_band"``, ``"sex"``, ``"age_band x sex"`` or ``"site"``.
        group: Name of the group.
        state: ``reported``; ``too_few``: measured, but too uncertain for AUROC, TPR and FPR;
            ``suppressed``: withheld to protect its subjects; ``zero``: known to have no subjects;
            ``not_reported``: was to be measured, but no sums came in.
        count: Subjects, as noised and rounded; None where withheld or unknown.
        count_noise: Standard deviation of the noise in the count.
        metrics: Estimates by metric; empty where withheld or unknown.
        power: What its size lets one know; None where withheld, empty or unknown.
    """

    attribute: str
    group: str
    state: State
    count: int | None
    count_noise: float
    metrics: dict[Metric, Estimate]
    power: Power | None = None


def suppressed_cells(tallies: Sequence[GroupTally], *, min_cell: int) -> frozenset[Cell]:
    """Cells to withhold: small ones, and others without which a small one could be worked out.

    An exact zero is no small cell: nobody is in it.

    Guarantees:
        Total minus the published groups of an attribute is never the count of a single group, nor
        of fewer than ``min_cell`` subjects as noised, where every subject is in a group; nor is a
        row or column of a table of two attributes minus its published cells. The decision follows
        from the noised counts alone and therefore costs no privacy. Not covered: subjects of no
        declared group are no cell; without noise (mode ``off``) the total minus all groups gives
        their number.
    """
    counts = {(t.attribute, t.group): t.count for t in tallies if not _is_zero(t)}
    return hide_cells(counts, min_cell=min_cell)


def describe_group(
    cell: Cell,
    sums: Mapping[Cell, GroupTally],
    *,
    hidden: frozenset[Cell],
    error_limit: float,
) -> GroupMetrics:
    """What may be said of one cell."""
    tally = sums.get(cell)
    if tally is None:
        return GroupMetrics(*cell, "not_reported", None, 0.0, {})
    noise = tally.noise_stddev * (2 * tally.bins) ** 0.5
    if cell in hidden:
        return GroupMetrics(*cell, "suppressed", None, noise, {})
    if _is_zero(tally):
        return GroupMetrics(*cell, "zero", 0, noise, {})
    metrics = {metric: measure(tally, metric, error_limit=error_limit) for metric in METRICS}
    usable = any(metrics[metric].value is not None for metric in ("auroc", "tpr", "fpr"))
    state: State = "reported" if usable else "too_few"
    return GroupMetrics(*cell, state, max(round(tally.count), 0), noise, metrics)


def measure(
    tally: GroupTally, metric: Metric, *, error_limit: float, confidence: float = 0.95
) -> Estimate:
    """Estimate of any metric; errors in points, a slope, everything else a fraction."""
    if metric in _FROM_HISTOGRAMS:
        return _FROM_HISTOGRAMS[metric](tally, confidence=confidence)
    if metric == "mae" or metric == "bias" or metric == "rmse":  # noqa: PLR1714 - narrows the type
        return mean_error(tally, metric, error_limit=error_limit, confidence=confidence)
    return rate(tally, cast(Rate, metric), confidence=confidence)


def _is_zero(tally: GroupTally) -> bool:
    return tally.noise_stddev == 0 and tally.count == 0
