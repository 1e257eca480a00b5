"""Pictures of the rest of the cohort: events, persons, course, raters, sites, failures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared_models.features import BEHAVIOUR
from simulation.cohort import CohortDesign, SimulatedRecording, SiteCohort, generate_cohort
from simulation.course import TREATMENTS, UNTREATED
from simulation.effect_file import PARAMETERS, EffectFile
from simulation.effect_pages.drawing import (
    BAND,
    DOT,
    LINE,
    MUTED,
    SECOND,
    THIRD,
    new_figure,
)
from simulation.episodes import DURATION_SPREAD, draw_events, simulate_events

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

BEFORE_THE_END = 60
"""Samples of the last clip that every recording has."""
SHOWN = ("smile", "gaze", "turn", "head_down", "nod", "talk", "brief")


def draw_events_of_a_minute(effects: EffectFile) -> Figure:
    """The same minute of chance for a person without severity and for a severe one."""
    figure, panels = new_figure(2)
    figure.set_size_inches(7.0, 2.6)
    for axes, severity, title in zip(panels, (-1.0, 2.0), ("low severity", "high severity"),
                                     strict=True):  # fmt: skip
        draws = draw_events(np.random.default_rng(58), 1, clips=4)
        gap = {n: getattr(effects.parameters, n).severity for n in PARAMETERS}
        z = {
            n: np.array([severity * (d.value if d else 0.0) / 1.61], dtype=np.float32)
            for n, d in gap.items()
        }
        events = simulate_events(z, draws, effects, gaps_per_min=np.ones(1, np.float32))
        for place, kind in enumerate(SHOWN):
            course = events[kind].course(600)[0]
            top = float(getattr(effects.processes, kind).size.value) * 1.6
            seconds = np.arange(600) / 10.0
            bends = np.flatnonzero(np.diff(course, 2).round(5)) + 1
            kept = np.unique([0, *bends, 599])
            axes.fill_between(
                seconds[kept], -place, course[kept] / top - place, color=LINE, linewidth=0
            )
        axes.set_yticks(-np.arange(len(SHOWN)), [kind.replace("_", " ") for kind in SHOWN])
        axes.tick_params(axis="y", length=0)
        axes.set(title=title, xlabel="time, s", xlim=(0, 60))
    return figure


def draw_waiting_times(effects: EffectFile) -> Figure:
    """Times of rest and times at the height, against their distributions."""
    persons = 3000
    draws = draw_events(np.random.default_rng(5), persons, clips=16)
    z = {n: np.zeros(persons, np.float32) for n in PARAMETERS}
    smiles = simulate_events(z, draws, effects, gaps_per_min=z["tempo"])["smile"]
    process = effects.processes.smile
    rest = (smiles.onset_s[:, 1:] - smiles.end_s[:, :-1])[smiles.within(240.0)[:, :-1]]
    hold = smiles.hold_s[smiles.within(240.0)]
    figure, (left, right) = new_figure(2, share_y=False)
    figure.set_size_inches(5.0, 2.0)
    usual, median = 60.0 / process.per_min.value, process.duration_s.value
    t = np.linspace(0.01, 5 * usual, 80)
    _histogram(left, rest, t[-1])
    left.plot(t, np.exp(-t / usual) / usual, color=LINE)
    left.set(xlabel="rest between smiles, s", ylabel="density")
    t = np.linspace(0.05, 5 * median, 80)
    _histogram(right, hold, t[-1])
    density = np.exp(-0.5 * (np.log(t / median) / DURATION_SPREAD) ** 2)
    right.plot(t, density / (t * DURATION_SPREAD * np.sqrt(2 * np.pi)), color=LINE)
    right.set(xlabel="time at the height, s")
    return figure


def _histogram(axes: Axes, values: NDArray[np.float32], top: float) -> None:
    axes.hist(values[values < top], bins=25, range=(0, top), density=True, color=BAND)


def simulated(effects: EffectFile, *, subjects: int) -> list[SiteCohort]:
    """Eight sites whose recordings are as short as possible."""
    design = CohortDesign(
        sites=8, subjects_per_site=subjects, effects=effects, clips_per_recording=1,
        visits=(0.0, 0.5, 0.5), seed=4,
    )  # fmt: skip
    return list(generate_cohort(design))


def draw_course(sites: Sequence[SiteCohort]) -> Figure:
    """Severity over the visits of subjects at or above the threshold, by treatment."""
    figure, (axes,) = new_figure(1)
    figure.set_size_inches(4.0, 2.4)
    by_subject = _by_subject(sites)
    colors = (MUTED, LINE, SECOND, THIRD)
    for color, treatment in zip(colors, (UNTREATED, *TREATMENTS), strict=True):
        courses = [
            [r.severity for r in rows]
            for rows in by_subject
            if rows[1].treatment == treatment and rows[0].severity >= 10
        ]
        points = []
        for visit in range(3):
            seen = np.array([c[visit] for c in courses if len(c) > visit])
            if len(seen) > 1:
                points.append((visit + 1, seen.mean(), 1.96 * seen.std() / np.sqrt(len(seen))))
        if points:
            x, mean, half = map(np.array, zip(*points, strict=True))
            axes.errorbar(x, mean, yerr=half, fmt="o-", color=color, label=treatment)
    axes.set(xlabel="visit", ylabel="severity, PHQ-9 points", xticks=[1, 2, 3])
    axes.legend(loc="upper right")
    return figure


def _by_subject(sites: Sequence[SiteCohort]) -> list[list[SimulatedRecording]]:
    rows: dict[str, list[SimulatedRecording]] = {}
    for site in sites:
        for recording in site.recordings:
            rows.setdefault(recording.subject_id, []).append(recording)
    return list(rows.values())


def draw_rating(sites: Sequence[SiteCohort]) -> Figure:
    """What raters write down against true severity, and the mean error of each site."""
    figure, (left, right) = new_figure(2, share_y=False)
    figure.set_size_inches(5.5, 2.2)
    some = [r for site in sites for r in site.recordings[:40]]
    left.plot([0, 27], [0, 27], color=MUTED, linewidth=0.8)
    left.plot([r.severity for r in some], [r.score for r in some], ".", color=LINE, markersize=2)
    left.set(xlabel="true severity, points", ylabel="rated score")
    for place, site in enumerate(sites):
        inside = [r for r in site.recordings if 5 <= r.severity <= 20]
        error = np.array([r.score - r.severity for r in inside])
        right.errorbar(place + 1, error.mean(), yerr=1.96 * error.std() / np.sqrt(len(error)),
                       fmt="o", color=DOT)  # fmt: skip
        right.plot(place + 1, 27 * site.profile.rater_bias, "_", color=SECOND, markersize=14)
    right.axhline(0, color=MUTED, linewidth=0.8)
    right.set(xlabel="site", ylabel="mean error, points", xticks=range(1, len(sites) + 1))
    return figure


def draw_sites(sites: Sequence[SiteCohort]) -> Figure:
    """What differs between sites beside their patients: noise, camera, lost faces, failures."""
    figure, panels = new_figure(4, share_y=False)
    place = np.arange(1, len(sites) + 1)
    stillness = [_noise(site) for site in sites]
    depth = [site.profile.camera.blink_seen for site in sites]
    lost = [
        float(np.mean([1 - f.mask[:, :BEFORE_THE_END, 0].mean() for f in site.features]))
        for site in sites
    ]
    failed = [float(np.mean([bool(r.rejected_for) for r in site.recordings])) for site in sites]
    titles = ("noise of corner height", "part of a blink seen", "samples without a face",
              "recordings rejected")  # fmt: skip
    for axes, title, values in zip(panels, titles, (stillness, depth, lost, failed), strict=True):
        axes.bar(place, values, color=LINE, width=0.7)
        axes.set(title=title, xlabel="site", xticks=place)
    return figure


def _noise(site: SiteCohort) -> float:
    """Median step of the height of the mouth corners, which in most frames is noise alone."""
    column = BEHAVIOUR.names.index("corner_elevation")
    steps = [np.abs(np.diff(f.values[..., column], axis=1)).ravel() for f in site.features]
    return float(np.median(np.concatenate(steps)))


def draw_failures(sites: Sequence[SiteCohort], effects: EffectFile) -> Figure:
    """Recordings that the quality gate rejects, by age and sex."""
    recordings = [r for site in sites for r in site.recordings]
    figure, (axes,) = new_figure(1)
    figure.set_size_inches(3.6, 2.2)
    failure, edges = effects.quality.failure, (18, 35, 50, 65, 86)
    ages = np.linspace(20, 84, 30)
    shift = np.mean([site.profile.failure_shift for site in sites])
    for sex, side, color in (("female", 0.5, SECOND), ("male", -0.5, LINE)):
        log_odds = (failure.base.value + shift + failure.age.value * (ages - 45) / 20
                    + failure.female.value * side)  # fmt: skip
        axes.plot(ages, 100 / (1 + np.exp(-log_odds)), color=color, label=sex)
        for low, high in itertools.pairwise(edges):
            group = [r for r in recordings if r.sex == sex and low <= r.age_years < high]
            bad = np.array([bool(r.rejected_for) for r in group], dtype=float)
            half = 196 * np.sqrt(bad.mean() * (1 - bad.mean()) / len(bad))
            center = np.mean([r.age_years for r in group]) + side
            axes.errorbar(center, 100 * bad.mean(), yerr=half, fmt="o", color=color)
    axes.set(xlabel="age, years", ylabel="recordings rejected, %", ylim=(0, None))
    axes.legend()
    return figure


def draw_hours(effects: EffectFile) -> Figure:
    """What the body shows beyond the day's mean, for some persons, and when recordings are made."""
    figure, (axes,) = new_figure(1)
    figure.set_size_inches(3.6, 2.2)
    severity, hours = effects.severity, np.array([8.0, 18.0])
    slopes = severity.morning.value + severity.morning_spread.value * np.random.default_rng(
        2
    ).standard_normal(25)
    for one in slopes:
        axes.plot(hours, one * (13 - hours) / 10, color=BAND, linewidth=1.0)
    axes.plot(hours, severity.morning.value * (13 - hours) / 10, color=LINE)
    axes.set(xlabel="time of day, h", ylabel="shown severity, SDs")
    return figure


def draw_persons(sites: Sequence[SiteCohort]) -> Figure:
    """One person at two visits: part of behaviour is the person's, part the day's."""
    figure, (left, right) = new_figure(2, share_y=False)
    figure.set_size_inches(5.0, 2.2)
    column, pairs = BEHAVIOUR.names.index("brow_lowering"), []
    for site in sites:
        level = {
            (r.subject_id, r.visit): float(np.mean(f.values[..., column][f.mask[..., column]]))
            for r, f in zip(site.recordings, site.features, strict=True)
            if f.mask[..., column].any()
        }
        pairs += [
            (v, level[s, 2]) for (s, visit), v in level.items() if visit == 1 and (s, 2) in level
        ]
    first, second = map(np.array, zip(*pairs[:400], strict=True))
    left.plot(first, second, ".", color=LINE, markersize=2.5)
    left.set(xlabel="frown at visit 1", ylabel="frown at visit 2",
             title=f"r = {np.corrcoef(first, second)[0, 1]:.2f}")  # fmt: skip
    ages = [r.age_years for site in sites for r in site.recordings if r.visit == 1]
    right.hist(ages, bins=range(15, 91, 5), color=BAND)
    right.set(xlabel="age, years", ylabel="subjects")
    return figure
