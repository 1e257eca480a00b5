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
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.app import SITE_CONFIG
from client.app import app as site_app
from server.bundle import NOTICE, RUN_FOLDER, describe_app
from server.progress import read_progress
from shared_models.console import CommandError

SITES_FOLDER = "sites-folder"
POLL_S = 0.5
STOP_S = 10.0

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
        folders = _site_folders(str(context.run_config[SITES_FOLDER]))
        site = folders[int(context.node_config["partition-id"])]
        context.node_config[SITE_CONFIG] = str(site / "site.toml")
        return site_app(message, context)


@cache
def _site_folders(folder: str) -> tuple[Path, ...]:
    """The sites in the same order in every process, listed once in each."""
    return tuple(sorted(Path(folder).iterdir()))


app = PartitionApp()


def run_on_ray(sites: Sequence[Path], run_folder: Path) -> None:
    """Run the study on Flower's Ray engine, to its end.

    Args:
        sites: Folder of each site; all in one folder.
        run_folder: The run's folder with ``consortium.toml``.

    Raises:
        CommandError: If Ray is not installed or the run does not end in a report.
    """
    with tempfile.TemporaryDirectory(prefix="vultus-ray-") as temporary:
        folder = Path(temporary)
        described = describe_app(
            "vultus-simulation",
            client_app="simulation.ray_engine:app",
            settings=(RUN_FOLDER, SITES_FOLDER),
        )
        (folder / "pyproject.toml").write_text(described, encoding="utf-8")
        (folder / "LICENSE").write_text(NOTICE, encoding="utf-8")
        settings = {
            RUN_FOLDER: str(run_folder.absolute()),
            SITES_FOLDER: str(sites[0].parent.absolute()),
        }
        told = run_app_on_ray(folder, nodes=len(sites), run_config=settings)
    progress = read_progress(run_folder)
    if progress is None or progress.phase != "completed":
        reason = progress.detail if progress and progress.detail else told[-2000:]
        msg = f"The run on Ray did not complete: {reason}"
        raise CommandError(msg)


def run_app_on_ray(
    app_folder: Path, *, nodes: int, run_config: Mapping[str, str], timeout_s: float = 3600.0
) -> str:
    """Run any Flower app on a private Ray engine that is gone afterwards.

    Args:
        app_folder: Folder with the app's ``pyproject.toml``.
        nodes: Number of client nodes.
        run_config: Overrides of the app's run configuration.
        timeout_s: Longest wait.

    Returns:
        What the engine printed; its exit code tells nothing.

    Raises:
        CommandError: If Ray is not installed.
    """
    if find_spec("ray") is None:
        msg = "Expected Flower's Ray engine: install it with pip install 'vultus[ray]'."
        raise CommandError(msg)
    command = [
        str(Path(sys.executable).with_name("flwr")), "run", str(app_folder), "simulation",
        "--stream",
        "--federation-config", f"num-supernodes={nodes} client-resources-num-cpus=1",
    ]  # fmt: skip
    if run_config:
        overrides = " ".join(f'{key}="{value}"' for key, value in run_config.items())
        command += ["--run-config", overrides]
    with _engine_processes() as environment:
        done = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    return done.stdout


@contextlib.contextmanager
def _engine_processes() -> Iterator[dict[str, str]]:
    """Environment of a private engine; the server that it leaves behind is stopped afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="vultus-flwr-") as temporary:
        home = Path(temporary)
        (home / "config.toml").write_text(CONNECTION, encoding="utf-8")
        environment = {
            **os.environ,
            "FLWR_HOME": str(home),
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
            _stop(_processes_of(home))


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
