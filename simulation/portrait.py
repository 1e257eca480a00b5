"""The portrait behind rendered faces, and its mesh.

The photograph is NASA's portrait of Eileen Collins, public domain, as shipped by scikit-image.
Lengths are fractions of the distance between the outer eye corners.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Delaunay

from simulation.movements import (
    FACE_OVAL,
    INNER_LOWER_LIP,
    INNER_UPPER_LIP,
    OUTER_EYE,
    face_movements,
)

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

LANDMARKS_FILE = Path(__file__).with_name("portrait_landmarks.csv")
CROP = (96, 0, 260)
"""Left, top and side of the square of the photograph that is shown, in its pixels."""

SIDE_PX = 384
"""Side of the rendered square."""

LIP_MARGIN = 0.012
"""The lips' inner edge lies this part of the face's height within the lip, so that no tooth shows
between closed lips."""

DEPTH_SCALE = 1.15
"""The tracker's depth has no scale of its own; with this one it reads a head commanded to turn by
20 degrees as turned by 18."""

DEPTH_LIMIT = 0.48
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
        depth=_depth(DEPTH_SCALE * points[:, 2], len(vertices), limit=DEPTH_LIMIT * eye_distance),
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
