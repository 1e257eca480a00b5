"""A site that sends whatever it likes: what it can do to the model is bounded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from played_sites import FOUR, SITES, SecureSites, Sites, spoil
from scipy import stats

from server import strategy
from server.influence import MOST_SUBJECTS, largest_update_norm
from shared_models.masking import sum_terms
from shared_models.messages import ModelUpdate


def norm_of(update: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float((part.double() ** 2).sum()) for part in update.values()))


def scaled_to(norm: float) -> Callable[[ModelUpdate], ModelUpdate]:
    def change(reply: ModelUpdate) -> ModelUpdate:
        factor = norm / norm_of(reply.update)
        return replace(reply, update={n: part * factor for n, part in reply.update.items()})

    return change


def bound_of(sites: Sites) -> float:
    plan = sites.consortium.config.training_plan()
    return largest_update_norm(plan, weight=10, size=130)


def test_an_update_that_no_honest_site_could_make_is_left_out_and_named(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    spoil(sites, "train", "east", scaled_to(1.001 * bound_of(sites)))
    report = sites.run()
    assert [r.participants for r in report.rounds] == [("north", "west")] * 2
    assert report.rounds[0].refusals[0][0] == "east"


def test_what_is_let_in_moves_the_mean_by_a_share_of_the_bound(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    bound = bound_of(sites)
    spoil(sites, "train", "east", scaled_to(0.999 * bound))
    for honest in SITES[1:]:
        spoil(sites, "train", honest, scaled_to(1e-9))
    report = sites.run()
    assert report.rounds[0].participants == SITES
    assert report.rounds[0].update_norm == pytest.approx(0.999 * bound / len(SITES), rel=1e-4)


def test_without_the_bound_one_site_moves_the_model_as_far_as_it_likes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategy, "check_influence", lambda *_, **__: None)
    sites = Sites(tmp_path)
    spoil(sites, "train", "east", scaled_to(1e6))
    assert sites.run().rounds[0].update_norm > 1e5


@pytest.mark.parametrize("weight", [1, 10, 400])
def test_honest_updates_stay_within_the_bound(tmp_path: Path, weight: int) -> None:
    plan = Sites(tmp_path).consortium.config.training_plan()
    size, stddev = 130, plan.noise_multiplier * plan.max_grad_norm / weight
    bound = largest_update_norm(plan, weight=weight, size=size)
    # The part of four times the subjects that the site is counted with, and chi-square noise.
    left = (bound - MOST_SUBJECTS * plan.max_grad_norm) / stddev
    assert stats.chi2.sf(left**2, size) < 1e-11
    # The bound is not idle: noise of twice the size would be caught.
    assert stats.chi2.sf((left / 2) ** 2, size) > 0.99


def test_a_part_of_a_secure_sum_moves_it_by_no_more_than_the_ring_holds(tmp_path: Path) -> None:
    """Nobody sees the part, so all that bounds it is the range of the sum itself."""
    sites = SecureSites(tmp_path)
    everything = np.random.default_rng(1)
    spoil(sites, "train", "east", lambda r: replace(
        r, masked=everything.integers(0, 2**32, len(r.masked), dtype=np.uint32)))  # fmt: skip
    report = sites.run()
    config = sites.consortium.config
    size = 130
    terms = sum_terms(config, FOUR, plan=config.training_plan(), size=size)
    largest = 2**31 * terms.form.step * math.sqrt(size) / 40
    assert report.rounds[0].participants == FOUR
    assert 0.1 * largest < report.rounds[0].update_norm <= largest
