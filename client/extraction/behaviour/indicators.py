"""One figure a recording for each published facial marker of depression, or why there is none.

Definitions follow the literature named in ``docs``; directions of change are not assumed anywhere,
because studies disagree on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.blinks import Blinks, find_blinks
from client.extraction.behaviour.bursts import Bursts, find_bursts
from client.extraction.behaviour.features import BehaviourSeries, behaviour_series
from client.extraction.behaviour.signals import Episode, deviation_from_median, episodes
from client.extraction.track import BLENDSHAPES, FaceTrack

FloatArray = NDArray[np.float64]

_EYES = tuple(name for name in BLENDSHAPES if name.startswith("eye"))
_FACE = tuple(name for name in BLENDSHAPES if name not in {*_EYES, "neutral"})


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


@dataclass(frozen=True)
class IndicatorLimits:
    """What a recording must offer before an indicator has a value.

    Attributes:
        rate_s: Seconds in view for rates per minute.
        mouth_fps: Frames per second for the speed of the mouth.
        blink_fps: Frames per second for blinks.
        blink_s: Seconds in view for blinks.
        brief_fps: Frames per second for brief movements, which last from 1/25 s.
    """

    rate_s: float = 15.0
    mouth_fps: float = 15.0
    blink_fps: float = 25.0
    blink_s: float = 180.0
    brief_fps: float = 50.0


@dataclass(frozen=True)
class _Session:
    track: FaceTrack
    series: BehaviourSeries
    limits: IndicatorLimits

    def column(self, name: str) -> FloatArray:
        return self.series.columns[name]


class _Unsupported(Exception):  # noqa: N818 - a reason, not a failure
    """The recording cannot support this indicator."""


# A measure gives the figure and the samples that it was taken from.
_Measure = Callable[[_Session], tuple[float, FloatArray]]


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
    session = _Session(track, known, limits or IndicatorLimits())
    return {name: _measured(session, measure, unit) for name, (unit, measure) in _MEASURES.items()}


def without_indicators(reason: str) -> dict[str, Indicator]:
    """All indicators of a recording that could not be tracked.

    Args:
        reason: Why.

    Returns:
        Indicator name to a figure without value.
    """
    return {name: Indicator(None, 0.0, reason, unit) for name, unit in INDICATOR_UNITS.items()}


def _measured(session: _Session, measure: _Measure, unit: str) -> Indicator:
    try:
        value, samples = measure(session)
    except _Unsupported as reason:
        return Indicator(None, 0.0, str(reason), unit)
    coverage = float(np.isfinite(samples).mean()) if len(samples) else 0.0
    if coverage == 0.0 or not np.isfinite(value):
        return Indicator(None, coverage, "No face was in view", unit)
    return Indicator(float(value), coverage, None, unit)


def _mean_of(name: str) -> _Measure:
    def measure(session: _Session) -> tuple[float, FloatArray]:
        samples = session.column(name)
        return _mean(samples), samples

    return measure


def _mean(samples: FloatArray) -> float:
    known = samples[np.isfinite(samples)]
    return float(known.mean()) if len(known) else float("nan")


def _fraction(matches: NDArray[np.bool_], samples: FloatArray) -> tuple[float, FloatArray]:
    return _mean(np.where(np.isfinite(samples), matches, np.nan)), samples


def _per_minute(session: _Session, count: int, samples: FloatArray) -> float:
    observed_s = float(np.isfinite(samples).mean()) * session.series.duration_s
    _need("seconds in view", observed_s, session.limits.rate_s)
    return 60.0 * count / observed_s


def _need(what: str, found: float, least: float) -> None:
    # A camera of 29.97 frames per second is one of 30.
    if found < 0.99 * least:
        msg = f"Needs at least {least:g} {what}, got {found:.1f}"
        raise _Unsupported(msg)


def _smiles(session: _Session) -> tuple[Episode, ...]:
    return episodes(session.column("smile"), rate_hz=session.series.rate_hz)


def _smile_rate(session: _Session) -> tuple[float, FloatArray]:
    samples = session.column("smile")
    return _per_minute(session, len(_smiles(session)), samples), samples


def _smile_time(session: _Session) -> tuple[float, FloatArray]:
    samples = session.column("smile")
    smiling_s = sum(smile.duration_s for smile in _smiles(session))
    observed_s = float(np.isfinite(samples).sum()) / session.series.rate_hz
    return (smiling_s / observed_s if observed_s > 0 else float("nan")), samples


def _smile_duration(session: _Session) -> tuple[float, FloatArray]:
    smiles = _smiles(session)
    if not smiles and np.isfinite(session.column("smile")).any():
        msg = "No smile was seen"
        raise _Unsupported(msg)
    return _mean(np.array([smile.duration_s for smile in smiles])), session.column("smile")


def _smile_peak(session: _Session) -> tuple[float, FloatArray]:
    samples = session.column("smile")
    return float(np.nanmax(np.append(samples, -np.inf))), samples


def _contempt_rate(session: _Session) -> tuple[float, FloatArray]:
    # A broad smile deepens the dimples unevenly; contempt is one corner pulled without it.
    calm = np.where(session.column("smile") < 0.3, session.column("dimple_asymmetry"), np.nan)
    uneven = np.abs(deviation_from_median(calm))
    found = episodes(uneven, rate_hz=session.series.rate_hz, on=0.15, off=0.08)
    return _per_minute(session, len(found), uneven), uneven


def _mouth_speed(session: _Session) -> tuple[float, FloatArray]:
    _need("frames per second", session.track.fps, session.limits.mouth_fps)
    samples = session.column("mouth_speed")
    return float(np.sqrt(_mean(samples**2))), samples


def _gaze_down(session: _Session) -> tuple[float, FloatArray]:
    # Closed lids look like a lowered gaze to the model.
    open_eyes = session.column("eye_aspect_ratio") >= 0.12
    samples = np.where(open_eyes, session.column("gaze_down"), np.nan)
    return _fraction(samples > 0.5, samples)


def _gaze_to_camera(session: _Session) -> tuple[float, FloatArray]:
    pitch, yaw = session.column("head_pitch"), session.column("head_yaw")
    return _fraction((np.abs(yaw) < 10.0) & (np.abs(pitch) < 8.0), pitch)


def _head_down(session: _Session) -> tuple[float, FloatArray]:
    samples = session.column("head_pitch")
    return _fraction(samples < -10.0, samples)


def _head_pitch(session: _Session) -> tuple[float, FloatArray]:
    samples = session.series.pose_deg[:, 0]
    return _mean(samples), samples


def _head_amplitude(session: _Session) -> tuple[float, FloatArray]:
    pose = session.series.pose_deg
    seen = pose[np.isfinite(pose).all(axis=1)]
    return float(np.sqrt(seen.var(axis=0).sum())) if len(seen) else float("nan"), pose[:, 0]


def _blinks(session: _Session) -> Blinks:
    _need("frames per second", session.track.fps, session.limits.blink_fps)
    blinks = find_blinks(session.track)
    _need("seconds with open eyes in view", blinks.observed_s, session.limits.blink_s)
    return blinks


def _blink_rate(session: _Session) -> tuple[float, FloatArray]:
    blinks = _blinks(session)
    return 60.0 * len(blinks.times_s) / blinks.observed_s, blinks.openness


def _blink_interval(session: _Session) -> tuple[float, FloatArray]:
    blinks = _blinks(session)
    if len(blinks.times_s) < 3:
        msg = f"Needs at least 3 blinks, got {len(blinks.times_s)}"
        raise _Unsupported(msg)
    return float(np.median(np.diff(blinks.times_s))), blinks.openness


def _bursts(session: _Session) -> Bursts:
    _need("frames per second", session.track.fps, session.limits.brief_fps)
    return find_bursts(session.track)


def _burst_rate(session: _Session) -> tuple[float, FloatArray]:
    bursts = _bursts(session)
    return _per_minute(session, len(bursts.durations_s), bursts.activity), bursts.activity


def _burst_duration(session: _Session) -> tuple[float, FloatArray]:
    bursts = _bursts(session)
    if len(bursts.durations_s) == 0:
        msg = "No brief movement was seen"
        raise _Unsupported(msg)
    return 1000.0 * float(np.median(bursts.durations_s)), bursts.activity


def _expressivity(session: _Session) -> tuple[float, FloatArray]:
    shapes = session.series.blendshapes[:, [BLENDSHAPES.index(name) for name in _FACE]]
    activity = np.abs(deviation_from_median(shapes)).mean(axis=1)
    return _mean(activity), activity


def _asymmetry(session: _Session) -> tuple[float, FloatArray]:
    shapes = session.series.blendshapes
    left = [BLENDSHAPES.index(name) for name in _FACE if f"{name[:-4]}Right" in _FACE]
    right = [BLENDSHAPES.index(f"{BLENDSHAPES[index][:-4]}Right") for index in left]
    uneven = np.abs(shapes[:, left] - shapes[:, right]).mean(axis=1)
    return _mean(uneven), uneven


def _reactivity(session: _Session) -> tuple[float, FloatArray]:
    del session
    msg = "Needs an events file that says when each stimulus was shown"
    raise _Unsupported(msg)


_MEASURES: dict[str, tuple[str, _Measure]] = {
    "smile_rate_per_min": ("1/min", _smile_rate),
    "smile_time_fraction": ("1", _smile_time),
    "smile_duration_s": ("s", _smile_duration),
    "smile_peak": ("1", _smile_peak),
    "corner_elevation": ("IOD", _mean_of("corner_elevation")),
    "brow_lowering": ("1", _mean_of("brow_lowering")),
    "inner_brow_raise": ("1", _mean_of("inner_brow_raise")),
    "contempt_rate_per_min": ("1/min", _contempt_rate),
    "mouth_speed_per_s": ("1/s", _mouth_speed),
    "gaze_down_fraction": ("1", _gaze_down),
    "gaze_to_camera_fraction": ("1", _gaze_to_camera),
    "head_down_fraction": ("1", _head_down),
    "head_pitch_deg": ("deg", _head_pitch),
    "head_speed_deg_s": ("deg/s", _mean_of("head_speed")),
    "head_amplitude_deg": ("deg", _head_amplitude),
    "blink_rate_per_min": ("1/min", _blink_rate),
    "blink_interval_s": ("s", _blink_interval),
    "brief_movement_rate_per_min": ("1/min", _burst_rate),
    "brief_movement_duration_ms": ("ms", _burst_duration),
    "change_rate_per_s": ("1/s", _mean_of("change_rate")),
    "expressivity": ("1", _expressivity),
    "asymmetry": ("1", _asymmetry),
    "reactivity": ("1", _reactivity),
}

INDICATOR_UNITS: dict[str, str] = {name: unit for name, (unit, _) in _MEASURES.items()}
