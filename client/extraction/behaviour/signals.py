"""Time series from irregular frames: resampling, speeds, episodes, personal baselines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

MAX_GAP_S = 0.3


@dataclass(frozen=True)
class Episode:
    """A stretch in which a signal stayed high.

    Attributes:
        start_s: Start in seconds.
        duration_s: Length in seconds.
        peak: Largest value within.
    """

    start_s: float
    duration_s: float
    peak: float


def resample(
    times_s: FloatArray, values: FloatArray, *, rate_hz: float, count: int, start_s: float = 0.0
) -> FloatArray:
    """A signal at a fixed rate: sample k is its mean over [k, k + 1) / rate_hz after the start.

    The signal between two frames is taken as the straight line between them, so the mean is exact
    for ramps, whatever the frames' rhythm, and faster changes than the new rate can hold are
    averaged instead of folded. Frames more than :data:`MAX_GAP_S` apart are not connected.

    Args:
        times_s: ``[N]`` seconds, strictly increasing.
        values: ``[N, K]``; a row with a NaN counts as not measured.
        rate_hz: Samples per second of the result, > 0.
        count: Samples M of the result.
        start_s: Time at which sample 0 begins.

    Returns:
        ``[M, K]`` float64, NaN where nothing was measured near the middle of the sample.
    """
    result = np.full((count, values.shape[1]), np.nan)
    measured = np.isfinite(values).all(axis=1)
    times, rows = times_s[measured], np.asarray(values[measured], dtype=np.float64)
    edges = start_s + np.arange(count + 1) / rate_hz
    reach_s = _reach(times_s)
    for piece in _connected(times):
        _fill(result, edges, times[piece], rows[piece], reach_s=reach_s)
    return result


def speed(values: FloatArray, *, rate_hz: float) -> FloatArray:
    """Absolute change per second of a resampled signal, from its neighbours on both sides.

    Args:
        values: ``[M]`` at a fixed rate, NaN where not measured.
        rate_hz: Samples per second.

    Returns:
        ``[M]``, NaN where a neighbour is missing.
    """
    if len(values) < 2:
        return np.full(len(values), np.nan)
    return np.abs(np.gradient(values, 1.0 / rate_hz))


def from_steps(steps: FloatArray) -> FloatArray:
    """A change between neighbours assigned to samples: each takes the mean of its two sides.

    Args:
        steps: ``[M - 1]`` change from each sample to the next, NaN where unknown.

    Returns:
        ``[M]``; a sample with one known side takes that one, NaN with none.
    """
    sides = np.stack([np.append(np.nan, steps), np.append(steps, np.nan)])
    known = np.isfinite(sides)
    total = np.where(known, sides, 0.0).sum(axis=0)
    count = known.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def episodes(
    values: FloatArray, *, rate_hz: float, on: float = 0.5, off: float = 0.3, min_s: float = 0.3
) -> tuple[Episode, ...]:
    """Stretches that begin when a signal rises above ``on`` and end when it falls below ``off``.

    Two thresholds keep noise around one of them from cutting an episode into many. A sample that
    was not measured ends the episode.

    Args:
        values: ``[M]`` at a fixed rate, NaN where not measured.
        rate_hz: Samples per second.
        on: Threshold to begin.
        off: Threshold to end, at most ``on``.
        min_s: Shorter stretches are dropped.

    Returns:
        The episodes in order of time.

    >>> import numpy as np
    >>> wave = np.array([0.0, 0.6, 0.4, 0.7, 0.2, 0.6, 0.0])
    >>> [(e.start_s, round(e.duration_s, 3), e.peak) for e in episodes(wave, rate_hz=10.0)]
    [(0.1, 0.3, 0.7)]
    """
    found = []
    for start, stop in stretches(values, on=on, off=off):
        duration_s = (stop - start) / rate_hz
        if duration_s >= min_s - 1e-9:
            peak = float(values[start:stop].max())
            found.append(Episode(start / rate_hz, duration_s, peak))
    return tuple(found)


def stretches(values: FloatArray, *, on: float, off: float) -> Iterator[tuple[int, int]]:
    """Where a signal rises above ``on`` until it falls below ``off`` or is not measured.

    Args:
        values: ``[M]``, NaN where not measured.
        on: Threshold to begin.
        off: Threshold to end, at most ``on``.

    Yields:
        First index within and first index after.
    """
    start: int | None = None
    for index, value in enumerate(values.tolist()):
        if start is None:
            start = index if value > on else None
        elif not value >= off:
            yield start, index
            start = None
    if start is not None:
        yield start, len(values)


def deviation_from_median(values: FloatArray) -> FloatArray:
    """A signal minus the subject's own median in this recording.

    Args:
        values: ``[M, ...]``, NaN where not measured.

    Returns:
        The same shape; all NaN where nothing was measured.
    """
    if not np.isfinite(values).any():
        return values
    return values - np.nanmedian(values, axis=0)


def robust_z(values: FloatArray) -> FloatArray:
    """Distance from the median in units of the median absolute deviation, scaled to a normal SD.

    Args:
        values: ``[M]``, NaN where not measured.

    Returns:
        ``[M]``; zeros where the signal does not vary at all.
    """
    centred = deviation_from_median(values)
    if not np.isfinite(centred).any():
        return centred
    spread = 1.4826 * float(np.nanmedian(np.abs(centred)))
    return centred / spread if spread > 0 else np.zeros_like(centred)


def _reach(times_s: FloatArray) -> float:
    # A frame stands for the time until the next one, so a piece ends half an interval late.
    return float(np.median(np.diff(times_s))) / 2.0 if len(times_s) > 1 else 0.0


def _connected(times: FloatArray) -> list[slice]:
    if len(times) == 0:
        return []
    cuts = np.flatnonzero(np.diff(times) > MAX_GAP_S) + 1
    bounds = [0, *cuts.tolist(), len(times)]
    return [slice(first, last) for first, last in pairwise(bounds)]


def _fill(
    result: FloatArray, edges: FloatArray, times: FloatArray, rows: FloatArray, *, reach_s: float
) -> None:
    middles = (edges[1:] + edges[:-1]) / 2.0
    inside = (middles >= times[0] - reach_s) & (middles <= times[-1] + reach_s)
    if not inside.any():
        return
    low = np.clip(edges[:-1][inside], times[0], times[-1])
    high = np.clip(edges[1:][inside], times[0], times[-1])
    width = high - low
    integral = _integral(times, rows, at=high) - _integral(times, rows, at=low)
    nearest = (
        rows[np.abs(times[None, :] - middles[inside][:, None]).argmin(axis=1)]
        if (width < 1e-9).any()
        else np.zeros_like(integral)
    )
    mean = integral / np.where(width > 1e-9, width, 1.0)[:, None]
    result[inside] = np.where(width[:, None] > 1e-9, mean, nearest)


def _integral(times: FloatArray, rows: FloatArray, *, at: FloatArray) -> FloatArray:
    steps = np.diff(times)[:, None] * (rows[1:] + rows[:-1]) / 2.0
    upto = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(steps, axis=0)])
    left = np.clip(np.searchsorted(times, at, side="right") - 1, 0, max(len(times) - 2, 0))
    if len(times) == 1:
        return np.zeros((len(at), rows.shape[1]))
    past = (at - times[left])[:, None]
    slope = (rows[left + 1] - rows[left]) / (times[left + 1] - times[left])[:, None]
    return np.asarray(upto[left] + past * (rows[left] + slope * past / 2.0))
