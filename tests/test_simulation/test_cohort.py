"""The simulated cohort has the truth it claims: directions, shares, ranges, lone sites."""

import dataclasses
from datetime import datetime
from functools import lru_cache

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shared_models.features import BEHAVIOUR
from simulation.behaviour import SPEEDS
from simulation.cohort import CohortDesign, generate_cohort, generate_site
from simulation.effect_file import PARAMETERS, shipped_effects
from simulation.effects import Covariates, draw_parameters, effect_matrix
from simulation.episodes import trapezoids

SMALL = CohortDesign(sites=3, subjects_per_site=6, seed=5)


@lru_cache(maxsize=4)
def table(design):
    """Recordings, per-recording mean and SD [R, F], of a whole cohort."""
    sites = list(generate_cohort(design))
    recordings = [recording for site in sites for recording in site.recordings]
    features = [item for site in sites for item in site.features]
    values = np.stack([item.values for item in features])
    values[~np.stack([item.mask for item in features])] = np.nan
    flat = values.reshape(len(features), -1, values.shape[-1])
    return recordings, np.nanmean(flat, axis=1), np.nanstd(flat, axis=1), flat


@lru_cache(maxsize=4)
def subjects(design):
    """Per-subject features [S, 2F], label, site."""
    recordings, mean, spread, _ = table(design)
    ids = np.array([recording.subject_id for recording in recordings])
    score = np.array([recording.score for recording in recordings])
    names = np.unique(ids)
    both = np.concatenate([mean, spread], axis=1)
    x = np.stack([both[ids == name].mean(axis=0) for name in names])
    y = np.array([score[ids == name].mean() >= 10 for name in names])
    return x, y


def column(name):
    return BEHAVIOUR.names.index(name)


def same(a, b):
    return (
        a.recordings == b.recordings
        and a.profile == b.profile
        and all(
            np.array_equal(x.values, y.values) and np.array_equal(x.mask, y.mask)
            for x, y in zip(a.features, b.features, strict=True)
        )
    )


def test_same_design_gives_the_same_site_and_another_seed_gives_another():
    assert same(generate_site(SMALL, 1), generate_site(SMALL, 1))
    assert not same(generate_site(SMALL, 1), generate_site(dataclasses.replace(SMALL, seed=6), 1))


def test_a_site_does_not_change_when_sites_join():
    alone = generate_site(dataclasses.replace(SMALL, sites=1), 0)
    assert same(alone, generate_site(dataclasses.replace(SMALL, sites=20), 0))


def test_a_subject_does_not_change_when_subjects_join():
    few = generate_site(SMALL, 0)
    more = generate_site(dataclasses.replace(SMALL, subjects_per_site=9), 0)
    count = len(few.recordings)
    assert few.recordings == more.recordings[:count]
    for a, b in zip(few.features, more.features[:count], strict=True):
        np.testing.assert_allclose(a.values, b.values, rtol=1e-5, atol=1e-5)


def test_sites_share_no_subject_and_no_behaviour():
    first, second = generate_site(SMALL, 0), generate_site(SMALL, 1)
    ids = [{r.subject_id for r in site.recordings} for site in (first, second)]
    assert not ids[0] & ids[1]
    assert not np.array_equal(first.features[0].values, second.features[0].values)


@pytest.mark.parametrize(
    ("feature", "statistic", "sign"),
    [
        ("smile", "mean", -1),
        ("smile", "spread", -1),
        ("corner_elevation", "mean", -1),
        ("gaze_down", "mean", 1),
        ("iris_drop", "mean", 1),
        ("head_pitch", "mean", -1),
        ("head_speed", "mean", -1),
        ("head_yaw", "spread", -1),
        ("head_roll", "spread", -1),
        ("mouth_speed", "mean", -1),
        ("jaw_open", "mean", -1),
        ("mouth_aspect_ratio", "mean", -1),
        ("brow_lowering", "mean", 1),
        ("brow_gap", "mean", -1),
        ("inner_brow_raise", "mean", 1),
        ("eye_blink", "mean", 1),
        ("eye_aspect_ratio", "mean", -1),
        ("dimple", "mean", 1),
        ("change_rate", "mean", -1),
    ],
)
def test_published_direction_of_severity_is_in_the_data(feature, statistic, sign):
    recordings, mean, spread, _ = table(CohortDesign())
    severity = [recording.severity for recording in recordings]
    x = (mean if statistic == "mean" else spread)[:, column(feature)]
    rho, p = spearmanr(x, severity)
    assert sign * rho > 0
    assert p < 0.01
    assert abs(rho) < 0.5, "one feature alone must not give the answer away"


def test_without_effects_severity_cannot_be_told():
    design = CohortDesign(sites=4, effects_scale=0.0, site_scale=0.0)
    recordings, mean, _, _ = table(design)
    # One row a subject: who tightens the same corner at each visit counts once.
    first = np.array([recording.visit == 1 for recording in recordings])
    severity = np.array([recording.severity for recording in recordings])[first]
    p = [spearmanr(mean[first, j], severity).pvalue for j in range(mean.shape[1])]
    assert min(p) > 0.05 / 100


def test_group_difference_of_a_parameter_is_the_one_in_the_file():
    rng = np.random.default_rng(3)
    count, effects = 200_000, shipped_effects()
    severity, same_for_all = rng.standard_normal(count), np.ones(count)
    parameters = draw_parameters(
        Covariates(
            severity, 45 * same_for_all, 0.5 * same_for_all, 13 * same_for_all, severity > 9
        ),
        effects,
        person_noise=rng.standard_normal((count, len(PARAMETERS) + 1)),
        visit_noise=rng.standard_normal((count, len(PARAMETERS))),
    )
    high = severity > np.quantile(severity, 0.6)
    for name in PARAMETERS:
        gap = parameters[name][high].mean() - parameters[name][~high].mean()
        expected = getattr(effects.parameters, name).severity.value
        assert gap == pytest.approx(expected, abs=0.02), name


def test_effect_sizes_are_realistic():
    parameters = [getattr(shipped_effects().parameters, name) for name in PARAMETERS]
    claimed = [abs(p.severity.value) for p in parameters if p.severity.basis != "chosen"]
    assert min(claimed) >= 0.3
    assert max(claimed) <= 0.6


def test_age_and_sex_move_behaviour_as_in_the_table():
    recordings, mean, _, _ = table(CohortDesign())
    age = np.array([recording.age_years for recording in recordings])
    female = np.array([recording.sex == "female" for recording in recordings])
    smile, inner = mean[:, column("smile")], mean[:, column("inner_brow_raise")]
    assert smile[age < 40].mean() > smile[age >= 60].mean()
    assert inner[age < 40].mean() < inner[age >= 60].mean()
    assert smile[female].mean() > smile[~female].mean()


def test_persons_differ_more_than_severity_moves_them():
    recordings, mean, _, _ = table(CohortDesign())
    severity = np.array([recording.severity for recording in recordings])
    for feature in ("smile", "gaze_down", "head_speed", "brow_lowering"):
        explained = np.corrcoef(mean[:, column(feature)], severity)[0, 1] ** 2
        assert explained < 0.25


def test_every_column_fits_the_constants_of_the_schema():
    _, _, _, flat = table(CohortDesign(sites=4))
    for index, spec in enumerate(BEHAVIOUR.features):
        x = flat[..., index][~np.isnan(flat[..., index])]
        assert x.min() >= spec.low - 1e-6
        assert x.max() <= spec.high + 1e-6
        normal = (x - spec.center) / spec.scale
        assert abs(normal.mean()) < 2, spec.name
        if spec.name != "cheek":  # the tracker hardly moves it, and neither may the cohort
            assert np.mean((x == spec.low) | (x == spec.high)) < 0.3, spec.name
            assert 0.1 < normal.std() < 2, spec.name


def test_twins_follow_one_movement():
    _, _, _, flat = table(CohortDesign(sites=1, subjects_per_site=40))
    pairs = [
        ("smile", "corner_elevation", 1),
        ("eye_blink", "eye_aspect_ratio", -1),
        ("gaze_down", "iris_drop", 1),
        ("jaw_open", "mouth_aspect_ratio", 1),
        ("brow_lowering", "brow_gap", -1),
    ]
    for a, b, sign in pairs:
        x, y = flat[..., column(a)], flat[..., column(b)]
        within = [
            np.corrcoef(u[~np.isnan(u)], v[~np.isnan(v)])[0, 1] for u, v in zip(x, y, strict=True)
        ]
        assert sign * np.median(within) > 0.6, (a, b)


def test_speeds_are_the_steps_of_their_columns():
    site = generate_site(SMALL, 0)
    clip, mask = site.features[0].values[1], site.features[0].mask[1]
    step = np.abs(np.diff(clip[:, column("mouth_aspect_ratio")])) * BEHAVIOUR.rate_hz
    valid = mask[1:, column("mouth_speed")]
    np.testing.assert_allclose(clip[1:, column("mouth_speed")][valid], step[valid], atol=1e-2)


def test_gaps_mask_all_columns_and_speeds_one_step_longer():
    site = generate_site(CohortDesign(sites=1, subjects_per_site=30), 0)
    mask = np.concatenate([item.mask.reshape(-1, item.mask.shape[-1]) for item in site.features])
    level = [j for j, name in enumerate(BEHAVIOUR.names) if name not in SPEEDS]
    assert 0.01 < 1 - mask[:, level].mean() < 0.3
    assert (mask[:, level].all(axis=1) == mask[:, level].any(axis=1)).all()
    for name in SPEEDS:
        assert not (mask[:, column(name)] & ~mask[:, level[0]]).any()
        assert mask[:, column(name)].sum() < mask[:, level[0]].sum()


def test_head_angles_are_deviations_from_the_session():
    for item in generate_site(SMALL, 0).features:
        for name in ("head_pitch", "head_yaw", "head_roll"):
            assert abs(np.median(item.values[..., column(name)])) < 0.2


def test_shapes_and_starts_follow_the_schema():
    design = CohortDesign(sites=1, subjects_per_site=2, clips_per_recording=3)
    for item in generate_site(design, 0).features:
        assert item.values.shape == (3, BEHAVIOUR.steps, len(BEHAVIOUR.names))
        assert item.values.dtype == np.float32
        assert item.clip_start_s.tolist() == [0.0, 15.0, 30.0]
        assert item.schema_digest == BEHAVIOUR.digest
        assert np.isfinite(item.values).all()


@pytest.mark.parametrize("instrument", ["phq9", "bdi2", "hamd17", "madrs"])
def test_two_fifths_are_at_or_above_the_threshold_of_any_instrument(instrument):
    from shared_models.consortium import INSTRUMENTS

    low, high, threshold = INSTRUMENTS[instrument]
    design = CohortDesign(
        sites=6, instrument=instrument, clips_per_recording=1, site_scale=0.0, visits=(1.0,)
    )
    score = np.array([r.score for site in generate_cohort(design) for r in site.recordings])
    assert (score >= threshold).mean() == pytest.approx(0.4, abs=0.07)
    assert score.min() >= low
    assert score.max() <= high
    assert (score == np.rint(score)).all()


def test_subjects_are_adults_of_two_sexes_with_two_visits_on_average():
    recordings, *_ = table(CohortDesign())
    age = np.array([recording.age_years for recording in recordings])
    assert (age.min(), age.max()) == (18, 85)
    assert 35 < np.median(age) < 55
    sexes = [recording.sex for recording in recordings]
    assert 0.5 < sexes.count("female") / len(sexes) < 0.65
    assert sexes.count("other") / len(sexes) < 0.03
    assert len(recordings) / 800 == pytest.approx(2.0, abs=0.1)


def test_visits_follow_each_other_and_treatment_starts_after_the_first():
    recordings, *_ = table(CohortDesign())
    previous = {}
    for recording in recordings:
        at = datetime.fromisoformat(recording.recorded_at)
        assert at.tzinfo is not None
        if recording.visit == 1:
            assert recording.treatment == "none"
        else:
            assert at > previous[recording.subject_id]
        previous[recording.subject_id] = at


def test_treated_subjects_improve():
    recordings, *_ = table(CohortDesign())
    first = {r.subject_id: r.severity for r in recordings if r.visit == 1}
    change = {
        treated: np.mean([
            r.severity - first[r.subject_id]
            for r in recordings
            if r.visit == 2 and (r.treatment != "none") is treated
        ])
        for treated in (True, False)
    }  # fmt: skip
    assert change[True] < -1.0
    assert abs(change[False]) < 1.0


def test_scores_are_severity_with_rater_error():
    recordings, *_ = table(CohortDesign())
    error = np.array([r.score - r.severity for r in recordings])
    assert 0.5 < error.std() < 3.0
    exact, *_ = table(CohortDesign(sites=2, label_noise=0.0, site_scale=0.0))
    assert max(abs(r.score - r.severity) for r in exact) <= 0.5


def test_sites_differ_and_can_be_made_alike():
    design = CohortDesign(clips_per_recording=1)
    cameras = {site.profile.camera for site in generate_cohort(design)}
    assert len(cameras) == design.sites
    alike = dataclasses.replace(design, site_scale=0.0)
    shifts = {site.profile.severity_shift for site in generate_cohort(alike)}
    assert shifts == {0.0}


def test_slow_cameras_see_shallower_blinks():
    from simulation.behaviour import Camera

    assert Camera(1.0, 0.0, 0.0, 15.0).blink_seen < Camera(1.0, 0.0, 0.0, 60.0).blink_seen == 1.0


def test_a_pretraining_cohort_has_other_effects_in_the_same_directions():
    design = CohortDesign(seed=3)
    severity = effect_matrix(shipped_effects())[0]
    assert design.drawn_effects() is shipped_effects()
    other = effect_matrix(dataclasses.replace(design, effects_spread=0.5).drawn_effects())[0]
    claimed = np.abs(severity) > 0
    assert not np.isclose(other[claimed], severity[claimed]).any()
    assert (np.sign(other[claimed]) == np.sign(severity[claimed])).mean() > 0.9
    half = dataclasses.replace(design, effects_scale=0.5).drawn_effects()
    np.testing.assert_allclose(effect_matrix(half)[0], severity / 2)
    np.testing.assert_array_equal(effect_matrix(half)[1:3], effect_matrix(shipped_effects())[1:3])


def test_held_out_subjects_are_ranked_as_well_as_the_literature_ranks_them():
    x, y = subjects(CohortDesign())
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=1000))
    scores = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(y))
        train, test = order[:560], order[560:]
        model.fit(x[train], y[train])
        scores.append(roc_auc_score(y[test], model.decision_function(x[test])))
    assert 0.77 < np.mean(scores) < 0.86


def test_trapezoid_has_its_height_and_area():
    onset, rise, hold = (np.array([[steps]]) for steps in (3, 4, 5))
    curve = trapezoids(onset, rise, hold, size=np.array([[0.8]], np.float32), samples=40)[0]
    assert curve.max() == pytest.approx(0.8, abs=1e-6)
    assert curve.sum() == pytest.approx(0.8 * (4 + 5), abs=1e-5)
    assert np.abs(curve[16:]).max() < 1e-6


def test_faults_of_a_design_are_told_at_once():
    with pytest.raises(ValueError, match=r"sites >= 1.*visits.*instrument") as caught:
        CohortDesign(sites=0, visits=(0.5, 0.1), instrument="mood")
    assert "got 0" in str(caught.value)


def test_no_such_site():
    with pytest.raises(IndexError, match="0 to 2, got 3"):
        generate_site(SMALL, 3)
