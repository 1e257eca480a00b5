"""A fairness report in the shape of Fairlearn's MetricFrame, from noised sums instead of subjects.

Names and meaning are Fairlearn's: what works on one works on the other. Three things differ. A
figure that is withheld or too uncertain is None and :meth:`MetricFrame.states` says which; only
groups with a figure are compared; and intervals hold 95 % and stand beside every figure.

Source: Bird et al. 2020, Fairlearn; Weerts et al. 2023, arXiv:2303.16626.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from server.contrasts import Contrast
from server.fairness import FairnessReport
from server.groups import BY_SITE, METRICS, GroupMetrics, State
from server.intervals import Estimate
from server.suppression import margins_of

Row = dict[str, float | None]
Interval = tuple[float | None, float | None]
IntervalRow = dict[str, Interval]
Figures = Mapping[str, Estimate | None]

EQUALIZED_ODDS = "equalized_odds"

_Aspect = Literal["difference", "ratio", "lowest", "highest"]


@dataclass(frozen=True)
class _Level:
    """What is known within one level of the control feature, or of everybody.

    Attributes:
        overall: Everybody in it.
        groups: By name.
        contrasts: By metric.
    """

    overall: GroupMetrics
    groups: Mapping[str, GroupMetrics]
    contrasts: Mapping[str, Contrast]

    def compare(self, aspect: _Aspect) -> Figures:
        """One figure of the comparison of all groups, by metric."""
        return {
            name: getattr(self.contrasts[name], aspect) if name in self.contrasts else None
            for name in (*METRICS, EQUALIZED_ODDS)
        }


class MetricFrame:
    """Metrics of everybody and of each group, and how far groups lie apart.

    With a control feature, whatever is told of everybody is told of each of its levels: rows are
    then found by level, and groups by ``(level, group)``, as Fairlearn does.

    Args:
        report: The figures.
        sensitive_feature: Attribute whose groups are compared, such as ``"sex"``.
        control_feature: ``"site"`` to compare groups within each site.

    Raises:
        ValueError: If the report has no figures of the attribute, or none by site.
    """

    def __init__(
        self, report: FairnessReport, *, sensitive_feature: str, control_feature: str | None = None
    ) -> None:
        if control_feature not in (None, "site"):
            msg = f"Expected control_feature to be 'site' or None, got {control_feature!r}"
            raise ValueError(msg)
        if sensitive_feature not in report.attributes:
            msg = (
                f"Expected sensitive_feature to be one of {list(report.attributes)}, "
                f"got {sensitive_feature!r}"
            )
            raise ValueError(msg)
        self.sensitive_feature, self.control_feature = sensitive_feature, control_feature
        if control_feature is None:
            self._levels = {"": _whole(report, sensitive_feature)}
        else:
            self._levels = _by_site(report, sensitive_feature)

    @property
    def overall(self) -> Row | dict[str, Row]:
        """Each metric of everybody, by level where there is a control feature."""
        return self._rows({name: _metrics(level.overall) for name, level in self._levels.items()})

    @property
    def overall_ci(self) -> IntervalRow | dict[str, IntervalRow]:
        """Their 95 % intervals."""
        return self._ends({name: _metrics(level.overall) for name, level in self._levels.items()})

    @property
    def by_group(self) -> dict[str, Row] | dict[tuple[str, str], Row]:
        """Each metric of each group."""
        if self.control_feature is None:
            return {name: _values(_metrics(group)) for (_, name), group in self._members()}
        return {member: _values(_metrics(group)) for member, group in self._members()}

    @property
    def by_group_ci(self) -> dict[str, IntervalRow] | dict[tuple[str, str], IntervalRow]:
        """Their 95 % intervals."""
        if self.control_feature is None:
            return {name: _intervals(_metrics(group)) for (_, name), group in self._members()}
        return {member: _intervals(_metrics(group)) for member, group in self._members()}

    def states(self) -> dict[str, State] | dict[tuple[str, str], State]:
        """Of each group: ``reported``, or why it has no figures; see :class:`GroupMetrics`."""
        if self.control_feature is None:
            return {name: group.state for (_, name), group in self._members()}
        return {member: group.state for member, group in self._members()}

    def difference(self) -> Row | dict[str, Row]:
        """Largest difference between two groups, of each metric and of equalised odds."""
        return self._rows(self._compare("difference"))

    def difference_ci(self) -> IntervalRow | dict[str, IntervalRow]:
        """Their intervals, which hold for all pairs of groups at once."""
        return self._ends(self._compare("difference"))

    def ratio(self) -> Row | dict[str, Row]:
        """Lowest over highest value; None for metrics that have a sign."""
        return self._rows(self._compare("ratio"))

    def ratio_ci(self) -> IntervalRow | dict[str, IntervalRow]:
        """Their intervals."""
        return self._ends(self._compare("ratio"))

    def group_min(self) -> Row | dict[str, Row]:
        """Lowest value of the groups compared."""
        return self._rows(self._compare("lowest"))

    def group_min_ci(self) -> IntervalRow | dict[str, IntervalRow]:
        """Their intervals, which hold whichever group is the lowest in truth."""
        return self._ends(self._compare("lowest"))

    def group_max(self) -> Row | dict[str, Row]:
        """Highest value of the groups compared."""
        return self._rows(self._compare("highest"))

    def group_max_ci(self) -> IntervalRow | dict[str, IntervalRow]:
        """Their intervals, which hold whichever group is the highest in truth."""
        return self._ends(self._compare("highest"))

    def _compare(self, aspect: _Aspect) -> dict[str, Figures]:
        return {name: level.compare(aspect) for name, level in self._levels.items()}

    def _members(self) -> Iterable[tuple[tuple[str, str], GroupMetrics]]:
        for control, level in self._levels.items():
            for name, group in level.groups.items():
                yield (control, name), group

    def _rows(self, figures: Mapping[str, Figures]) -> Row | dict[str, Row]:
        if self.control_feature is None:
            return _values(figures[""])
        return {level: _values(row) for level, row in figures.items()}

    def _ends(self, figures: Mapping[str, Figures]) -> IntervalRow | dict[str, IntervalRow]:
        if self.control_feature is None:
            return _intervals(figures[""])
        return {level: _intervals(row) for level, row in figures.items()}


def _whole(report: FairnessReport, attribute: str) -> _Level:
    groups = {group.group: group for group in report.groups(attribute)}
    contrasts: dict[str, Contrast] = {
        c.metric: c for c in report.contrasts if c.attribute == attribute
    }
    return _Level(report.overall, groups, contrasts)


def _by_site(report: FairnessReport, attribute: str) -> dict[str, _Level]:
    table = BY_SITE + attribute
    if not any(group.attribute == table for group in report.by_site):
        msg = (
            f"Expected figures of {attribute} by site, got none: only a study in mode 'local' or "
            "'off' with fairness.intersections = true has them"
        )
        raise ValueError(msg)
    sites = {group.group: group for group in report.groups("site")}
    return {site: _within(report, site, table, overall) for site, overall in sites.items()}


def _within(report: FairnessReport, site: str, table: str, overall: GroupMetrics) -> _Level:
    own = {
        margins_of((table, group.group))[1][1]: group
        for group in report.by_site
        if group.attribute == table and _site_of(table, group.group) == site
    }
    contrasts: dict[str, Contrast] = {
        c.metric: c
        for c in report.site_contrasts
        if c.attribute == table and _site_of(table, c.group_min) == site
    }
    return _Level(overall, own, contrasts)


def _site_of(table: str, group: str) -> str:
    return margins_of((table, group))[0][1]


def _metrics(group: GroupMetrics) -> Figures:
    return {name: group.metrics.get(name) for name in METRICS}


def _values(figures: Figures) -> Row:
    return {name: estimate.value if estimate else None for name, estimate in figures.items()}


def _intervals(figures: Figures) -> IntervalRow:
    return {
        name: (estimate.low, estimate.high) if estimate else (None, None)
        for name, estimate in figures.items()
    }
