"""A coordinator and its sites on hosts of their own, set up as the manuals say.

Nothing is shared but the wire and what people carry: the study file and the kits one way, public
keys the other. The features come from the simulated cohort; all else is what a hospital types.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from network_hosts import Host, Network

from client.site import open_site
from simulation.cohort import CohortDesign, generate_site
from simulation.sites import store_features, write_recordings

PORT = 8443
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


@dataclass
class Consortium:
    """Hosts and folders of everybody.

    Attributes:
        network: Hosts and wire.
        names: Ids of the sites.
        rounds: Of the study.
        idle: What ``status`` told when all sites were there first.
    """

    network: Network
    names: tuple[str, ...]
    rounds: int
    idle: Any = field(default=None)

    @property
    def hub(self) -> Host:
        return self.network.hosts["coordinator"]

    @property
    def folder(self) -> Path:
        return self.hub.folder / "hub"

    def site(self, name: str) -> tuple[Host, Path]:
        host = self.network.hosts[name]
        return host, host.folder / name

    def found(self, **settings: object) -> None:
        """The coordinator's first commands, and its edits of the study file."""
        hub = self.hub
        hub.call("vultus-coordinator", "init", "hub", "--name", "trial", "--host", hub.address)
        study = self.folder / "consortium.toml"
        text = study.read_text()
        for key, value in {"rounds": self.rounds, **settings}.items():
            text, changed = re.subn(rf"(?m)^{key} = \S+", f"{key} = {value}", text)
            assert changed == 1, key
        study.write_text(text)

    def admit(self, name: str) -> None:
        """A site's first commands, its admission, and its kit."""
        host, folder = self.site(name)
        carry(self.folder / "consortium.toml", host.folder / "consortium.toml")
        host.call("vultus-site", "init", name, "--id", name, "--consortium", "consortium.toml")
        index = self.names.index(name)
        cohort = generate_site(
            CohortDesign(sites=len(self.names), subjects_per_site=36, seed=11), index
        )
        write_recordings(folder / "recordings.csv", cohort.recordings)
        store_features(open_site(folder), cohort)
        carry(folder / "keys" / "identity.pub", self.hub.folder / f"{name}.pub")
        self.hub.call(
            *("vultus-coordinator", "add-site", "hub", "--id", name),
            *("--key", f"{name}.pub", "--weight", 36),
        )

    def join(self, name: str) -> None:
        host, folder = self.site(name)
        carry(self.folder / "kits" / name, host.folder / "kit")
        host.call("vultus-site", "join", name, "kit", "--yes")
        allow_more_runs(folder / "site.toml")

    def run_once(self) -> Any:
        done = self.hub.call(
            "vultus-coordinator", "run", "hub", "--json", expect=None, timeout_s=300
        )
        lines = done.stdout.strip().splitlines()
        assert lines, (done.returncode, done.stderr)
        return json.loads(lines[-1]) | {"exit": done.returncode, "told": done.stderr}

    def status(self) -> Any:
        told = self.hub.call("vultus-coordinator", "status", "hub", "--json", expect=None)
        return json.loads(told.stdout.strip().splitlines()[-1]) if told.stdout else None

    def wait_for_port(self) -> None:
        hub, log = self.hub, self.hub.folder / "vultus-coordinator.log"

        def answers() -> bool:
            told = hub.call(sys.executable, "-c", PROBE, hub.address, PORT).stdout
            return bool(told.strip())

        wait_for(answers, seconds=90, said=log.read_text)

    def wait_until_online(self, *names: str, seconds: float = 120) -> None:
        """Until the coordinator sees these sites."""

        def are_online() -> bool:
            self.idle = self.status()
            states = {site["id"]: site["state"] for site in (self.idle or {"sites": []})["sites"]}
            return all(states.get(name) == "online" for name in names)

        wait_for(are_online, seconds=seconds, said=lambda: str([self.said(n) for n in names]))

    def said(self, name: str) -> str:
        """What a site's service said."""
        return (self.site(name)[0].folder / "vultus-site.log").read_text()


def wait_for(
    condition: Callable[[], object], *, seconds: float, said: Callable[[], str] = str
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, said()
        time.sleep(0.5)


def allow_more_runs(settings: Path) -> None:
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
