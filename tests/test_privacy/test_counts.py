"""Noisy counts carry the promised noise, and a hidden cell cannot be worked out."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import privacy.counts
from privacy.counts import add_noise, suppress_small_cells
from privacy.noise import ChaChaNoise, SeededNoise


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(privacy.counts).failed == 0


def test_noise_scales_with_multiplier_and_sensitivity():
    counts = np.arange(50_000)
    noised = add_noise(counts, noise_multiplier=2.0, l2_sensitivity=1.5, noise=ChaChaNoise())
    assert stats.kstest((noised - counts) / 3.0, "norm").pvalue > 1e-6


@pytest.mark.parametrize(
    ("noise_multiplier", "l2_sensitivity"),
    [(0.0, 1.0), (-1.0, -1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf)],
)
def test_counts_without_noise_are_refused(noise_multiplier, l2_sensitivity):
    with pytest.raises(ValueError, match="noise_multiplier"):
        add_noise(
            [1.0],
            noise_multiplier=noise_multiplier,
            l2_sensitivity=l2_sensitivity,
            noise=SeededNoise(0),
        )


def test_counts_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        add_noise([math.nan], noise_multiplier=1.0, l2_sensitivity=1.0, noise=SeededNoise(0))


@given(st.lists(st.floats(-5, 60), min_size=2, max_size=8), st.floats(0, 30))
def test_no_single_cell_is_hidden_and_no_small_one_shown(counts, min_cell):
    hidden = suppress_small_cells(counts, min_cell)
    assert hidden.sum() != 1
    assert all(hidden[np.asarray(counts) < min_cell])


def test_the_companion_of_a_lone_small_cell_is_the_next_smallest():
    assert suppress_small_cells([50, 3, 20, 12], 10).tolist() == [False, True, False, True]


def test_two_small_cells_need_no_companion():
    assert suppress_small_cells([50, 3, 2, 12], 10).tolist() == [False, True, True, False]


def test_a_cell_that_is_not_a_number_is_hidden():
    assert suppress_small_cells([math.nan, 20, 30], 10).tolist() == [True, True, False]


def test_tables_of_more_than_one_attribute_are_refused():
    with pytest.raises(ValueError, match="1-D"):
        suppress_small_cells(np.ones((2, 2)), 10)
