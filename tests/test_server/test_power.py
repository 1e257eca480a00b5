"""What a group's size allows, against published standard errors and against simulation."""

import doctest

import numpy as np
import pytest
from scipy.stats import norm

import server.power
from server.fairness import measure_fairness
from server.intervals import auroc
from server.power import plan_power
from shared_models.tallies import GroupTally, bin_edges

RANGE = (0.0, 27.0, 10.0)


def chances(separation=1.2, prevalence=0.4):
    high, low = (np.diff(norm.cdf(bin_edges(8), loc=s * separation / 2)) for s in (1, -1))
    return np.concatenate([prevalence * high, (1 - prevalence) * low])


def tally_from(histograms, stddev=0.0, attribute="sex", group="male"):
    return GroupTally(attribute, group, np.append(histograms, np.zeros(3)), stddev)


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(server.power).failed == 0


@pytest.mark.parametrize(("count", "published"), [(30, 0.087), (100, 0.045)])
def test_standard_errors_are_those_that_are_known_for_such_sizes(count, published):
    power = plan_power(tally_from(chances() * count), auroc=0.8)
    assert power.standard_error == pytest.approx(published, rel=0.08)


@pytest.mark.parametrize("stddev", [0.0, 2.0])
def test_as_many_subjects_as_it_says_it_takes_give_that_standard_error(stddev):
    rng, area = np.random.default_rng(1), auroc(tally_from(chances() * 1e6)).value
    needed = plan_power(tally_from(chances() * 200, stddev), auroc=area).smallest_n
    found = []
    for _ in range(400):
        drawn = rng.multinomial(needed, chances()) + rng.normal(0, stddev, 16)
        positives, negatives = drawn[:8], drawn[8:]
        below = np.cumsum(negatives) - negatives / 2
        found.append(positives @ below / positives.sum() / negatives.sum())
    assert 1.96 * np.std(found) == pytest.approx(0.1, rel=0.1)


def test_noise_is_told_as_more_subjects_that_it_takes():
    needed = [
        plan_power(tally_from(chances() * 300, s), auroc=0.8).smallest_n for s in (0.0, 2.0, 8.0)
    ]
    assert needed == sorted(needed)
    assert needed[-1] > 4 * needed[0]


def test_one_class_says_nothing_and_says_so():
    power = plan_power(tally_from([0.0] * 8 + [2.0] * 8), auroc=0.8)
    assert (power.standard_error, power.smallest_n) == (None, None)
    assert power.words.startswith("16 subjects with fewer than two on one side")


def test_every_group_whose_count_is_shown_has_a_power_statement_and_no_other():
    groups = {"small": 4, "next": 15, "large": 200, "empty": 0}
    tallies = [tally_from(chances() * n, 0.0, "age_band", name) for name, n in groups.items()]
    overall = tally_from(chances() * 219, 0.0, "overall", "all")
    report = measure_fairness(
        [overall, *tallies], score_range=RANGE, min_cell=10, expected=[("age_band", "absent")]
    )
    told = {group.group: group.power is not None for group in report.by_group}
    assert told == {"small": False, "next": False, "large": True, "empty": False, "absent": False}
    assert "200 subjects let one know the AUROC to within 0.0" in report.by_group[3].power.words
    assert report.overall.power.smallest_n > 50
