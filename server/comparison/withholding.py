"""What may not be shown side by side: two reports can tell together what neither tells alone.

Each report withholds small groups by itself. Put beside another one it can still give them away: a
group that is withheld here and shown there, or a site that is in one run and not in the other,
whose subjects are then one total minus the other.

Guarantees:
    A comparison shows a cell only if every compared report that measured it shows it, and no
    report is left with a single withheld group of an attribute. It shows no cell for which a sum of
    compared reports, each taken plus, minus or not at all, isolates a set of sites with fewer than
    ``min_cell`` subjects in that cell, as noised. All decisions follow from published counts and
    cost no privacy. Not covered: the reports themselves, where they are published one by one;
    subjects who joined or left a site between two runs with noise, whom the noise alone protects;
    sums of secure tallies whose senders differ from the sites that trained in the round.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from server.comparison.contenders import Contender
from server.groups import OVERALL, Cell, GroupMetrics

Reason = Literal["suppressed", "differencing"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Published:
    """What one report publishes of its counts.

    Attributes:
        sites: Sites whose subjects are counted.
        cells: Every cell of the report.
        min_cell: Groups with fewer subjects, as noised, are suppressed there.
    """

    sites: frozenset[str]
    cells: Mapping[Cell, GroupMetrics]
    min_cell: int

    @classmethod
    def of(cls, contender: Contender) -> Published:
        """What the report of a model publishes."""
        cells = {(group.attribute, group.group): group for group in contender.groups}
        return cls(contender.counted_sites, cells, contender.run.report.min_cell)

    def count(self, cell: Cell) -> float:
        """Subjects of a cell, as noised; nan where the report gives none."""
        group = self.cells.get(cell)
        return np.nan if group is None or group.count is None else float(group.count)


def withheld_cells(contenders: Sequence[Contender]) -> dict[Cell, Reason]:
    """Cells that a comparison of these models must not show, and why."""
    reports = [Published.of(one) for one in contenders if one.fairness is not None]
    cells = list(dict.fromkeys(cell for report in reports for cell in report.cells))
    hidden: dict[Cell, Reason] = {
        cell: "suppressed"
        for cell in cells
        if any(_state(report, cell) == "suppressed" for report in reports)
    }
    hidden |= dict.fromkeys(isolated_cells(reports, cells), "differencing")
    for attribute in dict.fromkeys(attribute for attribute, _ in cells if attribute != OVERALL[0]):
        hidden |= _complete(reports, [cell for cell in cells if cell[0] == attribute], hidden)
    return hidden


def isolated_cells(reports: Sequence[Published], cells: Sequence[Cell]) -> list[Cell]:
    """Cells whose counts, added and subtracted over reports, give those of too few subjects.

    Args:
        reports: At most :data:`~server.comparison.contenders.MOST`.
        cells: The cells to look at.
    """
    if len(reports) < 2:
        return []
    sites = sorted(frozenset().union(*(report.sites for report in reports)))
    inside = np.array([[site in report.sites for site in sites] for report in reports], dtype=float)
    signs = np.array(list(itertools.product((-1, 0, 1), repeat=len(reports))), dtype=float)
    signs = signs[np.count_nonzero(signs, axis=1) >= 2]
    least = max(report.min_cell for report in reports)
    return [
        cell
        for cell in cells
        if cell[0] != "site" and _isolates(reports, cell, signs, signs @ inside, least)
    ]


def _isolates(
    reports: Sequence[Published], cell: Cell, signs: Floats, sums: Floats, least: int
) -> bool:
    """Whether some signed sum of this cell's counts tells of fewer than ``least`` subjects."""
    counts = np.array([report.count(cell) for report in reports])
    known = np.isfinite(counts)
    usable = ~signs[:, ~known].any(axis=1)
    totals = signs[usable] @ np.where(known, counts, 0.0)
    sums = sums[usable]
    times = sums.max(axis=1, initial=0.0)
    # A set of sites, each counted equally often, and no other site: what is left is their subjects.
    is_set = (times > 0) & np.all((sums == 0) | (sums == times[:, None]), axis=1)
    if np.any(totals[is_set] < least * times[is_set]):
        return True
    if any(report.cells[cell].count_noise for report in reports if cell in report.cells):
        return False
    # Without noise the same sites at two times give the number of those who joined between.
    rest = np.abs(totals[~sums.any(axis=1)])
    return bool(np.any((rest > 0) & (rest < least)))


def _complete(
    reports: Sequence[Published], cells: Sequence[Cell], hidden: Mapping[Cell, Reason]
) -> dict[Cell, Reason]:
    """Further cells of one attribute, so that no report is left with a single withheld one."""
    more: dict[Cell, Reason] = {}
    while lone := [r for r in reports if _is_lone(r, cells, {*hidden, *more})]:
        shown = [c for c in cells if c not in hidden and c not in more]
        known = {c: lone[0].count(c) for c in shown if lone[0].count(c) > 0}
        if not known:
            break
        more[min(known, key=lambda cell: known[cell])] = "differencing"
    return more


def _is_lone(report: Published, cells: Sequence[Cell], hidden: set[Cell]) -> bool:
    counted = [c for c in cells if _state(report, c) not in {None, "zero", "not_reported"}]
    return len(counted) > 1 and sum(cell in hidden for cell in counted) == 1


def _state(report: Published, cell: Cell) -> str | None:
    group = report.cells.get(cell)
    return group.state if group else None
