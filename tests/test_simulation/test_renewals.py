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
from typing import Any

import pytest
from hosted_consortium import Consortium, carry, wait_for
from network_hosts import build_network, needs_hosts

NAMES = ("north", "south", "west")
ROUNDS = 200
"""More than there is time for: each run is stopped when everything was done to it."""

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
        after: Report of a run after the new authority has taken over.
        rounds_at: Round that was under way when something had just been done.
    """

    answer: Any = None
    report: Any = None
    after: Any = None
    rounds_at: dict[str, int] = field(default_factory=dict)

    def note(self, what: str) -> None:
        self.rounds_at[what] = self.round

    @property
    def round(self) -> int:
        files = sorted(self.folder.glob("runs/run-*/progress.json"))
        return int(json.loads(files[-1].read_text())["server_round"]) if files else 0

    def wait_for_round(self, number: int) -> None:
        wait_for(lambda: self.round >= number, seconds=180)

    def begin_run(self) -> subprocess.Popen[str]:
        before = len(list(self.folder.glob("runs/run-*")))
        words = self.hub.command("vultus-coordinator", "run", "hub", "--json")
        run = subprocess.Popen(
            words, cwd=self.hub.folder, env=self.hub.environment, stdout=subprocess.PIPE, text=True
        )
        begun = self.folder / "runs" / f"run-{before + 1:04d}" / "progress.json"
        wait_for(begun.exists, seconds=60)
        return run

    def stop_run(self, run: subprocess.Popen[str]) -> tuple[Any, Any]:
        """Answer and report of a run that is stopped now."""
        self.coordinator("stop", "hub")
        told, _ = run.communicate(timeout=120)
        answer = json.loads(told.strip().splitlines()[-1])
        report = self.folder / "runs" / answer["run_id"] / "report.json"
        wait_for(report.exists, seconds=60)
        return answer, json.loads(report.read_text())

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
            run = found.begin_run()
            found.wait_for_round(4)
            _, found.after = found.stop_run(run)
        yield found


def change_during_a_run(found: Changed, stack: ExitStack) -> None:
    run = found.begin_run()
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
    found.wait_for_round(found.round + 3)
    found.answer, found.report = found.stop_run(run)


def renew_key(found: Changed, name: str) -> None:
    host, folder = found.site(name)
    host.call("vultus-site", "renew-key", name)
    carry(folder / "keys" / "renewal.json", found.hub.folder / "renewal.json")
    found.coordinator("renew-site", "hub", name, "renewal.json")


def participants(changed: Changed) -> dict[int, set[str]]:
    return {one["server_round"]: set(one["participants"]) for one in changed.report["rounds"]}


def last_round(changed: Changed) -> int:
    return max(participants(changed))


def test_the_run_goes_on_until_it_is_stopped(changed: Changed) -> None:
    assert changed.answer["status"] == "stopped"
    assert last_round(changed) > changed.rounds_at["authority begun"]
    assert all(participants(changed).values())


def test_a_site_that_joins_takes_part_in_the_same_run(changed: Changed) -> None:
    came = [number for number, sites in participants(changed).items() if "west" in sites]
    assert came
    assert min(came) <= changed.rounds_at["west joined"] + 2
    assert max(came) == last_round(changed)


def test_a_removed_site_is_out_within_one_round(changed: Changed) -> None:
    there = [number for number, sites in participants(changed).items() if "south" in sites]
    assert max(there) <= changed.rounds_at["south removed"]


def test_a_site_with_a_new_key_goes_on_with_it(changed: Changed) -> None:
    there = [number for number, sites in participants(changed).items() if "north" in sites]
    assert max(there) == last_round(changed)
    host, folder = changed.site("north")
    assert not (folder / "keys" / "identity.next").exists()
    checked = host.call("vultus-site", "audit", "north", "--verify", "--json").stdout
    assert json.loads(checked.strip().splitlines()[-1])["whole"] is True


def test_the_new_authority_takes_over_without_a_kit(changed: Changed) -> None:
    last = changed.after["rounds"][-1]
    assert set(last["participants"]) == {"north", "west"}
    trusted = [changed.site(name)[1] / "state" / "ca.crt" for name in ("north", "west")]
    new = (changed.folder / "pki" / "ca.crt").read_bytes()
    assert [file.read_bytes() for file in trusted] == [new, new]


def test_every_release_was_charged_once(changed: Changed) -> None:
    for name in ("north", "west"):
        host, _ = changed.site(name)
        told = host.call("vultus-site", "budget", name, "--json").stdout
        releases = json.loads(told.strip().splitlines()[-1])["releases"]
        trained = [one for one in releases if one["purpose"] == "train"]
        reports = (changed.report, changed.after)
        took_part = sum(name in one["participants"] for r in reports for one in r["rounds"])
        # The answer to a question that was out when a run was stopped is in no report.
        assert took_part <= len(trained) <= took_part + len(reports)
