"""Behaviour of one recording over time, as numbers that a plot can draw."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.blinks import find_blinks
from client.extraction.behaviour.catalogue import CATALOGUE
from client.extraction.behaviour.features import mean_blendshape
from client.extraction.behaviour.signals import deviation_from_median, episodes, resample
from client.extraction.track import FaceTrack, Inspections
from client.storage.frame_log import FrameLog, FrameOutcome
from shared_models.features import BehaviourFeatures, FeatureSchema

FloatArray = NDArray[np.float64]

MOST_POINTS = 1500
_EPISODE_HZ = 10.0
ANY = (-math.inf, math.inf)
_SHARE = (0.0, 1.0)
_POSITIVE = (0.0, math.inf)


@dataclass(frozen=True)
class Marks:
    """Stretches of time that a plot marks.

    Attributes:
        what: What they are, as ``smiles``.
        stretches: Start and end in seconds; equal for a moment.
    """

    what: str
    stretches: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Trace:
    """One signal over time, NaN where it was not measured.

    Attributes:
        title: What it is.
        unit: Its unit.
        seconds: ``[M]`` from the first frame.
        values: ``[M]``.
        least: Smallest range that a plot should show, so that jitter does not look like behaviour.
        bounds: What it cannot pass.
        marks: What was found in it; None if nothing was looked for.
    """

    title: str
    unit: str
    seconds: FloatArray
    values: FloatArray
    least: float
    bounds: tuple[float, float] = ANY
    marks: Marks | None = None


@dataclass(frozen=True)
class _Drawn:
    """How one trace is read from the frames."""

    title: str
    unit: str
    least: float
    read: Callable[[FrameLog], NDArray[np.floating]]
    bounds: tuple[float, float] = ANY


def _blendshape(name: str) -> Callable[[FrameLog], NDArray[np.floating]]:
    return lambda log: mean_blendshape(log.blendshapes, name)


def _signal(name: str) -> Callable[[FrameLog], NDArray[np.floating]]:
    return lambda log: log.signals[:, log.signal_names.index(name)]


def _pose(axis: int) -> Callable[[FrameLog], NDArray[np.floating]]:
    return lambda log: log.head_pose_deg[:, axis]


_SMILE = _Drawn("Smile", "activation, 0 to 1", 0.5, _blendshape("mouthSmile"), _SHARE)
_EYES = _Drawn("Eye opening", "height over width", 0.3, _signal("eye_aspect_ratio"), _POSITIVE)
_PLAIN = (
    _Drawn("Mouth corners up", "IOD", 0.1, _signal("corner_height")),
    _Drawn("Mouth opening", "IOD", 0.15, _signal("mouth_aspect_ratio"), _POSITIVE),
    _Drawn("Inner brows up", "IOD", 0.1, _signal("inner_brow_rise")),
)
_GAZE = _Drawn("Gaze down", "activation, 0 to 1", 0.5, _blendshape("eyeLookDown"), _SHARE)
_PITCH = _Drawn("Head up, from the median", "deg", 20.0, _pose(0))
_YAW = _Drawn("Head to the right of the picture, from the median", "deg", 20.0, _pose(1))

_FEATURE_TRACES = {
    "smile": "Smile",
    "corner_elevation": "Mouth corners up",
    "mouth_aspect_ratio": "Mouth opening",
    "eye_blink": "Eyes closed",
    "gaze_down": "Gaze down",
    "head_pitch": "Head up, from the median",
}


def traces_of_frames(log: FrameLog) -> list[Trace]:
    """Signals frame by frame, with the smiles and blinks found in them if there are enough frames.

    Args:
        log: What was measured in every frame; frames that were not analysed are left out.
    """
    analysed = analysed_frames(log)
    if not (analysed.outcome == FrameOutcome.USED).any():
        return []
    smile, eyes = _trace(_SMILE, analysed), _trace(_EYES, analysed)
    plain = [_trace(drawn, analysed) for drawn in _PLAIN]
    head = [_trace(drawn, analysed, centred=True) for drawn in (_PITCH, _YAW)]
    if _is_fast_enough("smile_rate_per_min", analysed):
        smile = replace(smile, marks=Marks("smiles", _smiles(smile)))
    if _is_fast_enough("blink_rate_per_min", analysed):
        eyes = replace(eyes, marks=Marks("blinks", _blinks(analysed, eyes.values)))
    return [
        smile,
        *plain,
        eyes,
        _trace(_GAZE, analysed),
        *head,
    ]


def traces_of_features(features: BehaviourFeatures, schema: FeatureSchema) -> list[Trace]:
    """Signals of all clips in a row, for recordings of which no frames are kept."""
    steps = np.arange(features.values.shape[1]) / schema.rate_hz
    seconds = (features.clip_start_s[:, None] + steps).ravel()
    values = np.where(features.mask, features.values, np.nan).reshape(len(seconds), -1)
    traces = []
    for name, title in _FEATURE_TRACES.items():
        if name in schema.names:
            column = schema.names.index(name)
            feature = schema.features[column]
            unit = "activation, 0 to 1" if feature.unit == "1" else feature.unit
            drawn = values[:, column].astype(np.float64)
            bounds = _SHARE if feature.unit == "1" else ANY
            traces.append(Trace(title, unit, seconds, drawn, 2 * feature.scale, bounds))
    return traces


def thin(seconds: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A signal with at most :data:`MOST_POINTS` points that keeps every peak.

    Each stretch of equal length keeps its lowest and its highest value, in their order; a stretch
    in which nothing was measured keeps one NaN, so that the line breaks there.

    Args:
        seconds: ``[N]``.
        values: ``[N]``, NaN where not measured.

    >>> seconds, values = thin(np.arange(9000.0), np.eye(1, 9000, 4321)[0])
    >>> len(values) <= MOST_POINTS, float(values.max())
    (True, 1.0)
    """
    count = len(values)
    if count <= MOST_POINTS:
        return seconds, values
    size = math.ceil(count / (MOST_POINTS // 2))
    padded = np.full(math.ceil(count / size) * size, np.nan)
    padded[:count] = values
    pieces = padded.reshape(-1, size)
    first = np.arange(len(pieces)) * size
    lowest = first + np.where(np.isnan(pieces), np.inf, pieces).argmin(axis=1)
    highest = first + np.where(np.isnan(pieces), -np.inf, pieces).argmax(axis=1)
    kept = np.union1d(lowest, highest)
    return seconds[kept], values[kept]


def analysed_frames(log: FrameLog) -> FrameLog:
    """The frames in which a face was looked for."""
    looked_at = log.outcome != FrameOutcome.NOT_ANALYSED
    if looked_at.all():
        return log
    return FrameLog(
        timestamps_s=log.timestamps_s[looked_at],
        outcome=log.outcome[looked_at],
        faces=log.faces[looked_at],
        head_pose_deg=log.head_pose_deg[looked_at],
        blendshapes=log.blendshapes[looked_at],
        signals=log.signals[looked_at],
        signal_names=log.signal_names,
    )


def _is_fast_enough(name: str, log: FrameLog) -> bool:
    """Whether there are enough frames a second: what no indicator counts is not marked."""
    steps = np.diff(log.timestamps_s)
    # A camera of 29.97 frames per second is one of 30.
    return len(steps) > 0 and 1.0 / float(steps.mean()) >= 0.99 * CATALOGUE[name].min_fps


def _trace(drawn: _Drawn, log: FrameLog, *, centred: bool = False) -> Trace:
    used = log.outcome == FrameOutcome.USED
    values = np.where(used, drawn.read(log), np.nan).astype(np.float64)
    if centred:
        values = deviation_from_median(values)
    return Trace(
        drawn.title, drawn.unit, log.timestamps_s, values, drawn.least, bounds=drawn.bounds
    )


def _smiles(smile: Trace) -> tuple[tuple[float, float], ...]:
    first, last = float(smile.seconds[0]), float(smile.seconds[-1])
    count = max(1, round((last - first) * _EPISODE_HZ))
    column = resample(
        smile.seconds, smile.values[:, None], rate_hz=_EPISODE_HZ, count=count, start_s=first
    )[:, 0]
    found = episodes(column, rate_hz=_EPISODE_HZ)
    return tuple((first + one.start_s, first + one.start_s + one.duration_s) for one in found)


def _blinks(log: FrameLog, opening: FloatArray) -> tuple[tuple[float, float], ...]:
    count = len(log)
    track = FaceTrack(
        timestamps_s=log.timestamps_s,
        detected=np.isfinite(opening),
        faces=log.faces,
        blendshapes=np.empty((count, 0), np.float32),
        head_pose_deg=log.head_pose_deg,
        landmarks=np.empty((count, 0, 3), np.float32),
        inspections=Inspections(
            np.empty(0, np.int64),
            np.empty(0, np.uint8),
            np.empty(0, np.float32),
            np.empty(0, np.float32),
        ),
    )
    return tuple((float(time), float(time)) for time in find_blinks(track, opening).times_s)
