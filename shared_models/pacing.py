"""How long to wait before looking again: a share of the time in which nothing happened.

Looking at fixed times either asks a thousand times for nothing or lets an answer lie. Pauses that
are a tenth of the wait so far find an answer at most a tenth late, however long it took, and ask
ever more rarely while nothing happens. The engine's own pauses are fixed; where its functions take
the length of theirs as an argument, :func:`shorten_backoff` gives them another.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType

FIRST_BACKOFF_S = 0.05
BACKOFF_CAP_S = 1.0
"""Pauses while a part of a message is still on its way; the engine begins with 1 s, up to 10 s."""

RETRY_CAP_S = 5
"""Longest pause between attempts to reach a server that is down; the engine's own is 20 s."""

RETRY_MODULE = "flwr.supercore.retry.http_retry"


@dataclass
class Pace:
    """Pauses that grow with the wait.

    >>> now = [0.0]
    >>> pace = Pace(longest_s=5.0, clock=lambda: now[0], sleep=lambda s: now.append(now.pop() + s))
    >>> looks = 0
    >>> while now[0] < 30:
    ...     looks = looks + 1
    ...     pace.rest()
    >>> looks, round(pace.pause_s, 1)
    (53, 3.0)

    Attributes:
        shortest_s: Pause while something happened just now, > 0.
        longest_s: Pause when nothing has happened for long.
        share: Pause as a share of the time since something last happened, in (0, 1].
        clock: Seconds, never going back.
        sleep: Waits that many seconds.
    """

    shortest_s: float = 0.05
    longest_s: float = 5.0
    share: float = 0.1
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _last_s: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.note()

    def note(self) -> None:
        """Something happened: look often again."""
        self._last_s = self.clock()

    @property
    def pause_s(self) -> float:
        """How long the next pause is."""
        waited_s = self.clock() - self._last_s
        return min(self.longest_s, max(self.shortest_s, self.share * waited_s))

    def rest(self) -> None:
        """Wait until it is time to look again."""
        self.sleep(self.pause_s)


def shorten_backoff(module: ModuleType, name: str, *, tries: int | None = None) -> bool:
    """Let a module pull what is still on its way with short pauses.

    Args:
        module: A module of the engine that uses the function.
        name: The function's name in it.
        tries: How often a part of a message is looked for that does not come; the engine's 500
            times unless given.

    Returns:
        Whether the function takes the length of its pauses; if not, it stays as it is.
    """
    pull = getattr(module, name, None)
    if not callable(pull):
        return False
    pace = {"initial_backoff": FIRST_BACKOFF_S, "backoff_cap": BACKOFF_CAP_S}
    if tries is not None:
        pace["max_tries_per_object"] = tries
    if not pace.keys() <= inspect.signature(pull).parameters.keys():
        return False
    setattr(module, name, partial(pull, **pace))
    return True


def shorten_retries() -> bool:
    """Let this process try a server that is down every few seconds, once the engine is loaded.

    Returns:
        Whether the engine has such a limit; if not, its pauses stay as they are.
    """
    module = sys.modules.get(RETRY_MODULE)
    if not isinstance(getattr(module, "MAX_RETRY_DELAY", None), int):
        return False
    vars(module)["MAX_RETRY_DELAY"] = RETRY_CAP_S
    return True
