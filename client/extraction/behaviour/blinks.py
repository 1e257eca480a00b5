"""Blinks from the opening of the eyes, against the subject's own open eyes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.features import frame_signals
from client.extraction.behaviour.signals import MAX_GAP_S, running_level, stretches
from client.extraction.track import FaceTrack

FloatArray = NDArray[np.float64]

CLOSED_SHARE = 0.6
SHORTEST_S = 0.066
LONGEST_S = 0.5
# The tracker smooths over frames, so a dip is measured at its flanks and not at its bottom.
_FLANK_SHARE = 0.75
_OPEN_WINDOW_S = 5.0


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
    """Dips of the eye opening below 0.6 of the subject's own level that last 66 to 500 ms.

    A fixed threshold fails on people who look down or whose lids hang low, so the level is the
    median of the open eyes in the seconds around. Longer dips are a lowered gaze or closed eyes;
    that time does not count as observed.

    Args:
        track: What the tracker saw.

    Returns:
        The blinks.

    Source:
        Mackintosh, Kumar and Kitamura 1983, doi:10.1192/bjp.143.1.55 (blink rate in depression).
    """
    opening = frame_signals(track)["eye_aspect_ratio"].astype(np.float64)
    times = track.timestamps_s
    if not np.isfinite(opening).any():
        return Blinks(np.empty(0), opening, 0.0)
    openness = opening / _open_level(times, opening)
    lowered = _FLANK_SHARE - openness
    visible = openness.copy()
    found = []
    for start, stop in stretches(lowered, on=0.0, off=0.0):
        deepest = start + int(np.argmin(openness[start:stop]))
        if openness[deepest] >= CLOSED_SHARE:
            continue
        length_s = _crossing(times, lowered, stop) - _crossing(times, lowered, start)
        if length_s > LONGEST_S:
            visible[start:stop] = np.nan
        elif length_s >= SHORTEST_S:
            found.append(float(times[deepest]))
    return Blinks(np.asarray(found, dtype=np.float64), visible, _observed_s(times, visible))


def _open_level(times: FloatArray, opening: FloatArray) -> FloatArray:
    # Half of what the eyes reach at their widest parts open from closed, even in a recording in
    # which they are closed most of the time.
    half = 0.5 * float(np.nanpercentile(opening, 90))
    opened = np.where(opening > half, opening, np.nan)[:, None]
    return running_level(times, opened, window_s=_OPEN_WINDOW_S)[:, 0]


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
