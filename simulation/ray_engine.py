"""Runs the same apps on Flower's Ray engine, for more cores or machines than one process uses.

Flower's simulation gives a node a partition number and no configuration of its own, so the client
app is wrapped: the wrapper looks up the site folder of its partition and hands over to the app
that real sites run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.app import SITE_CONFIG
from client.app import app as site_app
from server.app import RUN_FOLDER
from server.progress import read_progress
from shared_models.console import CommandError

SITES_FOLDER = "sites-folder"
POLL_S = 0.5
STOP_S = 10.0

PYPROJECT = """\
[project]
name = "vultus-simulation"
version = "1.0.0"
description = "The apps of vultus on Flower's Ray engine."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "vultus"
fab-include = ["LICENSE"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "simulation.ray_engine:app"

[tool.flwr.app.config]
run-folder = ""
sites-folder = ""
"""

CONNECTION = """\
[superlink]
default = "simulation"

[superlink.simulation]
address = ":local-in-memory:"
"""


class PartitionApp(ClientApp):
    """The sites' app for a node that knows only which partition it is."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer as the site of this partition."""
        folders = sorted(Path(str(context.run_config[SITES_FOLDER])).iterdir())
        site = folders[int(context.node_config["partition-id"])]
        context.node_config[SITE_CONFIG] = str(site / "site.toml")
        return site_app(message, context)


app = PartitionApp()


def run_on_ray(sites: Sequence[Path], run_folder: Path, *, timeout_s: float = 3600.0) -> None:
    """Run the study on Flower's Ray engine, to its end.

    Args:
        sites: Folder of each site; all in one folder.
        run_folder: The run's folder with ``consortium.toml``.
        timeout_s: Longest wait.

    Raises:
        CommandError: If Ray is not installed or the run does not end in a report.
    """
    flwr = Path(sys.executable).with_name("flwr")
    try:
        import ray  # noqa: F401 - only to say at once that it is missing
    except ImportError as error:
        msg = "Expected Flower's Ray engine: install it with pip install 'vultus[ray]'."
        raise CommandError(msg) from error
    with tempfile.TemporaryDirectory(prefix="vultus-ray-") as temporary:
        folder = Path(temporary)
        _write_app(folder)
        settings = {
            RUN_FOLDER: str(run_folder.absolute()),
            SITES_FOLDER: str(sites[0].parent.absolute()),
        }
        command = [
            str(flwr), "run", str(folder / "app"), "simulation", "--stream",
            "--run-config", " ".join(f'{key}="{value}"' for key, value in settings.items()),
            "--federation-config", f"num-supernodes={len(sites)} client-resources-num-cpus=1",
        ]  # fmt: skip
        with _engine_processes(folder) as environment:
            done = subprocess.run(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout_s,
                check=False,
            )
    progress = read_progress(run_folder)
    if progress is None or progress.phase != "completed":
        reason = progress.detail if progress and progress.detail else done.stdout[-2000:]
        msg = f"The run on Ray did not complete: {reason}"
        raise CommandError(msg)


def _write_app(folder: Path) -> None:
    (folder / "app").mkdir()
    (folder / "app" / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (folder / "app" / "LICENSE").write_text("SPDX-License-Identifier: Apache-2.0\n")
    (folder / "home").mkdir()
    (folder / "home" / "config.toml").write_text(CONNECTION, encoding="utf-8")


@contextlib.contextmanager
def _engine_processes(folder: Path) -> Iterator[dict[str, str]]:
    """Environment of a private engine; the server that it leaves behind is stopped afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "FLWR_HOME": str(folder / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "NO_COLOR": "1",
    }
    try:
        yield environment
    finally:
        _stop(_processes_of(folder / "home"))


def _processes_of(home: Path) -> list[int]:
    """Processes that were started with this engine's home, found by their environment."""
    wanted = f"FLWR_HOME={home}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def _stop(processes: Sequence[int]) -> None:
    for sent in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, sent)
        deadline = time.monotonic() + STOP_S
        while time.monotonic() < deadline and any(map(_is_running, processes)):
            time.sleep(POLL_S)


def _is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return state.rsplit(")", 1)[1].split()[0] != "Z"
