"""The simulator in a few calls, for notebooks and scripts: simulate, compare, sweep.

Each is what ``vultus-simulate`` does, without a terminal: the same seed gives the same numbers.
``notebooks/walkthrough.ipynb`` goes through all of them. A script that asks for several workers
calls them below ``if __name__ == "__main__":``, since every worker imports the script anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from server.groups import GroupMetrics, Metric
from server.history import RunReport
from server.intervals import Estimate
from shared_models.consortium import Mode
from simulation.comparison.figure import draw_sweep, draw_ways
from simulation.comparison.page import write_comparison
from simulation.comparison.seeds import Comparison
from simulation.comparison.seeds import compare as compare_settings
from simulation.comparison.setting import Arm, Setting, Varied, choose_arms
from simulation.study import RUN, design_study, run_study

Table = list[dict[str, object]]
"""Rows by column name, as ``pandas.DataFrame`` takes them."""

__all__ = [
    "Setting",
    "Study",
    "compare",
    "draw_sweep",
    "draw_ways",
    "list_groups",
    "list_ways",
    "simulate",
    "sweep",
    "write_comparison",
]


@dataclass(frozen=True)
class Study:
    """A simulated study that has ended.

    Attributes:
        folder: The sites and the run, as ``vultus-simulate run`` leaves them.
        report: All figures: as the coordinator sees them, and exactly in ``report.truth``.
    """

    folder: Path
    report: RunReport

    @property
    def page(self) -> Path:
        """The report as a page that can be mailed."""
        return self.folder / RUN / "report.html"


def simulate(  # noqa: PLR0913 - what the command can be told
    folder: Path | str,
    *,
    sites: int = 8,
    subjects: int = 100,
    rounds: int = 30,
    epsilon: float = 3.0,
    mode: Mode = "local",
    trainable: Literal["head", "all"] = "head",
    seed: int = 0,
    workers: int = 1,
) -> Study:
    """A whole study: cohort, sites, private training, evaluation, report.

    Args:
        folder: New or empty; everything is kept there.
        sites: Number of sites.
        subjects: Subjects at each site.
        rounds: Rounds of training.
        epsilon: Promised to each subject.
        mode: ``local``: each site adds full noise; ``distributed``: a secure sum carries one noise;
            ``off``: no privacy.
        trainable: Train the head on the shipped trunk, or everything.
        seed: Fixes everything, noise included.
        workers: Processes.

    Raises:
        ValueError: If a number is out of range, or the folder holds something.
    """
    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        msg = f"Expected a new or empty folder, got {place}: remove it or name another."
        raise ValueError(msg)
    Setting(sites, subjects, rounds).check([Arm("federated_dp", mode, epsilon)])
    design = design_study(
        sites=sites,
        subjects=subjects,
        rounds=rounds,
        epsilon=epsilon,
        mode=mode,
        network="behaviour_net",
        trainable=trainable,
        seed=seed,
        workers=workers,
    )
    return Study(place, run_study(design, place, lambda *_: None))


def compare(  # noqa: PLR0913 - what the command can be told
    setting: Setting,
    *,
    epsilons: Sequence[float] = (3.0,),
    modes: Sequence[Mode] = ("distributed",),
    leave_one_out: bool = False,
    seeds: int = 5,
    workers: int = 1,
) -> Comparison:
    """Every way of training on the same cohorts: pooled, each site alone, federated, private.

    Args:
        setting: The cohort and the length of training.
        epsilons: Of the private ways.
        modes: Where noise is added: ``distributed``, ``local`` or both.
        leave_one_out: Also judge on each site a model that was trained without it.
        seeds: Cohorts; an interval needs 2.
        workers: Processes.

    Raises:
        ValueError: If a way cannot be trained in this setting.
    """
    arms = choose_arms(epsilons, modes, leave_one_out=leave_one_out)
    return _compare([setting], arms, seeds=seeds, workers=workers)[0]


def sweep(  # noqa: PLR0913 - what the command can be told
    varied: Varied,
    values: Sequence[float],
    setting: Setting,
    *,
    epsilons: Sequence[float] = (3.0,),
    modes: Sequence[Mode] = ("distributed",),
    seeds: int = 5,
    workers: int = 1,
) -> list[Comparison]:
    """The comparison once for each value of one thing; for epsilons, :func:`compare` suffices.

    Args:
        varied: ``sites``, ``subjects``, ``rounds`` or ``heterogeneity``.
        values: Its values.
        setting: Everything else.
        epsilons: Of the private ways.
        modes: Where noise is added: ``distributed``, ``local`` or both.
        seeds: Cohorts a value; an interval needs 2.
        workers: Processes.

    Raises:
        ValueError: If a way cannot be trained in one of the settings.
    """
    arms = choose_arms(epsilons, modes, leave_one_out=False)
    settings = [setting.varied(varied, value) for value in values]
    return _compare(settings, arms, seeds=seeds, workers=workers)


def list_ways(comparison: Comparison) -> Table:
    """A row for each way of training, with the ends of its 95 % intervals."""
    return [
        {
            "way": row.label,
            **_columns("AUROC", row.auroc),
            **_columns("against pooled", row.gain),
            "MAE": row.mae.value,
            "epsilon, sum": row.epsilon.sum if row.epsilon else None,
            "epsilon, one site": row.epsilon.site if row.epsilon else None,
        }
        for row in comparison.rows
    ]


def list_groups(report: RunReport, metric: Metric = "auroc") -> Table:
    """A row for each group of the last evaluation, as the coordinator sees it.

    Args:
        report: Of a run.
        metric: Which figure.

    Returns:
        ``state`` says why a figure is missing: ``suppressed``, ``too_few``, ``zero`` or
        ``not_reported``. ``exact`` is what only a simulation can know, of shown groups alone.
    """
    groups: tuple[GroupMetrics, ...] = ()
    if report.final is not None:
        groups = (report.final.overall, *report.final.by_group)
    return [
        {
            "attribute": group.attribute,
            "group": group.group,
            "state": group.state,
            "subjects, noised": group.count,
            **_columns(metric, group.metrics.get(metric)),
            "exact": _exact(report, group, metric),
        }
        for group in groups
    ]


def _compare(
    settings: Sequence[Setting], arms: Sequence[Arm], *, seeds: int, workers: int
) -> list[Comparison]:
    for setting in settings:
        setting.check(arms)
    return compare_settings(
        settings, arms, seeds=seeds, workers=workers, on_progress=lambda *_: None
    )


def _columns(name: str, estimate: Estimate | None) -> dict[str, object]:
    found = estimate or Estimate(None, None, None)
    return {name: found.value, f"{name}, low": found.low, f"{name}, high": found.high}


def _exact(report: RunReport, group: GroupMetrics, metric: Metric) -> float | None:
    places: dict[Metric, int] = {"auroc": 1, "tpr": 2, "fpr": 3}
    if report.truth is None or group.count is None or metric not in places:
        return None
    row = report.truth.by_group.get((group.attribute, group.group))
    value = row[places[metric]] if row else None
    return None if value is None else float(value)
