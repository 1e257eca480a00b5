"""A small federation from nothing to its end: the in-process engine against Flower's Ray engine.

    python benchmarks/cold_start.py [--sites 8] [--rounds 3] [--repeats 3]

The same two apps, a network of 2 370 parameters in NumPy under Flower's own FedAvg, run in cold
processes. Both engines must end in the same weights.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from simulation.ray_engine import run_app_on_ray

PYPROJECT = """\
[project]
name = "small"
version = "1.0.0"
description = "A small federation."
license = "Apache-2.0"
dependencies = []
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "small.server:app"
clientapp = "small.client:app"
[tool.flwr.app.config]
rounds = {rounds}
"""

NETWORK = """\
import numpy as np

FEATURES, HIDDEN = 72, 32

def start():
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.1, (FEATURES, HIDDEN)), np.zeros(HIDDEN),
            rng.normal(0, 0.1, (HIDDEN, 1)), np.zeros(1), np.zeros(1)]

def train(weights, site):
    rng = np.random.default_rng(site)
    x = rng.normal(size=(100, FEATURES))
    y = (x[:, :4].sum(axis=1, keepdims=True) > 0).astype(float)
    w1, b1, w2, b2, count = [w.copy() for w in weights]
    for _ in range(5):
        hidden = np.tanh(x @ w1 + b1)
        error = (1 / (1 + np.exp(-(hidden @ w2 + b2))) - y) / len(x)
        back = (error @ w2.T) * (1 - hidden**2)
        w2 -= hidden.T @ error
        b2 -= error.sum(axis=0)
        w1 -= x.T @ back
        b1 -= back.sum(axis=0)
    return [w1, b1, w2, b2, count + 1]
"""

CLIENT = """\
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from small.network import train

app = ClientApp()

@app.train()
def reply(message, context):
    weights = train(message.content["arrays"].to_numpy_ndarrays(),
                    int(context.node_config["partition-id"]))
    return Message(RecordDict({"arrays": ArrayRecord(weights),
                               "metrics": MetricRecord({"num-examples": 100})}), reply_to=message)
"""

SERVER = """\
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from small.network import start

app = ServerApp()

@app.main()
def main(grid, context):
    result = FedAvg(fraction_evaluate=0.0).start(
        grid, ArrayRecord(start()), num_rounds=int(context.run_config["rounds"]))
    print("WEIGHTS %.6f" % sum(float(abs(w).sum()) for w in result.arrays.to_numpy_ndarrays()),
          flush=True)
"""

OURS = """\
import sys
sys.path.insert(0, sys.argv[1])
from simulation.engine import run_in_process
from small.client import app as client
from small.server import app as server
sites, rounds = int(sys.argv[2]), int(sys.argv[3])
run_in_process(server, client, node_configs=[{"partition-id": i} for i in range(sites)],
               run_config={"rounds": rounds})
"""


def read_weights(printed: str) -> str:
    found = re.search(r"WEIGHTS (\S+)", printed)
    if not found:
        sys.exit(f"the federation did not end:\n{printed[-3000:]}")
    return found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    times: dict[str, list[float]] = {"in process": [], "flower on ray": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "small").mkdir()
        (folder / "pyproject.toml").write_text(PYPROJECT.format(rounds=given.rounds))
        for name, text in (
            ("__init__", ""), ("network", NETWORK), ("client", CLIENT), ("server", SERVER),
        ):  # fmt: skip
            (folder / "small" / f"{name}.py").write_text(text)
        ours = [sys.executable, "-c", OURS, str(folder), str(given.sites), str(given.rounds)]
        ends = set()
        for _ in range(given.repeats):
            started = time.perf_counter()
            done = subprocess.run(ours, capture_output=True, text=True, check=False)
            times["in process"].append(time.perf_counter() - started)
            ends.add(read_weights(done.stdout + done.stderr))
            started = time.perf_counter()
            printed = run_app_on_ray(folder, nodes=given.sites, run_config={})
            times["flower on ray"].append(time.perf_counter() - started)
            ends.add(read_weights(printed))
    if len(ends) != 1:
        sys.exit(f"the engines ended in different weights: {sorted(ends)}")
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    print(f"{given.sites} sites x {given.rounds} rounds, median of {given.repeats} cold runs")
    for name, seconds in medians.items():
        print(f"{name:16s} {seconds:7.2f} s   1/{seconds / medians['in process']:.1f}")
    print(f"ratio {medians['flower on ray'] / medians['in process']:.1f} x less wall time")


if __name__ == "__main__":
    main()
