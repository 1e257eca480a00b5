"""Which model a run releases: by its worst group where that can be seen, else the last."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ended_runs import RANGE, add_run, make_hub, weights_of
from safetensors.torch import load_file
from test_report import make_report

from server.history import EvaluationReport, Release, RunReport, evaluation_report
from server.models.exports import describe, export_model
from server.models.registration import open_registry, register_models
from server.models.tables import list_facts
from server.recalibration import Recalibration, fold_into_head
from server.release import choose_release
from server.report import render_page
from shared_models.mitigation import MitigationConfig
from shared_models.tallies import GroupTally

WORST = MitigationConfig(choose="worst_group")
SHARP = np.array([0, 1, 3, 8, 14, 40, 60, 74, 74, 60, 40, 14, 8, 3, 1, 0], dtype=float)
BLURRED = np.array([6, 14, 30, 40, 40, 30, 24, 16, 16, 24, 30, 40, 40, 30, 14, 6], dtype=float)
ERRORS = {"good": [20.0, 1.0, 4.0], "bad": [50.0, 1.0, 14.0]}


def judged(
    server_round: int, *, noise: float = 1.0, **groups: tuple[np.ndarray, str] | None
) -> EvaluationReport:
    """An evaluation of both sexes: shape of the histogram and size of the errors; None: no sums."""
    tallies = [GroupTally("overall", "all", np.append(2 * BLURRED, ERRORS["good"]), noise)]
    for group, told in groups.items():
        if told is not None:
            shape, errors = told
            tallies.append(GroupTally("sex", group, np.append(shape, ERRORS[errors]), noise))
    return evaluation_report(
        server_round,
        tallies,
        score_range=RANGE,
        min_cell=10,
        expected=[("sex", "female"), ("sex", "male")],
    )


EQUAL = {"female": (BLURRED, "good"), "male": (BLURRED, "good")}
UNEQUAL = {"female": (SHARP, "good"), "male": (BLURRED, "bad")}
BETTER = {"female": (SHARP, "good"), "male": (SHARP, "good")}


def test_nothing_is_chosen_unless_the_study_says_so() -> None:
    assert choose_release([judged(1, **BETTER), judged(2, **EQUAL)], MitigationConfig()) is None
    assert choose_release([], WORST) is None


def test_the_model_whose_worst_group_is_best_is_released() -> None:
    told = [judged(10, **EQUAL), judged(20, **BETTER), judged(30, **UNEQUAL)]
    release = choose_release(told, WORST)
    assert release is not None
    assert release.server_round == 20
    assert "Its worst group is the best of 3 judged models: sex female, AUROC 0.984" in release.why
    assert "flatter" in release.why


def test_a_better_best_group_does_not_help() -> None:
    told = [judged(10, **UNEQUAL), judged(20, **EQUAL)]
    release = choose_release(told, replace(WORST, metric="mae"))
    assert release is not None
    assert release.server_round == 20
    assert choose_release(told[::-1], replace(WORST, metric="mae")).server_round == 20  # type: ignore[union-attr]


def test_of_equal_models_the_later_is_released() -> None:
    release = choose_release([judged(10, **EQUAL), judged(20, **EQUAL)], WORST)
    assert release is not None
    assert release.server_round == 20


def test_small_errors_are_better_than_large_ones() -> None:
    small = {"female": (BLURRED, "good"), "male": (BLURRED, "good")}
    large = {"female": (SHARP, "bad"), "male": (SHARP, "bad")}
    told = [judged(10, **small), judged(20, **large)]
    assert choose_release(told, replace(WORST, metric="mae")).server_round == 10  # type: ignore[union-attr]
    assert choose_release(told, WORST).server_round == 20  # type: ignore[union-attr]


def test_without_any_group_the_last_is_released_and_the_page_says_why() -> None:
    told = [judged(10, **BETTER), judged(20, noise=40.0, **EQUAL)]
    release = choose_release(told, WORST)
    assert release is not None
    assert release.server_round == 20
    assert "no group has a figure to choose by" in release.why
    assert "sex female too few, sex male too few" in release.why


def test_a_withheld_group_is_named_and_its_figure_never_used() -> None:
    tiny = (BLURRED * 0.01, "good")
    told = [judged(10, female=(SHARP, "good"), male=tiny), judged(20, **UNEQUAL | {"male": tiny})]
    assert {g.state for g in told[-1].fairness.by_group} == {"suppressed"}
    release = choose_release(told, WORST)
    assert release is not None
    assert (release.server_round, "sex male suppressed" in release.why) == (20, True)


def test_groups_missing_at_the_end_are_left_out_and_named() -> None:
    told = [judged(10, **BETTER), judged(20, female=(BLURRED, "good"), male=None)]
    release = choose_release(told, WORST)
    assert release is not None
    assert release.server_round == 10
    assert release.why.endswith("Left out: sex male not reported.")


def test_a_model_that_lacks_a_compared_group_is_no_candidate() -> None:
    told = [judged(10, female=(SHARP, "good"), male=None), judged(20, **EQUAL)]
    release = choose_release(told, WORST)
    assert release is not None
    assert release.server_round == 20
    assert "of the one model that can be compared" in release.why


KNOWN = Recalibration(1.5, -0.25, 0.1, 0.2, is_applied=True, why="the sums contradict it")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory):
    """A coordinator whose run released its second model of three, recalibrated."""
    hub = make_hub(tmp_path_factory.mktemp("released") / "hub")
    folder = add_run(hub)
    report = RunReport.from_json((folder / "report.json").read_bytes())
    (last,) = report.evaluations
    early = replace(last, server_round=2, recalibration=KNOWN)
    changed = replace(report, evaluations=(early, last), release=Release(2, "it was better"))
    (folder / "report.json").write_text(changed.to_json())
    register_models(hub)
    return hub


def test_the_released_model_is_the_registrys_final_and_current_one(released) -> None:
    registry = open_registry(released)
    assert [entry.is_final for entry in registry.entries] == [False, True, False]
    assert registry.current == 2
    assert registry.entry(2).recalibration == KNOWN
    assert registry.entry(3).recalibration is None


def test_exports_carry_the_correction_and_the_registry_what_was_judged(
    released, tmp_path: Path
) -> None:
    export_model(released, 2, tmp_path / "m.safetensors", form="safetensors")
    exported, trained = load_file(tmp_path / "m.safetensors"), weights_of(1, 2)
    for name, part in fold_into_head(trained, KNOWN).items():
        np.testing.assert_array_equal(exported[name].numpy(), part.numpy())
    assert not np.array_equal(exported["head.bias"].numpy(), trained["head.bias"].numpy())
    assert exported["head.bias"][1] == pytest.approx(1.5 * float(trained["head.bias"][1]) - 0.25)
    told = describe(open_registry(released).entry(2))["recalibration"]
    assert "1.5 x those of the judged model" in told
    assert "plus -0.25" in told
    assert "recalibration" not in describe(open_registry(released).entry(3))
    facts = dict(list_facts(open_registry(released).entry(2)))
    assert "exports carry it" in facts["Calibration"]
    assert dict(list_facts(open_registry(released).entry(1)))["Calibration"] == "as trained"


def test_an_entry_from_before_recalibration_still_reads(released) -> None:
    entry = open_registry(released).entry(1)
    old = entry.to_bytes().replace(b'"recalibration":null,', b"")
    assert old != entry.to_bytes()
    assert type(entry).from_bytes(old) == entry


def test_the_page_shows_the_figures_of_the_released_model_and_says_so() -> None:
    first, last = make_report().evaluations
    corrected = (replace(first, recalibration=KNOWN), last)
    chosen = make_report(evaluations=corrected, release=Release(1, "The best <worst> group."))
    assert (chosen.released_round, chosen.final) == (1, first.fairness)
    page = render_page(chosen)
    assert "Released is the model of round 1." in page
    assert "The best &lt;worst&gt; group." in page
    assert "intercept \N{MINUS SIGN}0.25 (standard error 0.20)" in page
    assert RunReport.from_json(chosen.to_json()) == chosen


def test_the_page_says_why_nothing_was_corrected() -> None:
    report = make_report()
    assert (report.released_round, report.final) == (3, report.evaluations[1].fairness)
    left = replace(KNOWN, is_applied=False, why="noise <alone>")
    first, last = report.evaluations
    page = render_page(make_report(evaluations=(first, replace(last, recalibration=left))))
    assert "were not recalibrated." in page
    assert "noise &lt;alone&gt;" in page
    assert "Released is" not in page
