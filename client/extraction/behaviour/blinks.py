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
# Lids that stay this low follow a gaze at the lap, and what they do there is not told from blinks.
_LOWERED_SHARE = 0.75
_RAISED_SHARE = 0.85
_LOWERED_S = 1.0


@dataclass(frozen=True)
class Blinks:
    """The blinks of a recording.

    Attributes:
        times_s: ``[B]`` seconds at which the eyes were closed furthest.
        openness: ``[N]`` eye aspect ratio over the subject's median; NaN where the eyes were not
            measured, closed for longer than a blink or lowered for long.
        watched_s: ``[N]`` seconds from each frame to the next in which a blink could have been
            seen; 0 where it could not.
        intervals_s: Seconds between successive blinks that were watched throughout.
    """

    times_s: FloatArray
    openness: FloatArray
    watched_s: FloatArray
    intervals_s: FloatArray

    @property
    def observed_s(self) -> float:
        """Seconds in which a blink could have been seen."""
        return float(self.watched_s.sum())


def find_blinks(track: FaceTrack, opening: NDArray[np.floating] | None = None) -> Blinks:
    """Dips of the eye opening below 0.6 of the subject's own level that last 66 to 500 ms.

    A fixed threshold fails on people who look down or whose lids hang low, so the level is the
    median of the open eyes in the seconds around. Longer dips are closed eyes, and lids below 0.75
    of the whole recording's level for more than a second are a lowered gaze; neither counts as
    observed time.

    Args:
        track: What the tracker saw.
        opening: ``[N]`` eye aspect ratio of every frame; measured here if None.

    Returns:
        The blinks.

    Source:
        Mackintosh, Kumar and Kitamura 1983, doi:10.1192/bjp.143.1.55 (blink rate in depression).
    """
    measured = frame_signals(track)["eye_aspect_ratio"] if opening is None else opening
    ratio, times = measured.astype(np.float64), track.timestamps_s
    if not np.isfinite(ratio).any():
        return Blinks(np.empty(0), ratio, np.zeros(len(times)), np.empty(0))
    opened = _opened(ratio)
    openness = ratio / running_level(times, opened[:, None], window_s=_OPEN_WINDOW_S)[:, 0]
    found, hidden = _dips(times, openness)
    hidden |= _lowered(times, ratio / float(np.nanmedian(opened)))
    visible = np.where(hidden, np.nan, openness)
    kept = np.array([index for index in found if not hidden[index]], dtype=np.int64)
    watched_s = _watched_s(times, visible)
    return Blinks(times[kept], visible, watched_s, _intervals_s(times, kept, watched_s))


def _opened(opening: FloatArray) -> FloatArray:
    # Half of what the eyes reach at their widest parts open from closed, even in a recording in
    # which they are closed most of the time.
    half = 0.5 * float(np.nanpercentile(opening, 90))
    return np.where(opening > half, opening, np.nan)


def _dips(times: FloatArray, openness: FloatArray) -> tuple[list[int], NDArray[np.bool_]]:
    lowered = _FLANK_SHARE - openness
    found, hidden = [], np.zeros(len(times), dtype=bool)
    for start, stop in stretches(lowered, on=0.0, off=0.0):
        deepest = start + int(np.argmin(openness[start:stop]))
        if openness[deepest] >= CLOSED_SHARE:
            continue
        length_s = _crossing(times, lowered, stop) - _crossing(times, lowered, start)
        if length_s > LONGEST_S:
            hidden[start:stop] = True
        elif length_s >= SHORTEST_S:
            found.append(deepest)
    return found, hidden


def _lowered(times: FloatArray, openness: FloatArray) -> NDArray[np.bool_]:
    hidden = np.zeros(len(times), dtype=bool)
    for start, stop in stretches(-openness, on=-_LOWERED_SHARE, off=-_RAISED_SHARE):
        if times[stop - 1] - times[start] > _LOWERED_S:
            hidden[start:stop] = True
    return hidden


def _intervals_s(times: FloatArray, blinks: NDArray[np.int64], watched_s: FloatArray) -> FloatArray:
    broken = np.concatenate([[0], np.cumsum(watched_s[:-1] == 0.0)])
    whole = broken[blinks[1:]] == broken[blinks[:-1]]
    return np.asarray(np.diff(times[blinks])[whole])


def _crossing(times: FloatArray, signal: FloatArray, index: int) -> float:
    if index == 0 or index >= len(times):
        return float(times[min(index, len(times) - 1)])
    before, after = signal[index - 1], signal[index]
    if not np.isfinite(before) or not np.isfinite(after) or before == after:
        return float(times[index])
    share = before / (before - after)
    return float(times[index - 1] + share * (times[index] - times[index - 1]))


def _watched_s(times: FloatArray, signal: FloatArray) -> FloatArray:
    steps = np.diff(times)
    both = np.isfinite(signal[1:]) & np.isfinite(signal[:-1])
    return np.append(np.where(both & (steps <= MAX_GAP_S), steps, 0.0), 0.0)
