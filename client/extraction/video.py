"""Decoded frames of a video file with their real timestamps, streamed with bounded memory."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUEUED_FRAMES = 6
_SMALLEST_STEP_S = 1e-3
_POLL_S = 0.1
_REMEDY = (
    "Play the file from start to end in a video player; copy it again from its source if it "
    "stops early, or convert it with: ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4"
)


class VideoError(ValueError):
    """A file from which no frame can be decoded."""


@dataclass(frozen=True)
class VideoHeader:
    """What a container promises about its pictures; decoding may show otherwise.

    Attributes:
        frame_count_promised: Number of frames by the header; 0 where it does not say.
        fps: Frames per second by the header; 0.0 where it does not say.
        width_px: Picture width in pixels.
        height_px: Picture height in pixels.
    """

    frame_count_promised: int
    fps: float
    width_px: int
    height_px: int

    @property
    def duration_promised_s(self) -> float:
        """Length in seconds by the header; 0.0 where it does not say."""
        return self.frame_count_promised / self.fps if self.fps > 0 else 0.0


@dataclass(frozen=True)
class Frame:
    """One decoded picture.

    Attributes:
        timestamp_s: Presentation time in seconds, strictly increasing within a video.
        image: ``[H, W, 3]`` uint8, RGB, turned upright.
    """

    timestamp_s: float
    image: NDArray[np.uint8]


def probe_video(path: Path) -> VideoHeader:
    """What the header of a video promises, without decoding it.

    Args:
        path: The video file.

    Returns:
        The header's figures.

    Raises:
        VideoError: If the file is missing, empty or no video.
    """
    capture = _open(path)
    try:
        return _header(capture)
    finally:
        capture.release()


def read_frames(path: Path) -> Iterator[Frame]:
    """Frames of a video in order, decoded by a second thread while the caller works.

    At most :data:`QUEUED_FRAMES` frames wait at any time, so memory does not grow with the length
    of the video. Repeated or backward timestamps, which occur in files of variable frame rate,
    are moved to one millisecond after their predecessor.

    Args:
        path: The video file.

    Yields:
        Each frame once.

    Raises:
        VideoError: If the file is missing, empty, no video, or holds no frame.
    """
    capture = _open(path)
    waiting: queue.Queue[Frame | BaseException | None] = queue.Queue(maxsize=QUEUED_FRAMES)
    stop = threading.Event()
    decoder = threading.Thread(target=_decode, args=(capture, waiting, stop), daemon=True)
    decoder.start()
    try:
        count = 0
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
            count += 1
        if count == 0:
            msg = f"Expected at least one frame in {path.name}, none could be decoded. {_REMEDY}"
            raise VideoError(msg)
    finally:
        stop.set()
        decoder.join()
        capture.release()


def _open(path: Path) -> Any:  # noqa: ANN401 - OpenCV has no types
    if not path.is_file():
        msg = f"Expected a video file, found none at {path}. Correct the file column of the list."
        raise VideoError(msg)
    if path.stat().st_size == 0:
        msg = f"Expected a video, {path.name} has 0 bytes. Copy it again from its source."
        raise VideoError(msg)
    cv2 = _quiet_opencv()
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        capture.release()
        msg = f"Expected a video, {path.name} could not be opened. {_REMEDY}"
        raise VideoError(msg)
    return capture


def _quiet_opencv() -> Any:  # noqa: ANN401 - OpenCV has no types
    # The decoder library behind OpenCV prints to stderr by itself and reads its level only from
    # the environment; what it would say is covered by VideoError and by the decoded share.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def _header(capture: Any) -> VideoHeader:  # noqa: ANN401 - OpenCV has no types
    import cv2

    def figure(name: int) -> float:
        value = float(capture.get(name))
        return value if np.isfinite(value) and value > 0 else 0.0

    return VideoHeader(
        frame_count_promised=int(figure(cv2.CAP_PROP_FRAME_COUNT)),
        fps=figure(cv2.CAP_PROP_FPS),
        width_px=int(figure(cv2.CAP_PROP_FRAME_WIDTH)),
        height_px=int(figure(cv2.CAP_PROP_FRAME_HEIGHT)),
    )


def _decode(
    capture: Any,  # noqa: ANN401 - OpenCV has no types
    waiting: queue.Queue[Frame | BaseException | None],
    stop: threading.Event,
) -> None:
    try:
        for frame in _frames(capture):
            if not _hand_over(frame, waiting, stop):
                return
        _hand_over(None, waiting, stop)
    except BaseException as error:  # noqa: BLE001 - raised again in the consumer's thread
        _hand_over(error, waiting, stop)


def _frames(capture: Any) -> Iterator[Frame]:  # noqa: ANN401 - OpenCV has no types
    import cv2

    nominal_s = 1.0 / (_header(capture).fps or 30.0)
    previous_s = -_SMALLEST_STEP_S
    index = 0
    while True:
        decoded, image = capture.read()
        if not decoded:
            return
        stamp_s = float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000.0
        # Raw streams carry no timestamps and report 0 for every frame.
        if index > 0 and stamp_s <= 0.0:
            stamp_s = index * nominal_s
        previous_s = max(previous_s + _SMALLEST_STEP_S, stamp_s)
        yield Frame(previous_s, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        index += 1


def _hand_over(
    item: Frame | BaseException | None,
    waiting: queue.Queue[Frame | BaseException | None],
    stop: threading.Event,
) -> bool:
    while not stop.is_set():
        try:
            waiting.put(item, timeout=_POLL_S)
        except queue.Full:
            continue
        return True
    return False
