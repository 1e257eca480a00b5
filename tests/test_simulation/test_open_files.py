"""The limit of open files: raised as far as sites need it, or told before any work is lost."""

import resource
import subprocess
import sys

import pytest

from shared_models.console import InputError
from simulation.open_files import FILES_A_PROCESS, FILES_A_SITE, allow_open_files

NEEDED = FILES_A_PROCESS + FILES_A_SITE * 1000


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict:
    limits = {"soft": 1024, "hard": 4096, "set": None}

    def set_limit(_, pair: tuple) -> None:
        limits["set"] = pair

    monkeypatch.setattr(resource, "getrlimit", lambda _: (limits["soft"], limits["hard"]))
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    return limits


def test_the_soft_limit_is_raised_to_what_the_sites_need(limits: dict) -> None:
    limits["hard"] = resource.RLIM_INFINITY
    allow_open_files(1000, workers=1)
    assert limits["set"] == (NEEDED, resource.RLIM_INFINITY)


def test_a_limit_that_is_enough_is_left_alone(limits: dict) -> None:
    allow_open_files(100, workers=1)
    limits["soft"] = resource.RLIM_INFINITY
    allow_open_files(1000, workers=1)
    assert limits["set"] is None


def test_a_machine_that_allows_too_few_is_told_what_to_do(limits: dict) -> None:
    with pytest.raises(InputError, match=rf"{NEEDED} open files .* got 4096: .*--workers"):
        allow_open_files(1000, workers=1)
    allow_open_files(1000, workers=2)
    assert limits["set"] == (FILES_A_PROCESS + FILES_A_SITE * 500, 4096)


def test_a_process_may_open_that_many_files_then() -> None:
    program = (
        "import resource, tempfile\n"
        "from simulation.open_files import allow_open_files\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 2000))\n"
        "allow_open_files(100, workers=1)\n"
        "held = [tempfile.TemporaryFile() for _ in range(400)]\n"
        "print(len(held))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "400", done.stderr
