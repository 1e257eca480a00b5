"""What a measure of behaviour gets to see and what it gives back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.blinks import Blinks, find_blinks
from client.extraction.behaviour.bursts import Bursts, find_brow_bursts, find_bursts
from client.extraction.behaviour.features import BehaviourSeries
from client.extraction.behaviour.neutral import Neutral, find_neutral
from client.extraction.behaviour.signals import Episode, deviation_from_median, episodes
from client.extraction.track import BLENDSHAPES, FaceTrack
from client.recordings.annotations import NO_ANNOTATIONS, Annotations, Speaker

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

FACE = tuple(name for name in BLENDSHAPES if name != "neutral" and not name.startswith("eye"))
"""Blendshapes of mouth, jaw, cheeks, nose and brows."""
OPEN_EYES = 0.12
"""Eye aspect ratio below which the lids hide the gaze."""


@dataclass(frozen=True)
class IndicatorLimits:
    """What a study asks of a recording beyond what an indicator itself needs.

    Attributes:
        rate_s: Seconds in view for rates per minute, such as the length of a clip; an indicator
            that needs more keeps its own minimum.
    """

    rate_s: float = 15.0


@dataclass(frozen=True)
class Figure:
    """What a measure found.

    Attributes:
        value: The figure.
        coverage: Share of what it looks at that was measured, 0..1; None if unknown.
        observed_s: Seconds that were measured.
        note: A caveat that goes with the value.
    """

    value: float
    coverage: float | None
    observed_s: float
    note: str | None = None


class Unsupported(Exception):  # noqa: N818 - a reason, not a failure
    """The recording cannot support this indicator."""


class MissingInput(Unsupported):
    """Something beside the video is missing, so that no share of it can be told."""


def need(what: str, found: float, least: float) -> None:
    """Refuse a figure for which there is too little.

    Args:
        what: Of what.
        found: How much there is.
        least: How much it takes.

    Raises:
        Unsupported: If there is less.
    """
    # A camera of 29.97 frames per second is one of 30.
    if found < 0.99 * least:
        msg = f"Needs at least {least:g} {what}, got {found:.1f}"
        raise Unsupported(msg)


def mean(samples: FloatArray) -> float:
    """Mean of the samples that were measured; NaN without any."""
    known = samples[np.isfinite(samples)]
    return float(known.mean()) if len(known) else float("nan")


@dataclass(frozen=True)
class Session:
    """What the measures see of a recording.

    Attributes:
        track: Every frame.
        series: The same at a fixed rate.
        limits: What the study asks for.
        annotations: Notes beside the video.
    """

    track: FaceTrack
    series: BehaviourSeries
    limits: IndicatorLimits = IndicatorLimits()
    annotations: Annotations = NO_ANNOTATIONS

    def column(self, name: str) -> FloatArray:
        """One signal of the series, ``[M]``."""
        return self.series.columns[name]

    def blendshape(self, name: str) -> FloatArray:
        """One blendshape of the series, ``[M]``."""
        return self.series.blendshapes[:, BLENDSHAPES.index(name)]

    def figure(self, value: float, samples: FloatArray, note: str | None = None) -> Figure:
        """A figure that was taken from samples of the series, NaN where not measured."""
        measured = np.isfinite(samples)
        coverage = float(measured.mean()) if len(samples) else 0.0
        return Figure(value, coverage, float(measured.sum()) / self.series.rate_hz, note)

    def share(self, matches: BoolArray, samples: FloatArray, note: str | None = None) -> Figure:
        """The share of the measured samples that match."""
        value = mean(np.where(np.isfinite(samples), matches, np.nan))
        return self.figure(value, samples, note)

    def per_minute(self, count: int, samples: FloatArray, note: str | None = None) -> Figure:
        """A count over the minutes that were measured."""
        seconds = float(np.isfinite(samples).sum()) / self.series.rate_hz
        return self.figure(60.0 * count / seconds if seconds else np.nan, samples, note)

    def within(self, spans: Iterable[tuple[float, float]]) -> BoolArray:
        """``[M]`` True for samples whose middle lies within one of the spans of seconds."""
        middles = (np.arange(len(self.series.pose_deg)) + 0.5) / self.series.rate_hz
        inside = np.zeros(len(middles), dtype=bool)
        for start_s, end_s in spans:
            inside |= (middles >= start_s) & (middles < end_s)
        return inside

    def spoken_by(self, speaker: Speaker) -> BoolArray:
        """``[M]`` True where the talk turns give the floor to a speaker."""
        turns = (turn for turn in self.annotations.turns if turn.speaker == speaker)
        return self.within((turn.start_s, turn.end_s) for turn in turns)

    @cached_property
    def in_view(self) -> float:
        """Share of the recording with a usable face."""
        seen = np.isfinite(self.column("smile"))
        return float(seen.mean()) if len(seen) else 0.0

    @cached_property
    def smiles(self) -> tuple[Episode, ...]:
        """Activation above 0.5 until below 0.3, for 0.3 s or more."""
        return episodes(self.column("smile"), rate_hz=self.series.rate_hz)

    @cached_property
    def smiling(self) -> BoolArray:
        """``[M]`` True within a smile."""
        return self.within((one.start_s, one.start_s + one.duration_s) for one in self.smiles)

    @cached_property
    def activity(self) -> FloatArray:
        """``[M]`` mean distance of the face's blendshapes from their own medians."""
        shapes = self.series.blendshapes[:, [BLENDSHAPES.index(name) for name in FACE]]
        return np.asarray(np.abs(deviation_from_median(shapes)).mean(axis=1))

    @cached_property
    def blinks(self) -> Blinks:
        """The blinks, found in the frames and not in the series."""
        return find_blinks(self.track, self.series.levels["eye_aspect_ratio"])

    @cached_property
    def bursts(self) -> Bursts:
        """Brief movements of the face, found in the frames."""
        return find_bursts(self.track)

    @cached_property
    def brow_bursts(self) -> Bursts:
        """Brief movements of the brows, found in the frames."""
        return find_brow_bursts(self.track, self.series.levels)

    @cached_property
    def neutral(self) -> Neutral:
        """The subject's face at rest."""
        return find_neutral(self.series, talking=self.spoken_by("subject"))
