"""What a count of right guesses says about a mechanism's privacy, after one run.

An auditor puts each of m canaries into a run with probability one half, looks at what came out, and
for r of them says whether they were in. The less privacy, the more guesses can be right.

Source:
    Steinke, Nasr, Jagielski 2023, arXiv:2305.08846 (epsilon and delta). Mahloujifar,
    Melis, Chaudhuri 2025, arXiv:2410.22235 (a whole trade-off curve, here a Gaussian).
"""

import math

import numpy as np
from scipy import stats
from scipy.optimize import brentq, linprog
from scipy.special import ndtr, ndtri

LARGEST_EPSILON, LARGEST_MU = 50.0, 20.0


def epsilon_p_value(epsilon, delta, *, canaries, guesses, right):
    """Bound on the chance of so many right guesses under (epsilon, delta)-DP."""
    truthful = 1 / (1 + math.exp(-epsilon))
    by_chance = stats.binom.sf(right - 1, guesses, truthful)
    # What delta can add: it is best spent on runs that fall short of the count by a little.
    short = np.cumsum(stats.binom.pmf(np.arange(right - 1, -1, -1), guesses, truthful))
    worst = (short / np.arange(1, right + 1)).max(initial=0.0)
    return min(1.0, by_chance + 2 * canaries * delta * worst)


def epsilon_lower_bound(delta, *, canaries, guesses, right, p):
    """Largest epsilon that is refuted at significance p; 0 if none is."""
    counts = {"canaries": canaries, "guesses": guesses, "right": right}
    return _last_refuted(lambda e: epsilon_p_value(e, delta, **counts) - p, LARGEST_EPSILON)


def gaussian_refutation(mu, *, canaries, guesses, right, p):
    """Above 0 if mu-Gaussian-DP makes so many right guesses less likely than p.

    Take a canary at random and change it over: a right guess becomes a wrong one, so for any c the
    event "at least c right, this one among them" under one input is "at least c - 1 right, this one
    wrong" under the other. The Gaussian trade-off ties the two, for every c. Mass p on the tail
    then forces so much mass below it that all together exceeds one.
    """
    right_mass = p * right / canaries
    wrong_mass = p * (guesses - right) / canaries
    for count in range(right - 1, -1, -1):
        needed = max(wrong_mass, float(ndtr(ndtri(min(right_mass, 1.0)) - mu)))
        right_mass += count / (guesses - count) * (needed - wrong_mass)
        wrong_mass = needed
    return right_mass + wrong_mass - guesses / canaries


def mu_lower_bound(*, canaries, guesses, right, p):
    """Largest mu of Gaussian DP that is refuted at significance p; 0 if none is."""
    counts = {"canaries": canaries, "guesses": guesses, "right": right}
    return _last_refuted(lambda mu: -gaussian_refutation(mu, **counts, p=p), LARGEST_MU)


def gaussian_p_value(mu, *, canaries, guesses, right):
    """Bound on the chance of so many right guesses under mu-Gaussian-DP."""
    counts = {"canaries": canaries, "guesses": guesses, "right": right}
    if gaussian_refutation(mu, **counts, p=1.0) <= 0:
        return 1.0
    return brentq(lambda p: gaussian_refutation(mu, **counts, p=p), 1e-12, 1.0, xtol=1e-12)


def gaussian_p_value_by_linear_program(mu, *, canaries, guesses, right, tangents=400):
    """The same bound as the largest tail of any distribution that the inequalities allow."""
    count = np.arange(guesses + 1)
    epsilon = mu * (np.linspace(-8, 8, tangents) + mu / 2)
    delta = ndtr(-epsilon / mu + mu / 2) - np.exp(epsilon) * ndtr(-epsilon / mu - mu / 2)
    rows, limits = [], []
    for least in range(1, guesses + 1):
        right_part = np.where(count >= least, count, 0) / canaries
        wrong_part = np.where(count >= least - 1, guesses - count, 0) / canaries
        rows.append(right_part - np.exp(epsilon)[:, None] * wrong_part)
        limits.append(delta)
    solved = linprog(
        -(count >= right).astype(float),
        A_ub=np.concatenate(rows) / np.exp(np.tile(epsilon, guesses))[:, None],
        b_ub=np.concatenate(limits) / np.exp(np.tile(epsilon, guesses)),
        A_eq=np.ones((1, guesses + 1)),
        b_eq=[1.0],
    )
    return -solved.fun


def _last_refuted(excess, largest):
    """Where a function that grows from below zero crosses it; 0 or the largest if it does not."""
    if excess(1e-9) > 0:
        return 0.0
    if excess(largest) <= 0:
        return largest
    return brentq(excess, 1e-9, largest, xtol=1e-6)
