"""What a page is made from: collected at most every few seconds, whoever asks how often."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

T = TypeVar("T")

PATIENCE_S = 0.2
"""A page waits this long for newer figures, then it shows those that are there, with their time."""
LARGEST_SHARE = 10
"""Collecting takes at most a tenth of the time."""


@dataclass(frozen=True)
class Moment(Generic[T]):
    """Something as it was at a time.

    Attributes:
        value: What was found.
        at: When, in UTC.
        took_s: How long it took to find.
    """

    value: T
    at: datetime
    took_s: float


class Snapshot(Generic[T]):
    """The newest figures, shared by all who look.

    Args:
        collect: Finds them.
        every_s: Figures younger than this are not collected anew.
    """

    def __init__(self, collect: Callable[[], T], *, every_s: float = 2.0) -> None:
        self._collect = collect
        self._every_s = every_s
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="collect")
        self._lock = threading.Lock()
        self._latest: Moment[T] | None = None
        self._collected_s = 0.0
        self._under_way: Future[Moment[T]] | None = None

    def look(self) -> Moment[T]:
        """The newest figures; waits only if there are none at all, or newer ones come at once."""
        waiting = self._begin_if_due()
        if self._latest is None and waiting is not None:
            return waiting.result()
        if waiting is not None:
            try:
                return waiting.result(timeout=PATIENCE_S)
            except TimeoutError:
                pass
        if self._latest is None:
            msg = "Expected figures to have been collected, got none."
            raise RuntimeError(msg)
        return self._latest

    def close(self) -> None:
        """Collect nothing more."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _begin_if_due(self) -> Future[Moment[T]] | None:
        with self._lock:
            if self._under_way is not None and not self._under_way.done():
                return self._under_way
            pause_s = max(
                self._every_s, LARGEST_SHARE * (self._latest.took_s if self._latest else 0)
            )
            if self._latest is not None and time.monotonic() - self._collected_s < pause_s:
                return None
            self._under_way = self._worker.submit(self._collect_now)
            return self._under_way

    def _collect_now(self) -> Moment[T]:
        at, began_s = datetime.now(UTC), time.monotonic()
        value = self._collect()
        self._collected_s = time.monotonic()
        self._latest = Moment(value, at, self._collected_s - began_s)
        return self._latest
