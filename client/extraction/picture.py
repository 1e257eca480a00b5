"""Decoded frames as pictures that a face can be measured in: upright, square pixels, no combing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from av.error import FFmpegError
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from client.extraction.container import open_video, refuse_huge

ImageArray = NDArray[np.uint8]

# Heights in which cameras record two half pictures; others are never interlaced.
_INTERLACED_HEIGHTS = (480, 486, 512, 576, 1080, 1088)
_LOOK_AT_FRAMES = 24
_COMBED_FRAMES = 4
_SQUARE = 0.01


class FieldFilter:
    """FFmpeg filters that see two half pictures woven into one, and take them apart.

    Two half pictures are 1/50 s apart, so that whatever moves shows a comb, which shifts every
    landmark on a moving face. One half is kept; the lines between are interpolated.

    Args:
        stream: The stream that the frames come from.
        chain: Filters by name, with their options.

    Source:
        FFmpeg's ``bwdif`` after Weston 1988 (BBC) and ``yadif``; its ``idet`` tells combs.
    """

    def __init__(self, stream: VideoStream, *chain: tuple[str, str | None]) -> None:
        self._stream = stream
        self._chain = chain
        self._layout: tuple[int, int, str] | None = None
        self._graph: Graph | None = None

    def pass_through(self, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        """The frames as the filters leave them."""
        for frame in frames:
            layout = (frame.width, frame.height, frame.format.name)
            if layout != self._layout:
                yield from self._flush()
                self._graph, self._layout = self._new_graph(frame), layout
            yield from self._exchange(frame)
        yield from self._flush()

    def _new_graph(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        last = graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=self._stream.time_base,
        )
        for name, options in (*self._chain, ("buffersink", None)):
            context = graph.add(name, options)
            last.link_to(context)
            last = context
        graph.configure()
        return graph

    def _flush(self) -> Iterator[VideoFrame]:
        if self._graph is not None:
            yield from self._exchange(None)
            self._graph = None

    def _exchange(self, frame: VideoFrame | None) -> Iterator[VideoFrame]:
        assert self._graph is not None  # noqa: S101 - both callers made sure
        try:
            self._graph.push(frame)
            while True:
                yield self._graph.vpull()
        except (FFmpegError, BlockingIOError, EOFError):
            return


def is_interlaced(path: Path) -> bool:
    """Whether a file holds two half pictures in a frame, by its own word or by its combs.

    Half pictures survive many a conversion while the mark of them is lost, so that moving edges
    of unmarked files are looked at as well.

    Args:
        path: The video file.

    Returns:
        True if its frames must be taken apart.

    Raises:
        VideoError: If the file cannot be opened.
    """
    with open_video(path) as video:
        if video.header.height_px not in _INTERLACED_HEIGHTS:
            return False
        combs = FieldFilter(video.stream, ("idet", None))
        # Of an unmarked frame the filter marks what it saw.
        seen = islice(combs.pass_through(video.frames()), _LOOK_AT_FRAMES)
        return sum(frame.interlaced_frame for frame in seen) >= _COMBED_FRAMES


def without_combs(stream: VideoStream, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
    """Frames of an interlaced file, one for each, at the moment of its first half."""
    return FieldFilter(stream, ("bwdif", "mode=send_frame:deint=all")).pass_through(frames)


class PictureMaker:
    """Turns decoded frames into RGB pictures.

    Args:
        pixel_aspect: Width of a stored pixel over its height.
    """

    def __init__(self, pixel_aspect: float) -> None:
        self._aspect = pixel_aspect
        self._reformatter = VideoReformatter()

    def picture(self, frame: VideoFrame) -> ImageArray:
        """The frame upright and in true proportions, ``[H, W, 3]`` uint8.

        Raises:
            VideoError: If it is larger than any camera's.
        """
        refuse_huge(frame.width, frame.height)
        square = abs(self._aspect - 1.0) < _SQUARE
        width = frame.width if square else round(frame.width * self._aspect)
        picture = self._reformatter.reformat(frame, width=width, format="rgb24", threads=1)
        # Rows are padded in memory, which the landmarker would take for a part of the picture.
        image = np.ascontiguousarray(picture.to_ndarray(), dtype=np.uint8)
        return _upright(image, frame.rotation)


def _upright(image: ImageArray, counterclockwise_deg: int) -> ImageArray:
    quarters = round(counterclockwise_deg / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image
