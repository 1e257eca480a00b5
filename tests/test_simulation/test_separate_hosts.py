"""A coordinator and two sites on hosts of their own, set up as the manuals say.

Nothing is shared but the wire and what people carry: the study file and the kits one way, public
keys the other. The features come from the simulated cohort; all else is what a hospital types.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from network_hosts import Host, Network, build_network, needs_hosts

from client.site import open_site
from simulation.cohort import CohortDesign, generate_site
from simulation.sites import store_features, write_recordings

SITES = ("north", "south")
PORT = 8443
ROUNDS = 2
SLOW_S, LOSSY = 0.2, 0.05
PROBE = """
import socket, sys
host, open_ports = sys.argv[1], []
for port in map(int, sys.argv[2:]):
    with socket.socket() as probe:
        probe.settimeout(2)
        if probe.connect_ex((host, port)) == 0:
            open_ports.append(port)
print(*open_ports)
"""
ASK = """
import ssl, sys, http.client
context = ssl.create_default_context(cafile=sys.argv[2])
for method, path in (pair.split(" ") for pair in sys.argv[3:]):
    asked = http.client.HTTPSConnection(sys.argv[1], context=context, timeout=10)
    asked.request(method, path, body=b"" if method == "POST" else None)
    print(asked.getresponse().status)
    asked.close()
"""

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    needs_hosts,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="separate hosts: needs nginx"),
]


@dataclass
class Consortium:
    """What the tests look at after both runs.

    Attributes:
        network: Hosts and wire; the hosts are up, their programs have ended.
        runs: What each ``run`` answered: the first on a fast wire, the second on a slow, lossy one.
        listening: Ports on which the coordinator's host listened on any interface but loopback.
        open_ports: Those of the coordinator's ports that a site could connect to.
        statuses: Answers to requests past the site's program, by what was asked.
        idle: What ``status`` told before the first run.
    """

    network: Network
    runs: list[Any] = field(default_factory=list)
    listening: set[int] = field(default_factory=set)
    open_ports: set[int] = field(default_factory=set)
    statuses: dict[str, int] = field(default_factory=dict)
    idle: Any = None

    @property
    def hub(self) -> Host:
        return self.network.hosts["coordinator"]

    @property
    def folder(self) -> Path:
        return self.hub.folder / "hub"

    def site(self, name: str) -> tuple[Host, Path]:
        host = self.network.hosts[name]
        return host, host.folder / name


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    root = tmp_path_factory.mktemp("hosts")
    with build_network(("coordinator", *SITES), root) as network:
        found = Consortium(network)
        set_up(found)
        conduct(found)
        yield found


def set_up(found: Consortium) -> None:
    """The coordinator's and the sites' first commands, and what is sent between them."""
    hub = found.hub
    hub.call("vultus-coordinator", "init", "hub", "--name", "trial", "--host", hub.address)
    study = found.folder / "consortium.toml"
    study.write_text(study.read_text().replace("rounds = 30", f"rounds = {ROUNDS}"))
    design = CohortDesign(sites=len(SITES), subjects_per_site=36, seed=11)
    for index, name in enumerate(SITES):
        host, folder = found.site(name)
        carry(study, host.folder / "consortium.toml")
        host.call("vultus-site", "init", name, "--id", name, "--consortium", "consortium.toml")
        cohort = generate_site(design, index)
        write_recordings(folder / "recordings.csv", cohort.recordings)
        store_features(open_site(folder), cohort)
        carry(folder / "keys" / "identity.pub", hub.folder / f"{name}.pub")
        hub.call(
            *("vultus-coordinator", "add-site", "hub", "--id", name),
            *("--key", f"{name}.pub", "--weight", 36),
        )
    for name in SITES:
        host, folder = found.site(name)
        carry(found.folder / "kits" / name, host.folder / "kit")
        host.call("vultus-site", "join", name, "kit", "--yes")
        allow_two_runs(folder / "site.toml")


def allow_two_runs(settings: Path) -> None:
    """A site's default cap is one run's; its people raise it in an editor."""
    text, changed = re.subn(
        r"(?m)^max_epsilon_per_subject = .*$", "max_epsilon_per_subject = 100.0",
        settings.read_text(),
    )  # fmt: skip
    assert changed == 1
    settings.write_text(text)


def carry(source: Path, target: Path) -> None:
    """What a person sends by mail."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def conduct(found: Consortium) -> None:
    hub, wire = found.hub, found.network.wire
    with ExitStack() as stack:
        stack.enter_context(hub.serve("vultus-coordinator", "start", "hub"))
        wait_for_port(hub)
        for name in SITES:
            host, _ = found.site(name)
            stack.enter_context(host.serve("vultus-site", "start", name))
        wait_until_online(found)
        look_from_outside(found)
        found.runs.append(run_once(hub))
        wire.latency_s, wire.loss = SLOW_S, LOSSY
        found.runs.append(run_once(hub))
        wire.latency_s, wire.loss = 0.0, 0.0


def run_once(hub: Host) -> Any:
    done = hub.call("vultus-coordinator", "run", "hub", "--json", expect=None, timeout_s=240)
    lines = done.stdout.strip().splitlines()
    assert lines, (done.returncode, done.stderr)
    return json.loads(lines[-1]) | {"exit": done.returncode, "told": done.stderr}


def wait_for_port(hub: Host) -> None:
    deadline = time.monotonic() + 90
    while not hub.call(sys.executable, "-c", PROBE, hub.address, PORT).stdout.strip():
        log = (hub.folder / "vultus-coordinator.log").read_text()
        assert time.monotonic() < deadline, log
        time.sleep(0.5)


def wait_until_online(found: Consortium) -> None:
    deadline = time.monotonic() + 120
    while True:
        told = found.hub.call("vultus-coordinator", "status", "hub", "--json", expect=None)
        found.idle = json.loads(told.stdout.strip().splitlines()[-1]) if told.stdout else None
        if found.idle and all(site["state"] == "online" for site in found.idle["sites"]):
            return
        logs = [(found.site(name)[0].folder / "vultus-site.log").read_text() for name in SITES]
        assert time.monotonic() < deadline, (told, logs)


def look_from_outside(found: Consortium) -> None:
    """What a site's host can reach of the coordinator's, past the site's program."""
    host, folder = found.site(SITES[0])
    address = found.hub.address
    for line in found.hub.call("cat", "/proc/net/tcp").stdout.splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        ip, port = local.split(":")
        if state == "0A":
            loopback = socket.inet_ntoa(bytes.fromhex(ip)[::-1]).startswith("127.")
            found.listening |= set() if loopback else {int(port, 16)}
            probed = host.call(sys.executable, "-c", PROBE, address, int(port, 16)).stdout
            found.open_ports |= set(map(int, probed.split()))
    wanted = ("GET /health", "POST /v1/control/list-runs", "POST /v1/runtime/acquire-task",
              "GET /docs", "POST /v1/fleet/register-node")  # fmt: skip
    words = (sys.executable, "-c", ASK, f"{address}:{PORT}", folder / "state" / "ca.crt")
    answers = host.call(*words, *wanted).stdout.split()
    found.statuses = dict(zip(wanted, map(int, answers), strict=True))


def test_run_over_a_good_wire_counts_both_sites(consortium):
    assert consortium.runs[0]["status"] == "completed", consortium.runs[0]
    assert consortium.runs[0]["rounds"] == ROUNDS
    assert consortium.runs[0]["exit"] == 0
    assert {site["id"] for site in consortium.idle["sites"]} == set(SITES)


def test_run_over_a_slow_and_lossy_wire_counts_both_sites_too(consortium):
    assert consortium.runs[1]["status"] == "completed", consortium.runs[1]
    assert consortium.runs[1]["exit"] == 0
    report = json.loads(Path(consortium.runs[1]["report"]).with_name("report.json").read_text())
    for one in report["rounds"]:
        assert sorted(one["participants"]) == sorted(SITES)


def test_only_the_port_of_the_proxy_can_be_reached(consortium):
    assert consortium.listening == consortium.open_ports == {PORT}


def test_proxy_shows_health_and_nothing_that_commands(consortium):
    assert consortium.statuses["GET /health"] == 200
    others = {asked: code for asked, code in consortium.statuses.items() if "health" not in asked}
    assert set(others.values()) == {404}


def test_every_site_paid_for_each_release_once(consortium):
    for name in SITES:
        host, _ = consortium.site(name)
        told = host.call("vultus-site", "budget", name, "--json").stdout
        budget = json.loads(told.strip().splitlines()[-1])
        trained = [one for one in budget["releases"] if one["purpose"] == "train"]
        assert len(trained) == 2 * ROUNDS
        checked = host.call("vultus-site", "audit", name, "--verify", "--json").stdout
        assert json.loads(checked.strip().splitlines()[-1])["whole"] is True


def test_hosts_stay_apart(consortium):
    host, _ = consortium.site(SITES[0])
    assert host.call("ls", "-A", consortium.hub.folder, expect=None).stdout == ""
