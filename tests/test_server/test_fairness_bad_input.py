"""Groups and predictions that no figure can be made of: the report says so, and nothing breaks."""

from dataclasses import replace

import numpy as np
import pytest

from server.fairness import measure_fairness
from server.history import evaluation_report
from server.metric_frame import MetricFrame
from shared_models.consortium import FairnessConfig
from shared_models.tallies import INTERSECTION, SubjectScores, count_tally, cross_groups

RANGE = (0.0, 27.0, 10.0)
STDDEVS = [0.0, 5.0]
CONFIG = FairnessConfig()


def draw_scores(subjects, rng, config=CONFIG):
    positive = rng.random(subjects) < 0.4
    groups = {
        "sex": rng.choice(config.sexes, subjects),
        "age_band": rng.choice(config.age_groups, subjects),
    }
    logit = rng.normal(np.where(positive, 0.6, -0.6))
    score = np.where(positive, 15.0, 5.0)
    return SubjectScores(logit, score + rng.normal(0, 4, subjects), score, positive, groups)


def report_of(scores, stddev=0.0, config=CONFIG):
    rng = np.random.default_rng(9)
    cells = [("overall", "all"), *(("age_band", band) for band in config.age_groups)]
    cells += [("sex", sex) for sex in config.sexes]
    cells += [(INTERSECTION, name) for name in cross_groups(config.age_groups, config.sexes)]
    tallies = []
    for cell in cells:
        tally = count_tally(scores, *cell, bins=8, error_limit=9.0)
        noised = tally.sums + rng.normal(0, stddev, len(tally.sums))
        tallies.append(replace(tally, sums=noised, noise_stddev=stddev))
    return measure_fairness(tallies, score_range=RANGE, min_cell=10)


def groups_of(report):
    return (report.overall, *report.by_group)


def check_consistent(report):
    """Whatever is said is finite and ordered, and whatever is not said has a reason."""
    for group in groups_of(report):
        for name, found in group.metrics.items():
            if found.value is None:
                assert found.note, (group, name)
            else:
                assert found.low <= found.value <= found.high
        ends = [e for found in group.metrics.values() for e in (found.low, found.high)]
        assert np.isfinite([end for end in ends if end is not None]).all()
        if not group.metrics:
            assert group.state in ("suppressed", "zero", "not_reported")


@pytest.mark.parametrize("stddev", STDDEVS)
def test_a_group_without_subjects(stddev):
    scores = draw_scores(600, np.random.default_rng(0))
    scores.groups["sex"][:] = "female"
    report = report_of(scores, stddev)
    check_consistent(report)
    (male,) = (group for group in report.groups("sex") if group.group == "male")
    # Without noise it is known that nobody is there; with noise it is only known to be few.
    assert male.state == ("zero" if stddev == 0 else "suppressed")
    assert report.contrast("sex", "tpr") is None


@pytest.mark.parametrize("stddev", STDDEVS)
@pytest.mark.parametrize("positive", [True, False])
def test_one_class_only(stddev, positive):
    scores = draw_scores(600, np.random.default_rng(1))
    report = report_of(replace(scores, positive=np.full(600, positive)), stddev)
    check_consistent(report)
    metrics = report.overall.metrics
    assert metrics["auroc"].value is None
    assert metrics["calibration_slope"].value is None
    assert metrics["selection_rate"].value is not None
    assert "one side of the clinical threshold" in report.overall.power.words or stddev


@pytest.mark.parametrize("stddev", STDDEVS)
@pytest.mark.parametrize("constant", [-5.0, 0.0, 5.0])
def test_predictions_that_are_all_equal(stddev, constant):
    scores = draw_scores(600, np.random.default_rng(2))
    same = replace(scores, logit=np.full(600, constant), predicted=np.full(600, 7.0))
    report = report_of(same, stddev)
    check_consistent(report)
    auroc = report.overall.metrics["auroc"]
    assert auroc.low <= 0.5 <= auroc.high
    slope = report.overall.metrics["calibration_slope"]
    assert slope.value is None
    assert slope.note


@pytest.mark.parametrize("stddev", STDDEVS)
def test_nobody_at_all(stddev):
    report = report_of(draw_scores(0, np.random.default_rng(3)), stddev)
    check_consistent(report)
    assert report.contrasts == ()
    assert report.overall.state == ("zero" if stddev == 0 else "suppressed")


@pytest.mark.parametrize("stddev", STDDEVS)
def test_forty_age_bands(stddev):
    config = FairnessConfig(age_bands=tuple(range(18, 98, 2)), intersections=True)
    report = report_of(draw_scores(900, np.random.default_rng(4), config), stddev, config)
    check_consistent(report)
    assert len(report.groups("age_band")) == 40
    assert len(report.groups(INTERSECTION)) == 80
    assert any(group.state != "reported" for group in report.groups(INTERSECTION))


def test_names_in_any_script_stay_as_they_are():
    bands, sexes, sites = ["六十岁以上", "青年 🧑"], ["女", "男"], ["北京 🏥", "上海"]
    scores, rng = draw_scores(1200, np.random.default_rng(5)), np.random.default_rng(6)
    groups = {"age_band": rng.choice(bands, 1200), "sex": rng.choice(sexes, 1200)}
    scores = replace(scores, groups=groups)
    cells = [
        ("overall", "all"),
        *(("sex", sex) for sex in sexes),
        *(("age_band", b) for b in bands),
    ]
    cells += [(INTERSECTION, name) for name in cross_groups(bands, sexes)]
    tallies = [count_tally(scores, *cell, bins=8, error_limit=9.0) for cell in cells]
    everybody, *by_sex = tallies[:3]
    for site in sites:
        tallies.append(replace(everybody, attribute="site", group=site))
        tallies += [replace(t, attribute="site x sex", group=f"{site} {t.group}") for t in by_sex]
    report = evaluation_report(1, tallies, score_range=RANGE, min_cell=10).fairness
    check_consistent(report)
    assert {group.group for group in report.groups("age_band")} == set(bands)
    frame = MetricFrame(report, sensitive_feature="sex", control_feature="site")
    assert set(frame.by_group) == {(site, sex) for site in sites for sex in sexes}
    assert set(frame.overall) == set(sites)
