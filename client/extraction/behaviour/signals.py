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
_NO_WIDTH_S = 1e-9


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
    times_s: FloatArray,
    values: NDArray[np.floating],
    *,
    rate_hz: float,
    count: int,
    start_s: float = 0.0,
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
    rows = np.flatnonzero(measured)
    times = times_s[rows]
    edges = start_s + np.arange(count + 1) / rate_hz
    reach_s = _reach(times_s)
    for piece in _connected(times):
        inside, low, high = _reached(edges, times[piece], reach_s)
        # One column at a time: an hour of all of them in double precision would be 60 MB a copy.
        for number in range(values.shape[1]):
            column = values[rows[piece], number].astype(np.float64)
            result[inside, number] = _means(times[piece], column, low=low, high=high)
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


def running_level(
    times_s: FloatArray, values: NDArray[np.floating], *, window_s: float
) -> FloatArray:
    """Slowly changing level of each column: its median within a window around each frame.

    The median is taken ten times a second and joined by straight lines, so that an hour at a high
    frame rate costs seconds and not minutes.

    Args:
        times_s: ``[N]`` seconds, strictly increasing, N >= 1.
        values: ``[N, K]``; rows with a NaN take the next measured one. At least one row has none.
        window_s: Length of the window in seconds.

    Returns:
        ``[N, K]``.
    """
    return np.column_stack([*_levels(times_s, values, window_s)])


def mean_departure(
    times_s: FloatArray, values: NDArray[np.floating], *, window_s: float
) -> FloatArray:
    """Mean distance of the columns from their running levels.

    Column by column, so that an hour costs no more memory than one of them.

    Args:
        times_s: ``[N]`` seconds, strictly increasing, N >= 1.
        values: ``[N, K]``; at least one row has no NaN.
        window_s: Length of the window of the level in seconds.

    Returns:
        ``[N]``, >= 0; NaN where a column is.
    """
    total = np.zeros(len(values))
    for column, level in zip(values.T, _levels(times_s, values, window_s), strict=True):
        total += np.abs(column - level)
    return np.asarray(total / values.shape[1])


def _levels(
    times_s: FloatArray, values: NDArray[np.floating], window_s: float
) -> Iterator[FloatArray]:
    measured = np.flatnonzero(np.isfinite(values).all(axis=1))
    next_one = np.clip(np.searchsorted(measured, np.arange(len(values))), 0, len(measured) - 1)
    interval_s = 2.0 * _reach(times_s)
    step = max(1, round(0.1 / interval_s)) if interval_s > 0 else 1
    half = max(1, round(window_s / (2.0 * interval_s * step))) if interval_s > 0 else 1
    thin = np.asarray(values[measured[next_one][::step]], dtype=np.float64)
    for column in thin.T:
        yield np.interp(times_s, times_s[::step], _running_median(column, half))


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


def _running_median(column: FloatArray, half: int) -> FloatArray:
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(column, half, mode="edge"), 2 * half + 1
    )
    return np.asarray(np.median(windows, axis=1))


def _reach(times_s: FloatArray) -> float:
    # A frame stands for the time until the next one, so a piece ends half an interval late.
    return float(np.median(np.diff(times_s))) / 2.0 if len(times_s) > 1 else 0.0


def _connected(times: FloatArray) -> list[slice]:
    if len(times) == 0:
        return []
    cuts = np.flatnonzero(np.diff(times) > MAX_GAP_S) + 1
    bounds = [0, *cuts.tolist(), len(times)]
    return [slice(first, last) for first, last in pairwise(bounds)]


def _reached(
    edges: FloatArray, times: FloatArray, reach_s: float
) -> tuple[BoolArray, FloatArray, FloatArray]:
    middles = (edges[1:] + edges[:-1]) / 2.0
    inside = (middles >= times[0] - reach_s) & (middles <= times[-1] + reach_s)
    low = np.clip(edges[:-1][inside], times[0], times[-1])
    high = np.clip(edges[1:][inside], times[0], times[-1])
    return inside, low, high


def _means(
    times: FloatArray, column: FloatArray, *, low: FloatArray, high: FloatArray
) -> FloatArray:
    width = high - low
    total = _integral(times, column, at=high) - _integral(times, column, at=low)
    # Past the last frame a sample has no width left and takes that frame's value.
    point = np.interp(low, times, column)
    return np.where(width > _NO_WIDTH_S, total / np.maximum(width, _NO_WIDTH_S), point)


def _integral(times: FloatArray, column: FloatArray, *, at: FloatArray) -> FloatArray:
    if len(times) == 1:
        return np.zeros(len(at))
    steps = np.diff(times) * (column[1:] + column[:-1]) / 2.0
    upto = np.concatenate([[0.0], np.cumsum(steps)])
    left = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(times) - 2)
    past = at - times[left]
    slope = (column[left + 1] - column[left]) / (times[left + 1] - times[left])
    return np.asarray(upto[left] + past * (column[left] + slope * past / 2.0))
