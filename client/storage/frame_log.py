"""Frame by frame, what was measured in a recording and why a frame was left out: no picture.

The extractor makes it, the store seals it, exports and pages read it. It lies outside the
extractor, because whoever reads the store must not need a video library.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class FrameOutcome(IntEnum):
    """What became of a frame."""

    USED = 0
    NO_FACE = 1
    TURNED_AWAY = 2
    """A face, but turned aside by more than 30 degrees: its far half is hidden."""
    NOT_ANALYSED = 3
    """Decoded only; the site analyses fewer frames a second than the camera took."""


@dataclass(frozen=True)
class FrameLog:
    """One row for each of N decoded frames; figures of frames without a face are NaN.

    Attributes:
        timestamps_s: ``[N]`` float64, strictly increasing.
        outcome: ``[N]`` uint8, a :class:`FrameOutcome`.
        faces: ``[N]`` uint8, faces in the picture at the latest look at the whole of it.
        head_pose_deg: ``[N, 3]`` float32, pitch, yaw, roll.
        blendshapes: ``[N, 52]`` float16, 0..1, in the order of the tracker's blendshapes.
        signals: ``[N, K]`` float32, geometric measures in the order of ``signal_names``.
        signal_names: Name of each of the K signals.
    """

    timestamps_s: NDArray[np.float64]
    outcome: NDArray[np.uint8]
    faces: NDArray[np.uint8]
    head_pose_deg: NDArray[np.float32]
    blendshapes: NDArray[np.float16]
    signals: NDArray[np.float32]
    signal_names: tuple[str, ...]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.timestamps_s)
