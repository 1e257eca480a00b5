"""Platt's slope and intercept from sums: right without noise, unbiased with it, harmless at all."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from server.recalibration import Recalibration, fit_recalibration, fold_into_head
from shared_models.networks import make_network
from shared_models.tallies import GroupTally, SubjectScores, count_tally
from shared_models.weights import load_weights, save_weights

TRUE_SLOPE, TRUE_INTERCEPT = 1.8, -0.5
SEEDS = 120


def draw(
    seed: int, subjects: int, *, slope: float, intercept: float, bins: int = 8, sd: float = 0.9
) -> tuple[GroupTally, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logit = rng.normal(0.2, sd, subjects)
    positive = rng.random(subjects) < expit(slope * logit + intercept)
    scores = SubjectScores(logit, np.zeros(subjects), np.zeros(subjects), positive, {})
    return count_tally(scores, "overall", "all", bins=bins, error_limit=9), logit, positive


def noised(tally: GroupTally, stddev: float, seed: int) -> GroupTally:
    drawn = np.random.default_rng(seed).normal(0, stddev, tally.sums.shape)
    return GroupTally("overall", "all", tally.sums + drawn, stddev)


@pytest.mark.parametrize("bins", [8, 16, 32])
def test_the_fit_is_that_of_scikit_learn_on_the_scores_themselves(bins: int) -> None:
    tally, logit, positive = draw(1, 20_000, slope=TRUE_SLOPE, intercept=TRUE_INTERCEPT, bins=bins)
    exact = LogisticRegression(C=1e9).fit(logit[:, None], positive)
    found = fit_recalibration(tally)
    assert found.slope == pytest.approx(exact.coef_[0, 0], rel=0.03)
    assert found.intercept == pytest.approx(exact.intercept_[0], abs=0.03)
    assert found.is_applied


@pytest.mark.parametrize("stddev", [0.0, 5.0])
def test_intervals_cover_the_truth(stddev: float) -> None:
    covered = []
    for seed in range(SEEDS):
        tally, *_ = draw(seed, 800, slope=1.4, intercept=0.3)
        found = fit_recalibration(noised(tally, stddev, seed + 10_000))
        assert found.slope_error is not None
        assert found.intercept_error is not None
        covered.append(
            [
                abs(found.slope - 1.4) < 1.96 * found.slope_error,
                abs(found.intercept - 0.3) < 1.96 * found.intercept_error,
            ]
        )
    # Two binomial standard errors of 120 draws are 4 points.
    assert np.all(np.mean(covered, axis=0) > 0.90)


def test_noise_shifts_the_fit_by_less_than_its_own_error() -> None:
    tally, *_ = draw(3, 1000, slope=1.2, intercept=0.0)
    exact = fit_recalibration(tally)
    fits = [fit_recalibration(noised(tally, 5.0, seed)) for seed in range(SEEDS)]
    shift = np.mean([fit.slope for fit in fits]) - exact.slope
    assert abs(shift) < 0.5 * np.mean([fit.slope_error for fit in fits])


def test_a_calibrated_model_is_left_alone_nineteen_times_in_twenty() -> None:
    applied = [
        fit_recalibration(noised(draw(s, 600, slope=1.0, intercept=0.0)[0], 5.0, s)).is_applied
        for s in range(SEEDS)
    ]
    assert np.mean(applied) < 0.10


def test_a_calibrated_model_made_to_look_wrong_by_noise_alone_is_left_alone() -> None:
    """The broken variant: without the noise in the errors, noise alone would be acted upon."""
    tally, *_ = draw(5, 300, slope=1.0, intercept=0.0)
    loud = [noised(tally, 8.0, seed) for seed in range(SEEDS)]
    told = np.mean([fit_recalibration(one).is_applied for one in loud])
    blind = np.mean(
        [fit_recalibration(GroupTally("overall", "all", one.sums)).is_applied for one in loud]
    )
    assert told < 0.12
    assert blind > 0.2


@pytest.mark.parametrize(
    ("sums", "why"),
    [
        (np.zeros(19), "too few subjects on one side"),
        (np.r_[np.ones(8) * 9, np.zeros(8), np.zeros(3)], "too few subjects on one side"),
        (np.r_[0, 0, 0, 50, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0.0], "two middle bins"),
        (np.r_[0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0.0], "too noisy"),
        (np.r_[-9, 9, -9, 9, 5, -9, 9, 9, 9, -9, 9, -9, 9, 9, -9, 9, 0, 0, 0.0], "too noisy"),
    ],
)
def test_sums_that_tell_nothing_change_nothing(sums: np.ndarray, why: str) -> None:
    found = fit_recalibration(GroupTally("overall", "all", sums.astype(float), 3.0))
    assert not found.is_applied
    assert why in found.why
    assert (found.slope, found.intercept, found.slope_error) == (1.0, 0.0, None)


def test_folding_changes_the_log_odds_as_told_and_nothing_else() -> None:
    network = make_network("behaviour_net", "small", features=24)
    torch.nn.init.normal_(network.head.weight)
    torch.nn.init.normal_(network.head.bias)
    state = {name: part.clone() for name, part in network.state_dict().items()}
    known = Recalibration(1.7, -0.4, 0.1, 0.1, is_applied=True, why="")
    folded = fold_into_head(state, known)
    embedding = torch.randn(5, 64)
    before = network.judge(embedding)
    network.load_state_dict(folded)
    after = network.judge(embedding)
    torch.testing.assert_close(after[:, 1], 1.7 * before[:, 1] - 0.4, rtol=1e-5, atol=1e-5)
    assert torch.equal(after[:, 0], before[:, 0])
    unchanged = network.state_dict().keys() - {"head.weight", "head.bias"}
    assert all(torch.equal(folded[name], state[name]) for name in unchanged)


def test_a_correction_that_was_not_applied_leaves_the_weights_as_they_are() -> None:
    state = make_network("behaviour_net", "small", features=24).state_dict()
    for known in (None, Recalibration(1.7, -0.4, 0.1, 0.1, is_applied=False, why="")):
        assert fold_into_head(state, known) is state


def test_recalibrated_weights_can_be_written_and_read(tmp_path) -> None:
    state = make_network("behaviour_net", "small", features=24).state_dict()
    known = Recalibration(2.0, 0.5, 0.1, 0.1, is_applied=True, why="")
    folded = fold_into_head(state, known)
    save_weights(tmp_path / "m.safetensors", folded)
    assert load_weights(tmp_path / "m.safetensors", state)["head.bias"][1] == pytest.approx(0.5)
