"""A coordinator that serves: a real folder, real processes, stopped with all they started."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from typer.testing import CliRunner

from server.cli import app
from server.workspace import Workspace, open_workspace

STARTS_WITHIN_S = 90.0
OUTSIDE_NAME = "fl.example.org"


@dataclass
class Running:
    """A coordinator folder that is being served."""

    folder: Path
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def workspace(self) -> Workspace:
        return open_workspace(self.folder)

    @property
    def port(self) -> int:
        return self.workspace.settings.port

    @property
    def engine_port(self) -> int:
        return int((self.folder / "engine" / "port").read_text())

    @property
    def authority(self) -> Path:
        return self.folder / "pki" / "ca.crt"

    def log(self, name: str) -> str:
        return (self.folder / "logs" / f"{name}.log").read_text()

    def said(self) -> str:
        return self.output.read_text()

    def child(self, *words: str) -> psutil.Process:
        """The process below ours whose command line has all of these words."""
        found = [
            child
            for child in psutil.Process(self.process.pid).children()
            if all(word in " ".join(child.cmdline()) for word in words)
        ]
        assert len(found) == 1, (words, found)
        return found[0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], object], *, seconds: float, what: str) -> float:
    """Seconds until it held."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"{what} did not happen in {seconds:.0f} s"
        time.sleep(0.05)
    return time.monotonic() - began


def make_folder(folder: Path, *hosts: str, **settings: object) -> Path:
    """A coordinator's folder with these lines in ``coordinator.toml``."""
    words = ["init", str(folder), "--name", "north", "--port", str(free_port())]
    made = CliRunner().invoke(app, [*words, *(word for host in hosts for word in ("--host", host))])
    assert made.exit_code == 0, made.output
    file = folder / "coordinator.toml"
    lines = file.read_text().splitlines()
    for key, value in settings.items():
        written = f'"{value}"' if isinstance(value, str) else value
        [index] = [i for i, line in enumerate(lines) if line.startswith(f"{key} = ")]
        lines[index] = f"{key} = {written}"
    file.write_text("\n".join(lines))
    return folder


@contextlib.contextmanager
def serving(folder: Path, *, exit_code: int = 0) -> Iterator[Running]:
    """Start the folder as a person would, and wait until it says that it listens."""
    output = folder.with_name(f"{folder.name}.out")
    program = "import sys; from server.cli import app; app(sys.argv[1:])"
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "start", str(folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    running = Running(folder, process, output)
    started: list[psutil.Process] = []
    try:
        wait_for(
            lambda: "Stop with Ctrl-C" in running.said() or process.poll() is not None,
            seconds=STARTS_WITHIN_S,
            what="the start",
        )
        assert process.poll() is None, running.said()
        started = psutil.Process(process.pid).children(recursive=True)
        yield running
    finally:
        if process.poll() is None:
            started += psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        code = process.wait(60)
        _, alive = psutil.wait_procs(started, timeout=10)
    assert code == exit_code, running.said()
    assert alive == []
