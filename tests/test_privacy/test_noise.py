"""Noise has the promised distribution, never repeats by accident, and repeats on demand."""

import multiprocessing
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from privacy.noise import ChaChaNoise, SeededNoise


def make_sources():
    return [ChaChaNoise(), SeededNoise(7)]


@pytest.mark.parametrize("source", make_sources(), ids=["chacha", "seeded"])
def test_noise_is_normal_with_the_promised_deviation(source):
    values = source.normal_array((200_000,), 2.5)
    assert stats.kstest(values / 2.5, "norm").pvalue > 1e-6
    assert np.abs(values.mean()) < 6 * 2.5 / np.sqrt(values.size)


def test_the_same_check_catches_a_deviation_that_is_three_per_cent_off():
    values = ChaChaNoise().normal_array((1_000_000,), 0.97)
    assert stats.kstest(values, "norm").pvalue < 1e-6


@pytest.mark.parametrize("source", make_sources(), ids=["chacha", "seeded"])
def test_uniform_numbers_fill_the_unit_interval(source):
    values = source.uniform(100_000)
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-6


@pytest.mark.parametrize("source", make_sources(), ids=["chacha", "seeded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_have_the_shape_and_type_asked_for(source, dtype):
    values = source.normal((3, 4), 1.0, dtype=dtype)
    assert values.shape == (3, 4)
    assert values.dtype == dtype
    assert source.normal((), 1.0).shape == ()


class Extremes(ChaChaNoise):
    """The keystream words at both ends of the scale."""

    def _words(self, count):
        return np.array([0, 1, 2**64 - 1, 2**64 - 2], dtype=np.uint64)[:count]


def test_the_rarest_keystream_words_give_finite_tails():
    values = Extremes().normal_array((4,), 1.0)
    assert values[0] == -values[1] == pytest.approx(-8.37, abs=0.2)
    assert np.isfinite(values).all()
    assert Extremes().uniform(4).max() < 1


def test_a_seed_repeats_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    first, second = SeededNoise(3).normal((5,), 1.0), SeededNoise(3).normal((5,), 1.0)
    assert torch.equal(first, second)
    assert not torch.equal(first, SeededNoise(4).normal((5,), 1.0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_two_cryptographic_sources_share_nothing_whatever_the_global_seed():
    torch.manual_seed(0)
    first = ChaChaNoise().normal_array((8,), 1.0)
    torch.manual_seed(0)
    assert not np.isin(first, ChaChaNoise().normal_array((8,), 1.0)).any()


def test_a_source_does_not_repeat_itself():
    source = ChaChaNoise()
    assert not np.isin(source.normal_array((8,), 1.0), source.normal_array((8,), 1.0)).any()


def test_a_forked_copy_of_the_source_gets_a_key_of_its_own():
    source = ChaChaNoise()
    source.uniform(1)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with warnings.catch_warnings():
        # Newer Pythons warn of forks beside threads; this child touches no lock of another thread.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = multiprocessing.get_context("fork").Process(
            target=lambda: sender.send(source.uniform(8).tolist())
        )
        child.start()
    assert receiver.poll(60)
    there = receiver.recv()
    child.join(60)
    assert not np.isin(there, source.uniform(8)).any()
