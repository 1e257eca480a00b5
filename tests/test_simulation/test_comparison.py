"""Comparing ways of training: the figures, their pairing, and the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from client.learning.learner import Learner
from client.site import open_site
from simulation.cli import app
from simulation.comparison.arms import (
    BEST_ALONE,
    REACHABLE,
    Epsilon,
    Figures,
    compare_seed,
    judge,
    judge_severity,
    train_together,
)
from simulation.comparison.figure import draw_ways, epsilon_lines
from simulation.comparison.page import render_comparison, write_comparison
from simulation.comparison.seeds import _summarise, interval
from simulation.comparison.setting import (
    FEDERATED,
    LEFT_OUT,
    LOCAL,
    POOLED,
    Arm,
    Setting,
    choose_arms,
    read_sweep,
)
from simulation.study import write_cohort

PRIVATE = Arm("federated_dp", "distributed", 3.0)
SMALL = Setting(sites=3, subjects=30, rounds=3)


@pytest.fixture(scope="module")
def figures() -> dict[str, Figures]:
    return compare_seed(SMALL, [POOLED, LOCAL, FEDERATED, PRIVATE, LEFT_OUT], seed=4)


@pytest.fixture(scope="module")
def learners(tmp_path_factory: pytest.TempPathFactory) -> list[Learner]:
    folder = tmp_path_factory.mktemp("compared")
    design = SMALL.design(FEDERATED, 4)
    return [Learner(open_site(site)) for site in write_cohort(design, folder, lambda *_: None)]


def test_federated_training_without_privacy_is_nearly_pooled_training(
    figures: dict[str, Figures],
) -> None:
    """Only the fixed weights of the sites differ from the numbers of subjects that train."""
    assert figures[FEDERATED.label].auroc == pytest.approx(figures[POOLED.label].auroc, abs=0.02)


def test_every_way_is_judged_on_the_held_out_subjects_of_all_sites(
    figures: dict[str, Figures], learners: list[Learner]
) -> None:
    weights = train_together(learners, SMALL.rounds)
    assert judge(learners, weights).auroc == figures[POOLED.label].auroc
    positive, logit = [], []
    for learner in learners:
        scores = learner.score_held_out()
        positive += list(scores.positive)
        logit += list(scores.logit)
    assert figures[POOLED.label].auroc == pytest.approx(roc_auc_score(positive, logit))


def test_a_site_alone_sees_its_own_subjects_only(
    figures: dict[str, Figures], learners: list[Learner]
) -> None:
    alone = [judge(learners, train_together([one], SMALL.rounds)).auroc for one in learners]
    own = [judge([one], train_together([one], SMALL.rounds)).auroc for one in learners]
    assert figures[LOCAL.label].auroc == pytest.approx(np.mean(alone))
    assert figures[BEST_ALONE].auroc == pytest.approx(alone[int(np.argmax(own))])


def test_a_site_that_did_not_take_part_is_judged_by_the_others_model(
    figures: dict[str, Figures], learners: list[Learner]
) -> None:
    expected = [
        judge([one], train_together([o for o in learners if o is not one], SMALL.rounds)).auroc
        for one in learners
    ]
    assert figures[LEFT_OUT.label].auroc == pytest.approx(np.mean(expected))


def test_nothing_exceeds_what_the_true_severity_reaches(
    figures: dict[str, Figures], learners: list[Learner]
) -> None:
    ceiling = judge_severity(learners, SMALL.design(FEDERATED, 4).cohort)
    assert figures[REACHABLE] == ceiling
    assert 0.9 < ceiling.auroc <= 1.0
    assert all(f.auroc <= ceiling.auroc for name, f in figures.items() if name != REACHABLE)


def test_only_the_private_way_has_an_epsilon_and_it_is_within_the_promise(
    figures: dict[str, Figures],
) -> None:
    spent = figures[PRIVATE.label].epsilon
    assert spent is not None
    assert spent.sum is not None
    assert spent.site is not None
    assert 0 < spent.sum <= 3.0 < spent.site
    assert all(f.epsilon is None for name, f in figures.items() if name != PRIVATE.label)


def test_differences_are_paired_by_seed() -> None:
    pooled, private = [0.70, 0.80, 0.90], [0.69, 0.80, 0.88]
    seeds = [
        {
            POOLED.label: Figures(a, 4.0),
            PRIVATE.label: Figures(b, 4.5, Epsilon(2.0, 5.0)),
            REACHABLE: Figures(0.97, 1.0),
        }
        for a, b in zip(pooled, private, strict=True)
    ]
    found = _summarise(SMALL, [POOLED, PRIVATE], seeds)
    row = found.rows[1]
    difference = np.array(private) - np.array(pooled)
    low, high = stats.t.interval(0.95, 2, difference.mean(), stats.sem(difference))
    assert (row.gain.low, row.gain.high) == pytest.approx((low, high))
    kept = (np.array(private) - 0.5) / (np.array(pooled) - 0.5)
    assert row.kept.value == pytest.approx(kept.mean())
    assert row.gap.value == pytest.approx(0.97 - np.mean(private))
    assert row.over_best.value is None
    assert row.epsilon == Epsilon(2.0, 5.0)


def test_an_interval_needs_two_seeds_and_passes_over_those_without_a_figure() -> None:
    one = interval(np.array([0.7]))
    assert (one.value, one.low, one.note) == (0.7, None, "one seed: no interval")
    some = interval(np.array([0.7, np.nan, 0.8]))
    assert some.value == pytest.approx(0.75)
    assert some.note == "2 of 3 seeds"
    assert interval(np.array([np.nan])).value is None
    wide = interval(np.array([0.2, 0.9]), within=(0.0, 1.0))
    assert (wide.low, wide.high) == (0.0, 1.0)


@pytest.mark.parametrize(
    "text", ["sites", "sites=", "sites=a,b", "colour=1,2", "sites=2,2", "sites=2,inf"]
)
def test_a_sweep_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="WHAT=A,B"):
        read_sweep(text)


def test_a_sweep_changes_one_thing() -> None:
    what, values = read_sweep("heterogeneity=0,1,2.5")
    settings = [SMALL.varied(what, value) for value in values]
    assert [s.heterogeneity for s in settings] == [0, 1, 2.5]
    assert [s.design(POOLED, 1).cohort.site_scale for s in settings] == [0, 1, 2.5]
    with pytest.raises(ValueError, match=r"whole numbers of sites, got 2\.5"):
        SMALL.varied("sites", 2.5)


def test_secure_sums_need_their_least_cohort() -> None:
    with pytest.raises(ValueError, match="at least 3 sites"):
        Setting(sites=2).check(choose_arms([3.0], ["distributed"], leave_one_out=False))


def test_command_answers_with_the_keys_of_the_contract(tmp_path: Path) -> None:
    told = CliRunner().invoke(
        app,
        [
            *("compare", "--sites", "3", "--subjects", "20", "--rounds", "2", "--seeds", "1"),
            *("--workers", "1", "--out", str(tmp_path / "out"), "--json"),
        ],
    )
    assert told.exit_code == 0, told.output
    answer = json.loads(told.stdout.strip().splitlines()[-1])
    names = [arm["name"] for arm in answer["arms"]]
    assert names == ["pooled", "local", "best_local", "federated", "federated_dp"]
    for arm in answer["arms"]:
        assert {"value", "low", "high"} <= arm["auroc"].keys()
        assert {"mae", "epsilon"} <= arm.keys()
    assert set(answer["arms"][-1]["epsilon"]) == {"sum", "site"}
    assert Path(answer["report"]).is_file()
    assert (tmp_path / "out" / "comparison.pdf").read_bytes().startswith(b"%PDF")


def test_command_names_what_it_cannot_do(tmp_path: Path) -> None:
    for words, reason in (
        (["--mode", "off"], "always compared"),
        (["--sites", "2"], "at least 3 sites"),
        (["--vary", "colour=1"], "WHAT=A,B"),
        (["--vary", "epsilon=0,1"], "above 0"),
        (["--vary", "epsilon=1,2", "--epsilon", "3"], "got both"),
    ):
        told = CliRunner().invoke(app, ["compare", *words, "--out", str(tmp_path / "x")])
        assert told.exit_code == 2
        assert reason in told.stderr
    assert not (tmp_path / "x").exists()


def test_page_holds_everything_and_loads_nothing(
    figures: dict[str, Figures], tmp_path: Path
) -> None:
    arms = [POOLED, LOCAL, FEDERATED, PRIVATE, LEFT_OUT]
    found = [
        _summarise(SMALL.varied("sites", sites), arms, [figures, figures]) for sites in (3.0, 6.0)
    ]
    page = write_comparison(found, tmp_path, varied="sites").read_text()
    assert not re.search(r'(src|href)="(?!#)', page)
    for arm in arms:
        assert arm.label in page
    assert page.count("<svg") == 5
    assert "no output is a diagnosis" in page
    assert json.loads((tmp_path / "comparison.json").read_text())[1]["setting"]["sites"] == 6


def private_at(epsilon: float, figure: float) -> dict[str, Figures]:
    return {
        Arm("federated_dp", "local", epsilon).label: Figures(figure, 4.0, Epsilon(1.0, epsilon))
    }


def test_several_epsilons_become_a_curve_with_level_lines_for_the_rest() -> None:
    arms = [POOLED, FEDERATED, *(Arm("federated_dp", "local", e) for e in (8.0, 1.0))]
    seeds = [
        {
            POOLED.label: Figures(0.8 + d, 4.0),
            FEDERATED.label: Figures(0.79 + d, 4.0),
            REACHABLE: Figures(0.97, 1.0),
            **private_at(1.0, 0.7 + 2 * d),
            **private_at(8.0, 0.78 + d),
        }
        for d in (0.0, 0.01)
    ]
    found = _summarise(SMALL, arms, seeds)
    lines = epsilon_lines(found, "gain")
    assert [(e, round(x.value or 0, 4)) for e, x in lines["noise at each site"]] == [
        (1.0, -0.095),
        (8.0, -0.02),
    ]
    assert [round(x.value or 0, 4) for _, x in lines[FEDERATED.label]] == [-0.01, -0.01]
    auroc, gain = draw_ways(found).axes
    assert [t.get_text() for t in auroc.get_xticklabels()] == ["1", "8"]
    told = [set(axes.get_legend_handles_labels()[1]) for axes in (auroc, gain)]
    assert told[0] - told[1] == {POOLED.label}


def test_the_figure_is_the_same_for_the_same_numbers(
    figures: dict[str, Figures], tmp_path: Path
) -> None:
    found = [_summarise(SMALL, [POOLED, LOCAL, PRIVATE], [figures, figures])]
    for folder in ("a", "b"):
        write_comparison(found, tmp_path / folder)
    for name in ("comparison.pdf", "comparison.png", "comparison.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_page_of_one_seed_says_that_it_shows_no_interval(figures: dict[str, Figures]) -> None:
    page = render_comparison([_summarise(SMALL, [POOLED, LOCAL, PRIVATE], [figures])])
    assert "may be chance" in page
    assert "nan" not in page
