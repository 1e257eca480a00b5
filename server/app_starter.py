"""Starts a server app for each run: stands in for the engine's SuperExec.

The engine's own program starts any kind of app from whatever bundle came with the run, and passes
the token of the task on the command line, where every account of the machine can read it. This one
asks for server apps alone, starts :mod:`server.app_gate` and nothing else, and hands the token over
through a pipe.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.utils import disable_process_dumping

POLL_S = 0.1
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
GATE = "server.app_gate"


@dataclass
class Starter:
    """Starts server apps of one engine.

    Attributes:
        address: The engine, ``host:port``.
        authorities: What it is verified with, PEM.
        secret: What only the engine and this process know.
        command: What starts :mod:`server.app_gate`.
    """

    address: str
    authorities: Path
    secret: bytes
    command: tuple[str, ...]
    _apps: list[subprocess.Popen[bytes]] = field(default_factory=list, init=False, repr=False)

    def serve(self) -> None:
        """Start one app after another, for as long as this process lives."""
        client = RuntimeHttpClient.from_server_address(
            server_address=self.address,
            insecure=False,
            root_certificates=self.authorities.read_bytes(),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                SuperExecAuthHttpInterceptor(
                    master_secret=self.secret, protected_methods=frozenset({ACQUIRE})
                ),
            ],
            retry_invoker=make_simple_http_retry_invoker(),
        )
        request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
        while True:
            answer = client.AcquireTask(request)
            if answer.HasField("task") and answer.token:
                self._start(answer.token)
            # Ended ones are forgotten, which also reaps them.
            self._apps = [app for app in self._apps if app.poll() is None]
            time.sleep(POLL_S)

    def _start(self, token: str) -> None:
        app = subprocess.Popen(self.command, stdin=subprocess.PIPE)
        if app.stdin:
            app.stdin.write(f"{token}\n".encode())
            app.stdin.close()
        self._apps.append(app)


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM."""
    disable_process_dumping(strict=False)
    parser = argparse.ArgumentParser(prog="app_starter", description=__doc__)
    parser.add_argument("--runtime-api-address", required=True, help="the engine, host:port")
    parser.add_argument("--root-certificates", type=Path, required=True, help="verify it with")
    parser.add_argument("--secret-file", type=Path, required=True, help="shared with the engine")
    parser.add_argument("--bundle", type=Path, required=True, help="the only one that may run")
    parser.add_argument("--runs", type=Path, required=True, help="folder of all runs")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _leave)
    command = (
        *(sys.executable, "-m", GATE, "--runtime-api-address", options.runtime_api_address),
        *("--root-certificates", str(options.root_certificates)),
        *("--bundle", str(options.bundle), "--runs", str(options.runs)),
        *("--parent-pid", str(os.getpid())),
    )
    secret = options.secret_file.read_bytes()
    Starter(options.runtime_api_address, options.root_certificates, secret, command).serve()


def _leave(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
