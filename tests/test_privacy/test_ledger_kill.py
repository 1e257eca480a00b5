"""Killed at any moment, a site has charged what it released, once; and this test would see it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("killed_process.py")
ROOT = PROGRAM.parents[2]
CAUGHT = {
    "release first": "made and not charged",
    "no transaction": "subjects were changed",
    "charged anew": "charged twice",
    "logged first": "logged and not charged",
}


def kill(folder, *words):
    done = subprocess.run(
        [sys.executable, PROGRAM, folder, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_three_hundred_kills_at_random_moments_lose_nothing_and_charge_nothing_twice(tmp_path):
    found = kill(tmp_path, "--kills", 300)
    assert found["fault"] is None
    assert found["kills"] == 300
    # Several ledgers were filled up to the cap, and never beyond.
    assert found["ledgers"] >= 5
    assert found["reservations"] > 60


@pytest.mark.slow
def test_a_kill_before_each_single_statement_loses_nothing_and_charges_nothing_twice(tmp_path):
    found = kill(tmp_path)
    assert found["fault"] is None
    assert found["kills"] > 40


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "fault"), CAUGHT.items())
def test_random_kills_catch_each_broken_order(tmp_path, variant, fault):
    found = kill(tmp_path, "--variant", variant, "--kills", 300)
    assert fault in found["fault"]


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "fault"), CAUGHT.items())
def test_kills_before_each_statement_catch_each_broken_order(tmp_path, variant, fault):
    found = kill(tmp_path, "--variant", variant)
    assert fault in found["fault"]


def test_some_kills_at_random_moments_lose_nothing(tmp_path):
    assert kill(tmp_path, "--kills", 25, "--seed", 1)["fault"] is None
