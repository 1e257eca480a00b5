"""Sums over sites in one running total: exact, in any order, with nothing kept of a site."""

from __future__ import annotations

import gc
import weakref
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
import torch

from privacy.secure_sum import SecureSumError, add_masked
from server.running_sums import RunningMean, RunningRingSum
from shared_models.weights import State, digest_weights

WEIGHTS = (100, 80, 7, 1, 4096)


def updates_like_a_site(count: int = 5, *, size: int = 300) -> list[State]:
    """Numbers over many orders of magnitude and of both signs, as noise and gradients have."""
    rng = np.random.default_rng(4)
    return [
        {
            "a": torch.from_numpy(spread(rng, (3, size // 3))),
            "b": torch.from_numpy(spread(rng, (size,))),
        }
        for _ in range(count)
    ]


def spread(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.normal(size=shape) * 10.0 ** rng.integers(-9, 4, size=shape)
    return values.astype(np.float32)


def add_all(updates: list[State], weights: tuple[int, ...]) -> RunningMean:
    mean = RunningMean(updates[0])
    for update, weight in zip(updates, weights, strict=True):
        mean.add(update, weight=weight)
    return mean


def exact_mean(updates: list[State], weights: tuple[int, ...]) -> State:
    """The rational mean of each entry, rounded once."""
    return {
        name: torch.tensor(
            [
                float(sum(w * Fraction(float(x)) for w, x in zip(weights, xs, strict=True))
                      / sum(weights))
                for xs in zip(*(update[name].view(-1) for update in updates), strict=True)
            ],
            dtype=torch.float32,
        ).view(part.shape)
        for name, part in updates[0].items()
    }  # fmt: skip


def test_mean_is_the_exact_one_rounded_once() -> None:
    updates = updates_like_a_site()
    torch.testing.assert_close(
        add_all(updates, WEIGHTS).mean(), exact_mean(updates, WEIGHTS), rtol=0, atol=0
    )


def test_no_order_of_arrival_changes_a_bit() -> None:
    updates = updates_like_a_site(4)
    digests = {
        digest_weights(
            add_all([updates[i] for i in order], tuple(WEIGHTS[i] for i in order)).mean()
        )
        for order in permutations(range(4))
    }
    assert len(digests) == 1


def test_adding_floats_would_have_changed_the_digest() -> None:
    updates = updates_like_a_site(4)

    def fold(order: tuple[int, ...]) -> State:
        total = sum(WEIGHTS[:4])
        sums = {name: torch.zeros_like(part) for name, part in updates[0].items()}
        for i in order:
            for name, part in updates[i].items():
                sums[name].add_(part, alpha=WEIGHTS[i] / total)
        return sums

    assert len({digest_weights(fold(order)) for order in permutations(range(4))}) > 1


def test_mean_spans_more_than_one_block_and_any_shape() -> None:
    rng = np.random.default_rng(1)
    large = torch.from_numpy(rng.normal(size=200_001))
    updates: list[State] = [
        {"large": large, "scalar": torch.tensor(0.5), "none": torch.zeros(0)},
        {"large": -large / 2, "scalar": torch.tensor(0.25), "none": torch.zeros(0)},
    ]
    mean = add_all(updates, (1, 1)).mean()
    torch.testing.assert_close(mean["large"], large / 4, rtol=0, atol=2.0**-70)
    assert mean["scalar"].item() == 0.375
    assert mean["none"].shape == (0,)
    assert {name: part.dtype for name, part in mean.items()} == {
        name: part.dtype for name, part in updates[0].items()
    }


def test_huge_updates_that_cancel_leave_what_is_small() -> None:
    parts = (5e6, 1e-9, -5e6)
    mean = add_all([{"w": torch.tensor([x])} for x in parts], (1, 1, 1)).mean()
    assert mean["w"].item() == pytest.approx(np.float32(1e-9) / 3, rel=1e-6)


@pytest.mark.parametrize(
    "update",
    [
        {"w": torch.tensor([float("nan"), 0.0])},
        {"w": torch.tensor([float("inf"), 0.0])},
        {"w": torch.tensor([0.0, -1e9])},
        {"w": torch.zeros(3)},
        {"v": torch.zeros(2)},
        {"w": torch.zeros(2), "v": torch.zeros(2)},
    ],
    ids=["nan", "inf", "huge", "shape", "name", "more"],
)
def test_update_that_cannot_be_added_leaves_the_mean_as_it_was(update: State) -> None:
    mean = RunningMean({"w": torch.zeros(2)})
    mean.add({"w": torch.tensor([1.0, 2.0])}, weight=3)
    with pytest.raises(ValueError, match="Expected"):
        mean.add(update, weight=1)
    assert mean.count == 1
    assert mean.mean()["w"].tolist() == [1.0, 2.0]


def test_largest_updates_of_the_most_sites_do_not_overflow() -> None:
    largest = float(np.nextafter(np.float32(2.0**29), np.float32(0)))
    mean = RunningMean({"w": torch.zeros(1)})
    for _ in range(2**13):
        mean.add({"w": torch.tensor([largest])}, weight=1)
    assert mean.mean()["w"].item() == largest
    with pytest.raises(ValueError, match="at most 8192"):
        mean.add({"w": torch.zeros(1)}, weight=1)


def test_nothing_of_an_update_is_kept() -> None:
    mean = RunningMean({"w": torch.zeros(10)})
    ring = RunningRingSum(10)
    update, vector = torch.ones(10), np.ones(10, np.uint32)
    kept = [weakref.ref(update), weakref.ref(vector)]
    mean.add({"w": update}, weight=1)
    ring.add(vector)
    del update, vector
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


def test_empty_sums_are_no_sums() -> None:
    with pytest.raises(ValueError, match="at least one"):
        RunningMean({"w": torch.zeros(1)}).mean()
    with pytest.raises(SecureSumError, match="at least one"):
        RunningRingSum(1).total()


def test_ring_sum_is_that_of_the_whole_cohort_in_any_order() -> None:
    rng = np.random.default_rng(2)
    vectors = [rng.integers(0, 2**32, size=1000, dtype=np.uint32) for _ in range(4)]
    for order in permutations(range(4)):
        ring = RunningRingSum(1000)
        for index in order:
            ring.add(vectors[index])
        assert np.array_equal(ring.total(), add_masked(vectors))
    assert ring.count == 4


@pytest.mark.parametrize(
    "vector", [np.zeros(3, np.uint32), np.zeros(2, np.uint64), np.zeros((2, 1), np.uint32)]
)
def test_vector_of_another_form_is_not_added(vector: np.ndarray) -> None:
    ring = RunningRingSum(2)
    ring.add(np.array([1, 2], np.uint32))
    with pytest.raises(SecureSumError, match="Expected a masked vector of 2"):
        ring.add(vector)
    assert ring.total().tolist() == [1, 2]
