"""The promised noise is there: in a step, in a sum of shares, without those who tell theirs."""

import numpy as np
import pytest
from privacy_mutants import DROPOUT_MUTANTS, NOISE_MUTANTS, SHARE_MUTANTS
from scipy import stats
from sum_of_sites import make_study, sum_vectors
from torch import nn

from privacy.noise import ChaChaNoise, SeededNoise
from privacy.training import noised_gradient
from shared_models.masking import sum_terms

SIZE = 20_000
UNLIKELY = 1e-6
COHORTS = [(3, 0), (3, 1), (10, 0), (10, 3)]
SOURCES = {"chacha": lambda number: ChaChaNoise(), "seeded": SeededNoise}


def spread_p_value(values, std):
    """Two-sided chance of a sum of squares so far from that of normal numbers."""
    below = stats.chi2.cdf((values**2).sum() / std**2, len(values))
    return 2 * min(below, 1 - below)


def promised_std(config):
    plan = config.training_plan()
    return plan.released_noise_multiplier * plan.max_grad_norm


def shares_of(config, sources, size=SIZE):
    """Each site's share of the noise, drawn as the site draws it."""
    sites = [entry.id for entry in config.sites]
    std = sum_terms(config, sites, plan=config.training_plan(), size=size).form.noise_stddev
    return {site: sources[site].normal_array((size,), std) for site in sites}


def noise_in_sum(config, make_source):
    """What a sum over sites without any data consists of, and a second copy of the sources."""
    sites = [entry.id for entry in config.sites]
    sources = {site: make_source(number) for number, site in enumerate(sites)}
    return sum_vectors(config, {site: np.zeros(SIZE) for site in sites}, sources)


def noise_left_by_tellers(config):
    """Noise that is still unknown once ``tolerated_dropouts`` sites have told their shares."""
    tellers = [entry.id for entry in config.sites][: config.privacy.tolerated_dropouts]
    copies = {entry.id: SeededNoise(number) for number, entry in enumerate(config.sites)}
    shares = shares_of(config, copies)
    told = sum((shares[site] for site in tellers), np.zeros(SIZE))
    return noise_in_sum(config, SeededNoise) - told


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("sites", "tolerated"), COHORTS)
def test_shares_add_up_to_the_noise_of_all_sites(sites, tolerated, source):
    config = make_study(sites=sites, tolerated_dropouts=tolerated)
    std = promised_std(config) * np.sqrt(sites / (sites - tolerated))
    noise = noise_in_sum(config, SOURCES[source])
    assert spread_p_value(noise, std) > UNLIKELY
    assert stats.kstest(noise / std, "norm").pvalue > UNLIKELY


@pytest.mark.parametrize(("sites", "tolerated"), COHORTS)
def test_without_the_shares_of_tolerated_sites_the_promised_noise_is_left(sites, tolerated):
    config = make_study(sites=sites, tolerated_dropouts=tolerated)
    assert spread_p_value(noise_left_by_tellers(config), promised_std(config)) > UNLIKELY


@pytest.mark.parametrize("mutant", SHARE_MUTANTS)
def test_a_wrong_share_is_caught_by_the_same_check(mutant, monkeypatch):
    config = make_study(sites=10)
    SHARE_MUTANTS[mutant](monkeypatch)
    assert spread_p_value(noise_in_sum(config, SeededNoise), promised_std(config)) < UNLIKELY


@pytest.mark.parametrize("mutant", SHARE_MUTANTS | DROPOUT_MUTANTS)
def test_a_share_that_trusts_everyone_is_caught_by_the_same_check(mutant, monkeypatch):
    config = make_study(sites=10, tolerated_dropouts=3)
    (SHARE_MUTANTS | DROPOUT_MUTANTS)[mutant](monkeypatch)
    assert spread_p_value(noise_left_by_tellers(config), promised_std(config)) < UNLIKELY


def zero_loss(module, subject):
    return module.weight.sum() * 0.0


def noise_in_step(config, noise):
    module = nn.Linear(SIZE, 1, bias=False)
    gradient = noised_gradient(
        module,
        [None] * 5,
        zero_loss,
        plan=config.training_plan(),
        expected_subjects=1,
        noise=noise,
    )
    return gradient["weight"].numpy().ravel().astype(np.float64)


@pytest.mark.parametrize("source", SOURCES)
def test_a_step_of_a_study_carries_the_noise_that_its_epsilon_needs(source):
    config = make_study(mode="local")
    assert (
        spread_p_value(noise_in_step(config, SOURCES[source](1)), promised_std(config)) > UNLIKELY
    )


@pytest.mark.parametrize("mutant", NOISE_MUTANTS)
def test_a_step_with_too_little_noise_is_caught_by_the_same_check(mutant, monkeypatch):
    config = make_study(mode="local")
    NOISE_MUTANTS[mutant](monkeypatch)
    assert spread_p_value(noise_in_step(config, ChaChaNoise()), promised_std(config)) < UNLIKELY
