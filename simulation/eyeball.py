"""Eyes that look elsewhere: the portrait's iris, cut out and moved behind its lids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from simulation.movements import EYES, Eye
from simulation.portrait import load_portrait

Array = NDArray[np.float64]
Floats = NDArray[np.float32]
Image = NDArray[np.uint8]

GAZE_WAY = (0.060, 0.065)
"""Way of the iris at full gaze to the side and down, in eye distances: about 30 degrees.

An eyeball has a radius of about 12 mm and outer eye corners lie about 90 mm apart.
"""

IRIS_RADIUS = 0.066
"""Radius of the iris in eye distances: irises are 11 to 12 mm wide in all adults."""

SOFT_EDGE_PX = 1.0


@dataclass(frozen=True)
class Eyeball:
    """One eye of the portrait in two layers, each as large as the portrait.

    Attributes:
        eye: Its landmarks.
        white: ``[S, S, 3]`` float32, the portrait with the white of the eye in place of the iris.
        iris: ``[S, S, 3]`` float32, the portrait with a whole iris, also where the lid hides it.
        shape: ``[S, S]`` float32, 1 inside the iris, 0 outside.
    """

    eye: Eye
    white: Floats
    iris: Floats
    shape: Floats


@lru_cache(maxsize=1)
def load_eyeballs() -> tuple[Eyeball, ...]:
    """Both eyes of the portrait, ready to look elsewhere."""
    return tuple(_cut_out(eye) for eye in EYES)


def turn_eyes(frame: Image, target: Array, *, side: float, down: float) -> Image:
    """A frame whose eyes look aside or down, between the lids as they are.

    Args:
        frame: ``[S, S, 3]`` uint8 RGB, lids already moved.
        target: ``[V, 2]`` mesh of the frame.
        side: 1 looks to the right of the image, -1 to the left.
        down: 1 looks fully down.
    """
    if side == 0 and down == 0:
        return frame
    looking = frame.copy()
    way = np.array([side, down]) * GAZE_WAY * load_portrait().eye_distance_px
    for eyeball in load_eyeballs():
        _paint(looking, eyeball, target, way)
    return looking


def _cut_out(eye: Eye) -> Eyeball:
    portrait = load_portrait()
    radius = IRIS_RADIUS * portrait.eye_distance_px
    center = _iris_center(portrait.vertices, eye)
    rows, columns = np.mgrid[: portrait.image.shape[0], : portrait.image.shape[1]]
    distance = np.hypot(columns - center[0], rows - center[1])
    inside = (distance < radius + 1.5).astype(np.uint8)
    white = cv2.inpaint(portrait.image, inside, 3, cv2.INPAINT_TELEA)
    # The lid hides the top of the iris, whose bottom is as good.
    mirrored = cv2.remap(
        portrait.image,
        columns.astype(np.float32),
        np.where(rows < center[1] - 1, 2 * center[1] - rows, rows).astype(np.float32),
        cv2.INTER_LINEAR,
    )
    shape = np.clip((radius - distance) / SOFT_EDGE_PX + 0.5, 0, 1)
    return Eyeball(
        eye,
        np.asarray(white, dtype=np.float32),
        np.asarray(mirrored, dtype=np.float32),
        shape.astype(np.float32),
    )


def _iris_center(vertices: Array, eye: Eye) -> Array:
    return np.asarray(vertices[list(eye.iris[1::2])].mean(axis=0))


def _paint(frame: Image, eyeball: Eyeball, target: Array, way: Array) -> None:
    eye = eyeball.eye
    outline = target[[eye.corners[0], *eye.upper, eye.corners[1], *eye.lower[::-1]]]
    left, top = np.maximum(np.floor(outline.min(axis=0)).astype(int) - 3, 0)
    right, bottom = np.ceil(outline.max(axis=0)).astype(int) + 4
    rows, columns = np.mgrid[top : min(bottom, len(frame)), left : min(right, frame.shape[1])]
    place = _at_rest(np.stack([columns, rows], axis=-1), eye, target).astype(np.float32)
    moved = place - way.astype(np.float32)
    white = cv2.remap(eyeball.white, place[..., 0], place[..., 1], cv2.INTER_LINEAR)
    iris = cv2.remap(eyeball.iris, moved[..., 0], moved[..., 1], cv2.INTER_LINEAR)
    covered = cv2.remap(eyeball.shape, moved[..., 0], moved[..., 1], cv2.INTER_LINEAR)
    ball = white + np.asarray(covered)[..., None] * (np.asarray(iris) - white)
    mask = np.zeros(rows.shape, dtype=np.float32)
    corners = np.rint((outline - (left, top)) * 8).astype(np.int32)
    cv2.fillPoly(mask, [corners], 1.0, lineType=cv2.LINE_AA, shift=3)
    soft = np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.7))[..., None]
    patch = frame[top : top + len(rows), left : left + rows.shape[1]]
    patch[:] = np.rint(patch + soft * (ball - patch)).astype(np.uint8)


def _at_rest(points: NDArray[np.int64], eye: Eye, target: Array) -> Array:
    """Where points of a frame lie in the portrait, judged by the corners of the eye."""
    rest = load_portrait().vertices
    corners = list(eye.corners)
    start, end = (complex(*point) for point in rest[corners])
    seen_start, seen_end = (complex(*point) for point in target[corners])
    turn = (end - start) / (seen_end - seen_start)
    at = (points[..., 0] + 1j * points[..., 1] - seen_start) * turn + start
    return np.stack([at.real, at.imag], axis=-1)
