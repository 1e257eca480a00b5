"""Health of supervised processes over the standard gRPC protocol, for monitoring tools.

The supervisor writes what it sees into a file (:class:`HealthFile`); a process of its own serves
that on loopback (``grpc.health.v1``, Check and Watch), since a supervisor that forks must not hold
threads. A file that nobody renews counts for nothing: all of its services become NOT_SERVING, so
that a supervisor that hangs is seen as well as one that is gone.

The protocol is not encrypted and asks nobody who they are; it says which of a few names are up and
is offered on loopback only.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from privacy.vault import write_atomic
from shared_models.supervision import Child, SupervisionError

if TYPE_CHECKING:
    from grpc_health.v1.health import HealthServicer

OVERALL = ""
"""The name under which the protocol asks for all of a server."""
LOOPBACK = "127.0.0.1"
STALE_AFTER_S = 10.0
RENEW_S = 1.0
LOOK_S = 0.1
FREE_WITHIN_S = 5.0
MODULE = "shared_models.health"


@dataclass
class HealthFile:
    """What the supervisor last saw of each service.

    Attributes:
        path: The file.
        hold_s: What was down counts as down for so long, since tools that look now and then would
            miss what is started again at once.
    """

    path: Path
    hold_s: float = 3.0
    _down: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _written: Mapping[str, bool] = field(default_factory=dict, init=False, repr=False)
    _renewed: float = field(default=float("-inf"), init=False, repr=False)

    def write(self, services: Mapping[str, bool]) -> None:
        """Say which services are up; cheap enough to be called all the time."""
        now = time.monotonic()
        self._down |= {name: now for name, up in services.items() if not up}
        services = {
            name: up and now - self._down.get(name, float("-inf")) >= self.hold_s
            for name, up in services.items()
        }
        if services != self._written or not self.path.exists():
            write_atomic(self.path, json.dumps(dict(services)).encode())
            self._written = dict(services)
        elif now - self._renewed >= RENEW_S:
            os.utime(self.path)
        else:
            return
        self._renewed = now

    def child(
        self,
        port: int,
        module: tuple[str, ...] = (sys.executable, "-m", MODULE),
        *,
        environment: Mapping[str, str],
        log: Path,
    ) -> Child:
        """The process that serves this file.

        Args:
            port: Port on loopback.
            module: Words that start this module.
            environment: All variables it sees.
            log: Where its output goes.

        Raises:
            SupervisionError: If something else listens on the port, and goes on doing so.
        """
        _await_free(port)
        command = (*module, "--port", str(port), "--file", str(self.path))
        return Child("health", command, environment, log)


def _await_free(port: int) -> None:
    """Wait until a port is free; one that a killed predecessor held soon is.

    Raises:
        SupervisionError: If it stays taken: a process that cannot start would end all others.
    """
    deadline = time.monotonic() + FREE_WITHIN_S
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError as error:
                if time.monotonic() > deadline:
                    msg = (
                        f"Expected health_port {port} to be free on {LOOPBACK}, got: "
                        f"{error.strerror}. Choose another, or 0 for none."
                    )
                    raise SupervisionError(msg) from error
            else:
                return
        time.sleep(0.1)


def read_health(path: Path) -> dict[str, bool]:
    """The services of a file; all down if nobody has renewed it for long, none if it is missing."""
    try:
        age_s = time.time() - path.stat().st_mtime
        services = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    fresh = age_s <= STALE_AFTER_S
    return {str(name): bool(up) and fresh for name, up in services.items()}


def serve_health(path: Path, port: int, *, stopping: threading.Event) -> None:
    """Serve a file on loopback until told to stop.

    Raises:
        RuntimeError: If the port is taken.
    """
    from concurrent.futures import ThreadPoolExecutor

    import grpc
    from grpc_health.v1 import health, health_pb2_grpc

    # Each watcher holds a thread for as long as it watches.
    server = grpc.server(ThreadPoolExecutor(max_workers=16), options=[("grpc.so_reuseport", 0)])
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    # Never another interface: whoever asks is not asked who they are.
    server.add_insecure_port(f"{LOOPBACK}:{port}")
    known = _announce(servicer, {}, {OVERALL: False})
    server.start()
    try:
        while not stopping.wait(LOOK_S):
            known = _announce(servicer, known, read_health(path))
    finally:
        server.stop(grace=1).wait()


def _announce(
    servicer: HealthServicer, known: Mapping[str, bool], seen: Mapping[str, bool]
) -> dict[str, bool]:
    """Tell watchers what changed; services that are no longer named are down."""
    from grpc_health.v1.health_pb2 import HealthCheckResponse

    now = {**dict.fromkeys(known, False), **seen}
    for name, up in now.items():
        if known.get(name) != up:
            serving = HealthCheckResponse.SERVING if up else HealthCheckResponse.NOT_SERVING
            servicer.set(name, serving)
    return now


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="health", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help=f"port on {LOOPBACK}")
    parser.add_argument("--file", type=Path, required=True, help="what the supervisor writes")
    options = parser.parse_args(arguments)
    stopping = threading.Event()

    def note(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, note)
    serve_health(options.file, options.port, stopping=stopping)


if __name__ == "__main__":
    main(sys.argv[1:])
