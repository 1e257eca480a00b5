"""A subject's course: severity from visit to visit, treatment, scores, times."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from shared_models.consortium import INSTRUMENTS
from simulation.effect_file import EffectFile

Array = NDArray[np.float64]

UNTREATED = "none"
TREATMENTS = ("medication", "psychotherapy", "rtms")
UP_TO = (0.5, 0.9, 1.0)
"""Shares of treated subjects that get each treatment, added up."""


@dataclass(frozen=True)
class Scale:
    """Severity of a population, between SDs and points of an instrument.

    Attributes:
        low: Lowest score.
        high: Highest score.
        threshold: Clinical threshold.
        mean: Mean severity in points.
        sd: SD between subjects in points.
    """

    low: float
    high: float
    threshold: float
    mean: float
    sd: float

    def points(self, severity_z: Array | float) -> Array:
        """Severity as the instrument can express it."""
        return np.clip(self.mean + self.sd * np.asarray(severity_z), self.low, self.high)

    def standardise(self, points: Array | float) -> Array:
        """Severity in SDs of the population."""
        return (np.asarray(points) - self.mean) / self.sd


def severity_scale(instrument: str, effects: EffectFile) -> Scale:
    """The scale of an instrument of :data:`shared_models.consortium.INSTRUMENTS`."""
    low, high, threshold = INSTRUMENTS[instrument]
    sd = effects.severity.spread.value * (high - low)
    return Scale(low, high, threshold, threshold - effects.severity.below_threshold.value * sd, sd)


def draw_course(
    rng: np.random.Generator, first: float, visits: int, *, scale: Scale, effects: EffectFile
) -> tuple[Array, str]:
    """Severity in SDs at each visit, and the treatment between the first and the second.

    Args:
        rng: Of the subject.
        first: Severity at the first visit, in SDs.
        visits: How many there are.
        scale: Of the instrument.
        effects: Their ``course``.
    """
    course = effects.course
    treated = rng.random() < 1.0 / (1.0 + np.exp(-course.treated_slope.value * first))
    picked = TREATMENTS[int(np.searchsorted(UP_TO, rng.random()))]
    treatment = picked if treated else UNTREATED
    response, *steps = rng.standard_normal(visits)
    severity = [first]
    for visit, step in enumerate(steps):
        change = course.step_spread.value * step - _recovery(severity[-1], scale, effects)
        if treated and visit == 0:
            answer = getattr(course, treatment).value
            change += answer + course.response_spread.value * response
        severity.append(severity[-1] + change)
    return np.array(severity), treatment


def _recovery(severity_z: float, scale: Scale, effects: EffectFile) -> float:
    """SDs that a subject loses to the next visit without treatment; only who is ill recovers."""
    points = scale.points(severity_z)
    ill = points >= scale.threshold
    return float(effects.course.natural.value * (points - scale.low) / scale.sd) if ill else 0.0


def rate(severity: Array, scale: Scale, *, bias: float, error: Array) -> Array:
    """The scores that a rater writes down: whole points within the instrument's range.

    Args:
        severity: ``[V]`` true severity in points.
        scale: Of the instrument.
        bias: Of the site, as a share of the range.
        error: ``[V]`` of the rater, in the same unit.
    """
    rated = severity + (scale.high - scale.low) * (bias + error)
    return np.clip(np.rint(rated), scale.low, scale.high)


def draw_times(rng: np.random.Generator, start: datetime, visits: int) -> list[datetime]:
    """When the visits are: four to nine weeks apart, between 8:00 and 18:00."""
    first = start + timedelta(days=int(rng.integers(0, 500)))
    days = np.concatenate([[0], np.cumsum(rng.integers(28, 63, size=visits - 1))])
    minutes = rng.integers(8 * 60, 18 * 60, size=visits)
    return [
        first + timedelta(days=int(day), minutes=int(minute))
        for day, minute in zip(days, minutes, strict=True)
    ]


def hours_of(times: list[datetime]) -> Array:
    """``[V]`` time of day in hours."""
    return np.array([time.hour + time.minute / 60.0 for time in times])
