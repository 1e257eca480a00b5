"""Blinks from the opening of the eyes, against the subject's own open eyes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.features import frame_signals
from client.extraction.behaviour.signals import MAX_GAP_S, stretches
from client.extraction.track import FaceTrack

FloatArray = NDArray[np.float64]

CLOSED_SHARE = 0.6
SHORTEST_S = 0.066
LONGEST_S = 0.5


@dataclass(frozen=True)
class Blinks:
    """The blinks of a recording.

    Attributes:
        times_s: ``[B]`` seconds at which the eyes were closed furthest.
        openness: ``[N]`` eye aspect ratio over the subject's median; NaN where the eyes were not
            measured or closed for longer than a blink.
        observed_s: Seconds in which a blink could have been seen.
    """

    times_s: FloatArray
    openness: FloatArray
    observed_s: float


def find_blinks(track: FaceTrack) -> Blinks:
    """Dips of the eye opening below 0.6 of the subject's median that last 66 to 500 ms.

    A fixed threshold fails on people who look down or whose lids hang low, so each recording has
    its own. Longer dips are a lowered gaze or closed eyes; that time does not count as observed.

    Args:
        track: What the tracker saw.

    Returns:
        The blinks.

    Source:
        Mackintosh, Kumar and Kitamura 1983, doi:10.1192/bjp.143.1.55 (blink rate in depression).
    """
    opening = frame_signals(track)["eye_aspect_ratio"]
    times = track.timestamps_s
    if not np.isfinite(opening).any():
        return Blinks(np.empty(0), opening, 0.0)
    openness = opening / np.nanmedian(opening)
    closed = np.where(np.isfinite(openness), CLOSED_SHARE - openness, np.nan)
    visible = openness.copy()
    found = []
    for start, stop in stretches(closed, on=0.0, off=0.0):
        length_s = _crossing(times, closed, stop) - _crossing(times, closed, start)
        if length_s > LONGEST_S:
            visible[start:stop] = np.nan
        elif length_s >= SHORTEST_S:
            found.append(float(times[start + int(np.argmax(closed[start:stop]))]))
    return Blinks(np.asarray(found, dtype=np.float64), visible, _observed_s(times, visible))


def _crossing(times: FloatArray, signal: FloatArray, index: int) -> float:
    if index == 0 or index >= len(times):
        return float(times[min(index, len(times) - 1)])
    before, after = signal[index - 1], signal[index]
    if not np.isfinite(before) or not np.isfinite(after) or before == after:
        return float(times[index])
    share = before / (before - after)
    return float(times[index - 1] + share * (times[index] - times[index - 1]))


def _observed_s(times: FloatArray, signal: FloatArray) -> float:
    steps = np.diff(times)
    both = np.isfinite(signal[1:]) & np.isfinite(signal[:-1])
    return float(steps[both & (steps <= MAX_GAP_S)].sum())
