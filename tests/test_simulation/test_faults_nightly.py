"""Every program killed at many moments, alone: too long for each change, so it runs at night."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from faulted_consortium import Consortium, Ended, serve_consortium
from network_hosts import needs_hosts
from seeded_consortium import HUB, SITES, study_of
from test_faults import (
    BACK_S,
    CONFIG,
    KILLED,
    RUN_S,
    check_as_undisturbed,
    check_as_undisturbed_or_named,
    pause,
)

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.slow,
    pytest.mark.nightly,
    pytest.mark.timeout(1200),
]

POINTS = 7
"""Moments for each program: one before the first round, the others anywhere in the run."""
CUT_S = 100.0
"""Longer than the coordinator keeps a silent site's session."""


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    with serve_consortium(tmp_path_factory.mktemp("nightly"), CONFIG) as served:
        yield served


@pytest.fixture(scope="module")
def undisturbed(consortium: Consortium) -> Ended:
    ended = consortium.run(within_s=RUN_S)
    assert ended.exit_code == 0, ended.told
    return ended


@pytest.mark.parametrize("point", range(POINTS))
@pytest.mark.parametrize("program", KILLED)
def test_a_program_may_be_killed_at_any_moment_of_a_run(
    consortium: Consortium, undisturbed: Ended, program: str, point: int
) -> None:
    chance = random.Random(f"{program} {point}")
    site = chance.choice(SITES)
    moment_s = chance.uniform(0.0, undisturbed.seconds) if point else 0.0

    def kill() -> None:
        pause(consortium, moment_s)
        if not consortium.kill(program, site=site):
            # A server app is not there before a run begins, nor after its end.
            assert program == "app"

    check_as_undisturbed(consortium.run(kill, within_s=2 * RUN_S), undisturbed)


@pytest.mark.parametrize("seed", range(3))
def test_a_run_survives_several_deaths_of_the_same_program(
    consortium: Consortium, undisturbed: Ended, seed: int
) -> None:
    chance = random.Random(seed)
    program = chance.choice(("app", "superlink", HUB))

    def kill() -> None:
        pause(consortium, chance.uniform(1.0, 15.0))
        consortium.kill(program)

    check_as_undisturbed(consortium.run(kill, kill, kill, within_s=4 * RUN_S), undisturbed)


@needs_hosts
@pytest.mark.parametrize("party", [HUB, SITES[0]])
def test_a_line_that_is_cut_for_longer_than_a_session_is_kept(
    consortium: Consortium, undisturbed: Ended, party: str
) -> None:
    assert consortium.network is not None
    wire = consortium.network.wire

    def cut() -> None:
        consortium.wait_for(lambda: consortium.server_round, seconds=RUN_S, what="round 1")
        wire.cut.add(party)
        pause(consortium, CUT_S)
        wire.cut.clear()

    try:
        ended = consortium.run(cut, within_s=CUT_S + 2 * RUN_S)
    finally:
        wire.cut.clear()
    check_as_undisturbed_or_named(ended, undisturbed, name="did not answer")
    consortium.wait_for(consortium.all_online, seconds=2 * BACK_S, what="being online")


@pytest.fixture(scope="module")
def summed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    with serve_consortium(tmp_path_factory.mktemp("summed"), study_of("distributed", 4)) as served:
        yield served


@pytest.mark.parametrize("program", KILLED)
def test_secure_sums_survive_the_death_of_a_program_within_what_was_paid_for(
    summed: Consortium, program: str
) -> None:
    """A lost site costs an attempt with noise of its own, so the weights may differ by that."""
    chance = random.Random(program)

    def kill() -> None:
        pause(summed, chance.uniform(0.0, 15.0))
        summed.kill(program, site=SITES[0])

    ended = summed.run(kill, within_s=2 * RUN_S)
    config = summed.site(SITES[0]).consortium.config
    for rows in ended.rows.values():
        trained = [row for row in rows if row[1] == "train"]
        assert len(set(rows)) == len(rows)
        assert len(trained) <= config.training.rounds + config.privacy.retries
    if ended.exit_code == 0:
        assert ended.answer["rounds"] == config.training.rounds
        assert ended.answer["epsilon"]["sum"] <= config.privacy.target_epsilon
    else:
        assert "did not answer" in ended.told or "refused" in ended.told
