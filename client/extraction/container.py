"""Opening a video file: which containers are read, what they promise, which decoder is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

_CONTAINERS = (
    "mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "gif", "asf", "flv",
    "mxf", "ogg", "dv", "h264", "hevc", "m4v", "ivf", "nut",
)  # fmt: skip
# Playlists would make the decoder read files beside the one that the table names.
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(_CONTAINERS)}
_DECODERS = {
    "h264": "H.264", "hevc": "HEVC", "av1": "AV1", "vp8": "VP8", "vp9": "VP9", "mpeg4": "MPEG-4",
    "mpeg2video": "MPEG-2", "mjpeg": "Motion JPEG", "prores": "ProRes", "dvvideo": "DV",
    "vc1": "VC-1", "gif": "GIF",
}  # fmt: skip
# Beyond this size one thread decodes more slowly than the face is tracked.
_ONE_THREAD_PIXELS = 1920 * 1088
_MOST_PIXELS = 8192 * 8192
_PLAUSIBLE_ASPECT = (0.25, 4.0)
_CONVERT = "convert it with: ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4"
REMEDY = (
    "Play the file from start to end in a video player; copy it again from its source if it "
    f"stops early, or {_CONVERT}"
)


class VideoError(ValueError):
    """A file from which no frame can be decoded."""


@dataclass(frozen=True)
class VideoHeader:
    """What a container promises about its pictures; decoding may show otherwise.

    Attributes:
        frame_count_promised: Number of frames by the header; 0 where it does not say.
        fps: Frames per second by the header; 0.0 where it does not say.
        width_px: Stored width of the picture in pixels.
        height_px: Stored height of the picture in pixels.
        pixel_aspect: Width of a pixel over its height; camcorders store wide pictures narrow.
        codec: Name of the decoder.
    """

    frame_count_promised: int
    fps: float
    width_px: int
    height_px: int
    pixel_aspect: float = 1.0
    codec: str = ""

    @property
    def duration_promised_s(self) -> float:
        """Length in seconds by the header; 0.0 where it does not say."""
        return self.frame_count_promised / self.fps if self.fps > 0 else 0.0


@dataclass(frozen=True)
class OpenVideo:
    """A file that is open for decoding.

    Attributes:
        container: The file.
        stream: Its pictures.
        header: What it promises.
    """

    container: InputContainer
    stream: VideoStream
    header: VideoHeader

    def frames(self) -> Iterator[VideoFrame]:
        """Every frame that can be decoded; damaged stretches are left out."""
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError:
                packet = None
            if packet is None:
                return
            try:
                yield from packet.decode()
            except FFmpegError:
                continue


def missing_decoders() -> tuple[str, ...]:
    """Video formats of cameras and hospitals that this installation cannot decode."""
    return tuple(name for key, name in _DECODERS.items() if key not in av.codecs_available)


def refuse_huge(width_px: int, height_px: int) -> None:
    """Refuse pictures that only a damaged header asks for: they would fill the memory.

    Raises:
        VideoError: If the picture is larger than any camera's.
    """
    if width_px * height_px > _MOST_PIXELS:
        msg = f"Expected at most 8192 x 8192 pixels, got {width_px} x {height_px}. {REMEDY}"
        raise VideoError(msg)


@contextmanager
def open_video(path: Path) -> Iterator[OpenVideo]:
    """A video file, open until the context ends.

    Args:
        path: The video file.

    Yields:
        The open video.

    Raises:
        VideoError: If the file is missing, empty, no video, or its decoder is missing.
    """
    _refuse_nothing(path)
    with _open_container(path) as container:
        stream = _pictures(container, path)
        # One thread for ordinary pictures: several workers share the cores better than threads.
        codec = stream.codec_context
        refuse_huge(codec.width, codec.height)
        large = codec.width * codec.height > _ONE_THREAD_PIXELS
        codec.thread_count = 2 if large else 1
        codec.thread_type = "AUTO" if large else "SLICE"
        yield OpenVideo(container, stream, _header(container, stream))


def _refuse_nothing(path: Path) -> None:
    if not path.is_file():
        msg = f"Expected a video file, found none at {path}. Correct the file column of the list."
        raise VideoError(msg)
    if path.stat().st_size == 0:
        msg = f"Expected a video, {path.name} has 0 bytes. Copy it again from its source."
        raise VideoError(msg)


def _open_container(path: Path) -> InputContainer:
    try:
        return av.open(str(path.absolute()), options=dict(_OPTIONS), metadata_errors="replace")
    except (FFmpegError, OSError, ValueError) as error:
        msg = f"Expected a video, {path.name} could not be opened. {REMEDY}"
        raise VideoError(msg) from error


def _pictures(container: InputContainer, path: Path) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        msg = f"Expected a video, {path.name} holds no pictures. {REMEDY}"
        raise VideoError(msg)
    # Its declaration knows no stream without a decoder; there are.
    if getattr(stream, "codec_context", None) is None:
        msg = (
            f"Expected a video format that can be decoded, {path.name} holds another one; "
            f"{_CONVERT}"
        )
        raise VideoError(msg)
    return stream


def _header(container: InputContainer, stream: VideoStream) -> VideoHeader:
    fps = float(stream.guessed_rate or stream.average_rate or 0)
    return VideoHeader(
        frame_count_promised=max(0, stream.frames or round(_duration_s(container, stream) * fps)),
        fps=fps if fps > 0 else 0.0,
        width_px=stream.codec_context.width,
        height_px=stream.codec_context.height,
        pixel_aspect=_aspect(stream.sample_aspect_ratio),
        codec=stream.codec_context.name,
    )


def _duration_s(container: InputContainer, stream: VideoStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def _aspect(ratio: Fraction | None) -> float:
    low, high = _PLAUSIBLE_ASPECT
    value = float(ratio or 1)
    return value if low <= value <= high else 1.0
