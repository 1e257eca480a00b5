"""The fairness report of one evaluation: overall, by group, and how far groups lie apart.

The words are those of Fairlearn's MetricFrame. The report says what was measured and how sure it
is; what differences are acceptable is for people to decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from server.contrasts import Contrast, contrast_groups
from server.groups import BY_SITE, OVERALL, Cell, GroupMetrics, describe_group, suppressed_cells
from server.intervals import Estimate
from server.power import plan_power
from server.suppression import margins_of
from shared_models.tallies import GroupTally, largest_error, sum_tallies


@dataclass(frozen=True)
class FairnessReport:
    """Figures of all groups after one server round.

    Attributes:
        overall: All held-out subjects together.
        by_group: Each group of each attribute, also those of which nothing may be said.
        contrasts: Differences and ratios between groups, for attributes with two to compare.
        min_cell: Groups with fewer subjects, as noised, are suppressed.
        error_limit: Largest error counted, in points.
        by_site: Each group within each site, where the study asks for intersections and the
            coordinator sees the sites' own tallies: ``("site x sex", "north female")``.
        site_contrasts: Differences and ratios between the groups within a site.
    """

    overall: GroupMetrics
    by_group: tuple[GroupMetrics, ...]
    contrasts: tuple[Contrast, ...]
    min_cell: int
    error_limit: float
    by_site: tuple[GroupMetrics, ...] = ()
    site_contrasts: tuple[Contrast, ...] = ()

    @property
    def attributes(self) -> tuple[str, ...]:
        """Attributes in order of first appearance, without ``"overall"``."""
        return tuple(dict.fromkeys(group.attribute for group in self.by_group))

    def groups(self, attribute: str) -> tuple[GroupMetrics, ...]:
        """The groups of one attribute."""
        return tuple(group for group in self.by_group if group.attribute == attribute)

    def contrast(self, attribute: str, metric: str) -> Contrast | None:
        """The contrast of one metric, or None if fewer than two groups can be compared."""
        found = (c for c in self.contrasts if (c.attribute, c.metric) == (attribute, metric))
        return next(found, None)


def measure_fairness(
    tallies: Iterable[GroupTally],
    *,
    score_range: tuple[float, float, float],
    min_cell: int,
    expected: Iterable[Cell] = (),
) -> FairnessReport:
    """Fairness report of the sums of one evaluation.

    Args:
        tallies: Sums of each cell; tallies of the same cell are added. The caller relabels each
            site's overall tally as attribute ``"site"``.
        score_range: Lowest score, highest score and clinical threshold, in points.
        min_cell: Groups with fewer subjects, as noised, are suppressed.
        expected: Cells that were to be measured; those without a tally are ``not_reported``.
    """
    sums = sum_tallies(tallies)
    limit = largest_error(score_range)
    hidden = suppressed_cells(tuple(sums.values()), min_cell=min_cell)
    cells = dict.fromkeys((OVERALL, *expected, *sums))
    described = [describe_group(cell, sums, hidden=hidden, error_limit=limit) for cell in cells]
    described = _add_power(described, sums)
    within = tuple(group for group in described if group.attribute.startswith(BY_SITE))
    across = tuple(group for group in described[1:] if group not in within)
    return FairnessReport(
        described[0],
        across,
        tuple(_contrast(across, sums, limit)),
        min_cell,
        limit,
        within,
        tuple(_contrast(within, sums, limit)),
    )


def _contrast(
    groups: Iterable[GroupMetrics], sums: Mapping[Cell, GroupTally], limit: float
) -> Iterator[Contrast]:
    """Contrasts of each attribute; of groups within a site, of each attribute and site."""
    families: dict[tuple[str, str], list[GroupMetrics]] = {}
    for group in groups:
        own = group.attribute.startswith(BY_SITE)
        site = margins_of((group.attribute, group.group))[0][1] if own else ""
        families.setdefault((group.attribute, site), []).append(group)
    for family in families.values():
        yield from contrast_groups(family, sums, error_limit=limit)


def _add_power(
    described: Sequence[GroupMetrics], sums: Mapping[Cell, GroupTally]
) -> list[GroupMetrics]:
    """The groups, those whose count is shown with what it lets one know."""
    reference = described[0].metrics.get("auroc")
    auroc = reference.value if reference else None
    return [
        replace(group, power=plan_power(sums[group.attribute, group.group], auroc=auroc))
        if group.count
        else group
        for group in described
    ]


__all__ = ["OVERALL", "Contrast", "Estimate", "FairnessReport", "GroupMetrics", "measure_fairness"]
