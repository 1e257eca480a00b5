"""Many recordings at once, each in a process that may die without taking the others along."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from client.extraction.pipeline import Extraction, extract_recording
from client.extraction.quality import QualityThresholds
from shared_models.features import BEHAVIOUR

_GOODBYE_S = 5.0


@dataclass(frozen=True)
class ExtractionJob:
    """One recording to extract.

    Attributes:
        recording_id: The caller's name for it; comes back with the result.
        path: The video file.
    """

    recording_id: str
    path: Path


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
class ExtractionSettings:
    """What all jobs of a batch share.

    Attributes:
        face_model: A verified face landmarker bundle.
        thresholds: Limits of the quality gate; the defaults if None.
        clip_s: Seconds in a clip.
        rate_hz: Samples per second in a clip.
    """

    face_model: Path
    thresholds: QualityThresholds | None = None
    clip_s: float = BEHAVIOUR.clip_s
    rate_hz: float = BEHAVIOUR.rate_hz


def extract_many(
    jobs: Iterable[ExtractionJob],
    settings: ExtractionSettings,
    *,
    workers: int = 1,
    on_done: Callable[[ExtractionResult], None],
) -> None:
    """Extract recordings in worker processes and hand over each result as it comes.

    An error in one recording, even one that kills its process, becomes a failed result. Whatever
    ends this call early, Ctrl-C included, ends the workers too; results already handed over are
    complete, so that a caller who stores them can go on later.

    Args:
        jobs: What to extract; taken one at a time.
        settings: The same for all.
        workers: Processes at work at a time, at least 1.
        on_done: Called in this process with each result, in the order of completion.

    Raises:
        ValueError: If ``workers`` is below 1.
    """
    if workers < 1:
        msg = f"Expected workers >= 1, got {workers}"
        raise ValueError(msg)
    queue = iter(jobs)
    busy: list[_Worker] = []
    idle: list[_Worker] = []
    try:
        while True:
            _assign(queue, busy, idle, settings=settings, workers=workers)
            if not busy:
                return
            for worker in _finished(busy):
                result = worker.collect()
                busy.remove(worker)
                if worker.alive:
                    idle.append(worker)
                on_done(result)
    finally:
        for worker in (*busy, *idle):
            worker.end()


class _Worker:
    """A process that extracts one recording after another."""

    def __init__(self, settings: ExtractionSettings) -> None:
        # A fork would copy the threads' locks of the libraries in whatever state they are.
        context = multiprocessing.get_context("spawn")
        self.link, far_end = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_work, args=(far_end, settings), daemon=True
        )
        self._process.start()
        far_end.close()
        self._job: ExtractionJob | None = None
        self.alive = True

    def start(self, job: ExtractionJob) -> None:
        self._job = job
        # A process that has died meanwhile is noticed when its result is collected.
        with suppress(OSError):
            self.link.send(job)

    def collect(self) -> ExtractionResult:
        if self._job is None:
            msg = "Expected a worker with a job, got an idle one"
            raise RuntimeError(msg)
        try:
            result = self.link.recv()
        except (EOFError, OSError):
            self.end()
            code = self._process.exitcode
            error = f"The extracting process died with exit code {code}; the file may be damaged"
            return ExtractionResult(self._job, None, error)
        if not isinstance(result, ExtractionResult):
            msg = f"Expected an extraction result, got {type(result).__name__}"
            raise TypeError(msg)
        return result

    def end(self) -> None:
        self.alive = False
        self.link.close()
        self._process.terminate()
        self._process.join(_GOODBYE_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()


def _assign(
    queue: Iterator[ExtractionJob],
    busy: list[_Worker],
    idle: list[_Worker],
    *,
    settings: ExtractionSettings,
    workers: int,
) -> None:
    while len(busy) < workers and (job := next(queue, None)) is not None:
        worker = idle.pop() if idle else _Worker(settings)
        worker.start(job)
        busy.append(worker)


def _finished(busy: list[_Worker]) -> list[_Worker]:
    ready = wait([worker.link for worker in busy])
    return [worker for worker in busy if worker.link in ready]


def _work(link: Connection, settings: ExtractionSettings) -> None:
    # Ctrl-C reaches the whole process group; the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _silence_libraries()
    _end_with_parent()
    with suppress(EOFError, OSError):
        while True:
            link.send(_result(link.recv(), settings))


def _end_with_parent() -> None:
    # A parent that is killed cannot end its workers, and an hour's video would keep one busy.
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _silence_libraries() -> None:
    # The inference library writes warnings meant for its developers straight to file number 2.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _result(job: ExtractionJob, settings: ExtractionSettings) -> ExtractionResult:
    try:
        extraction = extract_recording(
            job.path,
            settings.face_model,
            thresholds=settings.thresholds,
            clip_s=settings.clip_s,
            rate_hz=settings.rate_hz,
        )
    except Exception as error:  # noqa: BLE001 - one bad recording must not end the batch
        return ExtractionResult(job, None, f"{type(error).__name__}: {error}")
    return ExtractionResult(job, extraction, None)
