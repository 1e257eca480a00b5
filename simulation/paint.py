"""What moving a photograph's points cannot show: the dark of a mouth, the furrows of a frown."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from simulation.movements import BETWEEN_BROWS, INNER_LOWER_LIP, INNER_UPPER_LIP, OUTER_EYE

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

MOUTH_COLOR = (62, 26, 28)

FURROW_SHADE = (0.6, 0.85, 1.0)
"""Light that a fold takes from red, green and blue: shaded skin turns red, not grey."""

FURROW_PLACE, FURROW_LENGTH = 0.045, 0.12
"""Distance of a furrow from the middle, and its length, in eye distances."""

SUBPIXEL_BITS = 3


def open_mouth(frame: Image, target: Array, jaw: float) -> Image:
    """A frame with darkness between the lips instead of the stretched teeth of the smile.

    Args:
        frame: ``[S, S, 3]`` uint8 RGB.
        target: ``[V, 2]`` mesh of the frame.
        jaw: 1 is wide open.
    """
    if jaw <= 0:
        return frame
    lips = target[[78, *INNER_UPPER_LIP, 308, *INNER_LOWER_LIP[::-1]]]
    mask = np.zeros(frame.shape[:2], dtype=np.float32)
    cv2.fillPoly(mask, [_fixed_point(lips)], min(1.0, 3.0 * jaw), shift=SUBPIXEL_BITS)
    soft = np.asarray(cv2.GaussianBlur(mask, (0, 0), 1.2), dtype=np.float32)[..., None]
    return (frame * (1 - soft) + np.array(MOUTH_COLOR, np.float32) * soft).astype(np.uint8)


def furrow_brow(frame: Image, target: Array, frown: float) -> Image:
    """A frame with the two upright folds that a frown makes between the brows.

    Args:
        frame: ``[S, S, 3]`` uint8 RGB.
        target: ``[V, 2]`` mesh of the frame.
        frown: 1 is a full frown.
    """
    if frown <= 0:
        return frame
    mask = np.zeros(frame.shape[:2], dtype=np.float32)
    middle = target[list(BETWEEN_BROWS)].mean(axis=0)
    across = target[OUTER_EYE[1]] - target[OUTER_EYE[0]]
    down = np.array([-across[1], across[0]])
    for side in (-FURROW_PLACE, FURROW_PLACE):
        ends = middle + side * across + FURROW_LENGTH * np.array([[-0.5], [0.5]]) * down
        first, last = _fixed_point(ends).tolist()
        cv2.line(mask, first, last, 1.0, 1, cv2.LINE_AA, SUBPIXEL_BITS)
    depth = frown * np.asarray(cv2.GaussianBlur(mask, (0, 0), 1.1))[..., None]
    return (frame * (1 - depth * np.array(FURROW_SHADE, np.float32))).clip(0, 255).astype(np.uint8)


def _fixed_point(points: Array) -> NDArray[np.int32]:
    return np.asarray(np.rint(points * 2**SUBPIXEL_BITS), dtype=np.int32)
