"""Brief movements: the face leaves its resting shape fast and is back within half a second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.features import frame_signals
from client.extraction.behaviour.signals import mean_departure, robust_z, stretches
from client.extraction.track import BLENDSHAPES, FaceTrack

FloatArray = NDArray[np.float64]

SHORTEST_S = 1.0 / 25.0
LONGEST_S = 1.0 / 2.0
_PEAK_Z = 3.0
_BASE_Z = 1.0
_REST_WINDOW_S = 2.0
# Spread alone would make bursts of the noise of a face that hardly moves.
_LEAST_ACTIVATION = 0.005
_LEAST_IOD = 0.005
# Blinks and glances are brief too and have indicators of their own.
_COLUMNS = [
    index
    for index, name in enumerate(BLENDSHAPES)
    if name != "neutral" and not name.startswith("eye")
]
_BROW_SIGNALS = ("brow_gap", "brow_rise", "inner_brow_rise")


@dataclass(frozen=True)
class Bursts:
    """The brief movements of a recording.

    Attributes:
        durations_s: ``[B]`` seconds from leaving the resting shape to the return.
        peaks: ``[B]`` largest activity within.
        activity: ``[N]`` mean distance of the signals from their running medians; NaN where no
            face was seen.
    """

    durations_s: FloatArray
    peaks: FloatArray
    activity: FloatArray


def find_bursts(track: FaceTrack) -> Bursts:
    """Movements of brows, cheeks and mouth of 1/25 to 1/2 s that end where they began.

    The distance from the running median over two seconds leaves its usual size by more than one
    robust standard deviation, passes three of them and 0.005, and returns.

    Args:
        track: What the tracker saw.

    Returns:
        The brief movements. Only above 50 frames per second does one resolve the shortest.

    Source:
        Yan et al. 2013, doi:10.1007/s10919-013-0159-8 (duration of micro-expressions).
    """
    shapes = track.blendshapes[:, _COLUMNS]
    shapes[~track.usable] = np.nan
    return _bursts(track, shapes, least=_LEAST_ACTIVATION)


def find_brow_bursts(
    track: FaceTrack, levels: dict[str, NDArray[np.float32]] | None = None
) -> Bursts:
    """The same of the brows alone, by geometry: talk does not move them with every syllable.

    Args:
        track: What the tracker saw.
        levels: Signals of every frame; measured here if None.

    Returns:
        The brief movements; activity and peaks in IOD.
    """
    signals = frame_signals(track) if levels is None else levels
    return _bursts(
        track, np.column_stack([signals[name] for name in _BROW_SIGNALS]), least=_LEAST_IOD
    )


def _bursts(track: FaceTrack, signals: NDArray[np.float32], *, least: float) -> Bursts:
    if not track.usable.any():
        return Bursts(np.empty(0), np.empty(0), np.full(len(track), np.nan))
    activity = mean_departure(track.timestamps_s, signals, window_s=_REST_WINDOW_S)
    height = robust_z(activity)
    usual = float(np.nanmedian(activity))
    found = []
    for start, stop in stretches(height, on=_BASE_Z, off=_BASE_Z):
        peak = float(activity[start:stop].max())
        if height[start:stop].max() > _PEAK_Z and peak - usual >= least:
            found.append((_length_s(track.timestamps_s, height, slice(start, stop)), peak))
    kept = [one for one in found if SHORTEST_S <= one[0] <= LONGEST_S]
    durations, peaks = np.array(kept, dtype=np.float64).reshape(-1, 2).T
    return Bursts(durations, peaks, activity)


def _length_s(times: FloatArray, height: FloatArray, part: slice) -> float:
    # What begins or ends out of sight was not seen to leave rest and to return to it.
    edges = height[max(part.start - 1, 0) : part.stop + 1 : part.stop - part.start + 1]
    if part.start == 0 or part.stop == len(times) or not np.isfinite(edges).all():
        return 0.0
    return float(times[part.stop] - times[part.start])
