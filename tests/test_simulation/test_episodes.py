"""Events are alternating renewal processes with the hazards and lengths of the file."""

import numpy as np
import pytest
from scipy import stats

from simulation.behaviour import blink_starts
from simulation.effect_file import PARAMETERS, PROCESSES, shipped_effects
from simulation.episodes import (
    DURATION_SPREAD,
    GAP,
    EventShape,
    draw_events,
    run_process,
    simulate_events,
)

PERSONS, CLIPS, DURATION_S = 4000, 4, 60.0


@pytest.fixture(scope="module")
def events():
    """A minute of persons whom nothing moves."""
    draws = draw_events(np.random.default_rng(2), PERSONS, clips=CLIPS)
    z = {name: np.zeros(PERSONS, np.float32) for name in PARAMETERS}
    return simulate_events(z, draws, shipped_effects(), gaps_per_min=np.ones(PERSONS, np.float32))


def test_events_are_poisson_given_the_time_at_rest(events):
    for kind in PROCESSES:
        hazard = getattr(shipped_effects().processes, kind).per_min.value
        expected = events[kind].rest_s(DURATION_S) * hazard / 60.0
        counts = events[kind].counts(DURATION_S)
        total, mean = counts.sum(), expected.sum()
        assert abs(total - mean) < 3.5 * np.sqrt(mean), kind
        spread = ((counts - expected) ** 2).sum() / mean
        assert spread == pytest.approx(1.0, abs=0.12), kind


def test_times_of_rest_are_exponential_and_times_at_the_height_lognormal(events):
    smiles = events["smile"]
    process = shipped_effects().processes.smile
    rest = (smiles.onset_s[:, 1:] - smiles.end_s[:, :-1])[:, :3].ravel()
    assert stats.kstest(rest, "expon", args=(0, 60 / process.per_min.value)).pvalue > 0.001
    hold = np.log(smiles.hold_s[:, :3].ravel() / process.duration_s.value)
    assert stats.kstest(hold, "norm", args=(0, DURATION_SPREAD)).pvalue > 0.001


def test_no_event_begins_before_the_last_of_its_kind_is_over(events):
    for kind, episodes in events.items():
        assert (episodes.onset_s[:, 1:] >= episodes.end_s[:, :-1] - 1e-3).all(), kind


def test_a_recording_starts_as_it_goes_on(events):
    """The part of persons who smile or talk is that of the long run from the first second."""
    for kind in ("smile", "talk", "gaze"):
        process = getattr(shipped_effects().processes, kind)
        length = (
            process.duration_s.value * np.exp(DURATION_SPREAD**2 / 2) + 2 * process.ramp_s.value
        )
        long_run = length / (length + 60 / process.per_min.value)
        for at_s in (0.5, 59.5):
            busy = (events[kind].onset_s <= at_s) & (events[kind].end_s > at_s)
            part = busy.any(axis=1).mean()
            error = np.sqrt(long_run * (1 - long_run) / PERSONS)
            assert abs(part - long_run) < 4 * error + 0.005, (kind, at_s)


def test_enough_events_are_drawn_to_reach_the_end_at_the_highest_hazard():
    draws = draw_events(np.random.default_rng(3), 3000, clips=CLIPS)
    busiest = run_process("nod", draws, EventShape(20.0, 0.05, 1.0, 0.1))
    assert (busiest.end_s[:, -1] > DURATION_S).mean() > 0.95


def test_a_hazard_of_zero_gives_no_event():
    draws = draw_events(np.random.default_rng(4), 200, clips=CLIPS)
    none = run_process(GAP, draws, EventShape(0.0, 1.0, 1.0, 0.1))
    assert none.counts(DURATION_S).sum() == 0
    assert not none.course(600).any()
    np.testing.assert_array_equal(none.rest_s(DURATION_S), DURATION_S)


def test_a_course_shows_each_event_at_its_time_and_height(events):
    smiles = events["smile"]
    course = smiles.course(600)
    first = np.argmax(smiles.within(40.0), axis=1)
    rows = np.flatnonzero(smiles.within(40.0).any(axis=1))[:200]
    for row in rows:
        onset, hold = smiles.onset_s[row, first[row]], smiles.hold_s[row, first[row]]
        middle = round((onset + smiles.ramp_s[row, 0] + hold / 2) * 10)
        assert course[row, middle] == pytest.approx(smiles.size[row, first[row]], abs=1e-4)


def test_blinks_are_poisson_and_faster_in_talk():
    effects, shape = shipped_effects(), (400, 600)
    uniform = np.random.default_rng(5).random(shape, dtype=np.float32)
    calm = np.zeros(shape[0], np.float32)
    silent = blink_starts(calm, uniform, np.zeros(shape, np.float32), effects).sum()
    talking = blink_starts(calm, uniform, np.ones(shape, np.float32), effects).sum()
    minutes = shape[0] * shape[1] / 600.0
    assert abs(silent - 17.0 * minutes) < 4 * np.sqrt(17.0 * minutes)
    assert talking / silent == pytest.approx(1.5, abs=0.05)
