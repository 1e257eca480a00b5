"""The pace of a site's processes: little waiting while a run is on, few requests while none is.

The engine's SuperNode asks for messages every 3 s and looks for a finished answer every 0.5 s,
which costs a run of short rounds most of its time. Here the pauses between requests grow with the
wait, from 0.05 s to 5 s: a thousand idle sites ask a coordinator 200 times a second where the
engine's pace makes it 333, and 150 of them can stand behind one address before a limit of 30
requests a second is reached. A question finds an idle site in at most 5 s, sooner than a
coordinator gives up on a greeting.

Unlike the gate this is no safeguard: in an engine that reads differently the site runs at the
engine's own pace, and its log says so.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

from shared_models.pacing import Pace, shorten_backoff, shorten_retries

SUPERNODE_MODULE = "flwr.supernode.start_client_internal"
WORKER_MODULE = "flwr.supernode.runtime.run_clientapp"

PACED_SOURCE = {
    "start_client_internal": "9e89a6eb68fbec6821e817cd2c09f7894fc7b0f5725c2365b19a7122307f11f3",
    "_push_messages": "00bb86faffdec114db87e7f716af2acd901d12284e44f51f5c2a84704db05f64",
}
"""SHA-256 of the source of each function whose pauses are changed, flwr 1.41."""

IDLE_PAUSE_S = 3
"""What the engine sleeps when there was no message; its other sleeps wait for the worker."""

CLAIM_MODULE = "flwr.supercore.corestate.in_memory_corestate"
HEARTBEAT_MODULE = "flwr.supercore.heartbeat"
HEARTBEAT_S = 10
"""Unit of a worker's signs of life: one comes every 4 s, and 20 s after the last one its request is
taken back. In the engine's own unit of 30 s a dead worker holds on to its request for a minute."""

REPLY_POLL_S = 0.05
"""How often the SuperNode looks in its own memory whether the worker has answered."""

logger = logging.getLogger("vultus.site")


def pace_supernode(pace: Pace) -> bool:
    """Give the engine of this process the pauses of a site.

    Args:
        pace: When the coordinator is asked; told of each message that was answered.

    Returns:
        Whether the engine is the one that this was written for; if not, it keeps its own pace.
    """
    engine = importlib.import_module(SUPERNODE_MODULE)
    changed = [name for name, digest in PACED_SOURCE.items() if _source(engine, name) != digest]
    if changed:
        logger.warning(
            "Expected %s of %s as in flwr 1.41, got other code: the site runs, at the engine's "
            "own pace of several seconds an exchange.",
            ", ".join(changed),
            SUPERNODE_MODULE,
        )
        return False
    push = vars(engine)["_push_messages"]

    def paced_push(**message: object) -> None:
        push(**message)
        pace.note()

    def paced_sleep(seconds: float) -> None:
        if seconds >= IDLE_PAUSE_S:
            pace.rest()
        else:
            time.sleep(min(seconds, REPLY_POLL_S))

    vars(engine)["_push_messages"] = paced_push
    vars(engine)["time"] = SimpleNamespace(**{**vars(time), "sleep": paced_sleep})
    _note_missing({"pull_objects": shorten_backoff(engine, "pull_objects")})
    _note_missing({"MAX_RETRY_DELAY": shorten_retries()})
    _note_missing({CLAIM_MODULE: shorten_heartbeat(CLAIM_MODULE)})
    return True


def pace_worker() -> bool:
    """Let this process take a request whose parts are still arriving with short pauses.

    Its signs of life come as often as the SuperNode expects them after :func:`pace_supernode`.

    Returns:
        Whether the engine is the one that this was written for.
    """
    name = "pull_and_inflate_object_from_tree"
    shortened = shorten_backoff(importlib.import_module(WORKER_MODULE), name)
    beats = shorten_heartbeat(HEARTBEAT_MODULE)
    _note_missing({name: shortened, HEARTBEAT_MODULE: beats})
    return shortened and beats


def shorten_heartbeat(module_name: str) -> bool:
    """Let a module of the engine count in :data:`HEARTBEAT_S`.

    Returns:
        Whether it has such a unit; if not, it keeps its own.
    """
    module = importlib.import_module(module_name)
    if not isinstance(getattr(module, "HEARTBEAT_DEFAULT_INTERVAL", None), int):
        return False
    vars(module)["HEARTBEAT_DEFAULT_INTERVAL"] = HEARTBEAT_S
    return True


def _note_missing(found: dict[str, bool]) -> None:
    for name in (name for name, is_there in found.items() if not is_there):
        logger.warning("Expected %s as in flwr 1.41, got other code: exchanges are slower.", name)


def _source(engine: ModuleType, name: str) -> str:
    function: Callable[..., object] | None = getattr(engine, name, None)
    if not inspect.isfunction(function):
        return ""
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
