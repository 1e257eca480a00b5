"""The portrait behind rendered faces: its mesh, and where each movement takes the mesh's points.

The photograph is NASA's portrait of Eileen Collins, public domain, as shipped by scikit-image.
Lengths are fractions of the distance between the outer eye corners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator
from scipy.spatial import Delaunay

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

LANDMARKS_FILE = Path(__file__).with_name("portrait_landmarks.csv")
CROP = (96, 0, 260)
"""Left, top and side of the square of the photograph that is shown, in its pixels."""

SIDE_PX = 384
"""Side of the rendered square."""

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
CHIN = (152, 148, 377, 176, 400, 175, 199, 200, 18, 83, 313, 201, 421, 171, 396, 208, 428)
JAWLINE = (149, 378, 150, 379, 136, 365)
FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
STILL = (*FACE_OVAL, 168, 6, 4, 1, 195, 5, 2, 98, 327)
"""Points that no expression moves: the outline and the nose."""

LIP_MARGIN = 0.012
"""The lips' inner edge lies this part of the face's height within the lip, so that no tooth shows
between closed lips."""

DEPTH_LIMIT = 0.42
"""Greatest depth in eye distances: the steep edge of a face would tear where it turns away."""

RINGS = ((1.22, 1.0), (1.6, 0.8), (2.2, 0.35))
"""Rings around the face: size relative to its outline, and the part of its movement they follow."""


@dataclass(frozen=True)
class Portrait:
    """A photograph, its mesh and its movements, in pixels of the rendered square.

    Attributes:
        image: ``[S, S, 3]`` uint8 RGB.
        vertices: ``[V, 2]`` x, y of the mesh in the photograph.
        depth: ``[V]`` away from the camera, in the same unit.
        leader: ``[V]`` vertex whose movement each vertex follows; its own in the face.
        following: ``[V]`` part of the leader's movement that is followed, 0 to 1.
        triangles: ``[M, 3]`` vertices of each triangle.
        movements: ``[V, 2]`` displacement at full activation, by name.
        eye_distance_px: Distance of the outer eye corners.
        face_box: Left, top, right and bottom of the face's outline.
    """

    image: Image
    vertices: Array
    depth: Array
    leader: NDArray[np.int64]
    following: Array
    triangles: NDArray[np.int64]
    movements: Mapping[str, Array]
    eye_distance_px: float
    face_box: tuple[float, float, float, float]


def measure_landmarks(face_model: Path) -> Array:
    """``[478, 3]`` landmarks of the photograph in its pixels, as MediaPipe sees them enlarged.

    This made ``portrait_landmarks.csv``, so that rendering needs no face model.

    Args:
        face_model: MediaPipe's face landmarker bundle.
    """
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision
    from skimage.data import astronaut
    from skimage.transform import resize

    left, top, side = CROP
    crop = astronaut()[top : top + side, left : left + side]
    large = np.round(resize(crop, (4 * side, 4 * side), order=3, preserve_range=True))
    image = mp.Image(image_format=mp.ImageFormat.SRGB, data=large.clip(0, 255).astype(np.uint8))
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(face_model))
    )
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        points = landmarker.detect(image).face_landmarks[0]
    shares = np.array([(point.x, point.y, point.z) for point in points])
    return np.asarray(shares * side + (left, top, 0.0))


@lru_cache(maxsize=1)
def load_portrait() -> Portrait:
    """The portrait, ready to be moved."""
    from skimage.data import astronaut
    from skimage.transform import resize

    left, top, side = CROP
    crop = astronaut()[top : top + side, left : left + side]
    image = np.round(resize(crop, (SIDE_PX, SIDE_PX), order=3, preserve_range=True))
    scale = SIDE_PX / side
    landmarks = np.loadtxt(LANDMARKS_FILE, delimiter=",", skiprows=1)
    points = (landmarks - (left, top, 0.0)) * scale
    face = points[:, :2]
    face[list(INNER_UPPER_LIP)] -= LIP_MARGIN * np.array([0.0, np.ptp(face[:, 1])])
    face[list(INNER_LOWER_LIP)] += LIP_MARGIN * np.array([0.0, np.ptp(face[:, 1])])
    eye_distance = float(np.linalg.norm(face[OUTER_EYE[0]] - face[OUTER_EYE[1]]))
    rings, ring_leader, ring_following = _surround(face)
    border = _border(SIDE_PX)
    vertices = np.concatenate([face, rings, border])
    no_leader = np.zeros(len(border), dtype=np.int64)
    leader = np.concatenate([np.arange(len(face)), ring_leader, no_leader])
    following = np.concatenate([np.ones(len(face)), ring_following, np.zeros(len(border))])
    return Portrait(
        image=image.clip(0, 255).astype(np.uint8),
        vertices=vertices,
        depth=_depth(points[:, 2], len(vertices), limit=DEPTH_LIMIT * eye_distance),
        leader=leader,
        following=following,
        triangles=Delaunay(vertices).simplices.astype(np.int64),
        movements={
            name: following[:, None] * movement[leader]
            for name, movement in face_movements(face).items()
        },
        eye_distance_px=eye_distance,
        face_box=(*face.min(axis=0), *face.max(axis=0)),
    )


def _depth(face: Array, count: int, *, limit: float) -> Array:
    """``[count]`` depth of all vertices: the face's, limited, and the background's behind it."""
    return np.concatenate([np.minimum(face, limit), np.full(count - len(face), 2 * limit)])


def _surround(face: Array) -> tuple[Array, NDArray[np.int64], Array]:
    """Rings of hair, ears and neck around the face: positions, leaders, following."""
    outline = face[list(FACE_OVAL)]
    center = outline.mean(axis=0)
    rings = np.concatenate([center + size * (outline - center) for size, _ in RINGS])
    inside = np.all((rings > 4) & (rings < SIDE_PX - 5), axis=1)
    leader = np.tile(np.array(FACE_OVAL, dtype=np.int64), len(RINGS))
    following = np.repeat([follows for _, follows in RINGS], len(outline))
    return rings[inside], leader[inside], following[inside]


def _border(side: int) -> Array:
    steps = np.linspace(0, side - 1, 9)
    first, last = np.zeros(9), np.full(9, side - 1.0)
    edges = [(steps, first), (steps, last), (first, steps), (last, steps)]
    return np.unique(np.concatenate([np.stack(edge, axis=1) for edge in edges]), axis=0)


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
        ``frown``, ``raise``, ``lids``, ``gaze_down`` and ``jaw``.
    """
    axes = _axes(face)
    return {
        "neutral": _neutral(face, axes),
        "corner_drop": _corner_drop(face, axes),
        "frown": _brows(face, axes, inner=(0.055, 0.085), outer=(0.02, 0.05)),
        "raise": _brows(face, axes, inner=(0.0, -0.09), outer=(0.0, -0.07)),
        "lids": _lids(face, closing=1.0, gaze=0.0),
        "gaze_down": _lids(face, closing=0.75, gaze=0.10 * axes.iod),
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


def _brows(
    face: Array, axes: _Axes, *, inner: tuple[float, float], outer: tuple[float, float]
) -> Array:
    handles: dict[int, Array] = {}
    for toward, brow in zip((1, -1), BROWS, strict=True):
        handles |= {i: axes.offset(toward * inner[0], inner[1]) for i in brow["inner"]}
        handles |= {i: axes.offset(toward * outer[0], outer[1]) for i in brow["outer"]}
    return _spread(face, handles, still=(*STILL, *EYE_POINTS))


def _lids(face: Array, *, closing: float, gaze: float) -> Array:
    """Upper lids on their way to the lower ones, with the skin above; the eyeball under them."""
    moved = np.zeros_like(face)
    for eye in EYES:
        upper, lower = face[list(eye.upper)], face[list(eye.lower)]
        way = closing * (lower - upper)
        moved[list(eye.upper)] = way
        for crease, follows in zip(eye.creases, CREASE_FOLLOWS, strict=True):
            moved[list(crease)] = follows * way
        for index in eye.iris:
            moved[index] = _under_lid(face[index], upper, lower, closing=closing, gaze=gaze)
    return moved


def _under_lid(point: Array, upper: Array, lower: Array, *, closing: float, gaze: float) -> Array:
    """Displacement of a point of the eyeball that keeps it between the lids."""
    order = np.argsort(upper[:, 0])
    top = np.interp(point[0], upper[order, 0], upper[order, 1])
    order = np.argsort(lower[:, 0])
    bottom = np.interp(point[0], lower[order, 0], lower[order, 1])
    share = np.clip((point[1] + gaze - top) / (bottom - top), 0.05, 0.95)
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
