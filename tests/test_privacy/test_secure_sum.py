"""Masks cancel exactly in the sum, look random alone, and never serve twice."""

import math
import os
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from privacy import secure_sum
from privacy.secure_sum import (
    MIN_COHORT,
    Attempt,
    FixedPoint,
    SecureSumError,
    add_masked,
    exchange_key,
    pairwise_mask,
    public_bytes,
)

SIZE = 1000


def names(count: int) -> tuple[str, ...]:
    return tuple(sorted(f"site-{number:03d}" for number in range(count)))


def attempt_of(cohort: tuple[str, ...], **changes) -> Attempt:
    return replace(Attempt("run-1", 3, "train", 1, cohort), **changes)


def key_pairs(cohort, run_id="run-1"):
    return {name: exchange_key(name.encode().ljust(32, b"."), run_id) for name in cohort}


def masks_of(attempt: Attempt, size: int = SIZE, keys=None) -> dict[str, np.ndarray]:
    keys = keys or key_pairs(attempt.cohort)
    public = {name: public_bytes(key) for name, key in keys.items()}
    return {
        name: pairwise_mask(attempt, name, keys[name], public, size=size) for name in attempt.cohort
    }


@pytest.mark.parametrize("sites", [3, 4, 10, 50])
def test_the_sum_of_masked_vectors_is_the_sum_of_the_vectors(sites) -> None:
    cohort, generator = names(sites), np.random.default_rng(sites)
    values = generator.normal(size=(sites, SIZE))
    noise = generator.normal(size=(sites, SIZE)) * 0.3
    form = FixedPoint(bounds=(10.0,) * sites, noise_stddev=0.3)
    masks = masks_of(attempt_of(cohort))
    masked = [
        form.encode(v, n, bound=10.0) + masks[name]
        for v, n, name in zip(values, noise, cohort, strict=True)
    ]
    expected = (values + noise).sum(axis=0)
    error = np.abs(form.decode(add_masked(masked)) - expected).max()
    assert error <= sites * form.step
    assert form.step < 1e-6


def test_without_one_site_the_rest_is_noise() -> None:
    attempt = attempt_of(names(5))
    masks = masks_of(attempt)
    assert not add_masked(masks.values()).any()
    rest = add_masked([mask for name, mask in masks.items() if name != attempt.cohort[2]])
    assert stats.kstest(rest / 2**32, "uniform").pvalue > 1e-4


def test_a_mask_alone_is_uniform_and_a_plain_vector_is_not() -> None:
    attempt = attempt_of(names(3))
    keys = key_pairs(attempt.cohort)
    mask = masks_of(attempt, size=200_000, keys=keys)["site-001"]
    form = FixedPoint((1.0,) * 3, 0.1)
    plain = form.encode(np.zeros(len(mask)), np.random.default_rng(0).normal(size=len(mask)) * 0.1,
                        bound=1.0)  # fmt: skip
    for shift in (0, 8, 16, 24):
        bytes_of = np.bincount((plain + mask) >> shift & 0xFF, minlength=256)
        assert stats.chisquare(bytes_of).pvalue > 1e-4
    # The same test notices a vector that was sent without its mask.
    assert stats.chisquare(np.bincount(plain >> 24, minlength=256)).pvalue < 1e-9


@pytest.mark.parametrize(
    "changed",
    [{"run_id": "run-2"}, {"server_round": 4}, {"purpose": "tally"}, {"number": 2},
     {"cohort": names(4)}],
)  # fmt: skip
def test_masks_are_fresh_for_every_run_round_purpose_attempt_and_cohort(changed) -> None:
    keys = key_pairs(names(4))
    public = {name: public_bytes(key) for name, key in keys.items()}
    first = attempt_of(names(3))
    masks = [
        pairwise_mask(attempt, "site-000", keys["site-000"], public, size=SIZE)
        for attempt in (first, replace(first, **changed))
    ]
    # Two masks that shared a keystream would cancel in the difference.
    difference = (masks[0] - masks[1]) / 2**32
    assert stats.kstest(difference, "uniform").pvalue > 1e-4
    assert not np.intersect1d(*masks).size > SIZE / 100


def test_exchange_keys_differ_by_run_and_survive_a_restart() -> None:
    secret = os.urandom(32)
    assert public_bytes(exchange_key(secret, "a")) == public_bytes(exchange_key(secret, "a"))
    assert public_bytes(exchange_key(secret, "a")) != public_bytes(exchange_key(secret, "b"))


def test_a_site_that_is_told_another_cohort_makes_the_sum_noise() -> None:
    keys = key_pairs(names(4))
    told_apart = attempt_of(names(4))
    masks = masks_of(attempt_of(names(3)), keys={n: keys[n] for n in names(3)})
    public = {name: public_bytes(key) for name, key in keys.items()}
    masks["site-001"] = pairwise_mask(
        told_apart, "site-001", keys["site-001"], public, size=SIZE
    )  # fmt: skip
    assert stats.kstest(add_masked(masks.values()) / 2**32, "uniform").pvalue > 1e-4


def test_the_ring_cannot_overflow_at_the_bounds() -> None:
    form = FixedPoint(bounds=(5.0, 7.0, 9.0), noise_stddev=2.0)
    sign = np.array([1.0, -1.0])
    total = add_masked(form.encode(1e9 * sign, 1e9 * sign, bound=bound) for bound in form.bounds)
    largest = 21.0 + 3 * secure_sum.NOISE_REACH * 2.0
    assert form.decode(total) == pytest.approx(largest * sign, rel=1e-8)


def test_a_ring_too_small_for_the_sum_is_caught_by_the_test_above(monkeypatch) -> None:
    monkeypatch.setattr(secure_sum, "_HALF_RING", 2**33)
    with pytest.raises(AssertionError):
        test_the_ring_cannot_overflow_at_the_bounds()


@pytest.mark.parametrize("size", [1, 130, 100_000])
def test_rounding_moves_two_neighbours_apart_by_no_more_than_is_charged(size) -> None:
    generator = np.random.default_rng(size)
    form = FixedPoint(bounds=(1000.0,) * 10, noise_stddev=0.0)
    norm, worst = 0.5, 0.0
    for _ in range(20):
        base, move = generator.normal(size=(2, size))
        move *= norm / np.linalg.norm(move)
        zero = np.zeros(size)
        pair = [form.decode(form.encode(v, zero, bound=1000.0)) for v in (base, base + move)]
        worst = max(worst, float(np.linalg.norm(pair[0] - pair[1])))
    assert worst <= form.sensitivity(norm, size)
    # The bound is not idle: a single entry can come within a unit of it.
    edge = [np.array([0.49999 * form.step]), np.array([0.49999 * form.step + norm])]
    apart = np.diff([form.encode(v, np.zeros(1), bound=1000.0)[0] for v in edge]) * form.step
    assert apart[0] > norm - form.step


def test_cutting_and_rounding_before_the_noise_leaves_the_noise_as_promised() -> None:
    form = FixedPoint(bounds=(50.0,) * 10, noise_stddev=1.7)
    noise = np.random.default_rng(1).normal(size=100_000) * 1.7
    decoded = form.decode(form.encode(np.zeros(100_000), noise, bound=50.0))
    statistic = (decoded**2).sum() / 1.7**2
    assert 1e-4 < stats.chi2.cdf(statistic, 100_000) < 1 - 1e-4


def test_cohorts_that_would_tell_on_a_site_are_refused() -> None:
    for cohort in (names(2), names(1), ()):
        with pytest.raises(SecureSumError, match=f"at least {MIN_COHORT}"):
            attempt_of(cohort)
    with pytest.raises(SecureSumError, match="distinct"):
        attempt_of(("b", "a", "c"))
    with pytest.raises(SecureSumError, match="distinct"):
        attempt_of(("a", "a", "b"))


def test_bad_keys_and_vectors_are_refused() -> None:
    attempt, keys = attempt_of(names(3)), key_pairs(names(3))
    public = {name: public_bytes(key) for name, key in keys.items()}
    own = keys["site-000"]
    with pytest.raises(SecureSumError, match="missing"):
        pairwise_mask(attempt, "site-000", own, {"site-001": public["site-001"]}, size=4)
    with pytest.raises(SecureSumError, match="in the cohort"):
        pairwise_mask(attempt, "site-999", own, public, size=4)
    for weak in (bytes(32), b"short"):
        with pytest.raises(SecureSumError, match="usable exchange key"):
            pairwise_mask(attempt, "site-000", own, {**public, "site-001": weak}, size=4)
    form = FixedPoint((1.0,) * 3, 0.1)
    for bad in (math.nan, math.inf):
        with pytest.raises(SecureSumError, match="finite"):
            form.encode(np.array([bad]), np.zeros(1), bound=1.0)
    with pytest.raises(SecureSumError, match="one length"):
        add_masked([np.zeros(3, np.uint32), np.zeros(4, np.uint32)])
    with pytest.raises(SecureSumError, match="ring"):
        add_masked([np.zeros(3, np.uint64)] * 3)
    with pytest.raises(SecureSumError, match="one length"):
        add_masked([])
