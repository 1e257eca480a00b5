"""A run between separate hosts, over a good wire and over a slow, lossy one."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hosted_consortium import PORT, PROBE, Consortium
from network_hosts import build_network, needs_hosts

SITES = ("north", "south")
ROUNDS = 2
SLOW_S, LOSSY = 0.2, 0.05
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
class Seen(Consortium):
    """What the tests look at after both runs; the programs of all hosts have ended.

    Attributes:
        runs: What each ``run`` answered: the first on a fast wire, the second on a slow, lossy one.
        listening: Ports on which the coordinator's host listened on any interface but loopback.
        open_ports: Those of the coordinator's ports that a site could connect to.
        statuses: Answers to requests past the site's program, by what was asked.
    """

    runs: list[Any] = field(default_factory=list)
    listening: set[int] = field(default_factory=set)
    open_ports: set[int] = field(default_factory=set)
    statuses: dict[str, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    root = tmp_path_factory.mktemp("hosts")
    with build_network(("coordinator", *SITES), root) as network:
        found = Seen(network, SITES, ROUNDS)
        found.found()
        for name in SITES:
            found.admit(name)
        for name in SITES:
            found.join(name)
        conduct(found)
        yield found


def conduct(found: Seen) -> None:
    hub, wire = found.hub, found.network.wire
    with ExitStack() as stack:
        stack.enter_context(hub.serve("vultus-coordinator", "start", "hub"))
        found.wait_for_port()
        for name in SITES:
            host, _ = found.site(name)
            stack.enter_context(host.serve("vultus-site", "start", name))
        found.wait_until_online(*SITES)
        look_from_outside(found)
        found.runs.append(found.run_once())
        wire.latency_s, wire.loss = SLOW_S, LOSSY
        found.runs.append(found.run_once())
        wire.latency_s, wire.loss = 0.0, 0.0


def look_from_outside(found: Seen) -> None:
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
