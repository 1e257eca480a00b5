"""The study file: strict, all faults at once, and plans that follow from it alone."""

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from dp_accounting.pld import privacy_loss_distribution as pld

from privacy.keys import public_line
from server.study_file import new_study, render_study, with_coordinator
from shared_models.consortium import (
    ConsortiumConfig,
    CoordinatorConfig,
    FairnessConfig,
    PrivacyConfig,
    StudyConfig,
    TrainingConfig,
    load_consortium,
)
from shared_models.toml import ConfigError, parse_toml

KEY_A = public_line(ec.generate_private_key(ec.SECP384R1()))


def make_config(**sections: object) -> ConsortiumConfig:
    return ConsortiumConfig(study=StudyConfig("trial", "phq9"), **sections)  # type: ignore[arg-type]


def faults_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_toml(text, ConsortiumConfig, name="consortium.toml")
    return caught.value.faults


def test_every_fault_is_reported_at_once_with_its_key_and_file() -> None:
    faults = faults_of(
        """
        [study]
        name = "Trial One"
        instrument = "phq10"
        [training]
        rounds = "thirty"
        learning_rate = -1.0
        rouds = 3
        [privacy]
        unit = "row"
        delta = 0.5
        """
    )
    for key in (
        "study.name", "study.instrument", "training.rounds", "training.learning_rate",
        "training.rouds", "privacy.unit", "privacy.delta",
    ):  # fmt: skip
        assert [fault for fault in faults if key in fault and "consortium.toml" in fault], key
    assert len(faults) == 7


def test_a_whole_number_is_a_fine_float_but_text_and_bool_are_not() -> None:
    text = '[study]\nname="t"\ninstrument="phq9"\n[privacy]\ntarget_epsilon = '
    assert parse_toml(text + "3", ConsortiumConfig, name="c").privacy.target_epsilon == 3.0
    for value in ('"3"', "true", "nan", "inf"):
        assert "privacy.target_epsilon" in faults_of(text + value)[0]


def test_a_missing_section_and_broken_toml_are_named() -> None:
    assert faults_of("[training]\nrounds = 3") == ["Missing key study (consortium.toml)."]
    assert "consortium.toml" in faults_of("[study")[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"instrument": "custom"}, "score_low, score_high and threshold"),
        ({"threshold": 40.0}, "threshold between 0 and 27"),
        ({"score_low": 1.0}, "fixes them"),
    ],
)
def test_an_instrument_without_a_sound_range_is_refused(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        StudyConfig(**{"name": "t", "instrument": "phq9", **change})


def test_sites_named_twice_are_refused_by_id_and_key_together() -> None:
    site = f'[[sites]]\nid = "a"\nweight = 10\npublic_key = "{KEY_A}"\n'
    faults = faults_of('[study]\nname="t"\ninstrument="phq9"\n' + site + site)
    assert "id once" in faults[0]
    assert "public_key once" in faults[0]


@pytest.mark.parametrize(
    "key", ["", "ssh-ed25519 AAAA", "ecdsa-sha2-nistp384 AAAA", KEY_A[:-8], KEY_A.split()[1]]
)
def test_a_key_that_nobody_can_prove_to_hold_is_refused(key: str) -> None:
    site = f'[[sites]]\nid = "a"\nweight = 10\npublic_key = "{key}"\n'
    (fault,) = faults_of('[study]\nname="t"\ninstrument="phq9"\n' + site)
    assert "identity.pub" in fault
    assert "sites[0]" in fault


def test_the_written_file_reads_back_as_the_same_study() -> None:
    config = make_config(
        coordinator=CoordinatorConfig(KEY_A),
        training=TrainingConfig(rounds=7, evaluate_every=3),
        fairness=FairnessConfig(age_bands=(0, 50), sexes=("other", "female", "male")),
    )
    assert parse_toml(render_study(config), ConsortiumConfig, name="c") == config


def test_a_study_file_without_the_key_that_signs_its_models_cannot_be_agreed_to(
    tmp_path: Path,
) -> None:
    file = tmp_path / "consortium.toml"
    for mode in ("local", "distributed", "off"):
        file.write_text(render_study(make_config(privacy=PrivacyConfig(mode=mode))))
        with pytest.raises(ConfigError, match=r"coordinator\.public_key .*vultus-coordinator init"):
            load_consortium(file)
    with pytest.raises(ConfigError, match="'vultus-coordinator init' wrote"):
        parse_toml(
            '[study]\nname="t"\ninstrument="phq9"\n[coordinator]\npublic_key="x"',
            ConsortiumConfig, name="c",
        )  # fmt: skip


def test_the_digest_pins_every_byte(tmp_path: Path) -> None:
    file = tmp_path / "consortium.toml"
    file.write_text(with_coordinator(new_study("trial", instrument="bdi2"), public_key=KEY_A))
    before = load_consortium(file)
    assert before.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_text(file.read_text() + "# a remark\n")
    assert load_consortium(file).digest != before.digest
    assert load_consortium(file).config == before.config


@pytest.mark.parametrize("epsilon", [0.5, 3.0, 8.0])
def test_both_plans_keep_their_promise_by_an_independent_accountant(epsilon: float) -> None:
    config = make_config(
        training=TrainingConfig(rounds=20, evaluate_every=5),
        privacy=PrivacyConfig(target_epsilon=epsilon),
        fairness=FairnessConfig(epsilon=epsilon),
    )
    for plan in (config.training_plan(), config.tally_plan()):
        one = pld.from_gaussian_mechanism(plan.noise_multiplier, sensitivity=1.0)
        spent = one.self_compose(plan.steps).get_epsilon_for_delta(plan.delta)
        assert epsilon * 0.98 < spent <= epsilon * 1.002


def test_tables_are_declared_for_every_evaluation_and_groups_only_at_the_end() -> None:
    config = make_config(training=TrainingConfig(rounds=10, evaluate_every=4))
    declared = {r: config.tally_attributes(r) for r in range(1, 11) if config.tally_attributes(r)}
    assert declared == {
        4: ("overall",), 8: ("overall",), 10: ("overall", "age_band", "sex"),
    }  # fmt: skip
    assert config.tally_plan().steps == 5
    assert config.training.evaluations == 3
    assert list(config.tally_groups(10)) == [
        ("overall", "all"), ("age_band", "18-39"), ("age_band", "40-59"), ("age_band", "60+"),
        ("sex", "female"), ("sex", "male"),
    ]  # fmt: skip


def test_intersections_are_one_more_table_at_the_end_and_cost_one_more_release() -> None:
    training = TrainingConfig(rounds=10, evaluate_every=4)
    plain, crossed = (
        make_config(training=training, fairness=FairnessConfig(intersections=asked))
        for asked in (False, True)
    )
    assert crossed.tally_attributes(4) == ("overall",)
    assert crossed.tally_attributes(10) == ("overall", "age_band", "sex", "age_band x sex")
    assert list(crossed.tally_groups(10))[6:] == [
        ("age_band x sex", f"{band} {sex}")
        for band in ("18-39", "40-59", "60+") for sex in ("female", "male")
    ]  # fmt: skip
    assert crossed.tally_plan().steps == plain.tally_plan().steps + 1
    assert crossed.tally_plan().noise_multiplier > plain.tally_plan().noise_multiplier
    assert crossed.tally_plan().max_grad_norm == plain.tally_plan().max_grad_norm
    # The noise grows so that the epsilon does not, by an accountant of somebody else's.
    plan = crossed.tally_plan()
    one = pld.from_gaussian_mechanism(plan.noise_multiplier, sensitivity=1.0)
    spent = one.self_compose(plan.steps).get_epsilon_for_delta(plan.delta)
    assert 0.98 * crossed.fairness.epsilon < spent <= 1.002 * crossed.fairness.epsilon


def test_a_secure_sum_pays_for_retries_of_the_largest_round_with_intersections() -> None:
    config = make_config(
        training=TrainingConfig(rounds=10, evaluate_every=4),
        privacy=PrivacyConfig(mode="distributed", retries=2),
        fairness=FairnessConfig(intersections=True),
    )
    assert config.tally_plan().steps == (1 + 1 + 4) + 2 * 4


def test_a_study_file_of_old_has_no_intersections_and_the_same_plan() -> None:
    text = '[study]\nname = "trial"\ninstrument = "phq9"\n[fairness]\nbins = 8\n'
    old = parse_toml(text, ConsortiumConfig, name="c")
    assert not old.fairness.intersections
    assert old.tally_plan() == make_config().tally_plan()
    assert "intersections = false" in new_study("trial", instrument="bdi2")


@pytest.mark.parametrize(("bands", "sexes"), [((18,), ("female", "male")), ((18, 40), ("female",))])
def test_intersections_of_a_single_group_are_refused(
    bands: tuple[int, ...], sexes: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match="at least two age_bands and two sexes"):
        FairnessConfig(age_bands=bands, sexes=sexes, intersections=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("age", "group"), [(17.9, None), (18, "18-39"), (39.9, "18-39"), (40, "40-59"), (99, "60+")]
)
def test_ages_fall_into_their_band(age: float, group: str | None) -> None:
    assert FairnessConfig().age_group(age) == group


def test_without_privacy_nothing_is_promised() -> None:
    plan = make_config(privacy=PrivacyConfig(mode="off")).training_plan()
    assert plan.target_epsilon is None
    assert plan.noise_multiplier == 0
