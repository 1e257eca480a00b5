"""Where a party's processes run, what keeps them alive, and the disk that they write on."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil
from network_hosts import REASON, Network, build_network

DISK_MIB = 48
FILLER = "filler"
REVIVE_S = 1.0
"""A service manager starts a service again after this long."""


class Place(Protocol):
    """Where a party's processes run."""

    @property
    def name(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def environment(self) -> dict[str, str]: ...
    def command(self, *words: object) -> list[str]: ...


@dataclass(frozen=True)
class Loopback:
    """A party on this machine, where there are no separate hosts."""

    name: str
    folder: Path
    address: str = "127.0.0.1"

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"OMP_NUM_THREADS": "1"}

    def command(self, *words: object) -> list[str]:
        program, *rest = [str(word) for word in words]
        known = Path(sysconfig.get_path("scripts")) / program
        return [str(known) if known.is_file() else program, *rest]


@dataclass
class Service:
    """A program that a service manager would keep alive."""

    place: Place
    words: tuple[object, ...]
    process: subprocess.Popen[bytes] | None = None
    died_s: float | None = None
    environment: dict[str, str] = field(default_factory=dict)
    _said_before: int = 0

    @property
    def log(self) -> Path:
        return self.place.folder / "service.log"

    @property
    def said(self) -> str:
        """What it said since it was started last."""
        return self.log.read_bytes()[self._said_before :].decode(errors="replace")

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._said_before = output.tell()
            self.process = subprocess.Popen(
                self.place.command(*self.words),
                cwd=self.place.folder,
                env=self.place.environment | self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.died_s = None

    def call(self, *, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Start it a second time, which has to end by itself."""
        return subprocess.run(
            self.place.command(*self.words), cwd=self.place.folder,
            env=self.place.environment | self.environment,
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def revive(self) -> None:
        """Start it again if it ended by itself a moment ago."""
        if self.process is None or self.process.poll() is None:
            return
        if self.died_s is None:
            self.died_s = time.monotonic()
        elif time.monotonic() - self.died_s >= REVIVE_S:
            self.start()

    def stop(self) -> None:
        if self.process is None:
            return
        lives = self.process.poll() is None
        started = psutil.Process(self.process.pid).children(recursive=True) if lives else []
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
        for child in psutil.wait_procs(started, timeout=15)[1]:
            child.kill()

    def processes(self) -> list[psutil.Process]:
        """The process and all that it started."""
        if self.process is None or self.process.poll() is not None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        return []


@dataclass(frozen=True)
class Disk:
    """A folder on a disk of its own, small enough to be filled."""

    folder: Path

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.folder / FILLER).open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 9, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def free(self) -> None:
        (self.folder / FILLER).unlink(missing_ok=True)


@contextlib.contextmanager
def places_in(
    root: Path, names: Sequence[str]
) -> Iterator[tuple[dict[str, Place], Network | None, int]]:
    """A place for each party, the wire between them if there is one, and the coordinator's port."""
    if not REASON:
        with build_network(names, root) as network:
            yield dict(network.hosts), network, 8443
        return
    places: dict[str, Place] = {}
    for name in names:
        (root / name).mkdir()
        places[name] = Loopback(name, root / name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield places, None, port


@contextlib.contextmanager
def small_disks(folders: Mapping[str, Path]) -> Iterator[dict[str, Disk]]:
    """Each of these new folders on a disk of its own; on that of all others without root."""
    disks = {name: Disk(folder) for name, folder in folders.items()}
    mounted: list[Disk] = []
    try:
        for disk in disks.values() if not REASON else ():
            disk.folder.mkdir(mode=0o700, parents=True)
            disk.folder.parent.chmod(0o700)
            how = f"size={DISK_MIB}m,mode=0700"
            subprocess.run(["mount", "-t", "tmpfs", "-o", how, "none", disk.folder], check=True)
            mounted.append(disk)
        yield disks
    finally:
        for disk in mounted:
            subprocess.run(["umount", "-l", disk.folder], check=True)
