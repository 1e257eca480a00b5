"""Where each commanded movement takes the points of a face.

Lengths are fractions of the distance between the outer eye corners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

Array = NDArray[np.float64]

OUTER_EYE = (33, 263)


class Eye(NamedTuple):
    """Landmarks of one eye."""

    upper: tuple[int, ...]
    lower: tuple[int, ...]
    creases: tuple[tuple[int, ...], tuple[int, ...]]
    iris: tuple[int, ...]
    corners: tuple[int, ...]


EYES = (
    Eye(
        upper=(246, 161, 160, 159, 158, 157, 173),
        lower=(7, 163, 144, 145, 153, 154, 155),
        creases=((247, 30, 29, 27, 28, 56, 190), (113, 225, 224, 223, 222, 221, 189)),
        iris=(468, 469, 470, 471, 472),
        corners=(33, 133),
    ),
    Eye(
        upper=(466, 388, 387, 386, 385, 384, 398),
        lower=(249, 390, 373, 374, 380, 381, 382),
        creases=((467, 260, 259, 257, 258, 286, 414), (342, 445, 444, 443, 442, 441, 413)),
        iris=(473, 474, 475, 476, 477),
        corners=(263, 362),
    ),
)
CREASE_FOLLOWS = (0.85, 0.45)
"""Part of the lid's way that the skin above goes: a lid that closes alone is not seen as closed."""

INNER_UPPER_LIP = (191, 80, 81, 82, 13, 312, 311, 310, 415)
INNER_LOWER_LIP = (95, 88, 178, 87, 14, 317, 402, 318, 324)
OUTER_UPPER_LIP = (185, 40, 39, 37, 0, 267, 269, 270, 409)
OUTER_LOWER_LIP = (146, 91, 181, 84, 17, 314, 405, 321, 375)
MIDDLE_UPPER_LIP = (184, 74, 73, 72, 11, 302, 303, 304, 408)
MIDDLE_LOWER_LIP = (77, 90, 180, 85, 16, 315, 404, 320, 307)
CORNERS = ((61, 76, 62, 78), (291, 306, 292, 308))
BROWS = (
    {"inner": (55, 107, 65, 66), "outer": (52, 105, 53, 63, 46, 70)},
    {"inner": (285, 336, 295, 296), "outer": (282, 334, 283, 293, 276, 300)},
)
BETWEEN_BROWS = (8, 9)
CHIN = (152, 148, 377, 176, 400, 175, 199, 200, 18, 83, 313, 201, 421, 171, 396, 208, 428)
JAWLINE = (149, 378, 150, 379, 136, 365)
FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
STILL = (*FACE_OVAL, 168, 6, 4, 1, 195, 5, 2, 98, 327)
"""Points that no expression moves: the outline and the nose."""


@dataclass(frozen=True)
class _Axes:
    """Axes of a face: ``across`` from eye to eye, ``down`` perpendicular, unit ``iod``."""

    origin: Array
    across: Array
    down: Array
    iod: float

    def offset(self, across: float, down: float) -> Array:
        """Displacement in the image."""
        return self.iod * (across * self.across + down * self.down)


def _axes(face: Array) -> _Axes:
    line = face[OUTER_EYE[1]] - face[OUTER_EYE[0]]
    iod = float(np.linalg.norm(line))
    across = line / iod
    return _Axes(face[list(OUTER_EYE)].mean(axis=0), across, np.array([-across[1], across[0]]), iod)


def face_movements(face: Array) -> dict[str, Array]:
    """Displacement of each landmark at full activation of each movement.

    Args:
        face: ``[478, 2]`` landmarks in pixels.

    Returns:
        ``[478, 2]`` for ``neutral`` (from the smile to a closed, level mouth), ``corner_drop``,
        ``dimple_left``, ``dimple_right``, ``frown``, ``raise``, ``inner_brow``, ``lids``,
        ``gaze_down`` and ``jaw``.
    """
    axes = _axes(face)
    return {
        "neutral": _neutral(face, axes),
        "corner_drop": _corner_drop(face, axes),
        "dimple_right": _dimple(face, axes, side=0),
        "dimple_left": _dimple(face, axes, side=1),
        "frown": _brows(face, axes, inner=(0.11, 0.05), outer=(0.08, 0.05), between=0.04),
        "raise": _brows(face, axes, inner=(0.0, -0.09), outer=(0.0, -0.07)),
        "inner_brow": _brows(face, axes, inner=(0.015, -0.09), outer=(0.0, 0.0)),
        "lids": _lids(face, upper=1.0, lower=0.0),
        "gaze_down": _lids(face, upper=0.5, lower=0.3),
        "jaw": _jaw(face, axes),
    }


def _spread(face: Array, handles: Mapping[int, Array], *, still: Sequence[int]) -> Array:
    """Smooth displacement of all landmarks from that of a few, with others held still."""
    held = {index: np.zeros(2) for index in still if index not in handles}
    moved = {**held, **handles}
    centers = face[list(moved)] + 1e-6 * np.arange(len(moved))[:, None]
    field = RBFInterpolator(centers, np.stack(list(moved.values())), kernel="linear")(face)
    field[list(moved)] = np.stack(list(moved.values()))
    return np.asarray(field)


EYE_POINTS = tuple(
    index
    for eye in EYES
    for part in (eye.upper, eye.lower, eye.corners, eye.iris)
    for index in part
)


def _neutral(face: Array, axes: _Axes) -> Array:
    """From the smile to rest: corners level with a closed mouth, lips at their thickness."""
    down = (face - axes.origin) @ axes.down / axes.iod
    across = (face - axes.origin) @ axes.across / axes.iod
    middle = (across[61] + across[291]) / 2
    level = (down[13] + down[14]) / 2 - 0.01
    handles: dict[int, Array] = {}

    def place(index: int, target_down: float) -> None:
        narrower = middle + 0.80 * (across[index] - middle)
        handles[index] = axes.offset(narrower - across[index], target_down - down[index])

    for side in CORNERS:
        for index in side:
            place(index, level + 0.015)
    rows = (
        (INNER_UPPER_LIP, OUTER_UPPER_LIP, MIDDLE_UPPER_LIP),
        (INNER_LOWER_LIP, OUTER_LOWER_LIP, MIDDLE_LOWER_LIP),
    )
    for inner, outer, between in rows:
        for i, o, b in zip(inner, outer, between, strict=True):
            place(i, level)
            place(o, level + 1.15 * (down[o] - down[i]))
            place(b, level + 1.15 * (down[b] - down[i]))
    for cheek in (205, 425, 50, 280, 187, 411):
        handles[cheek] = axes.offset(0.0, 0.045)
    return _spread(face, handles, still=(*STILL, *EYE_POINTS))


def _corner_drop(face: Array, axes: _Axes) -> Array:
    handles = {index: axes.offset(0.0, 0.10) for side in CORNERS for index in side}
    for near in (185, 409, 191, 415, 95, 324, 146, 375, 184, 408, 77, 307):
        handles[near] = axes.offset(0.0, 0.06)
    for middle in (0, 11, 13, 14, 16, 17, 37, 267, 82, 312, 87, 317, 84, 314):
        handles[middle] = np.zeros(2)
    return _spread(face, handles, still=(*STILL, *EYE_POINTS))


MOUTH_SIDES = (
    ((185, 191, 95, 146, 184, 77), (40, 39, 37), (91, 181, 84), (205, 187, 207, 216, 192)),
    ((409, 415, 324, 375, 408, 307), (270, 269, 267), (321, 405, 314), (425, 411, 427, 436, 416)),
)
"""Points beside a mouth corner, of the upper lip, of the lower lip and of the cheek."""

DIMPLE_IN, DIMPLE_UP = 0.04, 0.05


def _dimple(face: Array, axes: _Axes, *, side: int) -> Array:
    """One corner of the mouth tightened: drawn in and up, the lips beside it following.

    Source:
        Ekman, Friesen and Hager 2002, Facial Action Coding System (action unit 14).
    """
    inward = (DIMPLE_IN, -DIMPLE_IN)[side]
    beside, upper_lip, lower_lip, cheek = MOUTH_SIDES[side]
    handles = {i: axes.offset(inward, -DIMPLE_UP) for i in CORNERS[side]}
    handles |= {i: axes.offset(0.8 * inward, -0.8 * DIMPLE_UP) for i in beside}
    handles |= {i: axes.offset(0.4 * inward, -0.01) for i in upper_lip}
    handles |= {i: axes.offset(0.4 * inward, 0.01) for i in lower_lip}
    handles |= {i: axes.offset(0.0, -0.03) for i in cheek}
    fixed = (0, 11, 13, 14, 16, 17, *CORNERS[1 - side])
    return _spread(face, handles, still=(*STILL, *EYE_POINTS, *fixed))


def _brows(
    face: Array,
    axes: _Axes,
    *,
    inner: tuple[float, float],
    outer: tuple[float, float],
    between: float = 0.0,
) -> Array:
    """Brows moved toward the middle and down, with the skin between their inner ends."""
    handles: dict[int, Array] = {}
    for toward, brow in zip((1, -1), BROWS, strict=True):
        handles |= {i: axes.offset(toward * inner[0], inner[1]) for i in brow["inner"]}
        handles |= {i: axes.offset(toward * outer[0], outer[1]) for i in brow["outer"]}
    if between:
        handles |= {i: axes.offset(0.0, between) for i in BETWEEN_BROWS}
    bridge = (168, 6)
    still = [i for i in STILL if i not in bridge or not between]
    return _spread(face, handles, still=(*still, *EYE_POINTS))


def _lids(face: Array, *, upper: float, lower: float) -> Array:
    """Upper lids on their way to the lower ones, with the skin above; the eyeball under them.

    Args:
        face: ``[478, 2]``.
        upper: Part of the opening that the upper lid comes down; 1 closes the eye.
        lower: Part of the opening that the lower lid gives way, as in a lowered gaze.
    """
    moved = np.zeros_like(face)
    for eye in EYES:
        rows = face[list(eye.upper)], face[list(eye.lower)]
        opening = rows[1] - rows[0]
        moved[list(eye.upper)] = upper * opening
        moved[list(eye.lower)] = lower * opening
        for crease, follows in zip(eye.creases, CREASE_FOLLOWS, strict=True):
            moved[list(crease)] = follows * upper * opening
        for index in eye.iris:
            moved[index] = _under_lid(face[index], *rows, closing=upper)
    return moved


def _under_lid(point: Array, upper: Array, lower: Array, *, closing: float) -> Array:
    """Displacement of a point of the eyeball that keeps it between the lids."""
    order = np.argsort(upper[:, 0])
    top = np.interp(point[0], upper[order, 0], upper[order, 1])
    order = np.argsort(lower[:, 0])
    bottom = np.interp(point[0], lower[order, 0], lower[order, 1])
    share = np.clip((point[1] - top) / (bottom - top), 0.05, 0.95)
    lid = top + closing * (bottom - top)
    return np.array([0.0, lid + share * (bottom - lid) - point[1]])


def _jaw(face: Array, axes: _Axes) -> Array:
    opening = 0.27
    handles = {i: axes.offset(0.0, opening) for i in CHIN}
    handles |= {i: axes.offset(0.0, 0.6 * opening) for i in JAWLINE}
    shape = np.array([0.35, 0.72, 0.9, 0.98, 1.0, 0.98, 0.9, 0.72, 0.35])
    for row in (INNER_LOWER_LIP, MIDDLE_LOWER_LIP, OUTER_LOWER_LIP):
        handles |= {i: axes.offset(0.0, s * opening) for i, s in zip(row, shape, strict=True)}
    for row in (INNER_UPPER_LIP, MIDDLE_UPPER_LIP, OUTER_UPPER_LIP):
        handles |= {i: axes.offset(0.0, -0.03 * s) for i, s in zip(row, shape, strict=True)}
    for toward, side in zip((1, -1), CORNERS, strict=True):
        handles |= {i: axes.offset(0.03 * toward, 0.10 * opening) for i in side}
    still = [i for i in STILL if i not in (*CHIN, *JAWLINE)]
    return _spread(face, handles, still=(*still, *EYE_POINTS))
