"""The ledger lets exactly the affordable releases through, whatever happens around it."""

import math
import multiprocessing
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.accounting import calibrate_noise_multiplier, epsilon_spent
from privacy.ledger import YEAR, BudgetExceeded, LedgerError, PrivacyLedger

DELTA = 1e-3
CAP = 3.0
SUBJECTS = tuple(f"subject-{number:03}" for number in range(20))
NOISE = calibrate_noise_multiplier(CAP, DELTA, steps=20)
KEY_BYTES = bytes(range(32))


def open_ledger(path, key=KEY_BYTES):
    return PrivacyLedger(path, key=Ed25519PrivateKey.from_private_bytes(key))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    with open_ledger(path) as opened:
        yield opened


def reserve(ledger, release_id, subjects=SUBJECTS, **changes):
    terms = {
        "noise_multiplier": NOISE,
        "sample_rate": 1.0,
        "steps": 1,
        "delta": DELTA,
        "purpose": "run 1",
        "cap_epsilon": CAP,
    }
    return ledger.reserve(release_id, subjects, **{**terms, **changes})


def reserve_until_refused(path, name, attempts=40):
    done = 0
    with open_ledger(path) as ledger:
        for attempt in range(attempts):
            try:
                reserve(ledger, f"{name}-{attempt}")
            except BudgetExceeded:
                return done
            done += 1
    return done


def raw(path, *statements):
    """Change the file as an intruder would, past the triggers."""
    database = sqlite3.connect(path)
    for trigger in ("releases_stay", "releases_keep", "participation_stays", "participation_keeps"):
        database.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()


def test_the_cap_lets_exactly_the_closed_form_number_of_rounds_through_over_reopening(path):
    done = sum(reserve_until_refused(path, f"opening-{n}", attempts=7) for n in range(4))
    assert done == 20
    assert epsilon_spent(NOISE, DELTA, steps=20) <= CAP < epsilon_spent(NOISE, DELTA, steps=21)


def test_three_processes_at_once_pass_the_same_cap_together(path):
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        done = pool.starmap(reserve_until_refused, [(path, f"process-{n}") for n in range(3)])
    assert sum(done) == 20
    with open_ledger(path) as ledger:
        assert ledger.verify() == []
        assert len(ledger.releases()) == 20


def test_a_batch_of_steps_costs_what_the_single_steps_cost(ledger):
    reserve(ledger, "half", steps=10)
    for n in range(10):
        reserve(ledger, f"single-{n}")
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "one more")
    assert ledger.spent(DELTA) == pytest.approx(epsilon_spent(NOISE, DELTA, steps=20))


def test_a_refusal_says_what_is_left_and_names_no_subject(ledger):
    reserve(ledger, "most", steps=18)
    with pytest.raises(BudgetExceeded) as caught:
        reserve(ledger, "too much", steps=5)
    refusal = caught.value
    assert refusal.spent == pytest.approx(epsilon_spent(NOISE, DELTA, steps=18))
    assert refusal.requested == pytest.approx(epsilon_spent(NOISE, DELTA, steps=23))
    assert refusal.remaining == pytest.approx(CAP - refusal.spent)
    assert "subject-0" not in str(refusal)
    assert len(ledger.releases()) == 1
    reserve(ledger, "just right", steps=2)


def test_asking_again_for_the_same_release_charges_nothing(ledger):
    first = reserve(ledger, "round 1")
    again = reserve(ledger, "round 1", subjects=SUBJECTS[::-1], cap_epsilon=2.0)
    assert again == first
    assert len(ledger.releases()) == 1


def test_a_paid_release_is_returned_even_when_the_budget_is_gone(ledger):
    first = reserve(ledger, "everything", steps=20)
    assert reserve(ledger, "everything", steps=20) == first


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multiplier": NOISE * 2},
        {"sample_rate": 0.5},
        {"steps": 2},
        {"delta": 1e-4},
        {"purpose": "run 2"},
        {"subjects": SUBJECTS[1:]},
    ],
)
def test_the_same_name_with_other_terms_is_refused(ledger, changes):
    reserve(ledger, "round 1")
    with pytest.raises(LedgerError, match="other terms"):
        reserve(ledger, "round 1", **changes)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"noise_multiplier": math.nan}, "noise_multiplier"),
        ({"noise_multiplier": math.inf}, "noise_multiplier"),
        ({"sample_rate": 0.0}, "sample_rate"),
        ({"sample_rate": 1.1}, "sample_rate"),
        ({"sample_rate": math.nan}, "sample_rate"),
        ({"steps": 0}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"delta": 0.0}, "delta"),
        ({"delta": math.nan}, "delta"),
        ({"cap_epsilon": math.inf}, "cap_epsilon"),
        ({"cap_epsilon": math.nan}, "cap_epsilon"),
        ({"cap_epsilon_per_year": 0.0}, "cap_epsilon_per_year"),
        ({"cap_epsilon_per_year": math.nan}, "cap_epsilon_per_year"),
        ({"cap_epsilon_per_year": math.inf}, "cap_epsilon_per_year"),
        ({"subjects": ()}, "subjects"),
        ({"release_id": ""}, "release_id"),
    ],
)
def test_terms_without_meaning_are_refused_and_leave_nothing(ledger, changes, name):
    with pytest.raises(LedgerError, match=f"Expected {name}"):
        reserve(ledger, changes.pop("release_id", "round 1"), **changes)
    assert ledger.releases() == []


def test_hardly_any_noise_is_over_budget_rather_than_an_accident(ledger):
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "round 1", noise_multiplier=1e-200)


def test_a_new_name_for_the_cohort_resets_nothing_and_new_subjects_start_fresh(ledger):
    reserve(ledger, "first study", steps=20)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "second study", purpose="another", subjects=("newcomer", SUBJECTS[7]))
    fresh = reserve(ledger, "third study", subjects=("newcomer",), steps=20)
    assert fresh.epsilon_after == pytest.approx(CAP, abs=1e-6)


def test_the_worst_subject_decides_in_whatever_order_the_file_gives_them(ledger):
    for number, subject in enumerate(SUBJECTS):
        reserve(ledger, subject, subjects=(subject,), steps=1 + (7 * number) % 19)
    assert ledger.spent(DELTA) == pytest.approx(epsilon_spent(NOISE, DELTA, steps=19))
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "all", steps=2)
    reserve(ledger, "all", steps=1)


def test_a_repeated_subject_counts_once(ledger):
    assert reserve(ledger, "round 1", subjects=("a", "a", "b")).subjects == 2


@pytest.mark.parametrize("few", [SUBJECTS[:2], SUBJECTS[9:11], SUBJECTS[18:], SUBJECTS[4:5]])
def test_the_worst_subject_decides(ledger, few):
    reserve(ledger, "few", subjects=few, steps=5)
    both = reserve(ledger, "all", steps=1)
    assert both.epsilon_after == pytest.approx(epsilon_spent(NOISE, DELTA, steps=6))
    assert ledger.spent(DELTA) == both.epsilon_after


def test_subsampled_releases_join_the_history_of_full_ones(ledger):
    reserve(ledger, "full", steps=5)
    sampled = reserve(ledger, "sampled", steps=10, sample_rate=0.2, noise_multiplier=2.0)
    alone = epsilon_spent(2.0, DELTA, steps=10, sample_rate=0.2)
    assert sampled.epsilon_after > max(alone, epsilon_spent(NOISE, DELTA, steps=5))
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "too much", steps=18)


class Clock:
    """A clock that shows what it is told to."""

    def __init__(self):
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self):
        return self.now

    def turn(self, **shift):
        self.now += timedelta(**shift)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def yearly(path, clock):
    """A ledger of which a year takes ten rounds of the twenty that the cap takes in all."""
    key = Ed25519PrivateKey.from_private_bytes(KEY_BYTES)
    with PrivacyLedger(path, key=key, clock=clock) as opened:
        yield opened


YEARLY = epsilon_spent(NOISE, DELTA, steps=10) * (1 + 1e-9)


def reserve_in_year(ledger, release_id, **changes):
    return reserve(ledger, release_id, cap_epsilon_per_year=YEARLY, **changes)


def test_a_year_takes_what_its_own_cap_allows_and_the_next_year_the_rest(yearly, clock):
    for n in range(10):
        clock.turn(days=30)
        reserve_in_year(yearly, f"round {n}")
    with pytest.raises(BudgetExceeded) as caught:
        reserve_in_year(yearly, "one more")
    assert caught.value.rule == "max_epsilon_per_year"
    assert caught.value.cap == YEARLY
    assert caught.value.spent == pytest.approx(YEARLY)
    assert "365 days" in str(caught.value)
    assert yearly.spent(DELTA, within=YEAR) == pytest.approx(YEARLY)
    # The window rolls: a release that is a year old makes room for one.
    clock.turn(days=365 - 9 * 30, microseconds=1)
    reserve_in_year(yearly, "a year after the first")
    with pytest.raises(BudgetExceeded):
        reserve_in_year(yearly, "and another")


def test_the_cap_over_everything_outlasts_every_year(yearly, clock):
    for n in range(2):
        reserve_in_year(yearly, f"year {n}", steps=10)
        clock.turn(days=366)
    assert yearly.spent(DELTA, within=YEAR) == 0
    with pytest.raises(BudgetExceeded) as caught:
        reserve_in_year(yearly, "third year")
    assert caught.value.rule == "max_epsilon_per_subject"
    assert "365" not in str(caught.value)


def test_a_refused_year_leaves_nothing_and_without_the_cap_nothing_is_refused(yearly):
    reserve_in_year(yearly, "ten", steps=10)
    with pytest.raises(BudgetExceeded):
        reserve_in_year(yearly, "eleven")
    assert len(yearly.releases()) == 1
    reserve(yearly, "eleven")


@pytest.mark.parametrize("back", [1, 300, 365, 366, 4000])
def test_a_clock_set_back_gives_nothing_back(yearly, clock, back):
    reserve_in_year(yearly, "five", steps=5)
    clock.turn(days=-back)
    reserve_in_year(yearly, "five more", steps=5)
    with pytest.raises(BudgetExceeded):
        reserve_in_year(yearly, "at the wrong time")
    clock.turn(days=back)
    with pytest.raises(BudgetExceeded):
        reserve_in_year(yearly, "at the right time again")


def test_a_release_under_a_clock_set_back_does_not_age_when_the_clock_is_right_again(yearly, clock):
    """Its row would lie a year back, outside of the window, if it carried the wrong time."""
    reserve_in_year(yearly, "first")
    clock.turn(days=-364)
    reserve_in_year(yearly, "nine", steps=9)
    clock.turn(days=364 + 10)
    assert yearly.spent(DELTA, within=YEAR) == pytest.approx(YEARLY)
    times = [row.reserved_at for row in yearly.releases()]
    assert times == sorted(times)


def test_a_clock_that_was_ahead_for_a_while_forgets_nothing_once_it_is_right(yearly, clock):
    reserve_in_year(yearly, "five", steps=5)
    clock.turn(days=800)
    reserve_in_year(yearly, "five ahead", steps=5)
    clock.turn(days=-800)
    with pytest.raises(BudgetExceeded):
        reserve_in_year(yearly, "back in the present")


def test_the_window_counts_each_subject_by_itself(yearly, clock):
    reserve_in_year(yearly, "some", subjects=SUBJECTS[:5], steps=6)
    clock.turn(days=200)
    reserve_in_year(yearly, "all", steps=4)
    clock.turn(days=200)
    # Only the second release is younger than a year, for everybody.
    last = reserve_in_year(yearly, "all again", steps=6)
    assert last.epsilon_after == pytest.approx(epsilon_spent(NOISE, DELTA, steps=16))
    with pytest.raises(BudgetExceeded):
        reserve_in_year(yearly, "too much", subjects=SUBJECTS[10:11])


def test_reservations_are_found_by_the_start_of_their_name(ledger):
    for name in ("1/1/train/a", "1/10/train/b", "1/1/train/c", "10/1/train/d", "1_1/x"):
        reserve(ledger, name)
    assert [r.release_id[-1] for r in ledger.releases_of("1/1/train/")] == ["a", "c"]
    assert ledger.releases_of("1%1") == []


def test_cohorts_that_overlap_add_up_for_whoever_is_in_several(ledger):
    """Against a sum over every subject's own releases, row by row."""
    cohorts = [SUBJECTS[:8], SUBJECTS[4:12], SUBJECTS[:8], SUBJECTS[6:7], SUBJECTS]
    steps = dict.fromkeys(SUBJECTS, 0)
    for number, cohort in enumerate(cohorts):
        reserve(ledger, f"release {number}", subjects=cohort, steps=number + 1)
        for subject in cohort:
            steps[subject] += number + 1
        for subject in SUBJECTS:
            alone = epsilon_spent(NOISE, DELTA, steps=steps[subject]) if steps[subject] else 0
            assert ledger.spent_by(subject, DELTA) == pytest.approx(alone)
        worst = max(steps.values())
        assert ledger.spent(DELTA) == pytest.approx(epsilon_spent(NOISE, DELTA, steps=worst))


def test_no_subject_id_is_on_disk(path):
    with open_ledger(path) as ledger:
        reserve(ledger, "round 1")
    for file in path.parent.iterdir():
        assert b"subject-0" not in file.read_bytes()


def test_another_key_hashes_subjects_otherwise(tmp_path):
    cohorts = []
    for key in (KEY_BYTES, bytes(32)):
        with open_ledger(tmp_path / f"{key[1]}.sqlite", key) as ledger:
            cohorts.append(reserve(ledger, "round 1").cohort)
    assert cohorts[0] != cohorts[1]


def test_the_file_is_private_and_durable(path, ledger):
    reserve(ledger, "round 1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ledger._database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert ledger._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("table", ["releases", "participation"])
@pytest.mark.parametrize("change", ["DELETE FROM {}", "UPDATE {} SET sequence = 9"])
def test_rows_cannot_be_changed_by_mistake(path, ledger, table, change):
    reserve(ledger, "round 1")
    database = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        database.execute(change.format(table))
    database.close()


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE releases SET noise_multiplier = 99 WHERE sequence = 2", "content"),
        ("UPDATE releases SET steps = 0 WHERE sequence = 2", "content"),
        ("UPDATE releases SET purpose = 'x' WHERE sequence = 2", "content"),
        ("UPDATE releases SET epsilon_after = 0 WHERE sequence = 2", "content"),
        ("UPDATE releases SET signature = zeroblob(64) WHERE sequence = 2", "signature"),
        ("UPDATE releases SET previous = hash WHERE sequence = 2", "follow"),
        ("DELETE FROM releases WHERE sequence = 2", "missing"),
        ("DELETE FROM releases WHERE sequence = 1", "missing"),
        ("DELETE FROM participation WHERE sequence = 2", "subjects were changed"),
        ("INSERT INTO participation VALUES ('ab', 2)", "subjects were changed"),
        ("INSERT INTO participation VALUES ('ab', 77)", "without a release"),
    ],
)
def test_a_tampered_row_is_found_and_stops_training(path, statement, reason):
    with open_ledger(path) as ledger:
        for n in range(3):
            reserve(ledger, f"round {n}")
        assert ledger.verify() == []
    raw(path, statement)
    with open_ledger(path) as ledger:
        assert any(reason in broken.reason for broken in ledger.verify())
        with pytest.raises(LedgerError, match="do not train"):
            reserve(ledger, "round 4")


def test_rows_rewritten_under_another_key_are_found(path):
    with open_ledger(path, bytes(32)) as forged:
        reserve(forged, "round 1", noise_multiplier=50.0)
    with open_ledger(path) as ledger:
        assert [broken.reason for broken in ledger.verify()] == ["signature is not ours"]


def test_a_cut_tail_is_found_against_the_head_kept_elsewhere(path):
    with open_ledger(path) as ledger:
        assert ledger.extends(0, ledger.head()[1])
        for n in range(3):
            reserve(ledger, f"round {n}")
        anchor = ledger.head()
        assert anchor == (3, ledger.releases()[-1].hash)
        reserve(ledger, "round 3")
        assert ledger.extends(*anchor)
    raw(
        path,
        "DELETE FROM releases WHERE sequence > 2",
        "DELETE FROM participation WHERE sequence > 2",
    )
    with open_ledger(path) as ledger:
        assert ledger.verify() == []
        assert not ledger.extends(*anchor)
        reserve(ledger, "another past")
        assert not ledger.extends(*anchor)


def test_a_tail_cut_under_an_open_ledger_stops_training(path, ledger):
    for n in range(3):
        reserve(ledger, f"round {n}")
    raw(
        path,
        "DELETE FROM releases WHERE sequence > 1",
        "DELETE FROM participation WHERE sequence > 1",
    )
    with pytest.raises(LedgerError, match="gone"):
        reserve(ledger, "round 3")


CRASHER = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from privacy.ledger import PrivacyLedger
key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ledger = PrivacyLedger(Path(sys.argv[1]), key=key)
for n in range(10_000):
    name = f"{sys.argv[2]}-{n}"
    ledger.reserve(name, [f"s{i}" for i in range(50)], noise_multiplier=1000.0, sample_rate=1.0,
                   steps=1, delta=1e-3, purpose="crash", cap_epsilon=50.0)
    print(name, flush=True)
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.013, 0.041])
def test_a_killed_process_leaves_a_whole_ledger_with_everything_it_was_told_is_safe(path, delay_s):
    for attempt in range(2):
        name = f"attempt{attempt}"
        command = [sys.executable, "-c", CRASHER, str(path), name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            promised = [child.stdout.readline().strip() for _ in range(3)]
            time.sleep(delay_s)
            os.kill(child.pid, signal.SIGKILL)
            promised += child.stdout.read().split("\n")[:-1]
        with open_ledger(path) as ledger:
            kept = {row.release_id for row in ledger.releases()}
            assert ledger.verify() == []
            assert set(promised) <= kept
            reserve(ledger, f"after {attempt}", noise_multiplier=1000.0, cap_epsilon=50.0)
