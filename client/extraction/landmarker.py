"""MediaPipe results as arrays, read straight from the library's memory.

The public reply builds one Python object per landmark, 478 of them for each face, and costs about
a tenth of the time per frame; reading the same C structures as arrays costs a hundredth. The
layouts come from MediaPipe's own declarations. Should a release rearrange what is read here, the
public reply is used instead, and the numbers stay the same.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class DetectedFace:
    """What the landmarker says about one face in one frame.

    Attributes:
        landmarks: ``[478, 3]`` float32; x and y as fractions of the picture's width and height,
            z on the scale of x.
        blendshapes: ``[52]`` float32, 0 to 1.
        head_matrix: ``[4, 4]`` float32, canonical face to camera.
    """

    landmarks: FloatArray
    blendshapes: FloatArray
    head_matrix: FloatArray


def detect_face(landmarker: Any, image: Any, timestamp_ms: int) -> DetectedFace | None:  # noqa: ANN401
    """The first face in a frame of a video, or None.

    Args:
        landmarker: A MediaPipe ``FaceLandmarker`` in VIDEO mode with blendshapes and matrices.
        image: A MediaPipe ``Image``.
        timestamp_ms: Time of the frame; must increase from call to call.

    Returns:
        The face as arrays that own their memory.
    """
    if hasattr(landmarker, "_handle") and hasattr(image, "_image_ptr"):
        return _detect_directly(landmarker, image, timestamp_ms)
    return _detect_publicly(landmarker, image, timestamp_ms)


def _detect_directly(landmarker: Any, image: Any, timestamp_ms: int) -> DetectedFace | None:  # noqa: ANN401
    from mediapipe.tasks.python.vision import face_landmarker as api

    result = api.MpFaceLandmarkerResultC()
    library = landmarker._lib  # noqa: SLF001 - see the module's docstring
    library.MpFaceLandmarkerDetectForVideo(
        landmarker._handle,  # noqa: SLF001
        image._image_ptr,  # noqa: SLF001
        None,
        timestamp_ms,
        ctypes.byref(result),
    )
    try:
        if result.face_landmarks_count == 0:
            return None
        points = result.face_landmarks[0]
        scores = result.face_blendshapes[0]
        return DetectedFace(
            landmarks=_columns(points.landmarks, points.landmarks_count, ("x", "y", "z")),
            blendshapes=_columns(scores.categories, scores.categories_count, ("score",))[:, 0],
            head_matrix=result.facial_transformation_matrixes[0].to_numpy(),
        )
    finally:
        library.MpFaceLandmarkerCloseResult(ctypes.byref(result))


def _columns(pointer: Any, count: int, names: tuple[str, ...]) -> FloatArray:  # noqa: ANN401
    size = ctypes.sizeof(pointer.contents) * count
    raw = (ctypes.c_char * size).from_address(ctypes.addressof(pointer.contents))
    layout = np.dtype(
        {
            "names": list(names),
            "formats": [np.float32] * len(names),
            "offsets": [getattr(type(pointer.contents), name).offset for name in names],
            "itemsize": ctypes.sizeof(pointer.contents),
        }
    )
    rows = np.frombuffer(memoryview(raw).cast("B"), dtype=layout, count=count)
    return np.stack([rows[name] for name in names], axis=1)


def _detect_publicly(landmarker: Any, image: Any, timestamp_ms: int) -> DetectedFace | None:  # noqa: ANN401
    result = landmarker.detect_for_video(image, timestamp_ms)
    if not result.face_landmarks:
        return None
    return DetectedFace(
        landmarks=np.array([(p.x, p.y, p.z) for p in result.face_landmarks[0]], np.float32),
        blendshapes=np.array([b.score for b in result.face_blendshapes[0]], np.float32),
        head_matrix=np.asarray(result.facial_transformation_matrixes[0], np.float32),
    )
