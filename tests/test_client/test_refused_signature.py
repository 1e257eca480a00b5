"""A signature that the coordinator refused leaves its reason in the log that 'start' reads."""

from __future__ import annotations

import logging

import pytest

from client.service.supernode import NOT_AUTHENTIC
from client.service.supernode_entry import _tell_refusals

REFUSED = 'HTTP Request: POST https://hub:8443/v1/fleet/activate-node "HTTP/1.1 401 Unauthorized"'
OTHERS = (
    'HTTP Request: POST https://hub:8443/v1/fleet/pull-messages "HTTP/1.1 200 OK"',
    'HTTP Request: POST http://127.0.0.1:5000/v1/runtime/acquire-task "HTTP/1.1 401 Unauthorized"',
)


def test_a_refused_signature_is_told_and_nothing_else_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    requests = logging.getLogger("httpx")
    before, level = list(requests.handlers), requests.level
    try:
        _tell_refusals()
        for line in (*OTHERS, REFUSED):
            requests.info(line)
    finally:
        requests.handlers[:] = before
        requests.setLevel(level)
    assert capsys.readouterr().err.splitlines() == [REFUSED]
    assert NOT_AUTHENTIC in REFUSED
