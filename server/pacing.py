"""The pace of a server app: short pauses while a site's answer is still arriving."""

from __future__ import annotations

import sys

from shared_models.pacing import shorten_backoff, shorten_retries

PULL_TRIES = 60
"""A part of an answer that does not come for so many seconds is lost, and its site asked again.

A site that ends while it sends would otherwise hold up all the others for as long as the engine's
server remembers that it had begun, which is three minutes.
"""

CONNECTION_MODULE = "flwr.superlink.grid.http_grid"


def pace_server_app() -> bool:
    """Pull answers with short pauses, if this process has a connection to the engine's server.

    The engine waits a second where a part of an answer is not there yet, which is the rule: sites
    announce an answer before they send it.

    Returns:
        Whether there is such a connection, of the kind this was written for.
    """
    module = sys.modules.get(CONNECTION_MODULE)
    if module is None:
        return False
    return shorten_backoff(module, "pull_objects", tries=PULL_TRIES) and shorten_retries()
