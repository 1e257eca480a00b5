"""How long somebody who guessed wrong has to wait: longer with each guess."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

FREE_GUESSES = 3
FIRST_WAIT_S = 2.0
LONGEST_WAIT_S = 300.0
FORGIVEN_AFTER_S = 3600.0
MOST_KEPT = 4096


@dataclass(frozen=True)
class _Record:
    failures: int
    at_s: float


class Throttle:
    """Counts wrong guesses by address.

    After the third wrong guess an address waits 2 s, then 4, 8, ... up to 5 minutes. On loopback
    all share one address. An hour without a guess is forgiven.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._lock = threading.Lock()

    def claim(self, address: str) -> float:
        """Seconds left to wait; 0 takes one guess, which counts as wrong until :meth:`forgive`.

        Counted before the guess is looked at, so that many at once are not one.
        """
        with self._lock:
            now = self._clock()
            known = self._records.pop(address, _Record(0, now))
            if now - known.at_s > FORGIVEN_AFTER_S:
                known = _Record(0, now)
            left = known.at_s + wait_s(known.failures) - now
            if left <= 0:
                known = _Record(known.failures + 1, now)
            self._records[address] = known
            while len(self._records) > MOST_KEPT:
                self._records.popitem(last=False)
            return max(0.0, left)

    def forgive(self, address: str) -> None:
        """Forget the wrong guesses of an address that knew the password."""
        with self._lock:
            self._records.pop(address, None)


def wait_s(failures: int) -> float:
    """Seconds between a number of wrong guesses in a row and the next one.

    >>> [wait_s(failures) for failures in (2, 3, 4, 5, 50)]
    [0.0, 2.0, 4.0, 8.0, 300.0]
    """
    if failures < FREE_GUESSES:
        return 0.0
    return float(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - FREE_GUESSES, 20)))
