"""Sites come, go and renew their keys, and the authority changes, while a run goes on.

Real processes on hosts of their own, nothing but what the manuals say; nobody restarts the service
of a site that is not concerned.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hosted_consortium import Consortium, carry, wait_for
from network_hosts import build_network, needs_hosts

NAMES = ("north", "south", "west")
ROUNDS = 24

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    needs_hosts,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="separate hosts: needs nginx"),
]


@dataclass
class Changed(Consortium):
    """What the tests look at afterwards.

    Attributes:
        answer: Of the run during which all changed.
        report: Of that run.
        after: Answer of a run after the new authority has taken over.
        rounds_at: Round that was under way when something had just been done.
        starts: How often a site's service had begun, at the end.
    """

    answer: Any = None
    report: Any = None
    after: Any = None
    rounds_at: dict[str, int] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)

    def note(self, what: str) -> None:
        self.rounds_at[what] = self.round

    @property
    def round(self) -> int:
        files = sorted(self.folder.glob("runs/run-*/progress.json"))
        return int(json.loads(files[-1].read_text())["server_round"]) if files else 0

    def wait_for_round(self, number: int) -> None:
        wait_for(lambda: self.round >= number, seconds=120)

    def coordinator(self, *words: object) -> None:
        self.hub.call("vultus-coordinator", *words)


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Changed]:
    root = tmp_path_factory.mktemp("renewals")
    with build_network(("coordinator", *NAMES), root) as network:
        found = Changed(network, NAMES, ROUNDS)
        found.found(quorum=1, evaluate_every=ROUNDS)
        for name in NAMES[:2]:
            found.admit(name)
            found.join(name)
        with ExitStack() as stack:
            stack.enter_context(found.hub.serve("vultus-coordinator", "start", "hub"))
            found.wait_for_port()
            for name in NAMES[:2]:
                stack.enter_context(found.site(name)[0].serve("vultus-site", "start", name))
            found.wait_until_online(*NAMES[:2])
            change_during_a_run(found, stack)
            found.coordinator("renew-authority", "hub", "--finish")
            found.after = found.run_once()
            found.starts = {
                name: found.said(name).count("looking for the coordinator")
                for name in ("north", "west")
            }
        yield found


def change_during_a_run(found: Changed, stack: ExitStack) -> None:
    words = found.hub.command("vultus-coordinator", "run", "hub", "--json")
    run = subprocess.Popen(
        words, cwd=found.hub.folder, env=found.hub.environment, stdout=subprocess.PIPE, text=True
    )
    found.wait_for_round(2)
    found.admit("west")
    found.join("west")
    stack.enter_context(found.site("west")[0].serve("vultus-site", "start", "west"))
    found.wait_until_online("west")
    found.note("west joined")
    found.wait_for_round(found.round + 2)
    renew_key(found, "north")
    found.note("north renewed")
    found.wait_for_round(found.round + 2)
    found.coordinator("remove-site", "hub", "south")
    found.note("south removed")
    found.wait_for_round(found.round + 2)
    found.coordinator("renew-authority", "hub")
    found.note("authority begun")
    told, _ = run.communicate(timeout=300)
    found.answer = json.loads(told.strip().splitlines()[-1])
    report = Path(found.answer["report"]).with_name("report.json")
    found.report = json.loads(report.read_text())


def renew_key(found: Changed, name: str) -> None:
    host, folder = found.site(name)
    host.call("vultus-site", "renew-key", name)
    carry(folder / "keys" / "renewal.json", found.hub.folder / "renewal.json")
    found.coordinator("renew-site", "hub", name, "renewal.json")


def participants(changed: Changed) -> dict[int, set[str]]:
    return {one["server_round"]: set(one["participants"]) for one in changed.report["rounds"]}


def test_the_run_goes_on_to_its_end(changed: Changed) -> None:
    assert changed.answer["status"] == "completed"
    assert len(changed.report["rounds"]) == ROUNDS
    assert all(participants(changed).values())


def test_a_site_that_joins_takes_part_in_the_same_run(changed: Changed) -> None:
    came = [number for number, sites in participants(changed).items() if "west" in sites]
    assert came
    assert min(came) <= changed.rounds_at["west joined"] + 2
    assert max(came) == ROUNDS


def test_a_removed_site_is_out_within_one_round(changed: Changed) -> None:
    there = [number for number, sites in participants(changed).items() if "south" in sites]
    assert max(there) <= changed.rounds_at["south removed"]


def test_a_site_with_a_new_key_goes_on_with_it(changed: Changed) -> None:
    there = [number for number, sites in participants(changed).items() if "north" in sites]
    assert max(there) == ROUNDS
    host, folder = changed.site("north")
    assert not (folder / "keys" / "identity.next").exists()
    checked = host.call("vultus-site", "audit", "north", "--verify", "--json").stdout
    assert json.loads(checked.strip().splitlines()[-1])["whole"] is True


def test_the_new_authority_takes_over_without_a_kit(changed: Changed) -> None:
    assert changed.after["status"] == "completed", changed.after
    trusted = [changed.site(name)[1] / "state" / "ca.crt" for name in ("north", "west")]
    new = (changed.folder / "pki" / "ca.crt").read_bytes()
    assert [file.read_bytes() for file in trusted] == [new, new]


def test_every_release_was_charged_once(changed: Changed) -> None:
    for name in ("north", "west"):
        host, _ = changed.site(name)
        told = host.call("vultus-site", "budget", name, "--json").stdout
        releases = json.loads(told.strip().splitlines()[-1])["releases"]
        trained = [one for one in releases if one["purpose"] == "train"]
        took_part = sum(name in sites for sites in participants(changed).values())
        assert took_part + ROUNDS <= len(trained) <= took_part + ROUNDS + 2
