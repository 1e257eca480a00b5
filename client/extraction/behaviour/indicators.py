"""One figure a recording for each published facial marker of depression, or why there is none.

No direction of change is assumed anywhere, because studies disagree on several of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.extraction.behaviour import measures
from client.extraction.behaviour.features import BehaviourSeries, behaviour_series
from client.extraction.behaviour.measures import IndicatorLimits, Measure, Session, Unsupported
from client.extraction.track import FaceTrack


@dataclass(frozen=True)
class Indicator:
    """One figure of a recording.

    Attributes:
        value: The figure; None where the recording cannot support one.
        coverage: Share of the recording that was measured for it, 0..1.
        reason: Why there is no value; None if there is one.
        unit: Unit of the value; ``"1"`` for a fraction or an activation.
    """

    value: float | None
    coverage: float
    reason: str | None
    unit: str


def measure_indicators(
    track: FaceTrack,
    series: BehaviourSeries | None = None,
    *,
    limits: IndicatorLimits | None = None,
) -> dict[str, Indicator]:
    """All indicators of a recording.

    Args:
        track: What the tracker saw.
        series: The same at a fixed rate; made here if None.
        limits: What a value needs; the defaults if None.

    Returns:
        Indicator name to figure, always with every name of :data:`INDICATOR_UNITS`.
    """
    known = behaviour_series(track) if series is None else series
    session = Session(track, known, limits or IndicatorLimits())
    return {name: _measured(session, measure, unit) for name, (unit, measure) in _MEASURES.items()}


def without_indicators(reason: str) -> dict[str, Indicator]:
    """All indicators of a recording that could not be tracked.

    Args:
        reason: Why.

    Returns:
        Indicator name to a figure without value.
    """
    return {name: Indicator(None, 0.0, reason, unit) for name, unit in INDICATOR_UNITS.items()}


def _measured(session: Session, measure: Measure, unit: str) -> Indicator:
    try:
        value, samples = measure(session)
    except Unsupported as reason:
        return Indicator(None, 0.0, str(reason), unit)
    coverage = float(np.isfinite(samples).mean()) if len(samples) else 0.0
    if coverage == 0.0 or not np.isfinite(value):
        return Indicator(None, coverage, "No face was in view", unit)
    return Indicator(float(value), coverage, None, unit)


_MEASURES: dict[str, tuple[str, Measure]] = {
    "smile_rate_per_min": ("1/min", measures.smile_rate),
    "smile_time_fraction": ("1", measures.smile_time),
    "smile_duration_s": ("s", measures.smile_duration),
    "smile_peak": ("1", measures.smile_peak),
    "corner_elevation": ("IOD", measures.mean_of("corner_elevation")),
    "brow_lowering": ("1", measures.mean_of("brow_lowering")),
    "inner_brow_raise": ("1", measures.mean_of("inner_brow_raise")),
    "contempt_rate_per_min": ("1/min", measures.contempt_rate),
    "mouth_speed_per_s": ("1/s", measures.mouth_speed),
    "gaze_down_fraction": ("1", measures.gaze_down),
    "gaze_to_camera_fraction": ("1", measures.gaze_to_camera),
    "head_down_fraction": ("1", measures.head_down),
    "head_pitch_deg": ("deg", measures.head_pitch),
    "head_speed_deg_s": ("deg/s", measures.mean_of("head_speed")),
    "head_amplitude_deg": ("deg", measures.head_amplitude),
    "blink_rate_per_min": ("1/min", measures.blink_rate),
    "blink_interval_s": ("s", measures.blink_interval),
    "brief_movement_rate_per_min": ("1/min", measures.burst_rate),
    "brief_movement_duration_ms": ("ms", measures.burst_duration),
    "change_rate_per_s": ("1/s", measures.mean_of("change_rate")),
    "expressivity": ("1", measures.expressivity),
    "asymmetry": ("1", measures.asymmetry),
    "reactivity": ("1", measures.reactivity),
}

INDICATOR_UNITS: dict[str, str] = {name: unit for name, (unit, _) in _MEASURES.items()}
