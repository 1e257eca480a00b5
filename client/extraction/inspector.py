"""Looks at whole pictures once a second: how many faces, how bright, how sharp."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

_DETECTOR = "face_detector.tflite"
_CROP_WIDTH_PX = 128

ImageArray = NDArray[np.uint8]
Inspection = tuple[int, float, float]


class Inspector:
    """Counts faces and measures the light on the one that is followed.

    The detector alone counts them in a fifth of the time that the whole landmarker takes. It also
    takes a poster for a face, so that a second one counts only if the landmarker finds it too.

    Args:
        face_model: A verified face landmarker bundle.
    """

    def __init__(self, face_model: Path) -> None:
        from mediapipe.tasks import python as tasks
        from mediapipe.tasks.python import vision

        with ZipFile(face_model) as bundle:
            weights = bundle.read(_DETECTOR)
        self._face_model = face_model
        self._detector: Any = vision.FaceDetector.create_from_options(
            vision.FaceDetectorOptions(base_options=tasks.BaseOptions(model_asset_buffer=weights))
        )
        self._landmarker: Any = None

    def look(
        self,
        picture: Any,  # noqa: ANN401
        image: ImageArray,
        points: NDArray[np.float32] | None,
    ) -> Inspection:
        """Faces found (2 stands for more), brightness and sharpness of the followed face.

        Args:
            picture: The image as MediaPipe knows it.
            image: ``[H, W, 3]`` uint8, RGB.
            points: ``[P, 2]`` or ``[P, 3]``, points of the followed face as fractions of width and
                height; None if none is followed.

        Returns:
            The count, and two figures that are NaN if no face is followed.
        """
        count = len(self._detector.detect(picture).detections)
        if count > 1:
            count = self._confirmed(picture)
        if points is None:
            return count, float("nan"), float("nan")
        return count, *light_and_sharpness(image, points[:, :2].astype(np.float64))

    def close(self) -> None:
        """Free the models."""
        self._detector.close()
        if self._landmarker is not None:
            self._landmarker.close()

    def _confirmed(self, picture: Any) -> int:  # noqa: ANN401
        if self._landmarker is None:
            self._landmarker = new_landmarker(self._face_model, video=False)
        return len(self._landmarker.detect(picture).face_landmarks)


def new_landmarker(face_model: Path, *, video: bool) -> Any:  # noqa: ANN401 - no types published
    """A face landmarker that follows one face through a video, or finds two in a picture.

    Args:
        face_model: A verified face landmarker bundle.
        video: Whether it follows a face; only then it gives blendshapes and head matrix.
    """
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
