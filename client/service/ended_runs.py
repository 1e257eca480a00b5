"""A request whose run ends while it arrives is dropped whole, so that the worker waits for none.

The engine's SuperNode hands a request to the worker before its parts are there. If the run ends
in between, as it does when the coordinator's server app is killed, the SuperNode forgets the parts
but not the request: the worker then waits for them for ever, and the site, which looks online,
answers nobody. The engine does clean up when the parts cannot be had for any other reason, so this
reason is made one of those.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import logging
from collections.abc import Callable
from types import ModuleType

from flwr.supercore.run import RunNotRunningException

SUPERNODE_MODULE = "flwr.supernode.start_client_internal"
RECEIVE = "_pull_and_store_message"
RECEIVE_SOURCE = "eaf5d0e36dc34e4cf46a490511d077ac55cc8edbbcdbe938c1f6dbcb758628be"
"""SHA-256 of the source of the function that cleans up, flwr 1.41."""

logger = logging.getLogger("vultus.site")


class RunEndedError(Exception):
    """The run of a request ended before all of the request was there."""


def drop_ended_requests() -> bool:
    """Have the SuperNode of this process clean up after requests whose run ended.

    Returns:
        Whether the engine is the one that this was written for; if not, it stays as it is and the
        log says so.
    """
    engine = importlib.import_module(SUPERNODE_MODULE)
    if _source(engine) != RECEIVE_SOURCE:
        logger.warning(
            "Expected %s of %s as in flwr 1.41, got other code: a site whose request is taken back "
            "may have to be started again.",
            RECEIVE,
            SUPERNODE_MODULE,
        )
        return False
    pull: Callable[..., dict[str, bytes]] = vars(engine)["pull_objects"]

    @functools.wraps(pull)
    def pull_or_fail(*arguments: object, **options: object) -> dict[str, bytes]:
        try:
            return pull(*arguments, **options)
        except RunNotRunningException as ended:
            msg = "the run has ended"
            raise RunEndedError(msg) from ended

    vars(engine)["pull_objects"] = pull_or_fail
    return True


def _source(engine: ModuleType) -> str:
    function = getattr(engine, RECEIVE, None)
    if not inspect.isfunction(function):
        return ""
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
