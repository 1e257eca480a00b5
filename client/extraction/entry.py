"""Where a worker process begins: it leaves the network before it imports anything heavy."""

from __future__ import annotations

import importlib
import json
from multiprocessing.connection import Connection

from client.extraction.isolation import IsolationError, NetworkMode, cut_network


def begin(network: NetworkMode, entry: str, link: Connection, *arguments: bytes) -> None:
    """Target of a new process: cut the network, then import what to do and do it.

    A refused cut is told to the other end of the link, because it is the same for every recording.

    Args:
        network: See :func:`client.extraction.isolation.cut_network`.
        entry: ``module:function``, imported only after the cut.
        link: To the batch; goes to the function first.
        arguments: For the function after it.
    """
    try:
        cut_network(network)
    except IsolationError as error:
        text = json.dumps({"kind": "refused", "error": str(error)}).encode()
        link.send_bytes(len(text).to_bytes(4, "big") + text)
        return
    module, _, name = entry.partition(":")
    getattr(importlib.import_module(module), name)(link, *arguments)
