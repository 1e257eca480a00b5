"""What the report's page works out of the figures: shades, answers, places."""

from dataclasses import replace

import pytest
from reported_runs import (
    exact_tally,
    judged_by,
    off_report,
    simulated_report,
    tally_of,
    usual_report,
)

from server.groups import GroupMetrics
from server.history import Truth
from server.intervals import Estimate
from server.reporting.figures import BOTTOM, TOP, draw_calibration, draw_curves
from server.reporting.heat import COLUMNS, heat_row, heat_rows, ordered
from server.reporting.participation import attendance
from server.reporting.phrases import Phrases
from server.reporting.summary import beats_chance, summarize_run
from shared_models.wording import translations

ENGLISH = Phrases(translations("server.reporting", "en"))


def with_overall(metric, estimate):
    report = usual_report()
    final = report.final
    metrics = {**final.overall.metrics, metric: estimate}
    fairness = replace(final, overall=replace(final.overall, metrics=metrics))
    return replace(report, evaluations=(replace(report.evaluations[-1], fairness=fairness),))


def group_with(metric, estimate):
    return GroupMetrics("sex", "female", "reported", 300, 1.0, {metric: estimate})


@pytest.mark.parametrize(
    ("metric", "estimate", "tone", "side"),
    [
        ("auroc", Estimate(0.70, 0.65, 0.75), "worse", "lower"),
        ("auroc", Estimate(0.90, 0.85, 0.95), "better", "higher"),
        ("auroc", Estimate(0.70, 0.60, 0.90), "none", ""),
        ("auroc", Estimate(0.88, 0.75, 0.95), "none", ""),
        ("fpr", Estimate(0.50, 0.40, 0.60), "worse", "higher"),
        ("fpr", Estimate(0.05, 0.01, 0.09), "better", "lower"),
        ("selection_rate", Estimate(0.90, 0.80, 0.95), "differs", "higher"),
        ("auroc", Estimate(None, 0.10, 0.30), "none", ""),
        ("auroc", Estimate(None, None, None, "no subjects"), "none", ""),
    ],
)
def test_a_cell_is_shaded_only_where_its_interval_leaves_out_all_subjects(
    metric, estimate, tone, side
):
    final = usual_report().final
    row = heat_row(group_with(metric, estimate), final)
    cell = next(cell for cell in row.cells if cell.column.metric == metric)
    assert (cell.tone, cell.side) == (tone, side)
    assert (cell.strength > 0) == (tone != "none")


def test_a_shade_grows_with_the_distance():
    final = usual_report().final
    total = final.overall.metrics["auroc"].value
    strengths = []
    for distance in (0.05, 0.1, 0.3):
        value = total - distance
        group = group_with("auroc", Estimate(value, value - 0.01, value + 0.01))
        strengths.append(heat_row(group, final).cells[0].strength)
    assert strengths == [1, 2, 3]


def test_all_subjects_together_are_never_shaded_and_withheld_groups_have_no_cells():
    final = usual_report().final
    assert {c.tone for c in heat_row(final.overall, final).cells} == {"none"}
    rows = {row.group: row for row in heat_rows(final, "sex")}
    assert rows["other"].cells == ()
    assert rows["other"].count is None


def test_attributes_stand_in_the_same_order_whatever_came_first():
    assert ordered(usual_report().final) == ("age_band", "sex", "site")


def test_every_direction_of_a_metric_is_declared():
    assert {c.metric: c.better for c in COLUMNS if c.better != "neither"} == {
        "auroc": "high", "tpr": "high", "ppv": "high", "fpr": "low", "mae": "low", "ece": "low",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("auroc", "expected"),
    [
        (Estimate(0.7, 0.51, 0.8), True),
        (Estimate(0.7, 0.50, 0.8), False),
        (Estimate(None, 0.40, 1.0), False),
        (Estimate(None, None, None, "none"), None),
    ],
)
def test_better_than_chance_is_said_only_where_the_whole_interval_is(auroc, expected):
    report = with_overall("auroc", auroc)
    assert beats_chance(report.final) is expected
    said = {True: "lies above 0.5", False: "reaches 0.5", None: "unknown"}[expected]
    assert said in " ".join(summarize_run(report, ENGLISH)[3].sentences)


def test_a_difference_is_told_with_the_least_that_it_is_and_a_missing_one_with_the_most():
    report = usual_report()
    final, told = report.final, " ".join(summarize_run(report, ENGLISH)[1].sentences)
    age = final.contrast("age_band", "auroc").difference
    site = final.contrast("site", "auroc").difference
    assert age.low > 0
    assert f"AUROC between 60+ and 18-39, by at least {age.low:.2f}" in told
    assert not site.low
    assert f"one of up to {site.high:.2f} in AUROC could have been missed" in told


def test_the_exact_figure_of_a_simulation_is_held_against_the_interval():
    report = simulated_report()
    assert "0.79, inside the interval" in summarize_run(report, ENGLISH)[4].sentences[-1]
    table = {("overall", "all"): (900, 0.5, 0.7, 0.3)}
    wrong = replace(report, truth=Truth(report.truth.curve, table, ""))
    assert "0.50, outside the interval" in summarize_run(wrong, ENGLISH)[4].sentences[-1]


def test_the_odds_of_an_epsilon_are_its_exponential():
    told = " ".join(summarize_run(usual_report(epsilon_sum=1.0), ENGLISH)[2].sentences)
    assert "at most 2.7," in told


def test_places_in_a_curve_follow_its_axis():
    curve = draw_curves(simulated_report())[0]
    low, high = curve.upright[0], curve.upright[-1]
    assert (low.place, high.place) == (BOTTOM, TOP)
    for point in curve.points:
        share = (point.estimate.value - float(low.label)) / (float(high.label) - float(low.label))
        assert point.y == pytest.approx(BOTTOM - share * (BOTTOM - TOP), abs=0.01)
        assert point.high < point.y < point.low
    assert [tick.label for tick in curve.lying] == ["10", "20", "30"]
    assert len(curve.truth.split()) == 30


def test_a_calibrated_bin_meets_the_diagonal_of_the_drawing():
    report = off_report([exact_tally({8: 60}, {8: 40})])
    mark = next(m for m in draw_calibration(report.evaluations[-1].reliability) if m.y)
    assert mark.left < 330 - mark.y < mark.right
    assert mark.high < mark.y < mark.low


def test_a_site_that_refused_and_one_that_was_away_are_told_apart():
    rows = {row.site: row for row in attendance(usual_report())}
    states = {site: [s.state for s in row.stretches] for site, row in rows.items()}
    assert states == {
        "clinic-a": ["took-part"],
        "clinic-b": ["took-part"],
        "clinic-c": ["took-part", "refused"],
        "clinic-d": ["took-part", "missing", "took-part"],
    }
    away = rows["clinic-d"].stretches[1]
    assert (away.begin, away.width) == pytest.approx((11 / 30, 5 / 30))


def test_a_site_that_joined_late_was_not_asked_before():
    report = judged_by([tally_of(900)])
    late = [replace(r, participants=(*r.participants, "late")) for r in report.rounds[20:]]
    rows = attendance(replace(report, rounds=(*report.rounds[:20], *late)))
    assert [s.state for s in rows[-1].stretches] == ["absent", "took-part"]
    assert rows[-1].spent is None
