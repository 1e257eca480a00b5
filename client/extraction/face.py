"""Follows one face through the frames of a recording with MediaPipe's FaceLandmarker."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from client.extraction.inspector import Inspection, Inspector, new_landmarker
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
_BLOCK_FRAMES = 1024
_ROW = 52 + 3 + 3 * len(LANDMARKS)


class FaceTracker:
    """A context manager around the landmarker; one tracker follows one recording.

    The landmarker follows a single face: searching every frame for a second one costs 20 % of the
    speed. Instead an inspector looks at a whole picture once a second, in a thread of its own,
    counts faces and measures light and blur.

    Args:
        face_model: A verified face landmarker bundle.
    """

    def __init__(self, face_model: Path) -> None:
        self._face_model = face_model

    def __enter__(self) -> Self:
        """Load the models."""
        self._follower = new_landmarker(self._face_model, video=True)
        self._inspector = Inspector(self._face_model)
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
            previous_ms = max(previous_ms + 1, round(frame.timestamp_s * 1000))
            picture = _mp_image(frame.image)
            face = detect_face(self._follower, picture, previous_ms)
            rows.add(frame, face)
            if frame.timestamp_s >= next_inspection_s:
                next_inspection_s = frame.timestamp_s + INSPECTION_INTERVAL_S
                look = partial(self._inspector.look, picture, frame.image, _points(face))
                pending.append((index, self._submit(look, pending)))
            if on_frame is not None:
                on_frame(index + 1)
        return rows.track([(index, check.result()) for index, check in pending])

    def _submit(
        self, look: Callable[[], Inspection], pending: list[tuple[int, Future[Inspection]]]
    ) -> Future[Inspection]:
        # Waiting for the previous one keeps at most two pictures alive here.
        if pending:
            pending[-1][1].result()
        return self._thread.submit(look)


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


def _points(face: DetectedFace | None) -> NDArray[np.float32] | None:
    return None if face is None else face.landmarks


def _mp_image(image: NDArray[np.uint8]) -> Any:  # noqa: ANN401 - no types published
    import mediapipe

    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image)
