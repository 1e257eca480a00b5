"""How each indicator is computed from a recording at a fixed rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.blinks import Blinks, find_blinks
from client.extraction.behaviour.bursts import Bursts, find_bursts
from client.extraction.behaviour.features import BehaviourSeries
from client.extraction.behaviour.signals import Episode, deviation_from_median, episodes
from client.extraction.track import BLENDSHAPES, FaceTrack

FloatArray = NDArray[np.float64]

_OPEN_EYES = 0.12
_EYES = tuple(name for name in BLENDSHAPES if name.startswith("eye"))
_FACE = tuple(name for name in BLENDSHAPES if name not in {*_EYES, "neutral"})


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
class Session:
    """What the measures see of a recording.

    Attributes:
        track: Every frame.
        series: The same at a fixed rate.
        limits: What a value needs.
    """

    track: FaceTrack
    series: BehaviourSeries
    limits: IndicatorLimits

    def column(self, name: str) -> FloatArray:
        """One signal of the series, ``[M]``."""
        return self.series.columns[name]


class Unsupported(Exception):  # noqa: N818 - a reason, not a failure
    """The recording cannot support this indicator."""


# A measure gives the figure and the samples that it was taken from.
Measure = Callable[[Session], tuple[float, FloatArray]]


def mean_of(name: str) -> Measure:
    """A measure that is the mean of one column of the series."""

    def measure(session: Session) -> tuple[float, FloatArray]:
        samples = session.column(name)
        return _mean(samples), samples

    return measure


def _mean(samples: FloatArray) -> float:
    known = samples[np.isfinite(samples)]
    return float(known.mean()) if len(known) else float("nan")


def _fraction(matches: NDArray[np.bool_], samples: FloatArray) -> tuple[float, FloatArray]:
    return _mean(np.where(np.isfinite(samples), matches, np.nan)), samples


def _per_minute(session: Session, count: int, samples: FloatArray) -> float:
    observed_s = float(np.isfinite(samples).mean()) * session.series.duration_s
    _need("seconds in view", observed_s, session.limits.rate_s)
    return 60.0 * count / observed_s


def _need(what: str, found: float, least: float) -> None:
    # A camera of 29.97 frames per second is one of 30.
    if found < 0.99 * least:
        msg = f"Needs at least {least:g} {what}, got {found:.1f}"
        raise Unsupported(msg)


def _smiles(session: Session) -> tuple[Episode, ...]:
    return episodes(session.column("smile"), rate_hz=session.series.rate_hz)


def smile_rate(session: Session) -> tuple[float, FloatArray]:
    """Smiles per minute; a smile is an activation above 0.5 until below 0.3, for 0.3 s or more."""
    samples = session.column("smile")
    return _per_minute(session, len(_smiles(session)), samples), samples


def smile_time(session: Session) -> tuple[float, FloatArray]:
    """Share of the time in view that was spent in smiles."""
    samples = session.column("smile")
    smiling_s = sum(smile.duration_s for smile in _smiles(session))
    observed_s = float(np.isfinite(samples).sum()) / session.series.rate_hz
    return (smiling_s / observed_s if observed_s > 0 else float("nan")), samples


def smile_duration(session: Session) -> tuple[float, FloatArray]:
    """Mean length of a smile in seconds."""
    smiles = _smiles(session)
    if not smiles and np.isfinite(session.column("smile")).any():
        msg = "No smile was seen"
        raise Unsupported(msg)
    return _mean(np.array([smile.duration_s for smile in smiles])), session.column("smile")


def smile_peak(session: Session) -> tuple[float, FloatArray]:
    """Strongest smile activation of the recording, averaged over one sample."""
    samples = session.column("smile")
    return float(np.nanmax(np.append(samples, -np.inf))), samples


def contempt_rate(session: Session) -> tuple[float, FloatArray]:
    """One-sided dimples outside smiles, per minute, against the own resting asymmetry."""
    # A broad smile deepens the dimples unevenly; contempt is one corner pulled without it.
    calm = np.where(session.column("smile") < 0.3, session.column("dimple_asymmetry"), np.nan)
    uneven = np.abs(deviation_from_median(calm))
    found = episodes(uneven, rate_hz=session.series.rate_hz, on=0.15, off=0.08)
    return _per_minute(session, len(found), uneven), uneven


def mouth_speed(session: Session) -> tuple[float, FloatArray]:
    """Root mean square speed of the mouth opening, in IOD per second."""
    _need("frames per second", session.track.fps, session.limits.mouth_fps)
    samples = session.column("mouth_speed")
    return float(np.sqrt(_mean(samples**2))), samples


def gaze_down(session: Session) -> tuple[float, FloatArray]:
    """Share of the time with open eyes in which they look down.

    Down is an activation above 0.5, or 0.1 above the subject's own gaze at the camera, which is
    taken to fill a quarter of the time or more; deep-set eyes never reach 0.5.
    """
    # Closed lids look like a lowered gaze to the model.
    open_eyes = session.column("eye_aspect_ratio") >= _OPEN_EYES
    samples = np.where(open_eyes, session.column("gaze_down"), np.nan)
    known = samples[np.isfinite(samples)]
    level = float(np.percentile(known, 25)) if len(known) else 0.0
    return _fraction(samples > min(0.5, level + 0.1), samples)


def gaze_to_camera(session: Session) -> tuple[float, FloatArray]:
    """Share of the time with the head within 10 degrees of yaw and 8 of pitch of its median.

    The median stands in for a calibrated target, so this is steadiness of orientation; it is eye
    contact only where the camera stands at the partner's eyes.
    """
    pitch, yaw = session.column("head_pitch"), session.column("head_yaw")
    return _fraction((np.abs(yaw) < 10.0) & (np.abs(pitch) < 8.0), pitch)


def head_down(session: Session) -> tuple[float, FloatArray]:
    """Share of the time with the head more than 10 degrees below its median pitch."""
    samples = session.column("head_pitch")
    return _fraction(samples < -10.0, samples)


def head_pitch(session: Session) -> tuple[float, FloatArray]:
    """Mean pitch in degrees, chin up positive; holds the tilt of the camera, so compare within."""
    samples = session.series.pose_deg[:, 0]
    return _mean(samples), samples


def head_amplitude(session: Session) -> tuple[float, FloatArray]:
    """Standard deviation of the head pose over pitch, yaw and roll together, in degrees."""
    pose = session.series.pose_deg
    seen = pose[np.isfinite(pose).all(axis=1)]
    return float(np.sqrt(seen.var(axis=0).sum())) if len(seen) else float("nan"), pose[:, 0]


def _blinks(session: Session) -> Blinks:
    _need("frames per second", session.track.fps, session.limits.blink_fps)
    blinks = find_blinks(session.track)
    _need("seconds with open eyes in view", blinks.observed_s, session.limits.blink_s)
    return blinks


def blink_rate(session: Session) -> tuple[float, FloatArray]:
    """Blinks per minute in which a blink could be seen."""
    blinks = _blinks(session)
    return 60.0 * len(blinks.times_s) / blinks.observed_s, blinks.openness


def blink_interval(session: Session) -> tuple[float, FloatArray]:
    """Median time between blinks in seconds."""
    blinks = _blinks(session)
    if len(blinks.times_s) < 3:
        msg = f"Needs at least 3 blinks, got {len(blinks.times_s)}"
        raise Unsupported(msg)
    return float(np.median(np.diff(blinks.times_s))), blinks.openness


def _bursts(session: Session) -> Bursts:
    _need("frames per second", session.track.fps, session.limits.brief_fps)
    return find_bursts(session.track)


def burst_rate(session: Session) -> tuple[float, FloatArray]:
    """Brief movements per minute."""
    bursts = _bursts(session)
    return _per_minute(session, len(bursts.durations_s), bursts.activity), bursts.activity


def burst_duration(session: Session) -> tuple[float, FloatArray]:
    """Median length of a brief movement in milliseconds."""
    bursts = _bursts(session)
    if len(bursts.durations_s) == 0:
        msg = "No brief movement was seen"
        raise Unsupported(msg)
    return 1000.0 * float(np.median(bursts.durations_s)), bursts.activity


def expressivity(session: Session) -> tuple[float, FloatArray]:
    """Mean distance of the mouth, brow, cheek and nose activations from their own medians."""
    shapes = session.series.blendshapes[:, [BLENDSHAPES.index(name) for name in _FACE]]
    activity = np.abs(deviation_from_median(shapes)).mean(axis=1)
    return _mean(activity), activity


def asymmetry(session: Session) -> tuple[float, FloatArray]:
    """Mean difference between left and right activation over the paired blendshapes."""
    shapes = session.series.blendshapes
    left = [BLENDSHAPES.index(name) for name in _FACE if f"{name[:-4]}Right" in _FACE]
    right = [BLENDSHAPES.index(f"{BLENDSHAPES[index][:-4]}Right") for index in left]
    uneven = np.abs(shapes[:, left] - shapes[:, right]).mean(axis=1)
    return _mean(uneven), uneven


def reactivity(session: Session) -> tuple[float, FloatArray]:
    """Change of expression after a stimulus; no recording holds the times of stimuli."""
    del session
    msg = "Needs an events file that says when each stimulus was shown"
    raise Unsupported(msg)
