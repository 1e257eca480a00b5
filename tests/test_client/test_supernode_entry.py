"""A site's connection ends as a whole: what is left of it must not look alive."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys, threading, time
from client.service.supernode_entry import end_with

def serve():
    threading.Thread(target=time.sleep, args=(60,)).start()
    {ending}

{call}
"""


def run(ending: str, call: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(ending=ending, call=call)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=15
    )


@pytest.mark.parametrize(
    ("ending", "status"),
    [("raise RuntimeError('500 of the server')", 1), ("sys.exit(3)", 3), ("return", 0)],
)
def test_an_ended_connection_takes_its_threads_along(ending: str, status: int) -> None:
    done = run(ending, "end_with(serve)")
    assert done.returncode == status
    assert ("500 of the server" in done.stderr) is (status == 1)


def test_without_that_it_would_look_alive() -> None:
    """The broken variant."""
    with pytest.raises(subprocess.TimeoutExpired):
        run("raise RuntimeError('500 of the server')", "serve()")
