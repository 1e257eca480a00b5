"""What a site costs, by their number: CPU time, an empty task, and memory.

    python benchmarks/scale.py [--sites 10 100 1000] [--subjects 10] [--rounds 3] [--repeats 3]

Every figure comes from a process of its own. CPU seconds are printed, not wall time: they say the
same on a busy machine. Of repeated figures the least is taken.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

PARAMETERS_OF_TASK = 60_866
"""The empty task carries a network of 14 tensors with this many numbers."""


def peak_mib() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024


def measure_study(sites: int, subjects: int, rounds: int) -> dict[str, float]:
    """CPU milliseconds a site of each phase, and the process's peak before the report is drawn."""
    from simulation.study import design_study, run_study

    marks: dict[str, list[tuple[int, float]]] = {}
    peaks = [peak_mib()]

    def on_progress(phase: str, done: int, _total: int) -> None:
        marks.setdefault(phase, []).append((done, time.process_time()))
        if phase == "training":
            peaks.append(peak_mib())

    began = time.process_time()
    with tempfile.TemporaryDirectory(prefix="vultus-scale-") as folder:
        design = design_study(
            sites=sites,
            subjects=subjects,
            rounds=rounds,
            epsilon=3.0,
            mode="local",
            network="behaviour_net",
            trainable="head",
            seed=1,
        )
        run_study(design, Path(folder) / "study", on_progress)
    # From the second round on: the first one opens and embeds what each site holds.
    training = marks["training"]
    first, last = training[sites - 1][1], training[-1][1]
    return {
        "prepare": 1e3 * (marks["cohort"][-1][1] - began) / sites,
        "first round": 1e3 * (first - marks["cohort"][-1][1]) / sites,
        "round": 1e3 * (last - first) / (sites * (rounds - 1)),
        "study": 1e3 * (time.process_time() - began) / sites,
        "peak": peaks[-1],
    }


def make_network():
    import torch

    layers: list[torch.nn.Module] = []
    for channels, dilation in ((60, 1), (64, 2), (64, 4)):
        layers += [
            torch.nn.Conv1d(channels, 64, 5, padding=2 * dilation, dilation=dilation),
            torch.nn.GroupNorm(8, 64),
        ]
    return torch.nn.Sequential(*layers, torch.nn.Linear(64, 2))


def least_ms(rounds: int, one_round: Callable[[], None], *, sites: int) -> float:
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        one_round()
        taken.append(time.process_time() - began)
    return 1e3 * min(taken) / sites


def measure_empty_task(sites: int, rounds: int) -> dict[str, float]:
    """Milliseconds of CPU for a client task that only loads and returns the network."""
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg

    from simulation.engine import run_in_process

    network, client, server, taken = make_network(), ClientApp(), ServerApp(), []

    @client.train()
    def train(message, _context):
        network.load_state_dict(message.content["arrays"].to_torch_state_dict())
        metrics = MetricRecord({"num-examples": 1, "loss": 0.0})
        content = RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics})
        return Message(content, reply_to=message)

    class Timed(FedAvg):
        def configure_train(self, *args, **kwargs):
            taken.append(time.process_time())
            return super().configure_train(*args, **kwargs)

    @server.main()
    def main(grid, _context):
        strategy = Timed(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
        strategy.start(grid, ArrayRecord(network.state_dict()), num_rounds=rounds + 1)

    run_in_process(server, client, node_configs=[{}] * sites, run_config={})
    steps = [after - before for before, after in pairwise(taken)]
    return {"vultus": 1e3 * min(steps) / sites, "bare": measure_bare_task(sites, rounds)}


def measure_bare_task(sites: int, rounds: int) -> float:
    """The same work in a loop without messages."""
    network = make_network()
    weights = {name: part.clone() for name, part in network.state_dict().items()}

    def one_round() -> None:
        total = None
        for _ in range(sites):
            network.load_state_dict(weights)
            update = [part.detach().clone() for part in network.state_dict().values()]
            if total is None:
                total = update
            else:
                for mean, part in zip(total, update, strict=True):
                    mean.add_(part)

    return least_ms(rounds, one_round, sites=sites)


def measure_memory(sites: int, parameters: int) -> dict[str, float]:
    """Peak of a process in which all sites answer with an update that is added and dropped."""
    import torch
    from flwr.app import Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    from server.running_sums import RunningMean
    from shared_models.weights import arrays_to_state, state_to_arrays
    from simulation.engine import run_in_process

    client, server = ClientApp(), ServerApp()
    state = {"w": torch.zeros(parameters)}

    @client.train()
    def train(message, _context):
        update = {"w": torch.ones(parameters)}
        return Message(RecordDict({"arrays": state_to_arrays(update)}), reply_to=message)

    @server.main()
    def main(grid, _context):
        shared, mean = state_to_arrays(state), RunningMean(state)
        messages = [
            Message(RecordDict({"arrays": shared}), node, "train") for node in grid.get_node_ids()
        ]
        for waiting in grid.push_messages(messages):
            [reply] = grid.pull_messages([waiting])
            mean.add(arrays_to_state(reply.content["arrays"]), weight=1)

    before = peak_mib()
    run_in_process(server, client, node_configs=[{}] * sites, run_config={})
    return {"before": before, "peak": peak_mib()}


MEASURES = {"study": measure_study, "task": measure_empty_task, "memory": measure_memory}


def measure(name: str, *numbers: int, repeats: int = 1) -> dict[str, float]:
    """The least of each figure over processes of their own."""
    found: list[dict[str, float]] = []
    for _ in range(repeats):
        command = [sys.executable, __file__, "--measure", name, *map(str, numbers)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name} {numbers} failed:\n{done.stderr[-4000:]}")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: min(one[key] for one in found) for key in found[0]}


def print_studies(sites: list[int], *, subjects: int, rounds: int, repeats: int) -> None:
    print(f"study of {subjects} subjects a site, {rounds} rounds: CPU ms a site, and peak MiB")
    print(f"{'sites':>6} {'prepare':>9} {'1st round':>9} {'a round':>9} {'study':>9} {'peak':>9}")
    first: dict[str, float] = {}
    for number in sites:
        repeated = repeats if number <= 100 else 1
        found = measure("study", number, subjects, rounds, repeats=repeated)
        first = first or found
        print(f"{number:6d}" + "".join(f" {value:9.1f}" for value in found.values()), flush=True)
        print(f"{'ratio':>6}" + "".join(f" {found[k] / first[k]:9.2f}" for k in found), flush=True)


def print_memory(sites: list[int], parameters: list[int]) -> None:
    print("updates that are added and dropped: peak MiB above the empty process")
    print(f"{'parameters':>11}" + "".join(f" {number:>6d} sites" for number in sites) + "   ratio")
    for size in parameters:
        grown = []
        for number in sites:
            found = measure("memory", number, size)
            grown.append(found["peak"] - found["before"])
        print(f"{size:11d}" + "".join(f" {value:12.1f}" for value in grown)
              + f" {grown[-1] / grown[0]:7.2f}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parameters", type=int, nargs="+", default=[60_000, 1_000_000])
    parser.add_argument("--without-studies", action="store_true")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        name, *numbers = given.measure
        print(json.dumps(MEASURES[name](*map(int, numbers))))
        return
    task = measure("task", given.sites[-1], 5, repeats=given.repeats)
    print(
        f"empty task, {given.sites[-1]} sites, {PARAMETERS_OF_TASK} parameters: "
        f"{task['vultus']:.2f} ms of CPU, bare loop {task['bare']:.2f}, "
        f"ratio {task['vultus'] / task['bare']:.1f}",
        flush=True,
    )
    print_memory(given.sites, given.parameters)
    if not given.without_studies:
        print_studies(
            given.sites, subjects=given.subjects, rounds=given.rounds, repeats=given.repeats
        )


if __name__ == "__main__":
    main()
