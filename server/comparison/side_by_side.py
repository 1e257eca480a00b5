"""Models side by side: everything that table, page and ``--json`` show, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from server.comparison.contenders import Contender
from server.comparison.differences import HEADLINES, Difference, subtract
from server.comparison.joint import JointPrivacy, join_privacy
from server.comparison.limits import state_limits
from server.comparison.withholding import Reason, withheld_cells
from server.contrasts import Contrast
from server.groups import OVERALL, Cell
from server.intervals import Estimate
from server.models.entries import Figure, PrivacyTerms

CONTRASTED = ("auroc", "tpr", "fpr", "equalized_odds", "mae")
"""Metrics whose differences between groups are shown."""


@dataclass(frozen=True)
class Column:
    """What is said of one model.

    Attributes:
        number: Of the model.
        run: The run that made it.
        run_status: How the run ended.
        server_round: Round that made it.
        rounds: Rounds that the study asks for.
        is_current: Whether it is the coordinator's current model.
        study: Name of the study.
        instrument: What is predicted.
        score_range: Lowest score, highest score and threshold, in points.
        sites: First and last round of each stretch in which a site took part, by site.
        missing: Answers that did not come in time, up to its round.
        refusals: Refusals by sites, up to its round.
        privacy: What the run reveals.
        tally_epsilon: What held-out subjects paid at most, for figures; None without privacy.
        weights_digest: SHA-256 of the weights.
        consortium_digest: SHA-256 of the study file.
        is_judged: Whether it was evaluated.
        figures: Of all held-out subjects, by metric; empty if withheld or not judged.
    """

    number: int
    run: str
    run_status: str
    server_round: int
    rounds: int
    is_current: bool
    study: str
    instrument: str
    score_range: tuple[float, float, float]
    sites: dict[str, tuple[tuple[int, int], ...]]
    missing: int
    refusals: int
    privacy: PrivacyTerms
    tally_epsilon: float | None
    weights_digest: str
    consortium_digest: str
    is_judged: bool
    figures: dict[str, Figure]


@dataclass(frozen=True)
class GroupCell:
    """What one model's report says of a group.

    Attributes:
        state: As in the report; ``withheld`` for every model if it is for one; ``not_measured``
            where the model was not judged on groups, or not on this one.
        figures: By metric.
    """

    state: str
    figures: dict[str, Figure]


@dataclass(frozen=True)
class GroupRow:
    """A group under all models.

    Attributes:
        attribute: What groups are formed by.
        group: Name of the group.
        withheld: Why it is withheld; None if it is not.
        cells: One a model.
    """

    attribute: str
    group: str
    withheld: Reason | None
    cells: tuple[GroupCell, ...]


@dataclass(frozen=True)
class ContrastCell:
    """How far the groups lie apart under one model.

    Attributes:
        lowest: Group with the lowest value.
        highest: Group with the highest value.
        groups: How many groups were compared.
        difference: Highest minus lowest, with an interval that holds for all pairs.
    """

    lowest: str
    highest: str
    groups: int
    difference: Estimate


@dataclass(frozen=True)
class ContrastRow:
    """A difference between groups under all models; None where a model has none to show."""

    attribute: str
    metric: str
    cells: tuple[ContrastCell | None, ...]


@dataclass(frozen=True)
class SideBySide:
    """A comparison of registered models.

    Attributes:
        models: The models; the first is the reference.
        differences: Of each other model's headline figures from the reference's.
        groups: Every group that a report names.
        contrasts: Differences between groups.
        together: What all runs reveal together; None for one run, or sites that were not in all.
        limits: What may not be concluded.
        is_withheld: Whether figures of all subjects are withheld too; the first limit says why.
    """

    models: tuple[Column, ...]
    differences: tuple[Difference, ...]
    groups: tuple[GroupRow, ...]
    contrasts: tuple[ContrastRow, ...]
    together: JointPrivacy | None
    limits: tuple[str, ...]
    is_withheld: bool

    def to_json(self) -> dict[str, object]:
        """Plain values, for ``--json``."""
        return asdict(self)


def set_side_by_side(contenders: Sequence[Contender]) -> SideBySide:
    """The comparison of these models, the first being the reference."""
    hidden = withheld_cells(contenders)
    reference = contenders[0]
    shown = OVERALL not in hidden
    found = [
        subtract(metric, one, reference) for one in contenders[1:] for metric in HEADLINES if shown
    ]
    return SideBySide(
        models=tuple(_column(one, shown=shown) for one in contenders),
        differences=tuple(difference for difference in found if difference),
        groups=_group_rows(contenders, hidden),
        contrasts=_contrast_rows(contenders, hidden),
        together=join_privacy(contenders),
        limits=state_limits(contenders, hidden),
        is_withheld=not shown,
    )


def _column(contender: Contender, *, shown: bool) -> Column:
    entry, report = contender.entry, contender.run.report
    rounds = [one for one in report.rounds if one.server_round <= entry.server_round]
    return Column(
        number=entry.number,
        run=entry.run,
        run_status=entry.run_status,
        server_round=entry.server_round,
        rounds=entry.rounds,
        is_current=contender.is_current,
        study=entry.study,
        instrument=entry.instrument,
        score_range=entry.score_range,
        sites=entry.sites,
        missing=sum(len(one.missing) for one in rounds),
        refusals=sum(len(one.refusals) for one in rounds),
        privacy=entry.privacy,
        tally_epsilon=report.fairness_epsilon,
        weights_digest=entry.weights_digest,
        consortium_digest=entry.consortium_digest,
        is_judged=contender.fairness is not None,
        figures=dict(entry.overall) if shown else {},
    )


def _group_rows(
    contenders: Sequence[Contender], hidden: Mapping[Cell, Reason]
) -> tuple[GroupRow, ...]:
    cells = dict.fromkeys(
        (group.attribute, group.group)
        for one in contenders
        for group in one.groups
        if (group.attribute, group.group) != OVERALL
    )
    return tuple(
        GroupRow(
            *cell, hidden.get(cell), tuple(_group_cell(one, cell, hidden) for one in contenders)
        )
        for cell in cells
    )


def _group_cell(contender: Contender, cell: Cell, hidden: Mapping[Cell, Reason]) -> GroupCell:
    for group in contender.entry.evaluation:
        if (group.attribute, group.group) == cell:
            if cell in hidden:
                return GroupCell("withheld", {})
            return GroupCell(group.state, group.figures)
    return GroupCell("not_measured", {})


def _contrast_rows(
    contenders: Sequence[Contender], hidden: Mapping[Cell, Reason]
) -> tuple[ContrastRow, ...]:
    found = [
        {(c.attribute, c.metric): c for c in one.fairness.contrasts} if one.fairness else {}
        for one in contenders
    ]
    names = dict.fromkeys(
        name for contrasts in found for name in contrasts if name[1] in CONTRASTED
    )
    rows = [
        ContrastRow(
            *name, tuple(_contrast_cell(contrasts.get(name), hidden) for contrasts in found)
        )
        for name in names
    ]
    return tuple(row for row in rows if any(row.cells))


def _contrast_cell(contrast: Contrast | None, hidden: Mapping[Cell, Reason]) -> ContrastCell | None:
    """What may be shown of a contrast: nothing if a withheld group is part of it."""
    if contrast is None or any((contrast.attribute, group) in hidden for group in contrast.groups):
        return None
    return ContrastCell(
        contrast.group_min, contrast.group_max, len(contrast.groups), contrast.difference
    )
