"""One figure a recording for each published facial marker of depression, or why there is none.

No direction of change is assumed anywhere, because studies disagree on several of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.extraction.behaviour.catalogue import CATALOGUE, MEASURES
from client.extraction.behaviour.definition import Definition, Measure
from client.extraction.behaviour.features import BehaviourSeries, behaviour_series
from client.extraction.behaviour.measures import (
    Figure,
    IndicatorLimits,
    MissingInput,
    Session,
    Unsupported,
    need,
)
from client.extraction.track import FaceTrack
from client.recordings.annotations import NO_ANNOTATIONS, Annotations

RATE_HZ = 10.0
"""Samples a second that indicators are taken from, whatever rate a study's features have."""


@dataclass(frozen=True)
class Indicator:
    """One figure of a recording.

    Attributes:
        value: The figure; None where the recording cannot support one.
        coverage: Share of what the indicator looks at that was measured, 0..1, told for values
            and for recordings too short or too slow for one alike; None where it cannot be told,
            as for a file that was not read or notes that were not given.
        reason: Why there is no value; None if there is one.
        unit: Unit of the value; ``"1"`` for a fraction or an activation.
        note: A caveat that goes with the value.
    """

    value: float | None
    coverage: float | None
    reason: str | None
    unit: str
    note: str | None = None


def measure_indicators(
    track: FaceTrack,
    series: BehaviourSeries | None = None,
    *,
    annotations: Annotations = NO_ANNOTATIONS,
    limits: IndicatorLimits | None = None,
) -> dict[str, Indicator]:
    """All indicators of a recording.

    Args:
        track: What the tracker saw.
        series: The same at a fixed rate; made here if None or if its rate is another than
            :data:`RATE_HZ`, so that figures compare between studies.
        annotations: Notes beside the video.
        limits: What the study asks for; the defaults if None.

    Returns:
        Indicator name to figure, always with every name of the catalogue.
    """
    if series is None or series.rate_hz != RATE_HZ:
        series = behaviour_series(track, rate_hz=RATE_HZ)
    session = Session(track, series, limits or IndicatorLimits(), annotations)
    return {name: _measured(session, measure) for name, measure in MEASURES.items()}


def without_indicators(reason: str) -> dict[str, Indicator]:
    """All indicators of a recording that could not be tracked.

    Args:
        reason: Why.

    Returns:
        Indicator name to a figure without value.
    """
    return {name: Indicator(None, None, reason, one.unit) for name, one in CATALOGUE.items()}


def _measured(session: Session, measure: Measure) -> Indicator:
    definition = measure.definition
    coverage: float | None = session.in_view
    try:
        _need_video(session, definition)
        figure = measure.compute(session)
        coverage = figure.coverage
        _need_seconds(session, definition, figure)
    except Unsupported as reason:
        told = None if isinstance(reason, MissingInput) else coverage
        return Indicator(None, told, str(reason), definition.unit)
    return Indicator(float(figure.value), coverage, None, definition.unit, figure.note)


def _need_video(session: Session, definition: Definition) -> None:
    if definition.min_fps == 0.0:
        return
    if session.in_view == 0.0:
        msg = "No face was in view"
        raise Unsupported(msg)
    need("frames per second", session.track.fps, definition.min_fps)


def _need_seconds(session: Session, definition: Definition, figure: Figure) -> None:
    rate = definition.unit == "1/min"
    least = max(definition.min_s, session.limits.rate_s) if rate else definition.min_s
    need("seconds in view", figure.observed_s, least)
    if not np.isfinite(figure.value):
        msg = "What it is taken from was not in view"
        raise Unsupported(msg)
