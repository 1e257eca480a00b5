"""The in-process engine against a bare training loop and against Flower's Ray engine.

    python benchmarks/engine.py --rivals DIR [--rounds 5] [--repeats 3] [--without-ray]

``DIR`` holds the rivals ``w1_bare.py`` and ``w1_flower_ray.py``. The apps of the latter run here
unmodified; every engine must end in the same weights. Times are of whole processes, cold.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def time_command(command: list[str], rounds: int) -> tuple[float, dict]:
    env = dict(os.environ, W1_ROUNDS=str(rounds), W1_ENGINE="vultus")
    started = time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    for line in done.stdout.splitlines():
        for mark in ("RESULT ", "W1RESULT "):
            if line.startswith(mark):
                return seconds, json.loads(line[len(mark) :])
    sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def unpack_apps(rival: Path, folder: Path) -> None:
    """The rival's own server and client app as the modules they are there."""
    source = rival.read_text()
    texts = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in {"SERVER", "CLIENT"}
    }
    package = folder / "w1app"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "core.py").write_text(source.split("# ---- end of core ----")[0])
    (package / "client.py").write_text(texts["CLIENT"])
    (package / "server.py").write_text(texts["SERVER"])


def run_ours(folder: str, workers: int) -> None:
    """In a process of its own: the apps on the in-process engine."""
    sys.path.insert(0, folder)
    from w1app.client import app as client_app  # type: ignore[import-not-found]
    from w1app.core import CLIENTS, ROUNDS  # type: ignore[import-not-found]
    from w1app.server import app as server_app  # type: ignore[import-not-found]

    from simulation.engine import run_in_process

    run_in_process(
        server_app,
        client_app,
        node_configs=[{"partition-id": i, "num-partitions": CLIENTS} for i in range(CLIENTS)],
        run_config={"rounds": ROUNDS},
        workers=workers,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rivals", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--without-ray", action="store_true")
    parser.add_argument(
        "--run-ours", nargs=2, metavar=("FOLDER", "WORKERS"), help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    if given.run_ours:
        run_ours(given.run_ours[0], int(given.run_ours[1]))
        return
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder:
        unpack_apps(given.rivals / "w1_flower_ray.py", Path(folder))
        ours = [python, __file__, "--run-ours", folder]
        bare = [python, str(given.rivals / "w1_bare.py")]
        engines = {
            "bare loop": bare,
            "vultus, 1 worker": [*ours, "1"],
            "vultus, 2 workers": [*ours, "2"],
            "bare loop, 2 workers": [*bare, "--workers", "2"],
        }
        if not given.without_ray:
            engines["flower on ray"] = [python, str(given.rivals / "w1_flower_ray.py")]
        times: dict[str, list[float]] = {name: [] for name in engines}
        sums: dict[str, str] = {}
        for _ in range(given.repeats):
            for name, command in engines.items():
                seconds, result = time_command(command, given.rounds)
                times[name].append(seconds)
                sums[name] = result["sum"]
    if len({text.split("sum=")[0] for text in sums.values()}) != 1:
        sys.exit(f"the engines did not do the same work: {sums}")
    floor = statistics.median(times["bare loop"])
    print(f"W1, {given.rounds} rounds, median of {given.repeats} cold processes")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{name:22s} {median:7.2f} s   {median / floor:5.2f} x the bare loop")


if __name__ == "__main__":
    main()
