"""Processes that may die, hang or lie without taking the batch along."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self

from client.extraction.entry import begin
from client.extraction.isolation import NetworkMode
from client.extraction.wire import Tensors, WireError, unpack_message

STALL_S = 120.0
_GOODBYE_S = 5.0
_LOOK_S = 1.0
_LONGEST_MESSAGE = 1 << 30


class ExtractionRefusedError(RuntimeError):
    """The workers refuse to start on this machine; the message names the remedy."""

    exit_code = 3


class WorkerLostError(RuntimeError):
    """A process died, hung or answered what is no answer."""


@dataclass(frozen=True)
class Task:
    """Something for a worker to do.

    Attributes:
        name: The caller's name for it.
        message: What the worker gets.
    """

    name: str
    message: bytes


@dataclass(frozen=True)
class Answer:
    """What came of a task.

    Attributes:
        facts: Plain values; ``error`` says why it failed.
        tensors: Arrays by name.
    """

    facts: dict[str, Any]
    tensors: Tensors


class Pool:
    """Worker processes; a context manager that ends them, whatever happens.

    Args:
        entry: ``module:function`` that each worker runs with its link and the settings.
        settings: What the workers share.
        workers: Processes at work at a time, at least 1.
        network: Whether they are cut off from the network.
        stall_s: Seconds without a sign of life after which a worker is given up.

    Raises:
        ValueError: If ``workers`` is below 1.
    """

    def __init__(
        self,
        entry: str,
        settings: bytes,
        *,
        workers: int = 1,
        network: NetworkMode = "cut_if_possible",
        stall_s: float = STALL_S,
    ) -> None:
        if workers < 1:
            msg = f"Expected workers >= 1, got {workers}"
            raise ValueError(msg)
        self._arguments = (network, entry, settings)
        self._workers = workers
        self._stall_s = stall_s
        self._busy: list[_Worker] = []
        self._idle: list[_Worker] = []

    def __enter__(self) -> Self:
        """The pool; processes start when there is something to do."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes."""
        for worker in (*self._busy, *self._idle):
            worker.end()

    def run(
        self,
        tasks: Iterable[Task],
        *,
        on_answer: Callable[[str, Answer], None],
        on_frames: Callable[[str, int], None] | None = None,
    ) -> None:
        """Do every task and hand over each answer as it comes.

        Args:
            tasks: Taken one at a time.
            on_answer: Called in this process with name and answer, in the order of completion.
            on_frames: Called with name and number of frames done so far.

        Raises:
            ExtractionRefusedError: If the workers refuse to start.
        """
        waiting = iter(tasks)
        while self._assign(waiting):
            for worker in self._heard():
                name, answer = worker.name, worker.listen()
                if answer is None:
                    if on_frames is not None:
                        on_frames(name, worker.frames)
                    continue
                self._busy.remove(worker)
                if worker.alive:
                    self._idle.append(worker)
                on_answer(name, answer)

    def _assign(self, waiting: Iterator[Task]) -> bool:
        """Give every free process something to do; whether any is at work."""
        while len(self._busy) < self._workers and (task := next(waiting, None)) is not None:
            worker = self._idle.pop() if self._idle else _Worker(*self._arguments)
            worker.start(task)
            self._busy.append(worker)
        return bool(self._busy)

    def _heard(self) -> list[_Worker]:
        """Those with a message, and those that have been silent for too long."""
        ready = wait([worker.link for worker in self._busy], timeout=_LOOK_S)
        heard = []
        for worker in self._busy:
            if worker.link in ready:
                heard.append(worker)
            elif worker.silent_s > self._stall_s:
                worker.give_up(self._stall_s)
                heard.append(worker)
        return heard


class _Worker:
    """A process that does one task after another."""

    def __init__(self, network: NetworkMode, entry: str, settings: bytes) -> None:
        # A fork would copy the threads' locks of the libraries in whatever state they are.
        context = multiprocessing.get_context("spawn")
        self.link, far_end = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=begin, args=(network, entry, far_end, settings), daemon=True
        )
        self._process.start()
        far_end.close()
        self.name = ""
        self.frames = 0
        self.alive = True
        self._heard_s = time.monotonic()
        self._given_up: str | None = None

    @property
    def silent_s(self) -> float:
        """Seconds since the last sign of life."""
        return time.monotonic() - self._heard_s

    def start(self, task: Task) -> None:
        self.name, self.frames, self._heard_s = task.name, 0, time.monotonic()
        # A process that has died meanwhile is noticed when its answer is read.
        with suppress(OSError):
            self.link.send_bytes(task.message)

    def give_up(self, stall_s: float) -> None:
        self._given_up = (
            f"No frame came for {stall_s:g} s, so that the extracting process was stopped; the "
            "file may be damaged: play it from start to end, or copy it again from its source"
        )

    def listen(self) -> Answer | None:
        """The answer; None if it was a sign of life only."""
        try:
            facts, tensors = self._receive()
        except WorkerLostError as lost:
            self.end()
            return Answer({"error": self._why(lost)}, {})
        self._heard_s = time.monotonic()
        if facts.get("kind") == "frames":
            self.frames = int(facts.get("frames", 0))
            return None
        if facts.get("kind") == "refused":
            raise ExtractionRefusedError(facts["error"])
        return Answer(facts, tensors)

    def end(self) -> None:
        self.alive = False
        self.link.close()
        self._process.terminate()
        self._process.join(_GOODBYE_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()

    def _receive(self) -> tuple[dict[str, Any], Tensors]:
        if self._given_up is not None:
            raise WorkerLostError(self._given_up)
        try:
            return unpack_message(self.link.recv_bytes(_LONGEST_MESSAGE))
        except (EOFError, OSError) as error:
            raise WorkerLostError from error
        except WireError as error:
            raise WorkerLostError(str(error)) from error

    def _why(self, lost: WorkerLostError) -> str:
        if lost.args:
            return str(lost)
        code = self._process.exitcode
        return f"The extracting process died with exit code {code}; the file may be damaged"
