"""A consortium of real processes that things are done to, and what is held against it afterwards.

Each party is a host of its own where the machine allows it, else a process on loopback. The sites
are simulated: their noise follows a seed, so a run that was disturbed must end with the very
weights of one that was not, and their ledgers must hold the same rows.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from kept_services import Disk, Place, Service, places_in, small_disks
from network_hosts import Network
from seeded_consortium import HUB, SITES, found, services_of

from client.site import Site, open_site
from privacy.accounting import epsilon_spent
from privacy.ledger import PrivacyLedger
from privacy.ledger_chain import Reservation
from shared_models.consortium import ConsortiumConfig

CAP = 1000.0
"""Each run of a module spends anew; no run comes near it."""

PROGRAMS: Mapping[str, tuple[str, str]] = {
    "superlink": (HUB, "flower-superlink"),
    "superexec": (HUB, "server.app_starter"),
    "app": (HUB, "server.app_gate"),
    "proxy": (HUB, "nginx: master"),
    "supernode": ("site", "client.service.supernode_entry"),
    "worker": ("site", "client.service.worker"),
}
"""Where a program runs, and by which words its process is known."""


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    exit_code: int
    answer: dict[str, Any]
    told: str
    seconds: float
    rows: dict[str, list[tuple[object, ...]]]

    @property
    def digest(self) -> str | None:
        return self.answer.get("weights_digest")


@dataclass
class Consortium:
    """The processes of coordinator and sites, and the folders behind them.

    Attributes:
        places: Where each party runs.
        services: What is kept alive, by party.
        network: The wire between the hosts; None on loopback.
        disks: The disks that the coordinator's folder and the sites' state lie on.
    """

    places: dict[str, Place]
    services: dict[str, Service]
    network: Network | None
    disks: dict[str, Disk]
    known_runs: set[str] = field(default_factory=set)
    _run: subprocess.Popen[bytes] | None = None

    @property
    def hub(self) -> Path:
        return self.places[HUB].folder / HUB

    def site(self, site_id: str) -> Site:
        return open_site(self.places[site_id].folder / "site")

    def all_connected(self) -> bool:
        """Whether every site says so since it was started last."""
        return all("Connected to" in self.services[site].said for site in SITES)

    def all_online(self) -> bool:
        """Whether the coordinator sees every site."""
        place = self.places[HUB]
        done = subprocess.run(
            place.command("vultus-coordinator", "status", self.hub, "--json"), cwd=place.folder,
            env=place.environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        lines = done.stdout.strip().splitlines()
        sites = json.loads(lines[-1])["sites"] if done.returncode == 0 and lines else []
        return bool(sites) and all(site["state"] == "online" for site in sites)

    def revive(self) -> None:
        """Do what the service managers of all parties would do by now."""
        for service in self.services.values():
            service.revive()

    def wait_for(self, condition: Callable[[], object], *, seconds: float, what: str) -> None:
        """Wait, as the service manager of all parties, until something is so."""
        deadline = time.monotonic() + seconds
        while not condition():
            late = time.monotonic() >= deadline
            assert not late, f"{what} did not happen within {seconds:.0f} s; {self.said()}"
            self.revive()
            time.sleep(0.05)

    def said(self) -> str:
        """The end of what every service said, for the message of a failed test."""
        ends = {name: one.said[-600:] for name, one in self.services.items()}
        return "; ".join(f"{name}: {text}" for name, text in ends.items())

    def find(self, program: str, *, site: str = SITES[0]) -> list[psutil.Process]:
        """The processes that a program has at present."""
        if program in self.services:
            return self.services[program].processes()[:1]
        where, words = PROGRAMS[program]
        party = site if where == "site" else where
        return [one for one in self.services[party].processes() if words in _words(one)]

    def kill(self, program: str, *, site: str = SITES[0]) -> bool:
        """SIGKILL a program; False if it does not run at this moment."""
        victims = self.find(program, site=site)
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGKILL)
        return bool(victims)

    @property
    def progress(self) -> dict[str, Any]:
        """What the present run says of itself; empty before it began."""
        for folder in sorted(self.hub.glob("runs/run-*"), reverse=True):
            if folder.name in self.known_runs:
                break
            with contextlib.suppress(OSError, ValueError):
                found: dict[str, Any] = json.loads((folder / "progress.json").read_text())
                return found
        return {}

    @property
    def server_round(self) -> int:
        return int(self.progress.get("server_round", 0))

    def begin_run(self) -> None:
        self.known_runs |= {folder.name for folder in self.hub.glob("runs/run-*")}
        place = self.places[HUB]
        with (
            (place.folder / "run.out").open("wb") as out,
            (place.folder / "run.err").open("wb") as err,
        ):
            self._run = subprocess.Popen(
                place.command("vultus-coordinator", "run", self.hub, "--json"),
                cwd=place.folder, env=place.environment, stdout=out, stderr=err,
            )  # fmt: skip

    def has_begun(self) -> bool:
        return bool(self.progress) or self.run_is_over()

    def run_is_over(self) -> bool:
        return self._run is None or self._run.poll() is not None

    def end_run(self, began_s: float, *, before: dict[str, set[str]]) -> Ended:
        assert self._run is not None
        folder = self.places[HUB].folder
        told = (folder / "run.out").read_text()
        lines = [line for line in told.splitlines() if line.startswith("{")]
        answer = json.loads(lines[-1]) if lines else {}
        code = self._run.wait()
        self._run = None
        rows = {site: new_rows(self.site(site), before[site]) for site in SITES}
        told += (folder / "run.err").read_text()
        return Ended(code, answer, told, time.monotonic() - began_s, rows)

    def run(self, *faults: Callable[[], object], within_s: float) -> Ended:
        """One run, with things done to it one after the other, to its end.

        Args:
            faults: Each is called when the one before has returned, the first when the run has
                begun: a coordinator that is away when it is asked for a run says so and no more.
            within_s: The bound after which the run counts as hung.
        """
        before = {site: release_ids(self.site(site)) for site in SITES}
        began_s = time.monotonic()
        self.begin_run()
        try:
            self.wait_for(self.has_begun, seconds=within_s, what="the beginning of the run")
            for fault in faults:
                fault()
            left_s = within_s - (time.monotonic() - began_s)
            self.wait_for(self.run_is_over, seconds=left_s, what="the end of the run")
        except BaseException:
            if self._run is not None:
                self._run.kill()
                self._run.wait()
            raise
        return self.end_run(began_s, before=before)


def _words(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return " ".join(process.cmdline())
    return ""


def open_ledger(site: Site) -> PrivacyLedger:
    return PrivacyLedger(site.paths.ledger, key=site.ledger_key)


def release_ids(site: Site) -> set[str]:
    with contextlib.closing(open_ledger(site)) as ledger:
        return {row.release_id for row in ledger.releases()}


def new_rows(site: Site, before: set[str]) -> list[tuple[object, ...]]:
    """What a run charged, without what differs from run to run; checked to be whole and capped."""
    with contextlib.closing(open_ledger(site)) as ledger:
        assert ledger.verify() == []
        rows = [row for row in ledger.releases() if row.release_id not in before]
    assert site.policy is not None
    assert all(row.epsilon_after <= site.policy.max_epsilon_per_subject for row in rows)
    return [_terms(row) for row in rows]


def spent_after(site: Site, rows: Sequence[tuple[object, ...]], *, rounds: int) -> float:
    """Epsilon of a training subject of the site after so many more rounds of a run like this."""
    _, _, noise, _, _, cohort = next(row for row in rows if row[1] == "train")
    assert isinstance(noise, float)
    with contextlib.closing(open_ledger(site)) as ledger:
        made = sum(row.cohort == cohort for row in ledger.releases())
    delta = site.consortium.config.privacy.delta
    return epsilon_spent(noise, delta, steps=made + rounds)


def _terms(row: Reservation) -> tuple[object, ...]:
    place = row.release_id.split("/", 1)[1]
    return place, row.purpose, row.noise_multiplier, row.steps, row.subjects, row.cohort


@contextlib.contextmanager
def serve_consortium(
    root: Path, config: ConsortiumConfig, *, cap: float = CAP, sites: Sequence[str] = SITES
) -> Iterator[Consortium]:
    """A founded consortium whose processes are up and whose sites are online."""
    with contextlib.ExitStack() as stack:
        places, network, port = stack.enter_context(places_in(root, (HUB, *SITES)))
        folders = {name: places[name].folder / "site" / "state" for name in SITES}
        folders[HUB] = places[HUB].folder / HUB
        disks = stack.enter_context(small_disks(folders))
        found(places, config, port=port, cap=cap)
        consortium = Consortium(places, services_of(places, port=port), network, disks)
        try:
            consortium.services[HUB].start()
            for name in sites:
                consortium.services[name].start()
            consortium.wait_for(consortium.all_connected, seconds=180, what="all being connected")
            yield consortium
        finally:
            for service in reversed(consortium.services.values()):
                service.stop()
