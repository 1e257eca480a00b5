"""Separate hosts on one machine: network namespaces, and a wire that can be slow, lossy or cut.

Each host sees its own interfaces and its own folder; the folders of the others are empty to it. The
wire is a thread of this process that carries IP packets between the hosts' TUN devices, so that
delay and loss need no module of the kernel and can change while connections are open.

    with build_network(("hub", "north"), tmp_path) as network:
        hub, north = network.hosts["hub"], network.hosts["north"]
        with hub.serve("vultus-coordinator", "start", hub.folder / "hub"):
            network.wire.latency_s, network.wire.loss = 0.2, 0.05
            network.wire.cut.add("north")
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import itertools
import os
import random
import selectors
import shutil
import socket
import struct
import subprocess
import sysconfig
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

TUN = Path("/dev/net/tun")
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
SCRIPTS = Path(sysconfig.get_path("scripts"))
HIDING = (
    'while [ "$1" != -- ]; do mount -t tmpfs -o ro,mode=0 none "$1" || exit 70; shift; done; '
    'shift; exec "$@"'
)


def why_no_hosts() -> str:
    """What is missing for separate hosts; empty if nothing is."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("ip") is None:
        return "needs the command ip (Debian: iproute2)"
    if not os.access(TUN, os.R_OK | os.W_OK):
        return f"needs {TUN}"
    probe = f"vultus-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    return "" if made.returncode == 0 else "this kernel gives no network namespaces here"


REASON = why_no_hosts()
needs_hosts = pytest.mark.skipif(bool(REASON), reason=f"separate hosts: {REASON}")


@dataclass
class Wire:
    """Carries packets between hosts.

    Attributes:
        latency_s: How long each packet is under way; an exchange takes twice as long.
        loss: Share of the packets that are dropped, 0..1.
        cut: Hosts that nothing reaches and that reach nobody.
    """

    latency_s: float = 0.0
    loss: float = 0.0
    cut: set[str] = field(default_factory=set)
    _ends: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def attach(self, name: str, address: str, device: int) -> None:
        os.set_blocking(device, False)
        self._ends[socket.inet_aton(address)] = (name, device)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(10)
        for _, device in self._ends.values():
            os.close(device)

    def _carry(self) -> None:
        chance, order = random.Random(1), itertools.count()
        under_way: list[tuple[float, int, bytes, bytes]] = []
        with selectors.DefaultSelector() as ready:
            for name, device in self._ends.values():
                ready.register(device, selectors.EVENT_READ, name)
            while not self._stopping.is_set():
                wait_s = under_way[0][0] - time.monotonic() if under_way else 0.1
                for key, _ in ready.select(min(0.1, max(0.0, wait_s))):
                    for packet in self._taken(key.fd, key.data, chance):
                        due = time.monotonic() + self.latency_s
                        heapq.heappush(under_way, (due, next(order), packet[16:20], packet))
                while under_way and under_way[0][0] <= time.monotonic():
                    _, _, target, packet = heapq.heappop(under_way)
                    self._deliver(target, packet)

    def _taken(self, device: int, sender: str, chance: random.Random) -> Iterator[bytes]:
        """What a host has sent, less what is lost."""
        with contextlib.suppress(OSError):
            for _ in range(64):
                packet = os.read(device, 65536)
                is_ipv4 = packet[0] >> 4 == 4
                if is_ipv4 and sender not in self.cut and chance.random() >= self.loss:
                    yield packet

    def _deliver(self, target: bytes, packet: bytes) -> None:
        name, device = self._ends.get(target, ("", -1))
        if device >= 0 and name not in self.cut:
            with contextlib.suppress(OSError):
                os.write(device, packet)


@dataclass(frozen=True)
class Host:
    """One host.

    Attributes:
        name: What the test calls it.
        address: Its address on the wire.
        folder: Its disk: the only one of the hosts' folders that it sees.
        namespace: Its network.
        hidden: The folders of the others.
    """

    name: str
    address: str
    folder: Path
    namespace: str
    hidden: Sequence[Path]

    def command(self, *words: object) -> list[str]:
        """Words that run a program on this host; scripts of this environment go by their name."""
        program, *rest = [str(word) for word in words]
        known = SCRIPTS / program
        enter = ["ip", "netns", "exec", self.namespace, "sh", "-c", HIDING, "sh"]
        chosen = str(known) if known.is_file() else program
        return [*enter, *map(str, self.hidden), "--", chosen, *rest]

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FLWR")}
        return kept | {"HOME": str(self.folder / "home"), "OMP_NUM_THREADS": "1"}

    def call(
        self, *words: object, expect: int | None = 0, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, in the host's folder."""
        done = subprocess.run(
            self.command(*words), cwd=self.folder, env=self.environment,
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        assert expect in {None, done.returncode}, (words, done.returncode, done.stdout, done.stderr)
        return done

    @contextlib.contextmanager
    def serve(self, *words: object, log: str = "") -> Iterator[subprocess.Popen[bytes]]:
        """A program that runs until the end of the block; then it gets SIGTERM."""
        file = self.folder / f"{log or Path(str(words[0])).name}.log"
        with file.open("ab") as output:
            process = subprocess.Popen(
                self.command(*words), cwd=self.folder, env=self.environment,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            yield process
        finally:
            _end(process)


@dataclass(frozen=True)
class Network:
    """The hosts by name, and the wire between them."""

    hosts: dict[str, Host]
    wire: Wire


@contextlib.contextmanager
def build_network(names: Sequence[str], root: Path) -> Iterator[Network]:
    """Hosts 10.77.0.1, 10.77.0.2, ... in the order of their names; gone at the end of the block."""
    wire = Wire()
    folders = {name: root / name for name in names}
    hosts = {}
    try:
        for number, name in enumerate(names, start=1):
            (folders[name] / "home").mkdir(mode=0o700, parents=True)
            hidden = [folder for other, folder in folders.items() if other != name]
            namespace = f"vultus-{os.getpid()}-{name}"
            host = Host(name, f"10.77.0.{number}", folders[name], namespace, hidden)
            _ip("netns", "add", namespace)
            hosts[name] = host
            wire.attach(name, host.address, _plug_in(host))
        wire.start()
        yield Network(hosts, wire)
    finally:
        wire.stop()
        for host in hosts.values():
            _ip("netns", "del", host.namespace)


def _plug_in(host: Host) -> int:
    """The wire's end of a host's network device."""
    device = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    wanted = struct.pack("16sH22x", b"vultus%d", IFF_TUN | IFF_NO_PI)
    name = fcntl.ioctl(device, TUNSETIFF, wanted)[:16].rstrip(b"\0").decode()
    _ip("link", "set", name, "netns", host.namespace)
    _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", name)
    for interface in (name, "lo"):
        _ip("-n", host.namespace, "link", "set", interface, "up")
    return device


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, text=True, check=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    lives = process.poll() is None
    started = psutil.Process(process.pid).children(recursive=True) if lives else []
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(started, timeout=10)
    for child in alive:
        child.kill()
