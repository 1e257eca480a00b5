"""Whole studies that mitigate, in every mode; and the bias that is planted to judge them by."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from client.learning.learner import Learner
from client.learning.training import subject_loss
from client.site import open_site
from server.history import RunReport
from server.signing import model_file
from simulation.cli import app
from simulation.cohort import CohortDesign, generate_site
from simulation.effect_file import PARAMETERS, shipped_effects
from simulation.effects import Covariates, effect_matrix
from simulation.mitigation_options import read_planted_bias, read_weight, with_mitigation
from simulation.planted_bias import PlantedBias
from simulation.study import StudyDesign, design_study, run_study
from simulation.truth import released_truth

MITIGATE = ("worst_group", "recalibrate", "sex.female=3", "age_band.60+.above=2")


def make_design(mode: str, *, mitigate: tuple[str, ...] = (), **changes: object) -> StudyDesign:
    options = {
        "sites": 3, "subjects": 16, "rounds": 2, "epsilon": 8.0, "mode": mode,
        "network": "behaviour_net", "trainable": "head", "seed": 4, **changes,
    }  # fmt: skip
    return with_mitigation(design_study(**options), mitigate, "age=60")  # type: ignore[arg-type]


def run(design: StudyDesign, folder: Path) -> RunReport:
    return run_study(design, folder, lambda *_: None)


@pytest.mark.parametrize("mode", ["local", "distributed", "off"])
def test_a_study_with_every_mitigation_runs_and_tells_what_it_did(
    mode: str, tmp_path: Path
) -> None:
    report = run(make_design(mode, mitigate=MITIGATE), tmp_path)
    assert report.status == "completed"
    assert report.release is not None
    assert report.weights_digest == report.rounds[report.released_round - 1].weights_digest
    assert all(e.recalibration is not None for e in report.evaluations)
    for evaluation in report.evaluations:
        assert {g.attribute for g in evaluation.fairness.by_group} >= {"age_band", "sex"}
    if mode != "off":
        assert all(site.epsilon_tallies <= 8.0 + 1e-6 for site in report.sites)  # type: ignore[operator]
        assert all(site.epsilon_training <= 8.0 + 1e-6 for site in report.sites if mode == "local")  # type: ignore[operator]
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"Released is the model of round {report.released_round}" in page
    assert released_truth(report) == next(
        (auroc, mae)
        for number, auroc, mae in report.truth.curve  # type: ignore[union-attr]
        if number == report.released_round
    )


def test_a_round_is_the_weighted_sum_of_the_subjects_gradients(tmp_path: Path) -> None:
    """From the study file to the published model: every subject counts as often as declared."""
    report = run(make_design("off", mitigate=("sex.female=3",), rounds=1, sites=2), tmp_path)
    assert report.release is None
    assert report.evaluations[0].recalibration is None
    summed: dict[str, torch.Tensor] = {}
    for folder in sorted((tmp_path / "sites").iterdir()):
        learner = Learner(open_site(folder))
        for subject, item in zip(learner.dataset.training, learner.head_items, strict=True):
            weight = 3.0 if subject.sex == "female" else 1.0
            loss = weight * subject_loss(learner.network, replace(item, share=1.0))
            loss.backward()
        for name, parameter in learner.network.named_parameters():
            if parameter.grad is not None:
                summed[name] = summed.get(name, 0) + parameter.grad
    config = learner.config
    counted = sum(entry.weight for entry in config.sites)
    scale = -config.training.learning_rate * (1 - config.training.ema) / counted
    published = load_file(model_file(tmp_path / "run", 1))
    assert set(summed) == {"head.weight", "head.bias"}
    for name, gradient in summed.items():
        torch.testing.assert_close(published[name], scale * gradient, rtol=1e-4, atol=1e-6)


def test_the_command_line_takes_them_and_tells_the_released_round(tmp_path: Path) -> None:
    found = CliRunner().invoke(
        app,
        [
            "run", "--sites", "2", "--subjects", "20", "--rounds", "2", "--mode", "off", "--json",
            "--mitigate", "worst_group", "--mitigate", "sex.male=2", "--planted-bias", "sex=male",
            "--out", str(tmp_path / "study"),
        ],
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert json.loads(found.output.splitlines()[-1])["released_round"] in (1, 2)
    assert "Released: the model of round" in found.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--mitigate", "fair"], "Expected --mitigate worst_group"),
        (["--mitigate", "sex.female=9"], "from 0.2 to 5"),
        (["--mitigate", "sex.woman=2"], "'woman'"),
        (["--mitigate", "sex.male=2", "--mitigate", "sex.male=3"], "got twice: sex male any"),
        (["--planted-bias", "sex=all"], "Expected --planted-bias"),
        (["--planted-bias", "age=old"], "Expected --planted-bias"),
    ],
)
def test_a_wrong_option_is_told_in_a_line(options: list[str], told: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["run", "--out", str(tmp_path / "study"), *options])
    assert found.exit_code == 2
    assert told in found.output.replace("\n", " ")
    assert "Traceback" not in found.output
    assert "pydantic" not in found.output


def test_weights_are_read_with_or_without_a_label() -> None:
    assert read_weight("sex.female=1.5").label == "any"
    assert read_weight("sex.female.below=1.5").label == "below"
    assert read_planted_bias("sex=male").sex == "male"


def test_a_planted_bias_changes_the_group_and_nobody_else() -> None:
    design = CohortDesign(sites=1, subjects_per_site=40, clips_per_recording=1, seed=2)
    planted = replace(design, planted=PlantedBias(sex="male"))
    before, after = (generate_site(d, 0) for d in (design, planted))
    assert before.recordings == after.recordings
    same = [
        np.array_equal(a.values, b.values)
        for a, b in zip(before.features, after.features, strict=True)
    ]
    assert same == [recording.sex == "female" for recording in before.recordings]


def test_a_planted_bias_reverses_what_it_names_and_keeps_the_rest() -> None:
    nothing = np.zeros(3)
    covariates = Covariates(
        severity_z=nothing,
        age_years=np.array([59.0, 60.0, 80.0]),
        female=np.array([1, 1, 0]),
        hour=nothing,
        medication=nothing,
    )
    effects = effect_matrix(shipped_effects())[0]
    bias = PlantedBias(from_age_years=60, parameters=("smile_rate",))
    changed = bias.apply(effects, covariates)
    place = PARAMETERS.index("smile_rate")
    np.testing.assert_allclose(changed[:, place], effects[place] * np.array([1, -1, -1]))
    np.testing.assert_allclose(np.delete(changed, place, 1), [np.delete(effects, place)] * 3)
    gone = replace(bias, strength=1.0, sex="female").apply(effects, covariates)
    np.testing.assert_allclose(gone[:, place], effects[place] * np.array([1, 0, 1]))


def test_faults_of_a_planted_bias_are_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"'laughter'.*'men'.*strength from 0 to 2, got 3"):
        PlantedBias(sex="men", strength=3.0, parameters=("laughter",))
