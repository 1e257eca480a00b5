"""Numbers to SVG: shapes without text, coloured by classes of the page.

Text stands beside the shapes in the page itself, where it wraps, scales and is read aloud. Shapes
stretch to the width at hand, so all positions are in a box of :data:`WIDTH` by :data:`HEIGHT`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

WIDTH = 6000
HEIGHT = 600
_STEPS_S = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800)
_MOST_TICKS = 6


@dataclass(frozen=True)
class TimeAxis:
    """Seconds of a recording on the width of a drawing.

    Attributes:
        start_s: Left edge.
        end_s: Right edge, > ``start_s``.
    """

    start_s: float
    end_s: float

    def x(self, seconds: FloatArray | float) -> NDArray[np.int64]:
        """Places of moments, within the drawing."""
        share = (np.asarray(seconds, np.float64) - self.start_s) / (self.end_s - self.start_s)
        return np.rint(np.clip(share, 0.0, 1.0) * WIDTH).astype(np.int64)

    def ticks(self) -> list[tuple[float, str]]:
        """Percent of the width and label of each tick.

        >>> TimeAxis(0.0, 90.0).ticks()[:2]
        [(0.0, '0:00'), (33.33, '0:30')]
        """
        span = self.end_s - self.start_s
        step = next((s for s in _STEPS_S if span / s < _MOST_TICKS), _STEPS_S[-1])
        times = np.arange(np.ceil(self.start_s / step), self.end_s / step + 1e-9) * step
        # The last label would stick out of the drawing.
        shares = ((float(t), 100 * (float(t) - self.start_s) / span) for t in times)
        return [(round(share, 2), clock(t, tenths=step < 1)) for t, share in shares if share < 93]


def clock(seconds: float, *, tenths: bool = False) -> str:
    """A moment as minutes and seconds, with hours where there are some.

    >>> clock(75.0), clock(3675.0), clock(1.5, tenths=True)
    ('1:15', '1:01:15', '0:01.5')
    """
    whole = int(seconds)
    rest = f".{round(10 * (seconds - whole)) % 10}" if tenths else ""
    minutes, last = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    front = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{front}:{last:02d}{rest}"


def line_path(
    axis: TimeAxis, seconds: FloatArray, values: FloatArray, low: float, high: float
) -> str:
    """A broken line through the points that were measured.

    Args:
        axis: Where moments lie.
        seconds: ``[M]``.
        values: ``[M]``, NaN where the line breaks.
        low: Value at the bottom.
        high: Value at the top, > ``low``.
    """
    x = axis.x(seconds)
    share = np.clip((values - low) / (high - low), 0.0, 1.0)
    known = np.isfinite(share)
    y = np.rint((1.0 - np.where(known, share, 0.0)) * HEIGHT).astype(np.int64)
    starts = known & ~np.concatenate([[False], known[:-1]])
    parts: list[str] = []
    last_x = last_y = 0
    points = zip(x[known].tolist(), y[known].tolist(), starts[known].tolist(), strict=True)
    for here_x, here_y, starts_here in points:
        if starts_here:
            # A point on its own would draw nothing without a line to itself.
            parts.append(f"M{here_x} {here_y}h0")
        else:
            parts.append(f"l{here_x - last_x} {here_y - last_y}")
        last_x, last_y = here_x, here_y
    return "".join(parts)


def band_path(axis: TimeAxis, stretches: Iterable[tuple[float, float]]) -> str:
    """Bands over the whole height, each at least a hair wide."""
    parts = []
    for start_s, end_s in stretches:
        left, right = int(axis.x(start_s)), int(axis.x(end_s))
        parts.append(f"M{left} 0h{max(right - left, 6)}v{HEIGHT}H{left}z")
    return "".join(parts)


def grid_path(axis: TimeAxis) -> str:
    """A line at every tick."""
    return "".join(f"M{round(WIDTH * share / 100)} 0v{HEIGHT}" for share, _ in axis.ticks())


def stack_paths(shares: Mapping[str, FloatArray]) -> dict[str, str]:
    """Stacked bars over time, one path a layer, from the bottom up.

    Args:
        shares: Layer to ``[B]`` shares; together they fill the height.
    """
    paths = {}
    below = np.zeros(len(next(iter(shares.values()))))
    for name, share in shares.items():
        above = below + share
        paths[name] = _steps(below, above)
        below = above
    return {name: path for name, path in paths.items() if path}


def squares(share: FloatArray) -> list[tuple[int, int, float]]:
    """Column, row from the top and strength 0..1 of each cell of a density that is not empty.

    Args:
        share: ``[rows, columns]``, the first row at the bottom.
    """
    strongest = float(share.max())
    rows = len(share)
    return [
        (int(column), int(rows - 1 - row), round(float(np.sqrt(share[row, column] / strongest)), 2))
        for row, column in np.argwhere(share > 0)
    ]


def _steps(below: FloatArray, above: FloatArray) -> str:
    """Rectangles between two curves, neighbours of the same height as one."""
    bins = len(below)
    low = np.rint((1 - below) * HEIGHT).astype(np.int64)
    high = np.rint((1 - above) * HEIGHT).astype(np.int64)
    changed = np.flatnonzero((np.diff(low) != 0) | (np.diff(high) != 0)) + 1
    edges = [0, *changed.tolist(), bins]
    parts = []
    for start, stop in pairwise(edges):
        if low[start] > high[start]:
            left, right = round(start * WIDTH / bins), round(stop * WIDTH / bins)
            parts.append(f"M{left} {low[start]}V{high[start]}H{right}V{low[start]}z")
    return "".join(parts)
