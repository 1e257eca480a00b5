"""The file of effects is read strictly: every fault by key, all at once."""

import dataclasses
from importlib.resources import files
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shared_models.toml import ConfigError
from simulation.cli import app
from simulation.effect_file import (
    PARAMETERS,
    Quantity,
    load_effects,
    quantities,
    shipped_effects,
)

SHIPPED = files("simulation").joinpath("effects.toml").read_text(encoding="utf-8")


def written(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    """The shipped file with some of its text replaced."""
    text = SHIPPED
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def faults(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_effects(path)
    return caught.value.faults


def test_what_was_published_has_a_source_and_a_doi():
    effects = shipped_effects()
    for key, quantity in quantities(effects):
        assert (quantity.basis == "chosen") == (quantity.source == ""), key
        if quantity.source:
            assert effects.sources[quantity.source].doi.startswith("10.")


def test_every_severity_effect_is_published_save_one_that_is_zero():
    severity = {name: getattr(shipped_effects().parameters, name).severity for name in PARAMETERS}
    assert {name for name, one in severity.items() if one.basis == "chosen"} == {"brief_rate"}
    assert severity["brief_rate"].value == 0.0


def test_the_digest_changes_with_a_value_and_with_nothing_else(tmp_path):
    same = load_effects(written(tmp_path, ("# SDs between sites: of", "# SDs of")))
    assert same.digest == shipped_effects().digest
    other = load_effects(
        written(tmp_path, ("value = -0.60, sd = 0.35", "value = -0.61, sd = 0.35"))
    )
    assert other.digest != shipped_effects().digest
    assert other.parameters.smile_rate.severity.value == -0.61


def test_faults_of_form_are_told_by_key_all_at_once(tmp_path):
    told = faults(
        written(
            tmp_path,
            ("value = -0.60, sd = 0.35,", "value = '-0.60', sd = -0.35,"),
            ("medication = { value = -0.10", "medicine = { value = -0.10"),
            ("[blinks]\nper_min", "[blinks]\nper_hour"),
            ("per_min = { value = 3.6", "per_min = { value = 36.0"),
            ("expressivity = 0.2\n", "expressivity = 2.0\n"),
            ('doi = "10.1016/j.jad.2018.05.071"', 'doi = "jad 2018"'),
            ("visit_share = { value = 0.15", "visit_share = { value = 1.15"),
        )
    )
    for key in (
        "parameters.smile_rate.severity.value",
        "parameters.smile_rate.severity.sd",
        "parameters.smile_rate.medicine",
        "blinks.per_hour",
        "blinks.per_min",
        "processes.smile.per_min.value",
        "parameters.smile_duration.expressivity",
        "sources.fiquer2018",
        "persons.visit_share.value",
    ):
        assert any(key in fault and "mine.toml" in fault for fault in told), (key, told)


def test_a_claim_without_a_source_and_a_source_behind_an_invention_are_refused(tmp_path):
    told = faults(
        written(
            tmp_path,
            ('basis = "direction", source = "scherer2014"', 'basis = "direction"'),
            ('basis = "chosen" }', 'basis = "chosen", source = "kim2023" }'),
        )
    )
    assert any("Expected a source for basis 'direction', got none" in fault for fault in told)
    assert any("Expected no source for basis 'chosen', got 'kim2023'" in fault for fault in told)


def test_sources_that_are_nowhere_and_sources_that_nobody_cites_are_told(tmp_path):
    told = faults(
        written(
            tmp_path,
            ('source = "scherer2014"', 'source = "sherer2014"'),
            ('source = "kim2023"', 'source = "kim2032"'),
        )
    )
    assert len(told) == 4
    assert any("parameters.gaze_down.severity.source" in f and "sherer2014" in f for f in told)
    assert any("Unused source sources.kim2023" in fault for fault in told)


@pytest.mark.parametrize("command", ["run", "cohort", "compare", "effects"])
def test_a_faulty_file_is_told_by_every_command_and_makes_nothing(tmp_path, command):
    path = written(tmp_path, ("expressivity = 0.3", "expressivity = 3.0"))
    done = CliRunner().invoke(
        app, [command, "--effects", str(path), "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 2
    assert "parameters.smile_rate.expressivity" in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_told(tmp_path):
    assert "readable file" in faults(tmp_path / "none.toml")[0]


def test_quantities_lists_every_number_with_its_key():
    keys = dict(quantities(shipped_effects()))
    assert keys["course.rtms"].value == -0.54
    assert keys["quality.failure.age"].source == "dooley2022"
    assert all(isinstance(one, Quantity) for one in keys.values())
    assert len(keys) == SHIPPED.count("basis = ") - 3  # three lines of the head explain the word


def test_effects_can_be_compared_and_hashed():
    again = dataclasses.replace(shipped_effects())
    assert again == shipped_effects()
    assert hash(again) == hash(shipped_effects())
