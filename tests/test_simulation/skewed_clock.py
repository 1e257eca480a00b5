"""Runs a module under a wall clock that is wrong; the monotonic clock stays. For tests alone.

python skewed_clock.py SECONDS MODULE ...
"""

from __future__ import annotations

import datetime as dt
import runpy
import sys
import time
from typing import Any

REAL_DATETIME, real_time = dt.datetime, time.time


class _AnyDatetime(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, REAL_DATETIME)


def skew(seconds: float) -> None:
    """Let everything that is imported from now on read another time of day."""
    shift = dt.timedelta(seconds=seconds)

    class Skewed(REAL_DATETIME, metaclass=_AnyDatetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return REAL_DATETIME.now(tz) + shift

        @classmethod
        def utcnow(cls) -> Any:
            return REAL_DATETIME.now(dt.UTC).replace(tzinfo=None) + shift

    dt.datetime = Skewed  # type: ignore[misc]
    time.time = lambda: real_time() + seconds


if __name__ == "__main__":
    _, amount, module, *rest = sys.argv
    sys.argv = [module, *rest]
    skew(float(amount))
    runpy.run_module(module, run_name="__main__", alter_sys=True)
