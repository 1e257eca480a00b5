"""The fault matrix on real processes: whatever is done to a run, it ends as it would have.

Each cell ends with the weights of an undisturbed run or with a refusal that names its reason,
within the documented bounds, and with ledgers that hold each release once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from faulted_consortium import Consortium, Ended, serve_consortium, spent_after
from network_hosts import needs_hosts
from seeded_consortium import HUB, SITES, raise_cap, study_of
from seeded_site import CLOCK_IS_WRONG_BY_S

from client.service.supernode import OLD_SESSION_S
from server.deployment import HEALTHY_WITHIN_S

pytestmark = [pytest.mark.deployment, pytest.mark.slow, pytest.mark.timeout(900)]

ROUNDS = 6
CONFIG = study_of("local", ROUNDS)
BACK_S = max(OLD_SESSION_S, HEALTHY_WITHIN_S)
"""Whatever was killed serves again after this."""
RUN_S = BACK_S + CONFIG.training.round_timeout_s
"""A run of rounds that take a second each ends within this: one round may wait to its bound."""
KILLED = (
    "app", "superlink", "supernode", "superexec", "worker", "proxy", SITES[0], HUB,
)  # fmt: skip
SEED = 20


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    with serve_consortium(tmp_path_factory.mktemp("faults"), CONFIG) as served:
        yield served


@pytest.fixture(scope="module")
def undisturbed(consortium: Consortium) -> Ended:
    ended = consortium.run(within_s=RUN_S)
    assert ended.exit_code == 0, ended.told
    return ended


def check_as_undisturbed(ended: Ended, undisturbed: Ended) -> None:
    assert ended.exit_code == 0, ended.told
    assert ended.digest == undisturbed.digest
    # Every release was charged, and none twice.
    assert ended.rows == undisturbed.rows


def check_as_undisturbed_or_named(ended: Ended, undisturbed: Ended, *, name: str) -> None:
    """The same model, or an end that says why and charged nothing but what was asked."""
    if ended.exit_code == 0:
        check_as_undisturbed(ended, undisturbed)
        return
    assert name in ended.told
    for site, rows in ended.rows.items():
        assert rows == undisturbed.rows[site][: len(rows)]


def pause(consortium: Consortium, seconds: float) -> None:
    """Let time pass, with the service managers at work."""
    end = time.monotonic() + seconds
    consortium.wait_for(lambda: time.monotonic() >= end, seconds=seconds + 5, what="a moment")


def kill_each(
    consortium: Consortium, chance: random.Random, *, round_s: float
) -> Iterator[Callable[[], None]]:
    """Each of the programs killed, at the coordinator or some site, about a round apart."""
    for program in chance.sample(KILLED, len(KILLED)):
        site, wait_s = chance.choice(SITES), chance.uniform(0.0, 2 * round_s)

        def fault(program: str = program, site: str = site, wait_s: float = wait_s) -> None:
            pause(consortium, wait_s)
            consortium.kill(program, site=site)

        yield fault


def test_a_run_goes_on_to_the_same_model_when_everything_is_killed_once(
    consortium: Consortium, undisturbed: Ended
) -> None:
    round_s = undisturbed.seconds / ROUNDS
    faults = kill_each(consortium, random.Random(SEED), round_s=round_s)
    ended = consortium.run(*faults, within_s=2 * len(KILLED) * round_s + 2 * RUN_S)
    check_as_undisturbed(ended, undisturbed)


def test_a_second_start_of_site_or_coordinator_changes_nothing(
    consortium: Consortium, undisturbed: Ended
) -> None:
    told = []

    def start_again() -> None:
        consortium.wait_for(lambda: consortium.server_round, seconds=RUN_S, what="round 1")
        for name in (HUB, SITES[0]):
            service = consortium.services[name]
            done = service.call(timeout_s=60)
            told.append((done.returncode, done.stdout + done.stderr))

    ended = consortium.run(start_again, within_s=RUN_S)
    assert [code for code, _ in told] == [1, 1]
    assert all("already being served" in text for _, text in told)
    check_as_undisturbed(ended, undisturbed)


@needs_hosts
def test_a_slow_and_lossy_line_that_is_cut_for_a_while_delays_a_run_and_no_more(
    consortium: Consortium, undisturbed: Ended
) -> None:
    assert consortium.network is not None
    wire = consortium.network.wire

    def cut() -> None:
        consortium.wait_for(lambda: consortium.server_round, seconds=RUN_S, what="round 1")
        wire.cut.add(SITES[1])
        pause(consortium, 10.0)
        wire.cut.clear()

    wire.latency_s, wire.loss = 0.2, 0.05
    try:
        ended = consortium.run(cut, within_s=2 * RUN_S)
    finally:
        wire.latency_s, wire.loss = 0.0, 0.0
        wire.cut.clear()
    check_as_undisturbed(ended, undisturbed)


def test_a_budget_that_ends_in_the_middle_of_a_run_ends_it_by_name(
    consortium: Consortium, undisturbed: Ended
) -> None:
    site = consortium.site(SITES[0])
    caps = [spent_after(site, undisturbed.rows[site.id], rounds=n) for n in (2, 3)]
    raise_cap(site, sum(caps) / 2)
    try:
        ended = consortium.run(within_s=RUN_S)
    finally:
        raise_cap(site, 1000.0)
    assert ended.exit_code != 0
    assert f"{site.id} refused (budget" in ended.told
    trained = [row for row in ended.rows[site.id] if row[1] == "train"]
    expected = [row for row in undisturbed.rows[site.id] if row[1] == "train"]
    assert trained == expected[:2]
    # The others were asked for the third round too, and no further.
    for other in SITES[1:]:
        assert len([row for row in ended.rows[other] if row[1] == "train"]) == 3


@needs_hosts
def test_a_full_disk_at_a_site_costs_the_run_or_nothing_and_no_budget_twice(
    consortium: Consortium, undisturbed: Ended
) -> None:
    site_id = SITES[2]

    def fill() -> None:
        consortium.wait_for(lambda: consortium.server_round > 1, seconds=RUN_S, what="round 2")
        consortium.disks[site_id].fill()

    try:
        ended = consortium.run(fill, within_s=RUN_S)
    finally:
        consortium.disks[site_id].free()
    check_as_undisturbed_or_named(ended, undisturbed, name=site_id)


@needs_hosts
def test_a_full_disk_at_the_coordinator_stops_a_run_until_there_is_room(
    consortium: Consortium, undisturbed: Ended
) -> None:
    def fill_for_a_while() -> None:
        consortium.wait_for(lambda: consortium.server_round > 1, seconds=RUN_S, what="round 2")
        consortium.disks[HUB].fill()
        pause(consortium, 5.0)
        consortium.disks[HUB].free()

    try:
        ended = consortium.run(fill_for_a_while, within_s=2 * RUN_S)
    finally:
        consortium.disks[HUB].free()
    check_as_undisturbed_or_named(ended, undisturbed, name="did not answer")


@pytest.mark.parametrize(("shift_s", "works"), [(3600, False), (-60, True)])
def test_a_clock_that_is_wrong_is_named_and_one_that_is_a_little_late_does_no_harm(
    consortium: Consortium, undisturbed: Ended, shift_s: int, *, works: bool
) -> None:
    service = consortium.services[SITES[0]]
    service.stop()
    service.environment = {CLOCK_IS_WRONG_BY_S: str(shift_s)}
    try:
        if not works:
            done = service.call(timeout_s=BACK_S)
            assert done.returncode == 1
            assert "clock" in done.stdout + done.stderr
            return
        service.start()
        consortium.wait_for(consortium.all_connected, seconds=BACK_S, what="being connected")
        check_as_undisturbed(consortium.run(within_s=RUN_S), undisturbed)
    finally:
        service.stop()
        service.environment = {}
        service.start()
        consortium.wait_for(consortium.all_connected, seconds=BACK_S, what="being connected")


def test_rows_that_were_charged_twice_are_noticed(undisturbed: Ended) -> None:
    twice = {site: rows + rows[-1:] for site, rows in undisturbed.rows.items()}
    with pytest.raises(AssertionError):
        check_as_undisturbed(Ended(0, undisturbed.answer, "", 1.0, twice), undisturbed)
    places = [row[0] for row in undisturbed.rows[SITES[0]]]
    assert all(a != b for a, b in pairwise(sorted(map(str, places))))
