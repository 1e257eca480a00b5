"""Known attacks succeed on a step without privacy and stay under the ceiling of the one that runs.

Each attacker knows everything but what is looked for: the weights, the loss, all other subjects.

Source:
    Zhu, Liu, Han 2019, arXiv:1906.08935 (inversion of gradients). Yeom et al. 2018,
    arXiv:1709.01604 (membership by loss). Dong, Roth, Su 2019, arXiv:1905.02383 (what a trade-off
    curve leaves to any attacker).
"""

import numpy as np
import pytest
import torch
from privacy_mutants import CLIPPING_MUTANTS, NOISE_MUTANTS
from scipy import stats
from sum_of_sites import make_study, sum_vectors
from torch import nn

from privacy.accounting import gaussian_mu
from privacy.noise import SeededNoise
from privacy.training import noised_gradient, plain_gradient

UNLIKELY = 1e-6
CLIP = 150 * 60
"""Values in one clip of behaviour features."""


def mean_square(module, subject):
    inputs, targets = subject
    return nn.functional.mse_loss(module(inputs).squeeze(-1), targets)


def mu_of(config):
    plan = config.training_plan()
    return gaussian_mu(plan.released_noise_multiplier, plan.steps)


# Inversion: the gradient of a first layer is the input, times a number.


def make_person(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, CLIP, generator=generator), torch.ones(1)


def make_layer():
    module = nn.Linear(CLIP, 1)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    return module


def likeness(update, person):
    """|cos| between a person's clip and what the update of that one person says of it."""
    found, true = update["weight"].double().ravel(), person[0].double().ravel()
    return abs(float(nn.functional.cosine_similarity(found, true, dim=0)))


def release_of_one(person, config, *, rounds=1, seed=0):
    """Sum of the releases of so many rounds, of a site with that one person."""
    noise, module, total = SeededNoise(1000 + seed), make_layer(), torch.zeros(1, CLIP)
    for _ in range(rounds):
        total += noised_gradient(
            module,
            [person],
            mean_square,
            plan=config.training_plan(),
            expected_subjects=1,
            noise=noise,
        )["weight"]
    return {"weight": total}


def largest_likeness(mu):
    """Quantile of |cos| between a unit vector e and mu e + z, for CLIP standard normal numbers z.

    Two bounds are each missed with probability UNLIKELY / 2: the normal one on the part along e,
    and that of chi on the length of the rest.
    """
    along = mu + stats.norm.isf(UNLIKELY / 4)
    across = np.sqrt(stats.chi2.ppf(UNLIKELY / 2, CLIP - 1))
    return along / np.hypot(along, across)


def test_an_update_without_privacy_is_the_clip_itself():
    person = make_person(1)
    assert likeness(plain_gradient(make_layer(), [person], mean_square), person) > 0.999


def test_clipping_alone_hides_nothing(monkeypatch):
    NOISE_MUTANTS["no noise"](monkeypatch)
    person, config = make_person(1), make_study(mode="local")
    update = release_of_one(person, config)
    # It was clipped: the layer's gradient is as long as is allowed.
    assert float(update["weight"].norm()) == pytest.approx(config.privacy.max_grad_norm, rel=1e-3)
    assert likeness(update, person) > 0.999


@pytest.mark.parametrize("rounds", [1, 30])
def test_the_release_of_a_study_looks_like_nobody(rounds):
    config = make_study(mode="local", target_epsilon=3.0)
    ceiling = largest_likeness(gaussian_mu(config.training_plan().noise_multiplier, rounds))
    assert ceiling < 0.07
    for seed in range(5):
        person = make_person(seed)
        assert likeness(release_of_one(person, config, rounds=rounds, seed=seed), person) < ceiling


def test_a_loud_person_without_clipping_is_caught_by_the_same_check(monkeypatch):
    CLIPPING_MUTANTS["no clipping"](monkeypatch)
    config = make_study(mode="local", target_epsilon=3.0)
    ceiling = largest_likeness(gaussian_mu(config.training_plan().noise_multiplier))
    inputs, targets = make_person(1)
    loud = (inputs, 100 * targets)
    assert likeness(release_of_one(loud, config), loud) > 2 * ceiling


# Membership: the loss of those who trained is lower.

PEOPLE, WIDTH, ROUNDS, TRAININGS = 24, 200, 10, 120


def make_people():
    generator = torch.Generator().manual_seed(11)
    return [
        (torch.randn(2, WIDTH, generator=generator), torch.randn(2, generator=generator))
        for _ in range(PEOPLE)
    ]


def train_once(config, people, *, seed):
    """Loss of everyone after a training on some, who were drawn by lot."""
    taken = np.random.default_rng(seed).integers(0, 2, PEOPLE).astype(bool)
    members = [person for person, inside in zip(people, taken, strict=True) if inside]
    torch.manual_seed(0)
    module, noise = nn.Linear(WIDTH, 1, bias=False), SeededNoise(seed)
    for _ in range(ROUNDS):
        release = noised_gradient(
            module,
            members,
            mean_square,
            plan=config.training_plan(),
            expected_subjects=1,
            noise=noise,
        )
        module.weight.data -= 0.03 * release["weight"]
    with torch.no_grad():
        return taken, np.array([float(mean_square(module, person)) for person in people])


def membership_auc(config):
    """AUROC of "low loss, so a member", by subject over trainings: mean and standard error.

    By subject, because it is in and out of one subject that differential privacy compares.
    """
    people = make_people()
    runs = [train_once(config, people, seed=seed) for seed in range(TRAININGS)]
    taken, losses = (np.array(column) for column in zip(*runs, strict=True))
    by_subject = [
        stats.mannwhitneyu(losses[~t, i], losses[t, i]).statistic / (t.sum() * (~t).sum())
        for i, t in enumerate(taken.T)
    ]
    return np.mean(by_subject), np.std(by_subject, ddof=1) / np.sqrt(PEOPLE)


def gaussian_ceiling(mu):
    """Largest AUROC of any attacker on mu-Gaussian-DP: the area over the trade-off curve."""
    return stats.norm.cdf(mu / np.sqrt(2))


def membership_study():
    return make_study(mode="local", rounds=ROUNDS, target_epsilon=3.0)


def test_membership_by_loss_stays_under_the_ceiling_of_gaussian_privacy():
    auc, error = membership_auc(membership_study())
    assert auc + 2 * error < gaussian_ceiling(mu_of(membership_study()))
    # The attack is no straw man: it does better than chance.
    assert auc - 2 * error > 0.5


@pytest.mark.parametrize("mutant", NOISE_MUTANTS)
def test_membership_with_too_little_noise_passes_the_ceiling(mutant, monkeypatch):
    NOISE_MUTANTS[mutant](monkeypatch)
    auc, error = membership_auc(membership_study())
    assert auc - 2 * error > gaussian_ceiling(mu_of(membership_study()))


# Differencing: two reports that differ in one subject.

PAIRS = 800


def detectability(present, absent):
    """How many standard deviations lie between two sets of scores."""
    spread = np.sqrt((present.var(ddof=1) + absent.var(ddof=1)) / 2)
    return (present.mean() - absent.mean()) / spread


def differencing_scores(config, *, inside, noise_of):
    """Difference of two runs along the subject who may be in the second, for many pairs."""
    module = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(module.weight)
    others = [(torch.eye(2)[:1] * 50, torch.ones(1))] * 3
    wanted = (torch.eye(2)[1:] * 50, -torch.ones(1))
    scores = []
    for pair in range(PAIRS):
        first, second = (
            noised_gradient(
                module,
                subjects,
                mean_square,
                plan=config.training_plan(),
                expected_subjects=1,
                noise=noise_of(pair, run),
            )["weight"]
            for run, subjects in enumerate((others, [*others, wanted] if inside else others))
        )
        scores.append(float((second - first)[0, 1]))
    return np.array(scores)


def differencing_reach(config, noise_of):
    return detectability(
        differencing_scores(config, inside=True, noise_of=noise_of),
        differencing_scores(config, inside=False, noise_of=lambda *key: noise_of(*key, 1)),
    )


def noise_of_run(*key):
    return SeededNoise(hash(key) % 2**40)


def noise_of_pair(pair, run, *rest):
    return SeededNoise(hash((pair, *rest)) % 2**40)


def one_step_study():
    return make_study(mode="local", rounds=1, target_epsilon=3.0)


def test_two_runs_that_differ_in_one_subject_tell_no_more_than_the_one_that_is_charged():
    config = one_step_study()
    slack = 3 * np.sqrt(2 / PAIRS)
    # To one who knows the others already, the first run adds nothing but its noise.
    expected = mu_of(config) / np.sqrt(2)
    assert differencing_reach(config, noise_of_run) == pytest.approx(expected, abs=slack)
    assert expected + slack < mu_of(config)


def test_noise_used_twice_is_caught_by_the_same_check():
    config = one_step_study()
    with np.errstate(divide="ignore"):
        assert differencing_reach(config, noise_of_pair) > 100 * mu_of(config)


# Two attempts of one sum: a coordinator claims to have lost a site, and subtracts.

SITES, TOGETHER = 10, 4000


def attempts_reach(config, *, same_noise):
    """Best that two sums say of the site left out of the second, over many independent entries.

    Every entry is an experiment of its own: the site's vector holds one subject's whole part there.
    """
    names = [entry.id for entry in config.sites]
    plan, size = config.training_plan(), 2 * TOGETHER
    part = np.where(np.arange(size) < TOGETHER, plan.max_grad_norm, 0.0)
    vectors = {name: part if name == names[-1] else np.zeros(size) for name in names}
    first = sum_vectors(config, vectors, noises_of(names, attempt=1), attempt=1)
    rest = {name: vectors[name] for name in names[:-1]}
    again = noises_of(names[:-1], attempt=1 if same_noise else 2)
    second = sum_vectors(config, rest, again, attempt=2)
    # The best linear reading; -1 is plain subtraction.
    weights = (0.0, -0.25, -0.5, -1.0)
    return max(
        detectability((first + w * second)[:TOGETHER], (first + w * second)[TOGETHER:])
        for w in weights
    )


def noises_of(names, *, attempt):
    return {name: SeededNoise(100 * attempt + number) for number, name in enumerate(names)}


@pytest.mark.parametrize("tolerated", [0, 2])
def test_two_attempts_of_a_sum_tell_no_more_than_the_two_releases_that_are_charged(tolerated):
    config = make_study(sites=SITES, tolerated_dropouts=tolerated)
    slack = 3 * np.sqrt(2 / TOGETHER)
    charged = gaussian_mu(config.training_plan().released_noise_multiplier, 2)
    assert attempts_reach(config, same_noise=False) <= charged + slack


def test_a_second_attempt_with_the_noise_of_the_first_is_caught_by_the_same_check():
    config = make_study(sites=SITES)
    charged = gaussian_mu(config.training_plan().released_noise_multiplier, 2)
    assert attempts_reach(config, same_noise=True) > 1.5 * charged
