"""The hosts that other tests stand on: apart from each other, and joined by the wire alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from network_hosts import Network, build_network, needs_hosts

pytestmark = [needs_hosts, pytest.mark.timeout(60)]

LISTEN = """
import socket, sys
kind, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
    end.bind(("0.0.0.0", 7000)); end.settimeout(seconds)
    print("up", flush=True)
    got = 0
    try:
        while got < count:
            message, sender = end.recvfrom(100); end.sendto(message, sender); got += 1
    except TimeoutError:
        pass
print(got, flush=True)
"""
SEND = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
    end.settimeout(1.5); began = time.monotonic()
    for number in range(int(sys.argv[2])):
        end.sendto(b"x", (sys.argv[1], 7000)); time.sleep(0.002)
    try:
        end.recv(100); print(time.monotonic() - began)
    except (TimeoutError, OSError):
        print("nothing")
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with build_network(("first", "second"), tmp_path_factory.mktemp("hosts")) as found:
        yield found


def exchange(network: Network, *, count: int = 1) -> tuple[str, int]:
    """What the second host hears when it sends datagrams, and how many the first one got."""
    first, second = network.hosts["first"], network.hosts["second"]
    words = first.command(sys.executable, "-c", LISTEN, "udp", count, 2.0)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "up\n"
        heard = second.call(sys.executable, "-c", SEND, first.address, count).stdout.strip()
        return heard, int(listener.stdout.readline())


def test_hosts_reach_each_other_over_the_wire(network):
    heard, got = exchange(network)
    assert float(heard) < 1.5
    assert got == 1


def test_wire_holds_each_packet_back_for_its_latency(network):
    network.wire.latency_s = 0.2
    try:
        heard, _ = exchange(network)
    finally:
        network.wire.latency_s = 0.0
    assert float(heard) >= 0.4


def test_wire_loses_the_share_that_was_asked_for(network):
    network.wire.loss = 0.05
    try:
        _, got = exchange(network, count=400)
    finally:
        network.wire.loss = 0.0
    assert 350 <= got < 400


def test_cut_host_hears_nothing_until_it_is_joined_again(network):
    network.wire.cut.add("second")
    try:
        assert exchange(network) == ("nothing", 0)
    finally:
        network.wire.cut.clear()
    assert exchange(network)[1] == 1


def test_host_sees_neither_the_folders_nor_the_ports_of_the_others(network):
    first, second = network.hosts["first"], network.hosts["second"]
    (first.folder / "secret").write_text("of the first host")
    assert "secret" in first.call("ls", first.folder).stdout
    assert second.call("ls", "-A", first.folder, expect=None).stdout == ""
    interfaces = first.call("ip", "-brief", "address").stdout
    assert {line.split()[0].rstrip("0123456789") for line in interfaces.splitlines()} == {
        "lo", "vultus",
    }  # fmt: skip
