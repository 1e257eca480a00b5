"""Epsilon and noise agree with closed forms, dp_accounting and Opacus."""

import doctest
import math
import warnings

import mpmath
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from opacus.accountants import PRVAccountant

import privacy.accounting
from privacy.accounting import (
    Release,
    calibrate_noise_multiplier,
    compose,
    epsilon_spent,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
    site_noise_multiplier,
)


def exact_delta(mu, epsilon):
    """The closed form of Balle and Wang in 60 digits."""
    with mpmath.workdps(60):
        mu, epsilon = mpmath.mpf(mu), mpmath.mpf(epsilon)
        first = mpmath.ncdf(-epsilon / mu + mu / 2)
        return first - mpmath.exp(epsilon) * mpmath.ncdf(-epsilon / mu - mu / 2)


def opacus_epsilon(noise_multiplier, sample_rate, steps, delta):
    accountant = PRVAccountant()
    accountant.history = [(noise_multiplier, sample_rate, steps)]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return accountant.get_epsilon(delta=delta)


def dp_accounting_epsilon(noise_multiplier, sample_rate, steps, delta):
    single = privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier, sampling_prob=sample_rate, value_discretization_interval=1e-4
    )
    return single.self_compose(steps).get_epsilon_for_delta(delta)


def test_the_numbers_in_the_docstrings_hold():
    results = doctest.testmod(privacy.accounting)
    assert results.attempted >= 6
    assert results.failed == 0


@pytest.mark.parametrize("mu", [1e-6, 1e-3, 0.1, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.5, 3.0, 100.0])
def test_delta_equals_the_closed_form_in_high_precision(mu, epsilon):
    expected = exact_delta(mu, epsilon)
    if expected < 1e-300:
        assert gaussian_delta(mu, epsilon) < 1e-290
    else:
        # At a tiny mu and epsilon the two terms agree in their first six digits.
        assert gaussian_delta(mu, epsilon) == pytest.approx(float(expected), rel=1e-8)


@pytest.mark.parametrize("mu", [0.05, 1.0, 5.0, 100.0])
@pytest.mark.parametrize("delta", [1e-200, 1e-12, 1e-3, 0.3])
def test_epsilon_is_the_inverse_of_delta(mu, delta):
    epsilon = gaussian_epsilon(mu, delta)
    if epsilon > 0:
        assert float(exact_delta(mu, epsilon)) == pytest.approx(delta, rel=1e-6)
    else:
        assert exact_delta(mu, 0) <= delta


@pytest.mark.parametrize(("noise_multiplier", "steps"), [(14.4, 30), (5.7, 30), (1.0, 1), (0.8, 5)])
def test_full_participation_agrees_with_dp_accounting_and_opacus(noise_multiplier, steps):
    spent = epsilon_spent(noise_multiplier, 1e-3, steps=steps)
    assert spent == pytest.approx(dp_accounting_epsilon(noise_multiplier, 1, steps, 1e-3), rel=1e-4)
    # Opacus gives an upper bound whose default slack is 0.01.
    slack = opacus_epsilon(noise_multiplier, 1.0, steps, 1e-3) - spent
    assert 0 <= slack < 0.03


@pytest.mark.parametrize(("noise_multiplier", "sample_rate"), [(1.0, 0.1), (2.0, 0.5)])
def test_subsampling_is_bounded_tightly_from_above(noise_multiplier, sample_rate):
    spent = epsilon_spent(noise_multiplier, 1e-4, steps=40, sample_rate=sample_rate)
    reference = dp_accounting_epsilon(noise_multiplier, sample_rate, 40, 1e-4)
    assert reference - 1e-3 <= spent < reference + 0.03
    assert spent < epsilon_spent(noise_multiplier, 1e-4, steps=40)


@pytest.mark.parametrize("target", [1e-3, 0.1, 1.0, 3.0, 8.0, 50.0, 1e4])
@pytest.mark.parametrize("delta", [1e-15, 1e-5, 1e-3])
def test_calibrated_noise_meets_the_target_and_wastes_nothing(target, delta):
    noise_multiplier = calibrate_noise_multiplier(target, delta, steps=30)
    mu = mpmath.sqrt(30) / mpmath.mpf(noise_multiplier)
    with mpmath.workdps(60):
        assert exact_delta(mu, target) <= delta
        assert exact_delta(mu * (1 + mpmath.mpf("1e-7")), target) > delta


def test_calibrated_noise_meets_the_target_under_subsampling():
    noise_multiplier = calibrate_noise_multiplier(3.0, 1e-3, steps=30, sample_rate=0.2)
    spent = dp_accounting_epsilon(noise_multiplier, 0.2, 30, 1e-3)
    assert 2.95 < spent <= 3.0
    assert noise_multiplier < calibrate_noise_multiplier(3.0, 1e-3, steps=30)


def test_releases_compose_in_any_order_and_portions():
    portions = [Release(5.0, 3), Release(9.0, 4), Release(5.0, 7)]
    mu = math.sqrt(10 / 25 + 4 / 81)
    assert compose(portions, 1e-3) == pytest.approx(gaussian_epsilon(mu, 1e-3), rel=1e-12)
    assert compose(portions[::-1], 1e-3) == compose(portions, 1e-3)
    assert compose([], 1e-3) == 0.0


def test_a_mixture_costs_at_least_each_of_its_parts():
    mixed = compose([Release(3.0, 2), Release(1.5, 20, 0.1)], 1e-3)
    assert mixed > epsilon_spent(3.0, 1e-3, steps=2)
    assert mixed > epsilon_spent(1.5, 1e-3, steps=20, sample_rate=0.1)
    assert mixed <= compose([Release(3.0, 2), Release(1.5, 20)], 1e-3)


@pytest.mark.parametrize("noise_multiplier", [0.0, 1e-200])
@pytest.mark.parametrize("sample_rate", [1.0, 0.1])
def test_vanishing_noise_spends_everything(noise_multiplier, sample_rate):
    spent = epsilon_spent(noise_multiplier, 1e-3, steps=30, sample_rate=sample_rate)
    assert spent == math.inf


def test_little_noise_spends_much_but_stays_a_number():
    assert gaussian_epsilon(gaussian_mu(1e-3, 30), 1e-3) == pytest.approx(1.5e7, rel=0.01)


@pytest.mark.parametrize("bad", [(math.nan, 1, 1.0), (-1.0, 1, 1.0), (1.0, 0, 1.0), (1.0, 1, 0.0)])
def test_a_release_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match="Expected"):
        Release(*bad)


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan])
def test_delta_out_of_range_is_refused(delta):
    with pytest.raises(ValueError, match="delta"):
        epsilon_spent(1.0, delta, steps=1)
    with pytest.raises(ValueError, match="delta"):
        calibrate_noise_multiplier(1.0, delta, steps=1)


def test_shared_noise_adds_up_to_what_was_asked_for_after_all_dropouts():
    share = site_noise_multiplier(5.7, sites=10, tolerated_dropouts=3)
    assert math.sqrt(7 * share**2) == pytest.approx(5.7, rel=1e-12)
    with pytest.raises(ValueError, match="at least one site"):
        site_noise_multiplier(5.7, sites=3, tolerated_dropouts=3)
