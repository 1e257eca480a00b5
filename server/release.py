"""Which of a run's models is released: the last, or the one whose worst group is best.

Only figures that the report publishes are read, so the choice is post-processing of noised sums
and costs no privacy of its own; that the groups are measured more than once is paid for in their
noise. The best of several noisy figures is better than it will prove to be: the report says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.groups import Cell, GroupMetrics
from server.history import EvaluationReport, Release
from shared_models.mitigation import MitigationConfig

OPTIMISM = "It was chosen by the very figures that are shown, which therefore flatter it."


@dataclass(frozen=True)
class _Candidate:
    """A judged model: the round that made it, and how good its worst group is (more is better)."""

    server_round: int
    worst: Cell
    value: float


def choose_release(
    evaluations: Sequence[EvaluationReport], mitigation: MitigationConfig
) -> Release | None:
    """The model that a completed run releases; None for the last, where nothing else was declared.

    Compared are the groups that the last evaluation has a figure of, over the evaluations that have
    one of every such group. Of equal ones the later model is taken.

    Args:
        evaluations: In order of their rounds.
        mitigation: What the study declares.
    """
    if mitigation.choose == "last" or not evaluations:
        return None
    last = evaluations[-1]
    groups = list(_figures(last, mitigation.metric))
    unknown = _unknown(last, groups)
    if not groups:
        why = f"It is the last: no group has a figure to choose by ({unknown})."
        return Release(last.server_round, why)
    ranked = [c for e in evaluations if (c := _rank(e, groups, mitigation.metric))]
    best = max(ranked, key=lambda c: (c.value, c.server_round))
    why = (
        f"Its worst group is the best of {_count(len(ranked))}: {_name(*best.worst)}, "
        f"{mitigation.metric.upper()} {abs(best.value):.3g}. {OPTIMISM}"
    )
    return Release(best.server_round, f"{why} Left out: {unknown}." if unknown else why)


def _rank(evaluation: EvaluationReport, groups: Sequence[Cell], metric: str) -> _Candidate | None:
    figures = _figures(evaluation, metric)
    if not all(cell in figures for cell in groups):
        return None
    worst = min(groups, key=lambda cell: figures[cell])
    return _Candidate(evaluation.server_round, worst, figures[worst])


def _figures(evaluation: EvaluationReport, metric: str) -> dict[Cell, float]:
    """Figure of each group that has one, such that more is better; errors count negative."""
    sign = -1.0 if metric == "mae" else 1.0
    return {
        (group.attribute, group.group): sign * value
        for group in _compared(evaluation)
        if (value := _value(group, metric)) is not None
    }


def _value(group: GroupMetrics, metric: str) -> float | None:
    found = [estimate.value for name, estimate in group.metrics.items() if name == metric]
    return found[0] if found else None


def _compared(evaluation: EvaluationReport) -> list[GroupMetrics]:
    """Groups of subjects; sites are no groups that a model is chosen by, nor measured each time."""
    return [g for g in evaluation.fairness.by_group if g.attribute in {"age_band", "sex"}]


def _unknown(evaluation: EvaluationReport, known: Sequence[Cell]) -> str:
    """Groups without a figure, with what is said of them instead."""
    return ", ".join(
        f"{_name(g.attribute, g.group)} {g.state.replace('_', ' ') if not g.metrics else 'too few'}"
        for g in _compared(evaluation)
        if (g.attribute, g.group) not in known
    )


def _name(attribute: str, group: str) -> str:
    return f"{'age' if attribute == 'age_band' else attribute} {group}"


def _count(models: int) -> str:
    return f"{models} judged models" if models > 1 else "the one model that can be compared"
