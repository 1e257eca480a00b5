"""The pace of a server app: short pauses while a site's answer is still arriving."""

from __future__ import annotations

import sys

from shared_models.pacing import shorten_backoff, shorten_retries

CONNECTION_MODULE = "flwr.superlink.grid.http_grid"


def pace_server_app() -> bool:
    """Pull answers with short pauses, if this process has a connection to the engine's server.

    The engine waits a second where a part of an answer is not there yet, which is the rule: sites
    announce an answer before they send it.

    Returns:
        Whether there is such a connection, of the kind this was written for.
    """
    module = sys.modules.get(CONNECTION_MODULE)
    return module is not None and shorten_backoff(module, "pull_objects") and shorten_retries()
