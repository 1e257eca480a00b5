"""How often the 95 % intervals of the report hold the truth, over simulated studies.

    python benchmarks/coverage.py [--studies 500] [--sites 10] [--epsilon 3] [--workers 2] [--json]

Each study draws two groups of subjects from populations whose figures are known exactly, bins them
as sites do, adds the noise that the study file of that mode asks for, and measures as the report
does. What the bins themselves cost is not in here: the truth is that of the binned population.

A coverage of 93 to 97 % is asked for wherever the report shows a point. Where most studies are too
small for one, intervals end at the range of the figure and cover more often; there, and for
equalised odds, whose interval holds for two metrics at once, and for differences close to zero, at
least 93 % is asked for.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from scipy.stats import norm

from server.contrasts import contrast_groups
from server.groups import METRICS, describe_group
from shared_models.consortium import (
    TALLY_SENSITIVITY,
    ConsortiumConfig,
    FairnessConfig,
    PrivacyConfig,
    StudyConfig,
)
from shared_models.tallies import LOGIT_LIMIT, GroupTally, bin_edges

BINS = 8
SIZES = (100, 300, 1000)
MODES = ("off", "distributed", "local")
LIMIT = 1.0
ENDLESS = 1e9


@dataclass(frozen=True)
class Population:
    """A group without end: normal log-odds in both classes, normal errors.

    Attributes:
        separation: Distance of the classes, in standard deviations; also the calibration slope.
        shift: Moves all predicted log-odds.
        prevalence: Share above the clinical threshold.
        bias: Mean error, in units of the largest.
        spread: Standard deviation of the error.
    """

    separation: float
    shift: float
    prevalence: float
    bias: float
    spread: float

    @property
    def chances(self):
        """``[2 B]`` probability of each class and bin."""
        edges = bin_edges(BINS)
        centre = self.separation / 2
        high = np.diff(norm.cdf(edges, loc=self.shift + centre))
        low = np.diff(norm.cdf(edges, loc=self.shift - centre))
        return np.concatenate([self.prevalence * high, (1 - self.prevalence) * low])

    def draw(self, subjects, stddev, rng, name):
        """Noised tally of so many subjects."""
        error = np.clip(rng.normal(self.bias, self.spread, subjects), -1, 1)
        errors = np.array([np.abs(error).sum(), error.sum(), (error**2).sum()])
        exact = tally_of(rng.multinomial(subjects, self.chances), errors, name)
        noised = exact.sums + rng.normal(0, stddev, len(exact.sums))
        return replace(exact, sums=noised, noise_stddev=stddev)

    def endless(self, name):
        """Tally of more subjects than there are."""
        error = np.clip(norm(self.bias, self.spread).ppf((np.arange(200_000) + 0.5) / 2e5), -1, 1)
        moments = np.array([np.abs(error).mean(), error.mean(), (error**2).mean()])
        return tally_of(self.chances * ENDLESS, moments * ENDLESS, name)


GROUPS = {
    "a": Population(1.2, 0.0, 0.4, 0.05, 0.25),
    "b": Population(1.0, 0.4, 0.45, -0.05, 0.3),
}


def tally_of(histograms, errors, name):
    unit = GroupTally("", "", np.append(np.zeros(2 * BINS), np.ones(3))).errors[0]
    return GroupTally("sex", name, np.append(histograms, errors / unit).astype(float))


def noise_of(mode, *, sites, epsilon):
    """Standard deviation of the noise in each entry of a sum over all sites."""
    if mode == "off":
        return 0.0
    study = ConsortiumConfig(
        study=StudyConfig(name="coverage", instrument="phq9"),
        privacy=PrivacyConfig(mode="local", retries=0),
        fairness=FairnessConfig(epsilon=epsilon, intersections=True),
    )
    alone = study.tally_plan().noise_multiplier * TALLY_SENSITIVITY
    return alone * (sites**0.5 if mode == "local" else 1.0)


def figures_of(tallies):
    """Every estimate that a report would give of the two groups."""
    sums = {(tally.attribute, tally.group): tally for tally in tallies}
    groups = [describe_group(c, sums, hidden=frozenset(), error_limit=LIMIT) for c in sums]
    found = {metric: groups[0].metrics[metric] for metric in METRICS if groups[0].metrics}
    contrasts = contrast_groups(groups, sums, error_limit=LIMIT)
    return found | {f"difference of {c.metric}": c.difference for c in contrasts}


def cover(mode, subjects, studies, *, sites=10, epsilon=3.0, seed=0):
    """Of each figure: share of the studies' intervals that hold the truth, and share of points."""
    rng = np.random.default_rng([seed, MODES.index(mode), subjects])
    stddev = noise_of(mode, sites=sites, epsilon=epsilon)
    truth = figures_of([population.endless(name) for name, population in GROUPS.items()])
    held = {name: [] for name in truth}
    points = dict.fromkeys(truth, 0)
    for _ in range(studies):
        drawn = [each.draw(subjects, stddev, rng, name) for name, each in GROUPS.items()]
        for name, found in figures_of(drawn).items():
            open_ended = found.low is None
            held[name].append(open_ended or found.low <= truth[name].value <= found.high)
            points[name] += found.value is not None
    return {
        name: (float(np.mean(each)), points[name] / studies) for name, each in held.items() if each
    }


def is_kept(name, coverage, points, *, doubt=0.0):
    """Whether a coverage is what is asked for, give or take the doubt of the simulation."""
    conservative = points < 0.5 or name.startswith("difference")
    return coverage >= 0.93 - doubt and (conservative or coverage <= 0.97 + doubt)


def run(task):
    mode, subjects, given = task
    return cover(mode, subjects, given.studies, sites=given.sites, epsilon=given.epsilon)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--epsilon", type=float, default=3.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one object as the last line")
    given = parser.parse_args()
    places = list(product(MODES, SIZES))
    with ProcessPoolExecutor(given.workers) as pool:
        tasks = [(mode, subjects, given) for mode, subjects in places]
        found = dict(zip(places, pool.map(run, tasks), strict=True))
    for mode in MODES:
        stddev = noise_of(mode, sites=given.sites, epsilon=given.epsilon)
        print(f"\n{mode}: noise of standard deviation {stddev:.1f} in each entry")
        print(f"{'':32s}" + "".join(f"{f'n = {n}':>18s}" for n in SIZES))
        for name in dict.fromkeys(name for n in SIZES for name in found[mode, n]):
            cells = (found[mode, n].get(name) for n in SIZES)
            print(f"{name:32s}" + "".join(text_of(name, cell) for cell in cells))
    print("\ncoverage (share of studies with a point); ! is not what is asked for")
    doubt = 1.96 * (0.95 * 0.05 / given.studies) ** 0.5
    print(f"each coverage is known to within {doubt:.3f}; histograms reach to {LOGIT_LIMIT:g}")
    if given.json:
        rows = [[*place, name, *cell] for place, row in found.items() for name, cell in row.items()]
        print(json.dumps({"coverage": rows, "studies": given.studies}))


def text_of(name, cell):
    if cell is None:
        return f"{'never compared':>18s}"
    mark = " " if is_kept(name, *cell) else "!"
    return f"{cell[0]:>9.3f} ({cell[1]:.2f}){mark:2s}"


if __name__ == "__main__":
    main()
