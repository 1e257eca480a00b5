"""What a study may declare against differences between groups, and what follows from it alone."""

import itertools
import math
from dataclasses import replace

import pytest

from privacy.accounting import epsilon_spent
from server.study_file import render_study
from shared_models.consortium import ConsortiumConfig, FairnessConfig, StudyConfig, TrainingConfig
from shared_models.mitigation import GroupWeight, MitigationConfig
from shared_models.toml import ConfigError, parse_toml

WEIGHTS = (
    GroupWeight("sex", "male", 2.0, "above"),
    GroupWeight("sex", "male", 1.5),
    GroupWeight("age_band", "60+", 0.25),
    GroupWeight("age_band", "18-39", 1.25, "below"),
)


def study(**changes: object) -> ConsortiumConfig:
    plain = ConsortiumConfig(
        study=StudyConfig(name="trial", instrument="phq9"),
        training=TrainingConfig(rounds=30, evaluate_every=10),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def everybody() -> list[tuple[dict[str, str], bool]]:
    fairness = FairnessConfig()
    cells = itertools.product((*fairness.age_groups, "undeclared"), ("female", "male", "other"))
    return [({"age_band": age, "sex": sex}, above) for age, sex in cells for above in (True, False)]


def test_nothing_is_mitigated_unless_the_study_says_so() -> None:
    mitigation = study().mitigation
    assert (mitigation.weights, mitigation.choose, mitigation.recalibrate) == ((), "last", False)
    assert mitigation.largest_weight == 1
    assert {mitigation.share_of(groups, above=above) for groups, above in everybody()} == {1.0}


def test_a_subject_counts_with_the_product_of_its_weights() -> None:
    mitigation = MitigationConfig(WEIGHTS)
    old_man = {"age_band": "60+", "sex": "male"}
    assert mitigation.weight_of(old_man, above=True) == 2.0 * 1.5 * 0.25
    assert mitigation.weight_of(old_man, above=False) == 1.5 * 0.25
    assert mitigation.weight_of({"age_band": "18-39", "sex": "female"}, above=False) == 1.25
    assert mitigation.weight_of({"age_band": "18-39", "sex": "female"}, above=True) == 1


@pytest.mark.parametrize("count", range(len(WEIGHTS) + 1))
def test_no_subject_counts_more_than_the_bound_that_follows_from_the_study(count: int) -> None:
    for weights in itertools.permutations(WEIGHTS, count):
        mitigation = MitigationConfig(weights)
        shares = [mitigation.share_of(groups, above=above) for groups, above in everybody()]
        assert all(0 < share <= 1 for share in shares)
        assert max(shares) == pytest.approx(1)


def test_products_of_weights_stay_within_the_bounds_of_one() -> None:
    high = (GroupWeight("sex", "male", 5.0), GroupWeight("age_band", "60+", 5.0))
    low = (GroupWeight("sex", "male", 0.2), GroupWeight("age_band", "60+", 0.2))
    old_man = {"age_band": "60+", "sex": "male"}
    assert MitigationConfig(high).weight_of(old_man, above=True) == 5
    assert MitigationConfig(high).largest_weight == 5
    assert MitigationConfig(low).weight_of(old_man, above=True) == 0.2
    assert MitigationConfig(low).largest_weight == 1


def test_the_file_reads_back_with_its_weights() -> None:
    config = study(mitigation=MitigationConfig(WEIGHTS, "worst_group", "mae", recalibrate=True))
    assert parse_toml(render_study(config), ConsortiumConfig, name="consortium.toml") == config


def test_a_study_file_from_before_mitigation_still_reads() -> None:
    text = '[study]\nname = "trial"\ninstrument = "phq9"\n'
    assert parse_toml(text, ConsortiumConfig, name="old.toml").mitigation == MitigationConfig()


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ('weights = [{attribute = "sex", group = "male", weight = 6}]', r"weights\[0\].weight"),
        ('weights = [{attribute = "sex", group = "male", weight = 0.1}]', "0.2"),
        ('weights = [{attribute = "sex", group = "men", weight = 2}]', "'men'"),
        ('weights = [{attribute = "age_band", group = "80+", weight = 2}]', "18-39"),
        ('weights = [{attribute = "site", group = "north", weight = 2}]', "age_band"),
        ('weights = [{attribute = "sex", group = "male", weight = nan}]', "finite number"),
        ('choose = "best"', "worst_group"),
        ('thresholds = "by group"', "Unknown key mitigation.thresholds"),
        (
            'weights = [{attribute = "sex", group = "male", weight = 2}, '
            '{attribute = "sex", group = "male", weight = 3}]',
            "sex male any",
        ),
    ],
)
def test_faults_are_told_by_key_and_file(section: str, told: str) -> None:
    text = f'[study]\nname = "trial"\ninstrument = "phq9"\n[mitigation]\n{section}\n'
    with pytest.raises(ConfigError, match=told) as caught:
        parse_toml(text, ConsortiumConfig, name="consortium.toml")
    assert "consortium.toml" in str(caught.value)


def test_all_unknown_groups_are_told_at_once() -> None:
    weights = tuple(GroupWeight("sex", group, 2.0) for group in ("men", "women"))
    with pytest.raises(ValueError, match=r"'men'.*'women'"):
        study(mitigation=MitigationConfig(weights))


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_measuring_groups_every_time_is_paid_for_in_noise_and_not_in_epsilon(mode: str) -> None:
    plain = study(privacy=replace(study().privacy, mode=mode))
    choosing = replace(plain, mitigation=MitigationConfig(choose="worst_group"))
    for server_round in (10, 20, 30):
        assert choosing.tally_attributes(server_round) == ("overall", "age_band", "sex")
    assert plain.tally_attributes(10) == ("overall",)
    assert choosing.tally_attributes(9) == ()
    plan, more = plain.tally_plan(), choosing.tally_plan()
    tables = 9 + (3 * plain.privacy.retries if mode == "distributed" else 0)
    assert more.steps == tables
    assert more.noise_multiplier > plan.noise_multiplier
    for each in (plan, more):
        spent = epsilon_spent(each.released_noise_multiplier, each.delta, steps=each.steps)
        assert math.isclose(spent, plain.fairness.epsilon, rel_tol=1e-2)


def test_weights_change_nothing_that_a_site_releases_or_spends() -> None:
    weighted = study(mitigation=MitigationConfig(WEIGHTS, recalibrate=True))
    assert weighted.training_plan() == study().training_plan()
    assert weighted.tally_plan() == study().tally_plan()
