"""Stock Flower as a deployment, for :mod:`round_overhead`: TLS, FedAvg, train and evaluate.

Server, nodes and run are started as Flower's documentation does, on loopback; the clients add one
to every weight and import NumPy alone, so that what a round takes is Flower's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

PYPROJECT = """\
[project]
name = "stock"
version = "1.0.0"
description = "FedAvg with nothing to learn."
license = "Apache-2.0"
dependencies = []
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "stock.server:app"
clientapp = "stock.client:app"
[tool.flwr.app.config]
rounds = {rounds}
nodes = {nodes}
stamps = "{stamps}"
"""

CLIENT = """\
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    weights = [w + 1 for w in message.content["arrays"].to_numpy_ndarrays()]
    return Message(RecordDict({"arrays": ArrayRecord(weights),
                               "metrics": MetricRecord({"num-examples": 100})}), reply_to=message)

@app.evaluate()
def evaluate(message, context):
    metrics = MetricRecord({"num-examples": 100, "loss": 0.5})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
"""

SERVER = """\
import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

SHAPES = {shapes}
app = ServerApp()

@app.main()
def main(grid, context):
    stamps, nodes = [], int(context.run_config["nodes"])

    def stamp(server_round, arrays):
        stamps.append(time.time())

    FedAvg(min_train_nodes=nodes, min_evaluate_nodes=nodes, min_available_nodes=nodes).start(
        grid, ArrayRecord([np.zeros(s, np.float32) for s in SHAPES]),
        num_rounds=int(context.run_config["rounds"]), evaluate_fn=stamp)
    Path(context.run_config["stamps"]).write_text(json.dumps(stamps))
"""

CONNECTION = """\
[superlink]
default = "bench"

[superlink.bench]
address = "{address}"
root-certificates = "{authority}"
"""


def time_rounds(
    folder: Path, *, certificates: tuple[Path, Path, Path], ports: list[int], rounds: int,
    shapes: list[list[int]], nodes: int = 2,
) -> list[float]:  # fmt: skip
    """Seconds of each round after the first."""
    authority, certificate, key = certificates
    address = f"127.0.0.1:{ports[0]}"
    home, app, stamps = folder / "home", folder / "app", folder / "stamps.json"
    (app / "stock").mkdir(parents=True)
    home.mkdir()
    (app / "pyproject.toml").write_text(PYPROJECT.format(rounds=rounds, nodes=nodes, stamps=stamps))
    for name, text in (("__init__", ""), ("client", CLIENT)):
        (app / "stock" / f"{name}.py").write_text(text)
    (app / "stock" / "server.py").write_text(SERVER.replace("{shapes}", repr(shapes)))
    (home / "config.toml").write_text(CONNECTION.format(address=address, authority=authority))
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with contextlib.ExitStack() as stack:
        serve = [
            *("flower-superlink", "--host", "127.0.0.1", "--port", str(ports[0])),
            *("--ssl-ca-certfile", str(authority), "--ssl-certfile", str(certificate)),
            *("--ssl-keyfile", str(key), "--disable-runtime-dependency-installation"),
        ]
        stack.enter_context(_running(serve, environment, folder / "superlink.log"))
        time.sleep(8)
        for index in range(nodes):
            node = [
                *("flower-supernode", "--superlink", address, "--root-certificates"),
                *(str(authority), "--host", "127.0.0.1", "--port", str(ports[1 + index])),
            ]
            log = folder / f"supernode-{index}.log"
            stack.enter_context(_running(node, environment, log))
        time.sleep(8)
        started = subprocess.run(
            ["flwr", "run", str(app), "bench"],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        deadline = time.monotonic() + 120 + 60 * rounds
        while not stamps.exists():
            if time.monotonic() > deadline:
                sys.exit(f"stock Flower did not end:\n{started.stdout}{started.stderr}")
            time.sleep(0.5)
        times = json.loads(stamps.read_text())
    # The first stamp is that of the initial weights, the first round includes the start of all.
    return [after - before for before, after in pairwise(times[1:])]


@contextlib.contextmanager
def _running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
