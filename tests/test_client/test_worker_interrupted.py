"""A worker whose request was taken back ends and is started again; it never waits for ever."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from flwr.proto.runtime_pb2 import AcquireTaskResponse
from flwr.proto.task_pb2 import Task

from client.service.worker import LOST

WITHIN_S = 60.0
"""Importing torch on a busy machine, and what the engine's client waits before it gives up."""

STUCK = """
import os, signal, sys, threading
from client.service import worker
signal.signal(signal.SIGINT, worker._give_up if sys.argv[1] == "ours" else
              signal.default_int_handler)
lock = threading.Lock()
lock.acquire()
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    lock.acquire()
finally:
    lock.acquire()
"""


class ForgetfulNode(BaseHTTPRequestHandler):
    """Hands out a request and then does not know it any more."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        has_task = "acquire-task" in self.path
        answer = AcquireTaskResponse(task=Task(task_id=1), token="t") if has_task else None
        body = answer.SerializeToString() if answer else b""
        self.send_response(200 if has_task else 401)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def node() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), ForgetfulNode) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_request_that_was_taken_back_ends_the_worker(node: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 64)
    words = ("-m", "client.service.worker", "--runtime-api-address", node, "--secret-file", secret)
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    assert done.returncode == LOST, done.stderr
    assert "took a request back" in done.stderr


def interrupt_a_stuck_process(handler: str) -> int:
    command = [sys.executable, "-c", STUCK, handler]
    return subprocess.run(command, timeout=10, check=False).returncode


def test_an_interrupt_ends_a_worker_that_waits_for_a_lock() -> None:
    assert interrupt_a_stuck_process("ours") == LOST


def test_an_exception_in_its_place_would_wait_for_the_lock_for_ever() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        interrupt_a_stuck_process("theirs")
