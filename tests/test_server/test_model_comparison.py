"""Registered models side by side: what is shown, what is withheld, and what is said of it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from compared_runs import CELLS, MIN_CELL, SiteSubjects, add_measured_run, subjects_of
from ended_runs import make_hub
from typer.testing import CliRunner

from privacy.accounting import Release, compose, epsilon_spent
from server.cli import app
from server.comparison import side_by_side
from server.comparison.contenders import choose_contenders
from server.comparison.differences import difference_of
from server.comparison.joint import add_epsilons
from server.comparison.page import render_page
from server.comparison.side_by_side import SideBySide, set_side_by_side
from server.comparison.withholding import Published, isolated_cells
from server.groups import OVERALL, GroupMetrics
from server.history import RunReport
from server.models.entries import Figure
from server.models.registration import register_models
from server.workspace import Workspace

NORTH, SOUTH, TOWER = SiteSubjects(60, 50), SiteSubjects(70, 60), SiteSubjects(66, 60)
WEST = SiteSubjects(3, 2)
"""Fewer than any report may show."""
MOST = {"north": NORTH, "south": SOUTH, "tower": TOWER}
PRIVATE = {"noise": 1.0, "mode": "local"}


@pytest.fixture
def hub(tmp_path: Path) -> Workspace:
    return make_hub(tmp_path / "hub")


def compare(hub: Workspace, *words: str) -> SideBySide:
    registry = register_models(hub).registry
    return set_side_by_side(choose_contenders(hub, registry, words))


def call(hub: Workspace, *words: object) -> Result:
    return CliRunner().invoke(app, ["compare", str(hub.folder), *[str(word) for word in words]])


def counts_from(found: SideBySide, model: int) -> dict[tuple[str, str], float]:
    """What an attacker reads off an exact rate with Wilson's interval: the number of subjects.

    The middle of the interval is (p + z^2 / 2n) / (1 + z^2 / n), which is solved for n.
    """
    known = {OVERALL: found.models[model].figures}
    known |= {(row.attribute, row.group): row.cells[model].figures for row in found.groups}
    counts = {}
    for cell, figures in known.items():
        rate = figures.get("selection_rate")
        if rate and None not in (rate.value, rate.low, rate.high):
            middle = (rate.low + rate.high) / 2
            if abs(middle - 0.5) > 1e-9:
                counts[cell] = 1.959964**2 * (0.5 - middle) / (middle - rate.value)
    return counts


def attack(found: SideBySide) -> dict[tuple[str, str], float]:
    """Subjects that are in the first run's cells and not in the second's."""
    first, second = counts_from(found, 0), counts_from(found, 1)
    return {cell: first[cell] - second[cell] for cell in first.keys() & second.keys()}


def add_runs_one_site_apart(hub: Workspace) -> None:
    add_measured_run(hub, {**MOST, "west": WEST})
    add_measured_run(hub, MOST, skill=1.3)


def test_without_withholding_two_reports_give_the_counts_of_the_site_between_them(
    hub: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "withheld_cells", lambda contenders: {})
    add_runs_one_site_apart(hub)
    taken = attack(compare(hub))
    assert taken[OVERALL] == pytest.approx(5, abs=0.01)
    assert taken["sex", "female"] == pytest.approx(3, abs=0.01)
    assert taken["sex", "male"] == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("order", [("1", "2"), ("2", "1")])
def test_two_reports_one_site_apart_give_away_no_small_count(
    hub: Workspace, order: tuple[str, str]
) -> None:
    add_runs_one_site_apart(hub)
    found = compare(hub, *order)
    assert all(abs(count) < 0.01 or abs(count) >= MIN_CELL for count in attack(found).values())
    assert found.is_withheld
    assert not found.differences
    assert not any(model.figures for model in found.models)
    assert "Do not hand out the reports of" in found.limits[0]
    page = render_page(found)
    assert "Withheld side by side" in page
    shown = [row for row in found.groups if row.attribute != "site"]
    assert not any(cell.figures for row in shown for cell in row.cells)


def test_a_site_that_tells_of_enough_subjects_is_no_reason_to_withhold(hub: Workspace) -> None:
    add_measured_run(hub, MOST)
    add_measured_run(hub, {"north": NORTH, "south": SOUTH})
    found = compare(hub)
    assert not found.is_withheld
    assert attack(found)["sex", "female"] == pytest.approx(TOWER.female, abs=0.5)
    assert {row.withheld for row in found.groups} == {None}


def test_only_the_cells_that_a_difference_isolates_are_withheld(hub: Workspace) -> None:
    add_measured_run(hub, {**MOST, "west": SiteSubjects(40, 4)})
    add_measured_run(hub, MOST)
    withheld = {(r.attribute, r.group): r.withheld for r in compare(hub).groups if r.withheld}
    # The other sex goes with it: the total minus it would be the withheld one.
    assert withheld.keys() == {("sex", "male"), ("sex", "female")}


def test_what_one_report_suppresses_no_other_shows(hub: Workspace) -> None:
    add_measured_run(hub, {"north": NORTH, "south": SOUTH, "west": WEST})
    add_measured_run(hub, {"north": NORTH, "south": SOUTH, "west": SiteSubjects(30, 30)})
    rows = {(row.attribute, row.group): row for row in compare(hub).groups}
    west = rows["site", "west"]
    assert west.withheld == "suppressed"
    assert [cell.state for cell in west.cells] == ["withheld", "withheld"]
    assert not any(cell.figures for row in rows.values() if row.withheld for cell in row.cells)
    assert not any(
        c for row in compare(hub).contrasts if row.attribute == "site" for c in row.cells
    )


def published(sites: str, count: int, *, noise: float = 0.0) -> Published:
    overall = GroupMetrics(*OVERALL, "reported", count, noise, {})
    return Published(frozenset(sites), {OVERALL: overall}, MIN_CELL)


@pytest.mark.parametrize(
    ("reports", "isolates"),
    [
        ([("ab", 100), ("a", 95)], True),
        ([("ab", 100), ("a", 90)], False),
        ([("ab", 100), ("ac", 99)], False),  # 1 is the difference of b and c, and of no group
        ([("abc", 150), ("a", 95), ("bd", 60), ("d", 10)], True),
        ([("abcd", 200), ("ab", 100), ("c", 95)], True),
        ([("ab", 60), ("bc", 60), ("ac", 12)], True),  # twice a is 60 + 12 - 60
        ([("ab", 60), ("bc", 60), ("ac", 60)], False),
        ([("ab", 100), ("ab", 100)], False),
        ([("ab", 100), ("ab", 101)], True),  # somebody joined
        ([("ab", 100), ("ab", 120)], False),
    ],
)
def test_sums_of_reports_are_searched_for_small_sets_of_sites(
    reports: list[tuple[str, int]], isolates: bool
) -> None:
    found = isolated_cells([published(*report) for report in reports], [OVERALL])
    assert bool(found) is isolates


def test_noise_alone_makes_no_two_runs_of_the_same_sites_incomparable() -> None:
    reports = [published("ab", 100, noise=6.0), published("ab", 103, noise=6.0)]
    assert not isolated_cells(reports, [OVERALL])


def test_a_difference_of_models_on_the_same_subjects_has_no_interval(hub: Workspace) -> None:
    for skill in (0.4, 1.6):
        add_measured_run(hub, MOST, skill=skill, **PRIVATE)
    found = compare(hub)
    assert {one.basis for one in found.differences} == {"any_overlap"}
    assert any("not independent" in sentence for sentence in found.limits)
    assert any("none of these models was trained on those who judge" in s for s in found.limits)
    auroc = next(one for one in found.differences if one.metric == "auroc")
    a, b = (model.figures["auroc"] for model in found.models)
    assert auroc.value == pytest.approx(b.value - a.value)
    assert auroc.high - auroc.low == pytest.approx((a.high - a.low) + (b.high - b.low))
    assert auroc.is_shown
    assert "95 % interval: no site in common" not in render_page(found)


def test_models_of_different_sites_are_independent_and_differ_in_their_subjects(
    hub: Workspace,
) -> None:
    add_measured_run(hub, {"north": NORTH, "south": SOUTH}, **PRIVATE)
    add_measured_run(hub, {"tower": TOWER}, **PRIVATE)
    found = compare(hub)
    assert {one.basis for one in found.differences} == {"independent"}
    assert any("can be the subjects' alone" in sentence for sentence in found.limits)
    assert found.together is None


@pytest.mark.parametrize("correlation", [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_ranges_cover_the_true_difference_at_least_as_often_as_they_say(
    correlation: float,
) -> None:
    """The range holds at any correlation; the interval is exact without one, and only then."""
    draws = np.random.default_rng(3).multivariate_normal(
        [0.8, 0.7], 0.02**2 * np.array([[1, correlation], [correlation, 1]]), 20_000
    )
    half = 1.96 * 0.02
    covered = {
        independent: np.mean(
            [
                low <= 0.1 <= high
                for a, b in draws[:4000]
                for _, low, high in [
                    difference_of(
                        Figure(a, a - half, a + half),
                        Figure(b, b - half, b + half),
                        independent=independent,
                    )
                ]
            ]
        )
        for independent in (True, False)
    }
    assert covered[False] > 0.94
    if correlation == 0:
        assert covered[True] == pytest.approx(0.95, abs=0.01)
    if correlation == -1:
        assert covered[False] == pytest.approx(0.95, abs=0.01)
        assert covered[True] < 0.9


def test_models_that_predict_different_things_are_not_subtracted(hub: Workspace) -> None:
    add_measured_run(hub, MOST, **PRIVATE)
    add_measured_run(hub, MOST, score_range=(0.0, 27.0, 15.0), threshold=15.0, **PRIVATE)
    found = compare(hub)
    assert not found.differences
    assert "predict different things" in found.limits[0]


def test_a_model_that_was_not_judged_stands_there_and_says_so(hub: Workspace) -> None:
    add_measured_run(hub, MOST, **PRIVATE)
    add_measured_run(hub, MOST, status="failed", **PRIVATE)
    found = compare(hub, "run-0001", "run-0002")
    assert [model.is_judged for model in found.models] == [True, False]
    assert any("nothing is known of its performance" in sentence for sentence in found.limits)
    assert "not judged" in render_page(found)


def test_a_line_that_held_out_others_is_told(hub: Workspace) -> None:
    """A subject may have trained the ancestor of a model and judge the other one."""
    add_measured_run(hub, MOST, **PRIVATE)
    file = add_measured_run(hub, MOST, **PRIVATE) / "consortium.toml"
    text = file.read_text().replace("holdout_fraction = 0.4", "holdout_fraction = 0.3")
    assert text != file.read_text()
    file.write_text(text)
    assert any("may have trained the other" in sentence for sentence in compare(hub).limits)


def test_runs_add_up_as_the_accountant_adds_their_steps() -> None:
    single = epsilon_spent(5.7, 1e-3, steps=30)
    both = compose([Release(5.7, 60)], 1e-3)
    assert add_epsilons([(single, 1e-3)] * 2, 1e-3) == pytest.approx(both, abs=0.01)
    assert add_epsilons([(single, 1e-3)] * 2, 1e-3) >= both
    assert add_epsilons([(single, 1e-3), (0.0, 1e-3)], 1e-3) == math.ceil(100 * single) / 100


def test_models_of_one_run_are_charged_once(hub: Workspace) -> None:
    add_measured_run(hub, MOST, **PRIVATE)
    add_measured_run(hub, MOST, **PRIVATE)
    together = compare(hub).together
    assert together is not None
    assert together.runs == ("run-0001", "run-0002")
    assert together.sites == ("north", "south", "tower")
    assert together.epsilon_sum > 1.75
    registry = register_models(hub).registry
    same = choose_contenders(hub, registry, ["1", "2"])
    assert set_side_by_side((same[0], replace(same[0]))).together is None


def test_a_report_that_was_changed_after_signing_is_refused(hub: Workspace) -> None:
    file = add_measured_run(hub, MOST, **PRIVATE) / "report.json"
    add_measured_run(hub, MOST, **PRIVATE)
    assert call(hub).exit_code == 0
    report = RunReport.from_json(file.read_bytes())
    better = replace(
        report.final.overall,
        metrics={
            **report.final.overall.metrics,
            "auroc": replace(report.final.overall.metrics["auroc"], value=0.99),
        },
    )
    changed = replace(report.evaluations[0], fairness=replace(report.final, overall=better))
    file.write_text(replace(report, evaluations=(changed,)).to_json())
    told = call(hub)
    assert told.exit_code == 1
    assert "as they were signed" in told.stderr


def test_command_shows_a_table_and_what_may_not_be_concluded(hub: Workspace) -> None:
    for skill in (0.4, 1.6):
        add_measured_run(hub, MOST, skill=skill, **PRIVATE)
    told = call(hub)
    assert told.exit_code == 0, told.output
    for words in ("1, run-0001", "for any overlap", "may not be concluded", "spends nothing"):
        assert words in told.output


def test_command_answers_with_one_object_and_writes_a_page(hub: Workspace, tmp_path: Path) -> None:
    for skill in (0.4, 1.6):
        add_measured_run(hub, MOST, skill=skill, **PRIVATE)
    page = tmp_path / "models.html"
    told = call(hub, 2, "run-0001", "--out", page, "--json")
    answer = json.loads(told.stdout.splitlines()[-1])
    assert [model["number"] for model in answer["models"]] == [2, 1]
    assert answer["models"][0]["is_current"]
    assert set(answer["models"][0]["privacy"]) >= {"epsilon_sum", "epsilon_site", "delta"}
    assert answer["report"] == str(page)
    assert "count" not in json.dumps(answer).replace("discount", "")
    text = page.read_text()
    assert not re.search(r'(src|href)="(?!#)', text)
    assert "no output is a diagnosis" in text
    assert text.count("<svg") == 2
    for attribute, group in CELLS[1:]:
        assert group in text, attribute


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "Expected 2 to 8 models"),
        (["1", "1"], "got 1 (model 1)"),
        (["1", "7"], "there are 1 to 1"),
        (["1", "run-0009"], "runs with models are run-0001"),
    ],
)
def test_command_names_what_it_cannot_compare(
    hub: Workspace, words: list[str], reason: str
) -> None:
    add_measured_run(hub, MOST, **PRIVATE)
    told = call(hub, *words)
    assert told.exit_code == 2
    assert reason in told.stderr


def test_a_run_whose_report_is_gone_is_told_by_name(hub: Workspace) -> None:
    folder = add_measured_run(hub, MOST, **PRIVATE)
    add_measured_run(hub, MOST, **PRIVATE)
    register_models(hub)
    (folder / "report.json").unlink()
    told = call(hub, 1, 2)
    assert told.exit_code == 1
    assert "the report of run-0001" in told.stderr


def test_the_made_up_subjects_are_those_that_are_counted() -> None:
    assert len(subjects_of("west", WEST).score) == 5
