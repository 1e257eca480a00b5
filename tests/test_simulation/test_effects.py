"""Each effect of the file is found again in simulated persons by a plain regression."""

import dataclasses
from datetime import datetime

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shared_models.features import BEHAVIOUR
from simulation.cohort import CohortDesign, generate_cohort, generate_site
from simulation.course import draw_course, hours_of, severity_scale
from simulation.effect_file import DEPENDENCES, PARAMETERS, Quantity, quantities, shipped_effects
from simulation.effect_pages.measured import observe, slope
from simulation.effects import (
    SEVERITY_GAP,
    Covariates,
    draw_parameters,
    effect_matrix,
    vary_effects,
)
from simulation.quality import gap_rates

PERSONS = 12_000


def changed(effects, **values):
    """Effects with other numbers; a key is dotted, with two underscores for a dot."""
    for key, value in values.items():
        effects = _changed(effects, key.split("__"), value)
    return effects


def _changed(section, path, value):
    name, *rest = path
    if rest:
        new = _changed(getattr(section, name), rest, value)
    elif getattr(section, name) is None:
        new = Quantity(value, 0.0, "chosen")
    else:
        new = dataclasses.replace(getattr(section, name), value=value)
    return dataclasses.replace(section, **{name: new})


def regress(measured, design):
    """Coefficients and robust standard errors: Poisson with weights as exposure, or least squares.

    The variance is the sandwich of Huber and White: persons differ more than Poisson counts do.
    """
    seen = measured.weight > 0
    y, w = measured.total[seen], measured.weight[seen]
    x = np.column_stack([np.ones(seen.sum()), design[seen]])
    beta = np.zeros(x.shape[1])
    if measured.link == "log":
        beta[0] = np.log(y.sum() / w.sum())
    for _ in range(20):
        mean = w * (np.exp(x @ beta) if measured.link == "log" else x @ beta)
        bread = np.linalg.inv(x.T @ (x * (mean if measured.link == "log" else w)[:, None]))
        beta = beta + bread @ (x.T @ (y - mean))
    meat = x.T @ (x * ((y - mean) ** 2)[:, None])
    return beta[1:], np.sqrt(np.diag(bread @ meat @ bread))[1:]


def misses(effects, population, names=PARAMETERS):
    """Effects that a regression does not find within 3.5 standard errors, with those of 0."""
    design, table = population.covariates.design, effect_matrix(effects)
    missed = []
    for name in names:
        found, error = regress(population.measured[name], design)
        for row, dependence in enumerate(DEPENDENCES):
            truth = slope(effects, name, table[row, PARAMETERS.index(name)])
            if abs(found[row] - truth) > 3.5 * error[row]:
                missed.append((name, dependence, truth, found[row], error[row]))
    return missed


def test_covariates_enter_in_the_units_that_the_file_names():
    low, high = 0.0, SEVERITY_GAP
    pair = Covariates(
        severity_z=np.array([low, high]),
        age_years=np.array([45.0, 65.0]),
        female=np.array([0.0, 1.0]),
        hour=np.array([18.0, 8.0]),
        medication=np.array([0.0, 1.0]),
    )
    first, second = pair.design
    steps = dict(zip(DEPENDENCES, second - first, strict=True))
    assert steps == pytest.approx(
        {"severity": 1.0, "age": 1.0, "female": 1.0, "morning": 1.0, "medication": 1.0,
         "severity_female": 0.5, "severity_age": 1.0}
    )  # fmt: skip


@pytest.fixture(scope="module")
def population():
    return observe(shipped_effects(), persons=PERSONS, seed=1)


def test_a_regression_finds_every_effect_and_no_other(population):
    assert misses(shipped_effects(), population) == []


def test_the_regression_tells_another_file_from_this_one(population):
    wrong = changed(shipped_effects(), parameters__gaze_down__severity=0.40,
                    parameters__tempo__age=0.0, parameters__blink_rate__female=0.35)  # fmt: skip
    found = {(name, dependence) for name, dependence, *_ in misses(wrong, population)}
    assert {("gaze_down", "severity"), ("tempo", "age"), ("blink_rate", "female")} <= found


def test_effects_that_differ_by_sex_and_age_are_found():
    effects = changed(
        shipped_effects(),
        parameters__brow_lowering__severity_female=-0.6,
        parameters__smile_rate__severity_age=0.4,
    )
    planted = observe(effects, persons=PERSONS, seed=2)
    assert misses(effects, planted, ("brow_lowering", "smile_rate")) == []
    assert len(misses(shipped_effects(), planted, ("brow_lowering", "smile_rate"))) == 2


def test_visits_of_a_person_are_alike_as_the_file_says():
    rng, count = np.random.default_rng(4), 20_000
    one = np.ones(count)
    same = Covariates(0 * one, 45 * one, 0.5 * one, 13 * one, 0 * one)
    person = rng.standard_normal((count, len(PARAMETERS) + 1))
    first, second = (
        draw_parameters(same, shipped_effects(), person_noise=person,
                        visit_noise=rng.standard_normal((count, len(PARAMETERS))))
        for _ in range(2)
    )  # fmt: skip
    share = shipped_effects().persons.visit_share.value
    for name in PARAMETERS:
        assert first[name].std() == pytest.approx(1.0, abs=0.02)
        alike = np.corrcoef(first[name], second[name])[0, 1]
        assert alike == pytest.approx(1 - share, abs=0.01), name


def test_who_is_worse_in_the_morning_shows_it_then_and_the_score_does_not():
    design = CohortDesign(sites=1, subjects_per_site=60, clips_per_recording=2, site_scale=0.0)
    still = changed(design.effects, severity__morning_spread=0.0)
    worse = changed(still, severity__morning=2.0)
    calm, low = (generate_site(dataclasses.replace(design, effects=e), 0) for e in (still, worse))
    assert [r.score for r in calm.recordings] == [r.score for r in low.recordings]
    column = BEHAVIOUR.names.index("brow_lowering")
    rise = [
        float((b.values - a.values)[..., column].mean())
        for a, b in zip(calm.features, low.features, strict=True)
    ]
    times = [datetime.fromisoformat(r.recorded_at) for r in calm.recordings]
    assert np.corrcoef(rise, 13.0 - hours_of(times))[0, 1] > 0.9


@pytest.mark.parametrize("treatment", ["medication", "psychotherapy", "rtms"])
def test_a_treatment_adds_its_effect_once_and_the_ill_recover_without(treatment):
    effects = changed(
        shipped_effects(), course__step_spread=0.0, course__response_spread=0.0,
        course__treated_slope=1e3, course__natural=0.1,
    )  # fmt: skip
    scale = severity_scale("phq9", effects)
    rng = np.random.default_rng(6)
    courses = [draw_course(rng, 1.5, 3, scale=scale, effects=effects) for _ in range(60)]
    severity = next(course for course, given in courses if given == treatment)
    points = scale.points(severity)
    answer = getattr(effects.course, treatment).value * scale.sd
    assert points[1] - points[0] == pytest.approx(-0.1 * points[0] + answer)
    ill = points[1] >= scale.threshold
    assert points[2] - points[1] == pytest.approx(-0.1 * points[1] if ill else 0.0)


def test_untreated_subjects_below_the_threshold_stay_as_they_are():
    effects = changed(shipped_effects(), course__step_spread=0.0, course__treated_slope=1e3)
    scale = severity_scale("phq9", effects)
    severity, treatment = draw_course(
        np.random.default_rng(7), -0.5, 3, scale=scale, effects=effects
    )
    assert treatment == "none"
    np.testing.assert_array_equal(severity, -0.5)


def test_rejections_follow_age_and_sex_as_the_file_says():
    effects = changed(shipped_effects(), quality__failure__base=0.0, quality__failure__severity=0.0)
    design = CohortDesign(sites=3, subjects_per_site=700, clips_per_recording=1, visits=(1.0,),
                          effects=effects, site_scale=0.0)  # fmt: skip
    recordings = [r for site in generate_cohort(design) for r in site.recordings]
    x = np.array([((r.age_years - 45) / 20, (r.sex == "female") - 0.5) for r in recordings])
    rejected = np.array([bool(r.rejected_for) for r in recordings])
    model = LogisticRegression(C=np.inf).fit(x, rejected)
    ones = np.column_stack([np.ones(len(x)), x])
    chance = model.predict_proba(x)[:, 1]
    error = np.sqrt(np.diag(np.linalg.inv(ones.T @ (ones * (chance * (1 - chance))[:, None]))))
    found = np.concatenate([model.intercept_, model.coef_[0]])
    truth = [0.0, effects.quality.failure.age.value, effects.quality.failure.female.value]
    assert (np.abs(found - truth) < 3.5 * error).all()


def test_faces_are_lost_more_often_where_the_file_says():
    one = np.ones(2)
    old_man_young_woman = Covariates(
        0 * one, np.array([65.0, 25.0]), np.array([0.0, 1.0]), 13 * one, 0 * one
    )
    rates = gap_rates(old_man_young_woman, shipped_effects(), usual_per_min=2.0, noise=0 * one)
    np.testing.assert_allclose(rates, 2 * np.exp([0.2 + 0.075, -0.2 - 0.075]))


def test_raters_err_as_the_file_says():
    effects = changed(shipped_effects(), rating__error=0.1, rating__site_bias=0.0)
    design = CohortDesign(sites=4, subjects_per_site=150, clips_per_recording=1, effects=effects)
    inside = [
        r.score - r.severity
        for site in generate_cohort(design)
        for r in site.recordings
        if 8 <= r.severity <= 19
    ]
    assert np.std(inside) == pytest.approx(2.7, abs=0.35)
    assert np.mean(inside) == pytest.approx(0.0, abs=0.5)


def test_a_file_without_effects_makes_a_cohort_that_nobody_can_rank():
    effects = shipped_effects()
    for name in PARAMETERS:
        entry = getattr(effects.parameters, name)
        for dependence in DEPENDENCES:
            if getattr(entry, dependence) is not None:
                effects = changed(effects, **{f"parameters__{name}__{dependence}": 0.0})
    effects = changed(effects, quality__gaps__severity=0.0, quality__failure__severity=0.0)
    found, planted = (ranked(CohortDesign(sites=4, clips_per_recording=2, effects=e, seed=8))
                      for e in (effects, shipped_effects()))  # fmt: skip
    # The standard error of an AUROC of 400 subjects is 0.03.
    assert abs(found - 0.5) < 0.09
    assert planted > 0.65


def ranked(design):
    """AUROC of subjects that the model was not fitted on."""
    features, labels = [], []
    for site in generate_cohort(dataclasses.replace(design, site_scale=0.0, visits=(1.0,))):
        for recording, item in zip(site.recordings, site.features, strict=True):
            values = np.where(item.mask, item.values, np.nan).reshape(-1, len(BEHAVIOUR.names))
            features.append(np.concatenate([np.nanmean(values, 0), np.nanstd(values, 0)]))
            labels.append(recording.score >= 10)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=1000))
    scores = cross_val_predict(model, np.stack(features), labels, cv=4, method="decision_function")
    return roc_auc_score(labels, scores)


def test_varied_effects_have_the_sds_of_the_file_and_leave_rates_alone():
    drawn = [
        dict(quantities(vary_effects(shipped_effects(), np.random.default_rng(seed), 1.0)))
        for seed in range(200)
    ]
    given = dict(quantities(shipped_effects()))
    for key in ("parameters.smile_rate.severity", "course.rtms", "quality.failure.age"):
        values = np.array([one[key].value for one in drawn])
        assert values.std() == pytest.approx(given[key].sd, rel=0.2)
        assert values.mean() == pytest.approx(given[key].value, abs=4 * given[key].sd / 200**0.5)
    for key in ("processes.smile.per_min", "rating.error", "persons.visit_share"):
        assert {one[key].value for one in drawn} == {given[key].value}


def test_a_site_that_joins_changes_no_stream_even_with_drawn_effects():
    alone = CohortDesign(sites=1, subjects_per_site=5, seed=9, effects_spread=1.0)
    first = generate_site(alone, 0)
    joined = generate_site(dataclasses.replace(alone, sites=12), 0)
    assert first.recordings == joined.recordings
    for a, b in zip(first.features, joined.features, strict=True):
        np.testing.assert_array_equal(a.values, b.values)
