"""What the face tracker saw in a recording: one row a frame, no picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_BLENDSHAPE_NAMES = (
    "neutral browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff "
    "cheekSquintLeft cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight "
    "eyeLookInLeft eyeLookInRight eyeLookOutLeft eyeLookOutRight eyeLookUpLeft eyeLookUpRight "
    "eyeSquintLeft eyeSquintRight eyeWideLeft eyeWideRight jawForward jawLeft jawOpen jawRight "
    "mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft mouthFrownRight mouthFunnel "
    "mouthLeft mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight mouthPucker "
    "mouthRight mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft "
    "mouthSmileRight mouthStretchLeft mouthStretchRight mouthUpperUpLeft mouthUpperUpRight "
    "noseSneerLeft noseSneerRight"
)
BLENDSHAPES = tuple(_BLENDSHAPE_NAMES.split())

# Of the mesh's 478 points only those that some measure uses are kept: an hour at 30 frames per
# second is 50 MB of these and 620 MB of all.
# fmt: off
LANDMARKS = (
    33, 133, 160, 158, 153, 144, 159, 145,  # eye at the left of the picture
    263, 362, 387, 385, 380, 373, 386, 374,  # eye at the right of the picture
    468, 473,  # irises
    107, 105, 55, 336, 334, 285,  # brows
    61, 291, 13, 14, 0, 17,  # mouth
    1, 10, 152, 234, 454,  # nose tip, forehead, chin, sides
)
# fmt: on

# Beyond this yaw the far half of the face is hidden and its measures are guesses.
FRONTAL_YAW_DEG = 30.0


@dataclass(frozen=True)
class Inspections:
    """Checks of whole pictures made about once a second.

    Attributes:
        frame: ``[K]`` int64, number of the frame looked at.
        faces: ``[K]`` uint8, faces found in it (0, 1 or 2; 2 stands for more).
        brightness: ``[K]`` float32, mean grey level of the face, 0..255; NaN without a face.
        sharpness: ``[K]`` float32, variance of the Laplacian of the face scaled to a fixed
            width; NaN without a face.
    """

    frame: NDArray[np.int64]
    faces: NDArray[np.uint8]
    brightness: Float32Array
    sharpness: Float32Array


@dataclass(frozen=True)
class FaceTrack:
    """One row for each of N frames; measures of frames without a face are NaN.

    Attributes:
        timestamps_s: ``[N]`` float64, strictly increasing.
        detected: ``[N]`` bool, True where the face was tracked.
        faces: ``[N]`` uint8, faces in the picture at the latest inspection (see ``inspections``),
            at least 1 where ``detected``.
        blendshapes: ``[N, 52]`` float32, 0..1, in the order of :data:`BLENDSHAPES`.
        head_pose_deg: ``[N, 3]`` float32, pitch, yaw and roll in degrees. Pitch is positive when
            the chin lifts, yaw when the nose points to the right of the picture (the subject's
            left), roll when the head leans to the left of the picture (counterclockwise).
        landmarks: ``[N, P, 3]`` float32, x to the right, y downwards, z away from the camera, all
            in pixels, for the P mesh points of :data:`LANDMARKS`.
        inspections: Checks of whole pictures.
    """

    timestamps_s: Float64Array
    detected: BoolArray
    faces: NDArray[np.uint8]
    blendshapes: Float32Array
    head_pose_deg: Float32Array
    landmarks: Float32Array
    inspections: Inspections

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.timestamps_s)

    @property
    def fps(self) -> float:
        """Mean frames per second; 0.0 with fewer than two frames."""
        return mean_fps(self.timestamps_s)

    @property
    def usable(self) -> BoolArray:
        """``[N]`` True where a face was tracked and turned aside by at most 30 degrees."""
        return self.detected & (np.abs(self.head_pose_deg[:, 1]) <= FRONTAL_YAW_DEG)

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last; 0.0 without frames."""
        return len(self) / self.fps if len(self) > 1 else 0.0


def mean_fps(times_s: Float64Array) -> float:
    """Mean frames per second; 0.0 with fewer than two frames.

    Args:
        times_s: ``[N]`` in seconds, strictly increasing.

    >>> mean_fps(np.array([0.0, 0.04, 0.08]))
    25.0
    """
    if len(times_s) < 2:
        return 0.0
    return float((len(times_s) - 1) / (times_s[-1] - times_s[0]))


def head_pose_deg(matrix: Float32Array | Float64Array) -> Float64Array:
    """Pitch, yaw and roll of a head matrix, in degrees.

    The rotation is read as yaw about the vertical, then pitch, then roll about the face's own
    forward axis, so that pitch and yaw are the elevation and azimuth of the direction of the nose.

    Args:
        matrix: ``[..., 3, 3]`` or ``[..., 4, 4]``, canonical face to camera; x to the right of
            the picture, y up, z towards the camera.

    Returns:
        ``[..., 3]``: pitch (chin up positive), yaw (nose to the right of the picture positive),
        roll (counterclockwise in the picture positive).

    >>> import numpy as np
    >>> head_pose_deg(np.eye(4)).tolist()
    [0.0, 0.0, 0.0]
    >>> ten = np.radians(10.0)
    >>> sine, cosine = np.sin(ten), np.cos(ten)
    >>> chin_up = np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])
    >>> head_pose_deg(chin_up).round(6).tolist()
    [10.0, 0.0, 0.0]
    """
    rotation = np.asarray(matrix, dtype=np.float64)[..., :3, :3]
    scale = np.linalg.norm(rotation, axis=-2, keepdims=True)
    rotation = rotation / np.where(scale > 0, scale, 1.0)
    pitch = np.arcsin(np.clip(rotation[..., 1, 2], -1.0, 1.0))
    yaw = np.arctan2(rotation[..., 0, 2], rotation[..., 2, 2])
    roll = np.arctan2(rotation[..., 1, 0], rotation[..., 1, 1])
    pose: Float64Array = np.degrees(np.stack([pitch, yaw, roll], axis=-1))
    return pose


def hold_latest_count(
    checked: Sequence[int], counts: Sequence[int], detected: BoolArray
) -> NDArray[np.uint8]:
    """Faces in every frame, from counts made in some of them.

    Args:
        checked: Numbers of the frames that were counted, increasing.
        counts: Faces in each of those.
        detected: ``[N]`` bool, True where the tracker followed a face.

    Returns:
        ``[N]`` uint8: the latest count, at least 1 where a face was tracked.
    """
    if not checked:
        return detected.astype(np.uint8)
    latest = np.searchsorted(np.asarray(checked), np.arange(len(detected)), side="right") - 1
    held = np.asarray(counts, dtype=np.uint8)[np.maximum(latest, 0)]
    # A held count says nothing of frames where the tracker lost even the first face.
    return np.where(detected, np.maximum(held, 1), 0).astype(np.uint8)
