"""Decoded frames of a video file with their real timestamps, streamed with bounded memory."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from client.extraction.container import (
    REMEDY,
    OpenVideo,
    VideoError,
    VideoHeader,
    missing_decoders,
    open_video,
)
from client.extraction.picture import PictureMaker, is_interlaced, without_combs

__all__ = [
    "Frame",
    "VideoError",
    "VideoHeader",
    "VideoReader",
    "missing_decoders",
    "probe_video",
    "read_frames",
]

QUEUED_FRAMES = 6
_QUEUED_BYTES = 50_000_000
MOST_FRAMES = 1_000_000
_SMALLEST_STEP_S = 1e-3
_NOMINAL_FPS = 30.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Frame:
    """One decoded picture.

    Attributes:
        timestamp_s: Seconds since the first frame, strictly increasing within a video.
        image: ``[H, W, 3]`` uint8, RGB, turned upright, with square pixels and without combs.
    """

    timestamp_s: float
    image: NDArray[np.uint8]


_Waiting = queue.Queue[Frame | BaseException | None]


def probe_video(path: Path) -> VideoHeader:
    """What the header of a video promises, without decoding it.

    Args:
        path: The video file.

    Returns:
        The header's figures.

    Raises:
        VideoError: If the file is missing, empty, no video, or its decoder is missing.
    """
    with open_video(path) as video:
        return video.header


def read_frames(path: Path, *, analysis_hz: float | None = None) -> Iterator[Frame]:
    """Frames of a video in order; see :class:`VideoReader`.

    Args:
        path: The video file.
        analysis_hz: Frames per second to hand out; all if None.

    Yields:
        Each frame once.

    Raises:
        VideoError: If the file is missing, empty, no video, or holds no frame.
    """
    yield from VideoReader(path, analysis_hz=analysis_hz)


class VideoReader:
    """Frames of a video in order, decoded by a second thread while the caller works.

    At most :data:`QUEUED_FRAMES` frames wait at any time, fewer of large ones, so memory does not
    grow with the length of the video. Repeated or backward timestamps, which occur in files of
    variable frame rate, are moved to one millisecond after their predecessor.

    Args:
        path: The video file.
        analysis_hz: Frames per second to hand out. The others are decoded, because later ones
            build on them, but made into no picture.

    Attributes:
        header: What the container promises.
        interlaced: Whether its frames hold two half pictures each, which are taken apart.

    Raises:
        VideoError: If the file is missing, empty, no video, or its decoder is missing.
    """

    def __init__(self, path: Path, *, analysis_hz: float | None = None) -> None:
        self.header = probe_video(path)
        self.interlaced = is_interlaced(path)
        self._path = path
        self._analysis_hz = analysis_hz
        self._times_s: list[float] = []

    @property
    def decoded_s(self) -> NDArray[np.float64]:
        """Times of all frames decoded so far, in seconds, whether handed out or not."""
        return np.array(self._times_s, dtype=np.float64)

    @property
    def frames_decoded(self) -> int:
        """Number of frames decoded so far, whether handed out or not."""
        return len(self._times_s)

    def __iter__(self) -> Iterator[Frame]:
        """Each frame that is to be analysed, once.

        Raises:
            VideoError: If no frame can be decoded, or there are more than a million.
        """
        self._times_s.clear()
        waiting: _Waiting = queue.Queue(maxsize=queue_length(self.header))
        stop = threading.Event()
        decoder = threading.Thread(target=self._decode, args=(waiting, stop), daemon=True)
        decoder.start()
        try:
            while (item := waiting.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            decoder.join()
        if not self._times_s:
            msg = f"Expected at least one frame in {self._path.name}, found none. {REMEDY}"
            raise VideoError(msg)

    def _decode(self, waiting: _Waiting, stop: threading.Event) -> None:
        try:
            with open_video(self._path) as video:
                for frame in self._frames(video):
                    if not _hand_over(frame, waiting, stop):
                        return
            _hand_over(None, waiting, stop)
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer's thread
            _hand_over(error, waiting, stop)

    def _frames(self, video: OpenVideo) -> Iterator[Frame]:
        make = PictureMaker(video.header.pixel_aspect)
        frames = video.frames()
        if self.interlaced:
            frames = without_combs(video.stream, frames)
        due = Sampler(self._analysis_hz)
        for time_s, frame in _timed(frames, fps=video.header.fps):
            if len(self._times_s) >= MOST_FRAMES:
                msg = (
                    f"Expected at most {MOST_FRAMES} frames in {self._path.name}, found more. "
                    "Cut the recording into parts of its own"
                )
                raise VideoError(msg)
            self._times_s.append(time_s)
            if due.take(time_s):
                yield Frame(time_s, make.picture(frame))


def queue_length(header: VideoHeader) -> int:
    """Frames that may wait: fewer of large pictures, so that they fill no memory.

    >>> [queue_length(VideoHeader(0, 25.0, *size)) for size in ((1920, 1080), (3840, 2160))]
    [6, 2]
    """
    picture_bytes = max(1, 3 * header.width_px * header.height_px)
    return max(1, min(QUEUED_FRAMES, _QUEUED_BYTES // picture_bytes))


class Sampler:
    """Chooses frames so that on average as many are taken a second as wanted.

    Args:
        rate_hz: Frames per second to take; all if None.
    """

    def __init__(self, rate_hz: float | None) -> None:
        self._period_s = 1.0 / rate_hz if rate_hz else 0.0
        self._due_s = 0.0

    def take(self, time_s: float) -> bool:
        """Whether the frame at this time is taken; times in increasing order."""
        # A camera's clock jitters, so that a frame may come a little before its time.
        if time_s < self._due_s - self._period_s / 4:
            return False
        self._due_s = max(self._due_s + self._period_s, time_s)
        return True


def _timed(frames: Iterator[VideoFrame], *, fps: float) -> Iterator[tuple[float, VideoFrame]]:
    """Frames with their times, counted from the first, strictly increasing."""
    first_s: float | None = None
    previous_s = -_SMALLEST_STEP_S
    for index, frame in enumerate(frames):
        # Raw streams carry no timestamps.
        stamp_s = index / (fps or _NOMINAL_FPS) if frame.time is None else frame.time
        first_s = stamp_s if first_s is None else first_s
        previous_s = max(previous_s + _SMALLEST_STEP_S, stamp_s - first_s)
        yield previous_s, frame


def _hand_over(
    item: Frame | BaseException | None, waiting: _Waiting, stop: threading.Event
) -> bool:
    while not stop.is_set():
        try:
            waiting.put(item, timeout=_POLL_S)
        except queue.Full:
            continue
        return True
    return False
