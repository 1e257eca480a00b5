"""The overhead of a round in a deployed consortium, against stock Flower on the same machine.

    python benchmarks/round_overhead.py [--rounds 8] [--subjects 20] [--mode local|distributed]
    python benchmarks/round_overhead.py --rounds 100 --without-stock     # memory over many rounds

Ours: ``vultus-coordinator start`` and ``run`` and two ``vultus-site start`` (three with secure
sums) on loopback over TLS, on simulated site folders, private training and tallies in every round.
Stock: FedAvg with train and evaluate over TLS, two nodes, weights of the same shapes, nothing to
compute. Both are real processes. Ours is the time between two published models less the training,
which is measured by the same study in one process; it still holds the tallies' computation,
signatures, ledgers and durable writes. The first round, which holds the start of everything, is
left out. Then: memory of every process and the engine's database after the second and last round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import stock_flower

from client.site import open_site
from server.pki import CertificateAuthority
from shared_models.features import BEHAVIOUR
from shared_models.networks import make_network
from simulation.cohort import CohortDesign, generate_site
from simulation.sites import store_features, write_recordings

SITES = ("east", "north", "west")
ROLES = (
    "superlink", "superexec", "app_starter", "app_gate", "serverapp", "supernode", "worker", "nginx"
)  # fmt: skip


def call(*words: object) -> str:
    program, *rest = map(str, words)
    command = [str(Path(sys.executable).with_name(program)), *rest]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def last_json(printed: str) -> dict:
    return json.loads(printed.strip().splitlines()[-1])


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def serving(log: Path, *words: object) -> Iterator[psutil.Process]:
    program, *rest = map(str, words)
    command = [str(Path(sys.executable).with_name(program)), *rest]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(90)


def wait_for(condition: Callable[[], object], what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.3)


def make_consortium(folder: Path, given: argparse.Namespace, site_ids: tuple[str, ...]) -> None:
    hub, study = folder / "hub", folder / "hub" / "consortium.toml"
    call("vultus-coordinator", "init", hub, "--name", "overhead", "--port", free_ports(1)[0])
    settings = hub / "coordinator.toml"
    settings.write_text(settings.read_text().replace('= "none"', f'= "{given.proxy}"'))
    text = study.read_text()
    for key, value in {
        "rounds": given.rounds,
        "evaluate_every": given.evaluate_every,
        "quorum": len(site_ids),
        "trainable": f'"{given.trainable}"',
        "mode": f'"{given.mode}"',
        # Few subjects and many rounds: the noise is of no interest here.
        "target_epsilon": 20.0,
        "epsilon": 20.0,
    }.items():
        text, found = re.subn(rf"(?m)^{key} = [^#\n]*", f"{key} = {value} ", text)
        if found != 1:
            sys.exit(f"expected one line {key} in {study}, got {found}")
    study.write_text(text)
    design = CohortDesign(sites=len(site_ids), subjects_per_site=given.subjects, seed=1)
    for index, site_id in enumerate(site_ids):
        call("vultus-site", "init", folder / site_id, "--id", site_id, "--consortium", study)
        site, cohort = open_site(folder / site_id), generate_site(design, index)
        write_recordings(site.paths.recordings, cohort.recordings)
        store_features(site, cohort)
        key = folder / site_id / "keys" / "identity.pub"
        words = ("--id", site_id, "--key", key, "--weight", given.subjects)
        call("vultus-coordinator", "add-site", hub, *words)
    for site_id in site_ids:
        call("vultus-site", "join", folder / site_id, hub / "kits" / site_id, "--yes")


def use_of(parents: dict[str, psutil.Process]) -> dict[str, dict[str, float]]:
    """Memory and processor time of each process, by whose it is and what it does."""
    seen: dict[str, dict[str, float]] = {}
    for owner, parent in parents.items():
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                words = " ".join(Path(word).name for word in process.cmdline()[:6])
                role = next((role for role in ROLES if role in words), "start")
                use = seen.setdefault(f"{owner} {role}", {"MiB": 0.0, "CPU s": 0.0})
                use["MiB"] += process.memory_info().rss / 2**20
                use["CPU s"] += sum(process.cpu_times()[:2])
    return seen


def published(hub: Path) -> list[float]:
    """When the models of the latest run were published, in order of rounds."""
    models = sorted(hub.glob("runs/*/model-*.safetensors"))
    return [model.stat().st_mtime for model in models]


def run_ours(folder: Path, given: argparse.Namespace) -> tuple[list[float], list[dict]]:
    """Seconds of each round after the first, and what was in memory after the second and last."""
    site_ids = SITES if given.mode == "distributed" else SITES[:2]
    make_consortium(folder, given, site_ids)
    hub = folder / "hub"
    with contextlib.ExitStack() as stack:
        parents = {}
        for name, words in (
            ("coordinator", ("vultus-coordinator", "start", hub)),
            *((site_id, ("vultus-site", "start", folder / site_id)) for site_id in site_ids),
        ):
            if name == site_ids[0]:
                log = folder / "coordinator.log"
                wait_for(lambda log=log: b"Stop with Ctrl-C" in log.read_bytes(), "the start")
            log = folder / f"{name}.log"
            parents[name] = stack.enter_context(serving(log, *words))
        wait_for(lambda: all_online(hub), "all sites being online")
        moments: list[dict] = []
        run = [str(Path(sys.executable).with_name("vultus-coordinator")), "run", str(hub), "--json"]
        process = subprocess.Popen(run, stdout=subprocess.PIPE, text=True)
        done = 0
        while process.poll() is None:
            count = len(published(hub))
            if count >= 2 and count != done:
                database = sum(file.stat().st_size for file in (hub / "engine").glob("*.db*"))
                moment = {"round": count, "KiB": database / 1024, "use": use_of(parents)}
                # Of the rounds between the first and the last moment nothing is kept.
                moments[1:] = [moment]
                done = count
            time.sleep(0.2)
        answer = last_json(process.stdout.read())
    if answer["status"] != "completed":
        sys.exit(f"our run did not complete: {answer}; see {folder}")
    times = published(hub)
    return [after - before for before, after in pairwise(times)], moments


def all_online(hub: Path) -> bool:
    told = last_json(call("vultus-coordinator", "status", hub, "--json"))
    return all(site["state"] == "online" for site in told["sites"])


def training_s(folder: Path, given: argparse.Namespace) -> float:
    """Seconds in which one site trains in a round, by the same study in one process."""
    sites = 3 if given.mode == "distributed" else 2
    answer = last_json(
        call(
            *("vultus-simulate", "run", "--sites", sites, "--subjects", given.subjects),
            *("--rounds", given.rounds, "--mode", given.mode, "--trainable", given.trainable),
            *("--epsilon", 20, "--out", folder / "simulated", "--json"),
        )
    )
    return answer["seconds"]["train"] / answer["rounds"] / sites


def run_stock(folder: Path, given: argparse.Namespace) -> list[float]:
    authority = CertificateAuthority.create(folder / "pki")
    server = authority.issue_server(["127.0.0.1"])
    network = make_network("behaviour_net", "small", features=len(BEHAVIOUR.features))
    return stock_flower.time_rounds(
        folder,
        certificates=(authority.certificate_file, server.certificate, server.key),
        ports=free_ports(3),
        rounds=given.stock_rounds,
        shapes=[list(parameter.shape) for parameter in network.parameters()],
    )


def tell_times(name: str, seconds: list[float]) -> None:
    low, high = min(seconds), max(seconds)
    print(
        f"{name:34s} {statistics.median(seconds):7.2f} s a round"
        f"   ({low:.2f} to {high:.2f}, {len(seconds)} rounds)"
    )


def tell_growth(moments: list[dict]) -> None:
    """Memory after two rounds and after the last, and processor time of a round between them."""
    if len(moments) < 2:
        return
    first, last = moments[0], moments[-1]
    rounds = last["round"] - first["round"]
    print(f"\n{'':34s} {'round ' + str(first['round']):>12} {'round ' + str(last['round']):>12}")
    print(f"{'database, KiB':34s} {first['KiB']:12.0f} {last['KiB']:12.0f}   CPU s a round")
    for name in sorted(first["use"].keys() & last["use"].keys()):
        before, after = first["use"][name], last["use"][name]
        spent = (after["CPU s"] - before["CPU s"]) / rounds
        print(f"{name + ', MiB':34s} {before['MiB']:12.0f} {after['MiB']:12.0f}   {spent:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--stock-rounds", type=int, default=6)
    parser.add_argument("--subjects", type=int, default=20)
    parser.add_argument("--evaluate-every", type=int, default=1)
    parser.add_argument("--mode", choices=["local", "distributed"], default="local")
    parser.add_argument("--trainable", choices=["head", "all"], default="all")
    parser.add_argument("--proxy", choices=["none", "nginx"], default="none")
    parser.add_argument("--without-stock", action="store_true")
    parser.add_argument("--keep", type=Path, help="new folder for all that is made")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = given.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="vultus-overhead-"))
        )
        for name in ("ours", "stock"):
            (folder / name).mkdir(parents=True)
        trained = training_s(folder, given)
        ours, moments = run_ours(folder / "ours", given)
        tell_times(f"vultus, {given.mode}, wall", ours)
        print(f"{'  of it training':34s} {trained:7.2f} s a round")
        overhead = statistics.median(ours) - trained
        print(f"{'  overhead':34s} {overhead:7.2f} s a round")
        if not given.without_stock:
            stock = run_stock(folder / "stock", given)
            tell_times("stock Flower, FedAvg", stock)
            print(f"ratio of overheads {overhead / statistics.median(stock):.3f}")
        tell_growth(moments)


if __name__ == "__main__":
    main()
