"""Face tracks whose motion is known, for the tests of extraction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from client.extraction.track import BLENDSHAPES, LANDMARKS, FaceTrack, Inspections

FloatArray = NDArray[np.float64]

IOD_PX = 100.0
# A frontal face in a picture of 500 x 400 pixels; y points down.
RESTING_FACE: dict[int, tuple[float, float]] = {
    33: (200, 200), 133: (235, 200), 160: (210, 193), 158: (225, 193),
    153: (225, 207), 144: (210, 207), 159: (217, 192), 145: (217, 208),
    263: (300, 200), 362: (265, 200), 387: (290, 193), 385: (275, 193),
    380: (275, 207), 373: (290, 207), 386: (283, 192), 374: (283, 208),
    468: (217, 200), 473: (283, 200),
    107: (238, 172), 105: (217, 168), 55: (237, 176),
    336: (262, 172), 334: (283, 168), 285: (263, 176),
    61: (215, 270), 291: (285, 270), 13: (250, 268), 14: (250, 272), 0: (250, 260), 17: (250, 280),
    1: (250, 240), 10: (250, 130), 152: (250, 320), 234: (170, 220), 454: (330, 220),
}  # fmt: skip


def resting_landmarks(frames: int) -> FloatArray:
    """``[N, P, 3]`` pixels of a face at rest."""
    points = np.array([(*RESTING_FACE[index], 0.0) for index in LANDMARKS])
    return np.tile(points, (frames, 1, 1))


def move(landmarks: FloatArray, index: int, *, x: ArrayLike = 0.0, y: ArrayLike = 0.0) -> None:
    """Shift one mesh point by pixels, in place."""
    column = LANDMARKS.index(index)
    landmarks[:, column, 0] += x
    landmarks[:, column, 1] += y


def make_track(
    times_s: FloatArray,
    *,
    blendshapes: Mapping[str, ArrayLike] | None = None,
    pose_deg: ArrayLike = (0.0, 0.0, 0.0),
    landmarks: FloatArray | None = None,
    detected: NDArray[np.bool_] | None = None,
    faces: int = 1,
) -> FaceTrack:
    """A track of the given motion; where no face is detected its measures are NaN."""
    count = len(times_s)
    seen = np.ones(count, dtype=bool) if detected is None else detected
    shapes = np.zeros((count, len(BLENDSHAPES)), dtype=np.float32)
    for name, values in (blendshapes or {}).items():
        shapes[:, BLENDSHAPES.index(name)] = values
    pose = np.broadcast_to(np.asarray(pose_deg, dtype=np.float32), (count, 3)).copy()
    points = (resting_landmarks(count) if landmarks is None else landmarks).astype(np.float32)
    for rows in (shapes, pose, points):
        rows[~seen] = np.nan
    return FaceTrack(
        timestamps_s=np.asarray(times_s, dtype=np.float64),
        detected=seen,
        faces=np.where(seen, faces, 0).astype(np.uint8),
        blendshapes=shapes,
        head_pose_deg=pose,
        landmarks=points,
        inspections=Inspections(
            frame=np.array([0]),
            faces=np.array([faces], dtype=np.uint8),
            brightness=np.array([120.0], dtype=np.float32),
            sharpness=np.array([100.0], dtype=np.float32),
        ),
    )


def frame_times(duration_s: float, fps: float) -> FloatArray:
    """Timestamps of a steady camera."""
    return np.arange(round(duration_s * fps)) / fps


def pulses(times: FloatArray, starts: FloatArray, length_s: float) -> NDArray[np.bool_]:
    """True within a stretch of the given length after each start."""
    return np.any([(times >= start) & (times < start + length_s) for start in starts], axis=0)


def with_closing_eyes(
    times: FloatArray, closed: NDArray[np.floating], depth: float = 0.9
) -> FloatArray:
    """Mesh points of eyes that are shut by a share of their opening."""
    points = resting_landmarks(len(times))
    shift = 7.0 * depth * closed
    for upper in (160, 158, 387, 385):
        move(points, upper, y=shift)
    for lower in (144, 153, 380, 373):
        move(points, lower, y=-shift)
    return points
