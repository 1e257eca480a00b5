"""What goes wrong between a face and its video: cover, absence, light, focus."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

BAR_COLOR = (90, 90, 94)
LIT_LEVEL = 255


def spoil_frame(frame: Image, target: Array, now: dict[str, float]) -> Image:
    """A frame as a poor recording shows it.

    Args:
        frame: ``[S, S, 3]`` uint8 RGB.
        target: ``[V, 2]`` mesh of the frame.
        now: ``occlusion``, ``away``, ``blur_px`` and ``brightness``.
    """
    walked = _walk_off(_occlude(frame, target, now["occlusion"]), now["away"])
    return _light(_defocus(walked, now["blur_px"]), now["brightness"])


def _occlude(frame: Image, target: Array, share: float) -> Image:
    """A grey bar over the lower part of the face; at 1 the whole head is behind it."""
    if share <= 0:
        return frame
    bottom = target[:478, 1].max()
    height = (1.6 * share) * (bottom - target[:478, 1].min())
    covered = frame.copy()
    covered[max(int(bottom - height), 0) : int(bottom + 12)] = BAR_COLOR
    return covered


def _walk_off(frame: Image, share: float) -> Image:
    """The picture moved aside over a wall of the backdrop's colour; at 1 only the wall is left."""
    columns = round(share * frame.shape[1])
    if columns <= 0:
        return frame
    wall = np.empty_like(frame)
    wall[:] = frame[: len(frame) // 2, 0].mean(axis=0)
    wall[:, columns:] = frame[:, : frame.shape[1] - columns]
    return wall


def _defocus(frame: Image, blur_px: float) -> Image:
    if blur_px <= 0:
        return frame
    return np.asarray(cv2.GaussianBlur(frame, (0, 0), blur_px), dtype=np.uint8)


def _light(frame: Image, brightness: float) -> Image:
    if brightness == 1:
        return frame
    lit = frame * np.float32(brightness)
    return np.asarray(np.minimum(lit, LIT_LEVEL), dtype=np.uint8)
