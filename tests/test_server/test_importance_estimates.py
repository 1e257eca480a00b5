"""Shares of behaviours from noised sums: what is said, with which interval, and when nothing is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter

from server.groups import GroupMetrics
from server.history import EvaluationReport, evaluation_report
from server.importance import ImportanceReport, measure_importance
from shared_models.behaviour_groups import BEHAVIOUR_GROUPS
from shared_models.importance import BEHAVIOURS, IMPORTANCE, IMPORTANCE_ROWS, importance_table
from shared_models.tallies import GroupTally

COLUMNS = 19


def draw_attributions(count: int, rng: np.random.Generator) -> np.ndarray:
    """Signed attributions of unequal size and spread, as networks give them."""
    size = np.array([1.2, 0.9, 0.6, 0.5, 0.4, 0.3, 0.3, 0.2, 0.1, 0.05])
    offset = np.array([0.0, 0.6, 0.0, 0.2, 0.0, 0.3, 0.0, 0.0, 0.1, 0.0])
    return offset + size * rng.standard_normal((count, BEHAVIOURS))


def tallies_of(table: np.ndarray, noise: float = 0.0, rng=None) -> list[GroupTally]:
    drawn = table + (rng.normal(0, noise, table.shape) if noise else 0)
    return [
        GroupTally(IMPORTANCE, row, values, noise)
        for row, values in zip(IMPORTANCE_ROWS, drawn, strict=True)
    ]


def overall(count: int | None, state="reported") -> GroupMetrics:
    return GroupMetrics("overall", "all", state, count, 0.0, {})


def shares(report: ImportanceReport) -> dict[str, float | None]:
    return {one.name: one.share.value for one in report.behaviours}


def test_without_noise_the_shares_are_those_of_the_subjects() -> None:
    attributions = draw_attributions(400, np.random.default_rng(1))
    report = measure_importance(
        tallies_of(importance_table(attributions, columns=COLUMNS)), overall(400)
    )
    unit = np.abs(attributions) / np.linalg.norm(attributions, axis=1, keepdims=True)
    expected = unit.mean(axis=0) / unit.mean(axis=0).sum()
    found = shares(report)
    assert report.state == "reported"
    assert [found[group.name] for group in BEHAVIOUR_GROUPS] == pytest.approx(expected)
    assert sum(value for value in found.values() if value is not None) == pytest.approx(1)
    values = [one.share.value for one in report.behaviours]
    assert values == sorted(values, reverse=True)


def test_sites_add_up_to_the_pooled_subjects() -> None:
    attributions = draw_attributions(90, np.random.default_rng(2))
    parts = [importance_table(part, columns=COLUMNS) for part in np.split(attributions, 3)]
    together = measure_importance(
        tallies_of(importance_table(attributions, columns=COLUMNS)), overall(90)
    )
    apart = measure_importance([t for part in parts for t in tallies_of(part)], overall(90))
    assert shares(apart) == pytest.approx(shares(together))


def coverage(*, count: int, noise: float, draws: int, seed: int) -> np.ndarray:
    """Part of the 95 % intervals that hold the population's share, by behaviour."""
    rng = np.random.default_rng(seed)
    many = draw_attributions(200_000, rng)
    unit = np.abs(many) / np.linalg.norm(many, axis=1, keepdims=True)
    truth = unit.mean(axis=0) / unit.mean(axis=0).sum()
    held = np.zeros((draws, BEHAVIOURS))
    names = [group.name for group in BEHAVIOUR_GROUPS]
    for draw in range(draws):
        table = importance_table(draw_attributions(count, rng), columns=COLUMNS)
        report = measure_importance(tallies_of(table, noise, rng), overall(count))
        for one in report.behaviours:
            place = names.index(one.name)
            low, high = one.share.low, one.share.high
            assert low is not None
            assert high is not None
            held[draw, place] = low - 5e-4 <= truth[place] <= high + 5e-4
    return held.mean(axis=0)


@pytest.mark.parametrize(("count", "noise"), [(300, 0.0), (300, 5.0), (100, 3.0)])
def test_intervals_cover_the_share_of_the_population(count: int, noise: float) -> None:
    """At least 95 %, within what 120 draws can tell: they are made rather wide than narrow."""
    covered = coverage(count=count, noise=noise, draws=120, seed=3)
    assert covered.min() > 0.90
    assert covered.mean() > 0.945


def test_an_interval_without_the_spread_of_subjects_would_be_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The broken variant: noise alone does not cover."""
    monkeypatch.setattr("server.importance._Sums.spread", lambda _: np.zeros(BEHAVIOURS))
    assert coverage(count=300, noise=1.0, draws=60, seed=3).mean() < 0.8


def test_where_noise_drowns_everything_no_point_is_shown() -> None:
    rng = np.random.default_rng(4)
    table = importance_table(draw_attributions(8, rng), columns=COLUMNS)
    report = measure_importance(tallies_of(table, 40.0, rng), overall(8))
    assert report.state == "reported"
    assert set(shares(report).values()) == {None}
    assert all(one.share.note for one in report.behaviours)


def test_suppressed_zero_and_not_reported_are_three_things() -> None:
    table = importance_table(draw_attributions(8, np.random.default_rng(5)), columns=COLUMNS)
    rows = tallies_of(table)
    assert measure_importance(rows, overall(None, "suppressed")).state == "suppressed"
    assert measure_importance(rows[:1], overall(8)).state == "not_reported"
    assert measure_importance([], overall(None, "not_reported")).state == "not_reported"
    nothing = tallies_of(np.zeros((2, COLUMNS)))
    assert measure_importance(nothing, overall(8)) == ImportanceReport("zero")
    assert not measure_importance(rows, overall(None, "suppressed")).behaviours


def evaluate(tallies: list[GroupTally]) -> EvaluationReport:
    return evaluation_report(3, tallies, score_range=(0, 27, 10), min_cell=10)


def test_the_history_holds_importance_beside_fairness_and_reads_back() -> None:
    table = importance_table(draw_attributions(60, np.random.default_rng(6)), columns=COLUMNS)
    subjects = np.zeros(COLUMNS)
    subjects[[2, 6, 10, 13]] = 15
    groups = [GroupTally("overall", "all", subjects)]
    report = evaluate([*groups, *tallies_of(table)])
    assert report.importance is not None
    assert report.importance.state == "reported"
    assert report.fairness == evaluate(groups).fairness
    assert evaluate(groups).importance is None
    adapter = TypeAdapter(EvaluationReport)
    assert adapter.validate_json(adapter.dump_json(report)) == report
    # What was written before the table existed reads still.
    older = adapter.dump_python(replace(report, importance=None), mode="json")
    del older["importance"]
    assert adapter.validate_python(older).importance is None


def test_importance_is_withheld_with_the_subjects_it_is_of() -> None:
    few = np.zeros(COLUMNS)
    few[[2, 10]] = 2
    table = importance_table(draw_attributions(4, np.random.default_rng(7)), columns=COLUMNS)
    report = evaluate([GroupTally("overall", "all", few), *tallies_of(table)])
    assert report.importance == ImportanceReport("suppressed")
