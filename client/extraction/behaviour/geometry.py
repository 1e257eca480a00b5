"""Measures of facial shape from mesh points, in axes that move with the head.

X runs along the outer eye corners (33 to 263), Y is perpendicular to it and points to the chin;
the unit is the distance between those corners (IOD), so that neither the tilt of the head nor the
distance to the camera enters a measure.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from client.extraction.track import LANDMARKS

FloatArray = NDArray[np.float64]
AnyFloatArray = NDArray[np.floating]
Real = TypeVar("Real", bound=np.floating)

_COLUMN = {index: column for column, index in enumerate(LANDMARKS)}
_RIGHT_EYE = (33, 160, 158, 133, 153, 144)
_LEFT_EYE = (263, 387, 385, 362, 380, 373)


def point(landmarks: NDArray[Real], index: int) -> NDArray[Real]:
    """One mesh point of every frame.

    Args:
        landmarks: ``[N, P, D]``, the points of :data:`client.extraction.track.LANDMARKS`.
        index: Number of the point in the 478-point mesh.

    Returns:
        ``[N, D]``.

    Raises:
        KeyError: If the track does not keep that point.
    """
    return landmarks[:, _COLUMN[index]]


def eye_corner_distance(landmarks: AnyFloatArray) -> FloatArray:
    """Distance between the outer eye corners (IOD), in the unit of the landmarks.

    Args:
        landmarks: ``[N, P, 3]``; the depth keeps the distance when the head turns aside.

    Returns:
        ``[N]``, >= 0.
    """
    wide = landmarks.astype(np.float64)
    distance: FloatArray = np.linalg.norm(point(wide, 263) - point(wide, 33), axis=-1)
    return distance


def align_landmarks(landmarks: AnyFloatArray) -> FloatArray:
    """Mesh points in the face's own axes, in units of IOD, origin between the eye corners.

    Args:
        landmarks: ``[N, P, 3]`` in pixels, x to the right and y downwards.

    Returns:
        ``[N, P, 2]``: x from corner 33 to corner 263, y towards the chin.
    """
    plane = landmarks[..., :2].astype(np.float64)
    start, end = point(plane, 33), point(plane, 263)
    along = (end - start) / np.linalg.norm(end - start, axis=-1, keepdims=True)
    down = np.stack([-along[:, 1], along[:, 0]], axis=-1)
    moved = plane - ((start + end) / 2.0)[:, None]
    axes = np.stack([along, down], axis=-1)
    aligned: FloatArray = (moved @ axes) / eye_corner_distance(landmarks)[:, None, None]
    return aligned


def upright_landmarks(landmarks: AnyFloatArray, pose_deg: AnyFloatArray) -> FloatArray:
    """Mesh points as seen from straight ahead: the turn of the head taken back, in units of IOD.

    A nod foreshortens the face, so heights in the picture change although no muscle moves: on
    footage of a nodding head the height of the inner brows followed the pitch by 0.045 IOD in ten
    degrees in the plane of the picture, and by 0.005 IOD after this turn.

    Args:
        landmarks: ``[N, P, 3]`` in pixels, x to the right, y downwards, z away from the camera.
        pose_deg: ``[N, 3]`` pitch, yaw, roll in degrees.

    Returns:
        ``[N, P, 3]``: x towards corner 263, y towards the chin, z away from the camera, origin
        between the outer eye corners.
    """
    to_camera = np.array([1.0, -1.0, -1.0])
    wide = landmarks.astype(np.float64)
    middle = (point(wide, 33) + point(wide, 263)) / 2.0
    # Rows times the matrix is its inverse applied to the points.
    turned = ((wide - middle[:, None]) * to_camera) @ rotation_matrices(pose_deg)
    upright: FloatArray = turned * to_camera / eye_corner_distance(landmarks)[:, None, None]
    return upright


def brow_rise(upright: FloatArray, right: int, left: int) -> FloatArray:
    """Height of one point of each brow above the four eye corners, in IOD.

    Unlike the distance to the lid it does not change when the lids follow a lowered gaze.

    Args:
        upright: ``[N, P, 3]`` from :func:`upright_landmarks`.
        right: Mesh point of the subject's right brow.
        left: Its mirror image.

    Returns:
        ``[N]``, larger when the brows are up.
    """
    corners = sum(point(upright, index)[:, 1] for index in (33, 133, 362, 263)) / 4.0
    brows = (point(upright, right)[:, 1] + point(upright, left)[:, 1]) / 2.0
    return np.asarray(corners - brows)


def corner_tilt(upright: FloatArray) -> FloatArray:
    """How much higher the mouth corner at the subject's left is than the one at the right, in IOD.

    Args:
        upright: ``[N, P, 3]`` from :func:`upright_landmarks`.

    Returns:
        ``[N]``.
    """
    return point(upright, 61)[:, 1] - point(upright, 291)[:, 1]


def corner_elevation(aligned: FloatArray) -> FloatArray:
    """Height of the mouth corners above the middle of the lips, in IOD.

    Args:
        aligned: ``[N, P, 2]`` from :func:`align_landmarks`, or upright points.

    Returns:
        ``[N]``, positive when the corners are up.
    """
    middle = point(aligned, 13)[:, 1] + point(aligned, 14)[:, 1]
    corners = point(aligned, 61)[:, 1] + point(aligned, 291)[:, 1]
    return (middle - corners) / 2.0


def mouth_aspect_ratio(aligned: FloatArray) -> FloatArray:
    """Opening between the inner lips (13, 14), in IOD.

    Args:
        aligned: ``[N, P, 2]`` from :func:`align_landmarks`.

    Returns:
        ``[N]``, >= 0.
    """
    return _distance(aligned, 13, 14)


def eye_aspect_ratio(aligned: FloatArray) -> FloatArray:
    """Height of the eye openings over their width, mean of both eyes.

    Args:
        aligned: ``[N, P, 2]`` from :func:`align_landmarks`.

    Returns:
        ``[N]``, about 0.3 open and below 0.15 closed.

    Source:
        Soukupova and Cech 2016, Computer Vision Winter Workshop.
    """
    return (_one_eye(aligned, _RIGHT_EYE) + _one_eye(aligned, _LEFT_EYE)) / 2.0


def brow_gap(aligned: FloatArray) -> FloatArray:
    """Distance between the inner ends of the brows (107, 336), in IOD; small in a frown.

    Args:
        aligned: ``[N, P, 2]`` from :func:`align_landmarks`.

    Returns:
        ``[N]``, >= 0.
    """
    return _distance(aligned, 107, 336)


def brow_height(aligned: FloatArray) -> FloatArray:
    """Distance from brow to upper lid, mean of both sides, in IOD; small in a frown.

    Args:
        aligned: ``[N, P, 2]`` from :func:`align_landmarks`.

    Returns:
        ``[N]``, >= 0.
    """
    return (_distance(aligned, 105, 159) + _distance(aligned, 334, 386)) / 2.0


def iris_drop(aligned: FloatArray) -> FloatArray:
    """How far the irises lie below the line of the eye corners, mean of both eyes, in IOD.

    Args:
        aligned: ``[N, P, 2]`` from :func:`align_landmarks`.

    Returns:
        ``[N]``, larger when the eyes look down.
    """
    right = point(aligned, 468)[:, 1] - (point(aligned, 33) + point(aligned, 133))[:, 1] / 2.0
    left = point(aligned, 473)[:, 1] - (point(aligned, 362) + point(aligned, 263))[:, 1] / 2.0
    return (right + left) / 2.0


def rotation_matrices(pose_deg: AnyFloatArray) -> FloatArray:
    """Rotations of the head from pitch, yaw and roll.

    The inverse of :func:`client.extraction.track.head_pose_deg`.

    Args:
        pose_deg: ``[..., 3]`` pitch, yaw, roll in degrees.

    Returns:
        ``[..., 3, 3]``.
    """
    # scipy's intrinsic YXZ counts pitch with the chin down.
    pitch, yaw, roll = np.moveaxis(np.radians(np.asarray(pose_deg, dtype=np.float64)), -1, 0)
    sp, cp = -np.sin(pitch), np.cos(pitch)
    sy, cy = np.sin(yaw), np.cos(yaw)
    sr, cr = np.sin(roll), np.cos(roll)
    rows = [
        [cy * cr + sy * sp * sr, -cy * sr + sy * sp * cr, sy * cp],
        [cp * sr, cp * cr, -sp],
        [-sy * cr + cy * sp * sr, sy * sr + cy * sp * cr, cy * cp],
    ]
    matrices: FloatArray = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
    return matrices


def turning_angle_deg(pose_deg: AnyFloatArray) -> FloatArray:
    """Angle of the rotation from each head pose to the next, in degrees.

    Args:
        pose_deg: ``[N, 3]`` pitch, yaw, roll in degrees.

    Returns:
        ``[N - 1]``, 0..180; NaN where either pose is.

    >>> import numpy as np
    >>> turning_angle_deg(np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [3.0, 0.0, -2.0]])).round(6)
    array([3., 2.])
    """
    matrices = rotation_matrices(pose_deg)
    # |A - B| of two rotations is 2*sqrt(2)*sin(angle/2), exact for the small angles between frames
    # where the arc cosine of the trace is not.
    gap = np.linalg.norm(matrices[1:] - matrices[:-1], axis=(-2, -1))
    angle: FloatArray = np.degrees(2.0 * np.arcsin(np.clip(gap / np.sqrt(8.0), 0.0, 1.0)))
    return angle


def _distance(aligned: FloatArray, first: int, second: int) -> FloatArray:
    distance: FloatArray = np.linalg.norm(point(aligned, first) - point(aligned, second), axis=-1)
    return distance


def _one_eye(aligned: FloatArray, eye: tuple[int, int, int, int, int, int]) -> FloatArray:
    outer, top_out, top_in, inner, low_in, low_out = eye
    height = _distance(aligned, top_out, low_out) + _distance(aligned, top_in, low_in)
    return height / (2.0 * _distance(aligned, outer, inner))
