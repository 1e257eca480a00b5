"""Follows one face through the frames of a recording with MediaPipe's FaceLandmarker."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from client.extraction.landmarker import DetectedFace, detect_face
from client.extraction.track import (
    LANDMARKS,
    FaceTrack,
    Inspections,
    head_pose_deg,
    hold_latest_count,
)
from client.extraction.video import Frame

INSPECTION_INTERVAL_S = 1.0
_CROP_WIDTH_PX = 128
_BLOCK_FRAMES = 1024
_ROW = 52 + 3 + 3 * len(LANDMARKS)

ImageArray = NDArray[np.uint8]
Inspection = tuple[int, float, float]


class FaceTracker:
    """A context manager around the landmarker; one tracker follows one recording.

    The landmarker follows a single face: searching every frame for a second one costs 20 % of the
    speed. Instead a second landmarker looks at a whole picture once a second, in a thread of its
    own, counts faces and measures light and blur.

    Args:
        face_model: A verified face landmarker bundle.
    """

    def __init__(self, face_model: Path) -> None:
        self._face_model = face_model

    def __enter__(self) -> Self:
        """Load the models."""
        self._follower = _landmarker(self._face_model, video=True)
        self._inspector = _landmarker(self._face_model, video=False)
        self._thread = ThreadPoolExecutor(max_workers=1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free the models."""
        self._thread.shutdown(wait=True)
        self._follower.close()
        self._inspector.close()

    def track(
        self, frames: Iterable[Frame], *, on_frame: Callable[[int], None] | None = None
    ) -> FaceTrack:
        """The face track of a recording; each picture is dropped as soon as it was read.

        Args:
            frames: Frames in order, timestamps strictly increasing.
            on_frame: Called with the number of frames done after each of them.

        Returns:
            One row for each frame.
        """
        rows = _Rows()
        pending: list[tuple[int, Future[Inspection]]] = []
        next_inspection_s = -np.inf
        previous_ms = -1
        for index, frame in enumerate(frames):
            if frame.timestamp_s >= next_inspection_s:
                next_inspection_s = frame.timestamp_s + INSPECTION_INTERVAL_S
                self._inspect_next(index, frame.image, pending)
            previous_ms = max(previous_ms + 1, round(frame.timestamp_s * 1000))
            face = detect_face(self._follower, _mp_image(frame.image), previous_ms)
            rows.add(frame, face)
            if on_frame is not None:
                on_frame(index + 1)
        return rows.track([(index, check.result()) for index, check in pending])

    def _inspect_next(
        self, index: int, image: ImageArray, pending: list[tuple[int, Future[Inspection]]]
    ) -> None:
        # Waiting for the previous one keeps at most two pictures alive here.
        if pending:
            pending[-1][1].result()
        pending.append((index, self._thread.submit(_inspect, self._inspector, image)))


class _Rows:
    """Rows of a track, in blocks so that growing never copies what is already there."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._blocks: list[NDArray[np.float32]] = []

    def add(self, frame: Frame, face: DetectedFace | None) -> None:
        place = len(self._times) % _BLOCK_FRAMES
        if place == 0:
            self._blocks.append(np.full((_BLOCK_FRAMES, _ROW), np.nan, dtype=np.float32))
        self._times.append(frame.timestamp_s)
        if face is not None:
            height, width = frame.image.shape[:2]
            self._blocks[-1][place] = _row(face, width_px=width, height_px=height)

    def track(self, checks: list[tuple[int, Inspection]]) -> FaceTrack:
        count = len(self._times)
        table = np.concatenate([*self._blocks, np.empty((0, _ROW), np.float32)])[:count]
        detected = ~np.isnan(table[:, 0])
        numbers = [index for index, _ in checks]
        faces = [check[0] for _, check in checks]
        return FaceTrack(
            timestamps_s=np.asarray(self._times, dtype=np.float64),
            detected=detected,
            faces=hold_latest_count(numbers, faces, detected),
            blendshapes=table[:, :52],
            head_pose_deg=table[:, 52:55],
            landmarks=table[:, 55:].reshape(count, len(LANDMARKS), 3),
            inspections=Inspections(
                frame=np.asarray(numbers, dtype=np.int64),
                faces=np.asarray(faces, dtype=np.uint8),
                brightness=np.asarray([check[1] for _, check in checks], dtype=np.float32),
                sharpness=np.asarray([check[2] for _, check in checks], dtype=np.float32),
            ),
        )


def _row(face: DetectedFace, *, width_px: int, height_px: int) -> NDArray[np.float32]:
    # z has the scale of x, so that both take the width.
    pixels = face.landmarks[list(LANDMARKS)] * np.array([width_px, height_px, width_px], np.float32)
    pose = head_pose_deg(face.head_matrix).astype(np.float32)
    return np.concatenate([face.blendshapes, pose, pixels.reshape(-1)])


def _landmarker(face_model: Path, *, video: bool) -> Any:  # noqa: ANN401 - no types published
    from mediapipe.tasks import python as tasks
    from mediapipe.tasks.python import vision

    mode = vision.RunningMode.VIDEO if video else vision.RunningMode.IMAGE
    return vision.FaceLandmarker.create_from_options(
        vision.FaceLandmarkerOptions(
            base_options=tasks.BaseOptions(model_asset_path=str(face_model)),
            running_mode=mode,
            num_faces=1 if video else 2,
            output_face_blendshapes=video,
            output_facial_transformation_matrixes=video,
        )
    )


def _mp_image(image: ImageArray) -> Any:  # noqa: ANN401 - no types published
    import mediapipe

    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image)


def _inspect(inspector: Any, image: ImageArray) -> Inspection:  # noqa: ANN401 - no types published
    found = inspector.detect(_mp_image(image)).face_landmarks
    if not found:
        return 0, float("nan"), float("nan")
    points = np.array([(point.x, point.y) for point in found[0]])
    brightness, sharpness = light_and_sharpness(image, points)
    return len(found), brightness, sharpness


def light_and_sharpness(image: ImageArray, points: NDArray[np.float64]) -> tuple[float, float]:
    """Mean grey level and sharpness of the face in a picture.

    The face is scaled to a fixed width first, because the variance of the Laplacian otherwise
    grows with the size of the face.

    Args:
        image: ``[H, W, 3]`` uint8, RGB.
        points: ``[P, 2]``, the face's points as fractions of width and height.

    Returns:
        Mean grey level 0..255 and variance of the Laplacian; NaN where the face is outside.

    Source:
        Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548 (variance of the Laplacian).
    """
    import cv2

    size = np.array(image.shape[1::-1])
    low = np.clip(np.floor(points.min(axis=0) * size), 0, size).astype(int)
    high = np.clip(np.ceil(points.max(axis=0) * size), 0, size).astype(int)
    if np.any(high - low < 2):
        return float("nan"), float("nan")
    crop = cv2.cvtColor(image[low[1] : high[1], low[0] : high[0]], cv2.COLOR_RGB2GRAY)
    scale = _CROP_WIDTH_PX / crop.shape[1]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=method)
    return float(crop.mean()), float(cv2.Laplacian(scaled, cv2.CV_32F).var())
