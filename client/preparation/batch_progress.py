"""How far a batch of recordings is, in frames: one display for all workers."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.progress import Progress, TaskID

from client.extraction.parallel import ExtractionJob, HeaderResult
from client.extraction.video import MOST_FRAMES, VideoHeader
from client.preparation.batch import BatchTally
from shared_models.console import Screen

_FASTEST_CAMERA_FPS = 240.0
_USUAL_FPS = 30.0
_SMALLEST_FRAME_BYTES = 20
_NOTICEABLE = 0.02


class FrameProgress:
    """A bar that moves by frames, with frames a second, time left and verdicts so far.

    The total is what the headers promise. As headers lie, an implausible promise is cut down, and
    the total grows with what comes beyond a promise.

    Args:
        screen: Where people read.
        jobs: What is going to be extracted.
    """

    def __init__(self, screen: Screen, jobs: list[ExtractionJob]) -> None:
        self._display: Progress = screen.progress("news")
        self._expected = {job.recording_id: 0 for job in jobs}
        self._done = dict.fromkeys(self._expected, 0)
        self._waiting = set(self._expected)
        self._shown = 0
        self._headers = 0
        self._tally = BatchTally()
        self._started_s = 0.0
        self._bar: TaskID | None = None

    def __enter__(self) -> Self:
        """Show the bar, at first for the headers that are read."""
        self._display.__enter__()
        self._bar = self._display.add_task("Reading headers", total=len(self._expected), news="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        self._display.__exit__(kind, error, trace)

    @property
    def total(self) -> int:
        """Frames of all recordings, as far as is known."""
        return sum(max(self._expected[name], self._done[name]) for name in self._done)

    @property
    def completed(self) -> int:
        """Frames done so far."""
        return sum(self._done.values())

    def expect(self, result: HeaderResult) -> None:
        """What the header of a recording promises."""
        self._headers += 1
        if result.header is not None:
            self._expected[result.job.recording_id] = plausible_frames(
                result.header, result.job.path.stat().st_size
            )
        if self._headers < len(self._expected):
            self._update(completed=self._headers)
        else:
            self._started_s = time.monotonic()
            if self._bar is not None:
                self._display.reset(self._bar, description="Extracting", total=self.total)
            self._show()

    def advance(self, recording_id: str, frames: int) -> None:
        """So many frames of a recording are done."""
        self._done[recording_id] = frames
        self._show()

    def finish(self, recording_id: str, frames: int | None, tally: BatchTally) -> None:
        """A recording is done and held so many frames; None if it failed."""
        self._tally = tally
        if frames is not None:
            self._done[recording_id] = frames
        self._expected[recording_id] = self._done[recording_id]
        self._waiting.discard(recording_id)
        self._show()

    def _show(self) -> None:
        seconds = time.monotonic() - self._started_s
        # The display forgets how fast it went whenever the total changes.
        if abs(self.total - self._shown) > _NOTICEABLE * self._shown or not self._waiting:
            self._shown = self.total
        self._update(
            completed=self.completed,
            total=self._shown,
            news=describe(self._tally, self.completed, seconds),
        )

    def _update(self, **figures: object) -> None:
        if self._bar is not None:
            self._display.update(self._bar, **figures)  # type: ignore[arg-type]


def describe(tally: BatchTally, frames: int, seconds: float) -> str:
    """Frames a second and verdicts, for people."""
    rate = frames / seconds if seconds > 0 else 0.0
    return (
        f"{rate:.0f} frames/s, {tally.extracted} accepted, {tally.rejected} rejected, "
        f"{tally.failed} failed"
    )


def plausible_frames(header: VideoHeader, file_bytes: int) -> int:
    """Frames that a header promises, cut down to what the file can hold.

    Args:
        header: The promise; recordings of browsers promise a thousand frames a second.
        file_bytes: Size of the file.

    >>> plausible_frames(VideoHeader(60_000, 1000.0, 640, 480), 10_000_000)
    1800
    >>> plausible_frames(VideoHeader(2_000_000_000, 30.0, 640, 480), 4_000)
    200
    """
    promised = header.frame_count_promised
    if header.fps > _FASTEST_CAMERA_FPS:
        promised = round(header.duration_promised_s * _USUAL_FPS)
    return min(promised, MOST_FRAMES, file_bytes // _SMALLEST_FRAME_BYTES)
