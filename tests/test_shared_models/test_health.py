"""Health over the standard gRPC protocol, asked by the protocol's own client."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from shared_models import health
from shared_models.health import HealthFile, read_health
from shared_models.supervision import SupervisionError, child_environment

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
WITHIN_S = 30.0


@dataclass
class Served:
    """A health file that a process serves."""

    file: HealthFile
    port: int
    stub: HealthStub
    process: subprocess.Popen[bytes]

    def status(self, service: str) -> int:
        return int(self.stub.Check(HealthCheckRequest(service=service), timeout=5).status)

    def becomes(self, service: str, status: int) -> bool:
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            with contextlib.suppress(grpc.RpcError):
                if self.status(service) == status:
                    return True
            time.sleep(0.05)
        return False


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = HealthFile(tmp_path / "health.json", hold_s=0.0)
    file.write({"": True, "worker": True})
    environment = child_environment(tmp_path / "home", programs=[])
    child = file.child(port, environment=environment, log=tmp_path / "health.log")
    process = subprocess.Popen(child.command, env=dict(child.environment))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            yield Served(file, port, HealthStub(channel), process)
        finally:
            process.terminate()
            assert process.wait(20) == 0


def test_services_are_told_by_name_and_unknown_ones_are_unknown(served: Served) -> None:
    assert served.becomes("", SERVING)
    assert served.status("worker") == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        served.status("nobody")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_watchers_hear_each_change_once(served: Served) -> None:
    assert served.becomes("worker", SERVING)
    changes = served.stub.Watch(HealthCheckRequest(service="worker"), timeout=WITHIN_S)
    assert next(changes).status == SERVING
    for up in (False, True, False):
        served.file.write({"": True, "worker": up})
        assert next(changes).status == (SERVING if up else NOT_SERVING)
    changes.cancel()


def test_service_that_is_no_longer_named_is_down(served: Served) -> None:
    assert served.becomes("worker", SERVING)
    served.file.write({"": True})
    assert served.becomes("worker", NOT_SERVING)
    assert served.status("") == SERVING


def test_silence_of_the_supervisor_takes_everything_down(served: Served) -> None:
    assert served.becomes("", SERVING)
    long_ago = time.time() - health.STALE_AFTER_S - 1
    os.utime(served.file.path, (long_ago, long_ago))
    assert served.becomes("", NOT_SERVING)
    assert served.status("worker") == NOT_SERVING


def test_health_is_offered_on_loopback_alone(served: Served) -> None:
    assert served.becomes("", SERVING)
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{served.process.pid}/net/{table}").read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{served.port:04X}") and line.split()[3] == "0A"
    ]
    # 127.0.0.1 as the kernel writes it, on a socket of the newer family.
    assert listening == [f"0000000000000000FFFF00000100007F:{served.port:04X}"]


def test_taken_port_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "FREE_WITHIN_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SupervisionError, match=f"health_port {port}"):
            HealthFile(tmp_path / "x").child(port, environment={}, log=tmp_path / "x.log")


def test_file_is_renewed_and_written_anew_only_for_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = HealthFile(tmp_path / "health.json")
    file.write({"": True})
    first = file.path.stat()
    file.write({"": True})
    assert file.path.stat().st_mtime_ns == first.st_mtime_ns
    monkeypatch.setattr(health, "RENEW_S", 0.0)
    file.write({"": True})
    renewed = file.path.stat()
    assert renewed.st_mtime_ns > first.st_mtime_ns
    assert renewed.st_ino == first.st_ino
    file.write({"": False})
    assert read_health(file.path) == {"": False}


def test_what_was_down_for_a_moment_is_told_for_longer(tmp_path: Path) -> None:
    file = HealthFile(tmp_path / "health.json", hold_s=0.3)
    began = time.monotonic()
    for up in (True, False, True):
        file.write({"worker": up})
    assert read_health(file.path) == {"worker": False}
    while not read_health(file.path)["worker"]:
        time.sleep(0.02)
        file.write({"worker": True})
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("content", [None, "", "{"])
def test_no_file_or_half_a_file_names_no_service(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "health.json"
    if content is not None:
        file.write_text(content)
    assert read_health(file) == {}
