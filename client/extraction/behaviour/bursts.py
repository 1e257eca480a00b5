"""Brief movements: the face leaves its resting shape fast and is back within half a second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.signals import robust_z, running_level, stretches
from client.extraction.track import BLENDSHAPES, FaceTrack

FloatArray = NDArray[np.float64]

SHORTEST_S = 1.0 / 25.0
LONGEST_S = 1.0 / 2.0
_PEAK_Z = 3.0
_BASE_Z = 1.0
_REST_WINDOW_S = 2.0
# Blinks and glances are brief too and have indicators of their own.
_COLUMNS = [
    index
    for index, name in enumerate(BLENDSHAPES)
    if name != "neutral" and not name.startswith("eye")
]


@dataclass(frozen=True)
class Bursts:
    """The brief movements of a recording.

    Attributes:
        durations_s: ``[B]`` seconds from leaving the resting shape to the return.
        activity: ``[N]`` mean distance of the blendshapes from their running median; NaN where no
            face was seen.
    """

    durations_s: FloatArray
    activity: FloatArray


def find_bursts(track: FaceTrack) -> Bursts:
    """Movements of brows, cheeks and mouth of 1/25 to 1/2 s that end where they began.

    Args:
        track: What the tracker saw.

    Returns:
        The brief movements. Only above 50 frames per second does one resolve the shortest.

    Source:
        Yan et al. 2013, doi:10.1007/s10919-013-0159-8 (duration of micro-expressions).
    """
    seen = track.usable
    shapes = track.blendshapes[:, _COLUMNS]
    if not seen.any():
        return Bursts(np.empty(0), np.full(len(track), np.nan))
    shapes[~seen] = np.nan
    resting = running_level(track.timestamps_s, shapes, window_s=_REST_WINDOW_S)
    activity = np.abs(shapes - resting).mean(axis=1)
    height = robust_z(activity)
    times = np.append(track.timestamps_s, track.timestamps_s[-1] + 1.0 / max(track.fps, 1.0))
    durations = [
        float(times[stop] - times[start])
        for start, stop in stretches(height, on=_BASE_Z, off=_BASE_Z)
        if height[start:stop].max() > _PEAK_Z
    ]
    kept = [length for length in durations if SHORTEST_S <= length <= LONGEST_S]
    return Bursts(np.asarray(kept, dtype=np.float64), activity)
