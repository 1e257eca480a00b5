"""The frame log: what was measured in every frame, and why a frame was left out."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.features import GEOMETRIC_SIGNALS, frame_signals
from client.extraction.track import FaceTrack
from client.storage.frame_log import FrameLog, FrameOutcome

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Cell = TypeVar("Cell", bound=np.generic)


def frame_log(track: FaceTrack, decoded_s: FloatArray | None = None) -> FrameLog:
    """One row for every decoded frame: its outcome, pose, blendshapes and geometric measures.

    Args:
        track: What the tracker saw in the frames that were analysed.
        decoded_s: ``[N]`` times of all decoded frames in seconds, strictly increasing, those of
            the track among them; None if every decoded frame was analysed.

    Returns:
        The log. Blendshapes and pose of a face turned away are kept, its signals are NaN.

    Raises:
        ValueError: If a frame of the track is not among the decoded ones.
    """
    times = track.timestamps_s if decoded_s is None else np.asarray(decoded_s, dtype=np.float64)
    rows = _rows(track.timestamps_s, times)
    signals = frame_signals(track)
    geometric = np.column_stack([signals[name] for name in GEOMETRIC_SIGNALS])
    outcome = np.full(len(times), FrameOutcome.NOT_ANALYSED, dtype=np.uint8)
    outcome[rows] = _outcomes(track)
    return FrameLog(
        timestamps_s=times,
        outcome=outcome,
        faces=_spread(track.faces[:, None], rows, len(times), empty=0)[:, 0],
        head_pose_deg=_spread(track.head_pose_deg, rows, len(times)),
        blendshapes=_spread(track.blendshapes.astype(np.float16), rows, len(times)),
        signals=_spread(geometric, rows, len(times)),
        signal_names=GEOMETRIC_SIGNALS,
    )


def _outcomes(track: FaceTrack) -> NDArray[np.uint8]:
    aside = np.where(track.usable, FrameOutcome.USED, FrameOutcome.TURNED_AWAY)
    return np.where(track.detected, aside, FrameOutcome.NO_FACE).astype(np.uint8)


def _rows(analysed: FloatArray, decoded: FloatArray) -> IntArray:
    rows = np.searchsorted(decoded, analysed)
    inside = rows < len(decoded)
    if not inside.all() or not np.array_equal(decoded[rows], analysed):
        msg = "Expected every analysed frame among the decoded ones, got times that are not"
        raise ValueError(msg)
    return rows


def _spread(
    values: NDArray[Cell], rows: IntArray, count: int, *, empty: float = np.nan
) -> NDArray[Cell]:
    if len(rows) == count:
        return values
    spread = np.full((count, values.shape[1]), empty, dtype=values.dtype)
    spread[rows] = values
    return spread
