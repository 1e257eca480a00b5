"""What one site can do to the model in a round is bounded, whatever it sends."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from played_sites import SITES, Sites, spoil
from scipy import stats

from privacy.plan import PrivacyPlan
from server.influence import MOST_SUBJECTS, check_influence, largest_update_norm
from shared_models.weights import WeightsError

PLAN = PrivacyPlan("local", 2.0, 0.5, 1.0, 30, 1e-3, None)
WEIGHT, SIZE = 50, 1300


def test_no_honest_noise_is_refused() -> None:
    """The exact tail of the norm of Gaussian noise, beside which the bound stands."""
    allowed = largest_update_norm(PLAN, weight=WEIGHT, size=SIZE) - MOST_SUBJECTS * 0.5
    scale = PLAN.noise_multiplier * PLAN.max_grad_norm / WEIGHT
    assert stats.chi.sf(allowed / scale, SIZE) <= 1e-12
    # And it is not far beyond what happens: less than a tenth over the norm that is usual.
    assert allowed < 1.1 * 1.2 * scale * math.sqrt(SIZE)


def test_the_longest_honest_update_passes_and_twice_of_it_does_not() -> None:
    generator = np.random.default_rng(1)
    gradient = np.zeros(SIZE)
    gradient[0] = MOST_SUBJECTS * WEIGHT * PLAN.max_grad_norm
    noise = generator.normal(0, PLAN.noise_multiplier * PLAN.max_grad_norm, SIZE)
    update = {"head": torch.from_numpy((gradient + noise) / WEIGHT).float()}
    check_influence(update, PLAN, weight=WEIGHT)
    with pytest.raises(WeightsError, match="clipped subjects"):
        check_influence({"head": 2 * update["head"]}, PLAN, weight=WEIGHT)


def test_without_privacy_there_is_nothing_to_compare_with() -> None:
    plan = replace(PLAN, mode="off", noise_multiplier=0.0)
    assert largest_update_norm(plan, weight=1, size=1) == math.inf


@pytest.mark.parametrize("factor", [50.0, -50.0, 1e20])
def test_a_poisoned_update_is_refused_and_the_model_is_that_of_the_others(
    tmp_path: Path, factor: float
) -> None:
    def poison(reply):
        return replace(reply, update={n: factor * t for n, t in reply.update.items()})

    (tmp_path / "poisoned").mkdir()
    poisoned = Sites(tmp_path / "poisoned")
    spoil(poisoned, "train", "east", poison)
    report = poisoned.run()
    assert [r.participants for r in report.rounds] == [("north", "west")] * 2
    site, code, reason = report.rounds[0].refusals[0]
    assert (site, code) == ("east", "wrong_message")
    assert "norm" in reason
    (tmp_path / "without").mkdir()
    without = Sites(tmp_path / "without")
    without.names = ["north", "west"]
    assert without.run().weights_digest == report.weights_digest


def test_the_most_that_a_site_can_do_is_its_share_of_the_bound(tmp_path: Path) -> None:
    """Just inside the bound, it moves the mean by no more than its weight's part of it."""
    sites = Sites(tmp_path)
    plan = sites.consortium.config.training_plan()
    largest = 0.999 * largest_update_norm(plan, weight=10, size=130)

    def push(reply):
        size = sum(part.numel() for part in reply.update.values())
        each = largest / math.sqrt(size)
        return replace(reply, update={n: torch.full_like(t, each) for n, t in reply.update.items()})

    def nothing(reply):
        return replace(reply, update={n: torch.zeros_like(t) for n, t in reply.update.items()})

    spoil(sites, "train", "east", push)
    for site in SITES[1:]:
        spoil(sites, "train", site, nothing)
    report = sites.run()
    assert report.rounds[0].participants == SITES
    assert report.rounds[0].update_norm == pytest.approx(largest / len(SITES), rel=1e-3)
