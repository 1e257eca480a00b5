"""Many recordings at once, each in a process that may die without taking the others along."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from client.extraction.isolation import NetworkMode
from client.extraction.pipeline import Extraction
from client.extraction.pool import STALL_S, Answer, ExtractionRefusedError, Pool, Task
from client.extraction.video import VideoHeader
from client.extraction.wire import (
    ExtractionJob,
    ExtractionSettings,
    WireError,
    job_facts,
    pack_message,
    pack_settings,
    to_extraction,
)

__all__ = [
    "ExtractionJob",
    "ExtractionRefusedError",
    "ExtractionResult",
    "ExtractionSettings",
    "Extractor",
    "HeaderResult",
    "extract_many",
]

_WORK = "client.extraction.worker:work"


@dataclass(frozen=True)
class ExtractionResult:
    """What became of a job: an extraction, which may be a rejection, or an error.

    Attributes:
        job: The job.
        extraction: The outcome; None if it failed.
        error: Why it failed; None if it did not.
    """

    job: ExtractionJob
    extraction: Extraction | None
    error: str | None


@dataclass(frozen=True)
class HeaderResult:
    """What the header of a job's file promises, or why it cannot be read.

    Attributes:
        job: The job.
        header: The promise; None if there is none.
        error: Why there is none; None if there is.
    """

    job: ExtractionJob
    header: VideoHeader | None
    error: str | None


class Extractor:
    """Processes that read headers and extract recordings; a context manager that ends them.

    An error in one recording, even one that kills its process or makes it hang, becomes a failed
    result. No process but these opens a video.

    Args:
        settings: The same for all jobs.
        workers: Processes at work at a time, at least 1.
        network: Whether they are cut off from the network.
        stall_s: Seconds without a frame after which a recording is given up.

    Raises:
        ValueError: If ``workers`` is below 1.
    """

    def __init__(
        self,
        settings: ExtractionSettings,
        *,
        workers: int = 1,
        network: NetworkMode = "cut_if_possible",
        stall_s: float = STALL_S,
    ) -> None:
        self._pool = Pool(
            _WORK, pack_settings(settings), workers=workers, network=network, stall_s=stall_s
        )

    def __enter__(self) -> Self:
        """The extractor; processes start when there is something to do."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes."""
        self._pool.__exit__(kind, error, trace)

    def read_headers(
        self, jobs: Iterable[ExtractionJob], *, on_done: Callable[[HeaderResult], None]
    ) -> None:
        """Read what the files promise, and hand over each result as it comes.

        Raises:
            ExtractionRefusedError: If the processes refuse to start on this machine.
        """
        known: dict[str, ExtractionJob] = {}
        self._pool.run(
            _tasks("probe", jobs, known),
            on_answer=lambda name, answer: on_done(_header_result(known[name], answer)),
        )

    def extract(
        self,
        jobs: Iterable[ExtractionJob],
        *,
        on_done: Callable[[ExtractionResult], None],
        on_frames: Callable[[str, int], None] | None = None,
    ) -> None:
        """Extract recordings and hand over each result as it comes.

        Args:
            jobs: What to extract; taken one at a time.
            on_done: Called in this process with each result, in the order of completion.
            on_frames: Called a few times a second with the id of a recording and the number of its
                frames done so far.

        Raises:
            ExtractionRefusedError: If the processes refuse to start on this machine.
        """
        known: dict[str, ExtractionJob] = {}
        self._pool.run(
            _tasks("extract", jobs, known),
            on_answer=lambda name, answer: on_done(_result(known.pop(name), answer)),
            on_frames=on_frames,
        )


def extract_many(
    jobs: Iterable[ExtractionJob],
    settings: ExtractionSettings,
    *,
    workers: int = 1,
    on_done: Callable[[ExtractionResult], None],
) -> None:
    """Extract recordings in worker processes and hand over each result as it comes.

    Whatever ends this call early, Ctrl-C included, ends the workers too; results already handed
    over are complete, so that a caller who stores them can go on later.

    Args:
        jobs: What to extract; taken one at a time.
        settings: The same for all.
        workers: Processes at work at a time, at least 1.
        on_done: Called in this process with each result, in the order of completion.

    Raises:
        ValueError: If ``workers`` is below 1.
        ExtractionRefusedError: If the processes refuse to start on this machine.
    """
    with Extractor(settings, workers=workers) as extractor:
        extractor.extract(jobs, on_done=on_done)


def _tasks(
    kind: str, jobs: Iterable[ExtractionJob], known: dict[str, ExtractionJob]
) -> Iterator[Task]:
    for job in jobs:
        known[job.recording_id] = job
        yield Task(job.recording_id, pack_message({"kind": kind, **job_facts(job)}))


def _result(job: ExtractionJob, answer: Answer) -> ExtractionResult:
    if (error := answer.facts.get("error")) is not None:
        return ExtractionResult(job, None, str(error))
    try:
        extraction = to_extraction(answer.facts.get("extraction", {}), answer.tensors)
    except WireError as error:
        return ExtractionResult(job, None, str(error))
    return ExtractionResult(job, extraction, None)


def _header_result(job: ExtractionJob, answer: Answer) -> HeaderResult:
    if (error := answer.facts.get("error")) is not None:
        return HeaderResult(job, None, str(error))
    try:
        return HeaderResult(job, VideoHeader(**answer.facts), None)
    except TypeError as error:
        return HeaderResult(job, None, f"Expected a header, got something else: {error}")
