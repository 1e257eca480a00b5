"""Several seeds of a comparison, paired: every figure with an interval over seeds."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from server.intervals import Estimate
from simulation.comparison.arms import BEST_ALONE, REACHABLE, Epsilon, Figures, compare_seed
from simulation.comparison.setting import POOLED, Arm, Setting

BEST = "best_local"
Job = tuple[Setting, tuple[Arm, ...], int]


@dataclass(frozen=True)
class Row:
    """One way of training over all seeds.

    Attributes:
        name: Its family.
        label: What a reader calls it.
        auroc: Mean over seeds with its 95 % interval.
        mae: The same for the mean absolute error in points.
        gain: AUROC minus that of pooled training, paired by seed.
        over_best: AUROC minus that of the best single site, paired; that site was chosen by its own
            held-out subjects.
        kept: What is kept of the pooled gain over chance, (AUROC - 0.5) relative, paired.
        gap: Reachable AUROC minus this one's, paired.
        epsilon: What was spent on training; None without privacy.
        target_epsilon: What was promised; None without privacy.
    """

    name: str
    label: str
    auroc: Estimate
    mae: Estimate
    gain: Estimate
    over_best: Estimate
    kept: Estimate
    gap: Estimate
    epsilon: Epsilon | None
    target_epsilon: float | None = None


@dataclass(frozen=True)
class Comparison:
    """A setting and what came of it.

    Attributes:
        setting: The cohort and the length of training.
        seeds: How many cohorts were drawn.
        rows: The ways of training.
        reachable: AUROC of the true severity, which the raters' error alone keeps from 1.
    """

    setting: Setting
    seeds: int
    rows: tuple[Row, ...]
    reachable: Estimate

    def to_json(self) -> dict[str, object]:
        """Plain values, for ``--json`` and for files beside the page; of the effects the digest."""
        told = asdict(self)
        told["setting"]["effects"] = self.setting.effects.digest
        return told


def compare(
    settings: Sequence[Setting],
    arms: Sequence[Arm],
    *,
    seeds: int,
    workers: int,
    on_progress: Callable[[int, int], None],
) -> list[Comparison]:
    """Every setting over the same seeds.

    Args:
        settings: At least one.
        arms: The ways of training, pooled training among them.
        seeds: Cohorts a setting, at least 1; an interval needs 2.
        workers: Processes.
        on_progress: Told how many of all (setting, seed) are done.
    """
    jobs = [(setting, tuple(arms), seed) for setting in settings for seed in range(seeds)]
    found: list[dict[str, Figures]] = []
    for figures in _work(jobs, workers=min(workers, len(jobs))):
        found.append(figures)
        on_progress(len(found), len(jobs))
    return [
        _summarise(setting, arms, found[place * seeds : (place + 1) * seeds])
        for place, setting in enumerate(settings)
    ]


def _work(jobs: Sequence[Job], *, workers: int) -> Iterator[dict[str, Figures]]:
    """Figures of each job in order; a single worker is this process."""
    if workers == 1:
        yield from map(_job, jobs)
        return
    # Started anew, not forked: threads of the numeric libraries do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(_job, jobs)


def _job(job: Job) -> dict[str, Figures]:
    return compare_seed(*job)


def _summarise(
    setting: Setting, arms: Sequence[Arm], seeds: Sequence[dict[str, Figures]]
) -> Comparison:
    ways: list[tuple[str, str, float | None]] = [(a.family, a.label, a.epsilon) for a in arms]
    if any(BEST_ALONE in figures for figures in seeds):
        ways.insert([name for name, _, _ in ways].index("local") + 1, (BEST, BEST_ALONE, None))
    rows = tuple(_row(name, label, seeds, target=target) for name, label, target in ways)
    return Comparison(
        setting, len(seeds), rows, interval(_column(seeds, REACHABLE), within=(0.0, 1.0))
    )


def _row(
    name: str, label: str, seeds: Sequence[dict[str, Figures]], *, target: float | None
) -> Row:
    auroc, pooled = _column(seeds, label), _column(seeds, POOLED.label)
    errors = np.array([figures[label].mae for figures in seeds])
    return Row(
        name,
        label,
        interval(auroc, within=(0.0, 1.0)),
        interval(errors, within=(0.0, math.inf)),
        interval(auroc - pooled),
        interval(auroc - _column(seeds, BEST_ALONE)),
        interval((auroc - 0.5) / (pooled - 0.5)),
        interval(_column(seeds, REACHABLE) - auroc),
        seeds[-1][label].epsilon,
        target,
    )


def _column(seeds: Sequence[dict[str, Figures]], label: str) -> np.ndarray:
    """AUROC of each seed; nan where nobody was trained that way."""
    return np.array([f[label].auroc if label in f else math.nan for f in seeds])


def interval(
    values: np.ndarray, *, within: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """Mean with its 95 % interval by Student's t; no interval from a single value.

    Args:
        values: One a seed; those that are nan count as absent.
        within: What the figure can be; an interval is cut there.

    >>> print(f"{interval(np.array([0.7, 0.8, 0.9])).high:.3f}")
    1.048
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return Estimate(None, None, None, "no seed gave a figure")
    mean = float(known.mean())
    note = "" if len(known) == len(values) else f"{len(known)} of {len(values)} seeds"
    if len(known) == 1:
        return Estimate(mean, None, None, note or "one seed: no interval")
    half = float(stats.t.ppf(0.975, len(known) - 1) * known.std(ddof=1)) / math.sqrt(len(known))
    return Estimate(mean, max(within[0], mean - half), min(within[1], mean + half), note)
