"""Supervised child processes: restarted, stopped with all they started, and told little."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared_models.supervision import (
    Child,
    SupervisionError,
    Supervisor,
    child_environment,
    only_one,
    program,
)

DEADLINE_S = 30.0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the awaited condition never came"
        time.sleep(0.02)


def python_child(tmp_path: Path, code: str) -> Child:
    command = (sys.executable, "-c", code)
    return Child("child", command, {"WHERE": str(tmp_path)}, tmp_path / "logs" / "child.log")


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"


def test_child_that_dies_is_started_again(tmp_path: Path) -> None:
    supervisor = Supervisor([python_child(tmp_path, "print('so it ends', flush=True); exit(3)")])
    supervisor.start()
    deaths = []

    def died_twice() -> bool:
        deaths.extend(supervisor.poll())
        return len(deaths) >= 2

    try:
        wait_for(died_twice)
    finally:
        supervisor.stop()
    assert {death.code for death in deaths} == {3}
    assert {death.output for death in deaths} == {"so it ends"}


def test_child_that_always_fails_is_given_up_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = python_child(tmp_path, "print('no such luck', flush=True); exit(1)")
    supervisor = Supervisor([child], max_failures=1)
    supervisor.start()
    with pytest.raises(SupervisionError, match="no such luck"):
        wait_for(lambda: bool(supervisor.poll()) and False)
    supervisor.stop()


def test_log_that_grows_too_long_is_set_aside_while_the_child_writes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared_models.supervision.LARGEST_LOG_BYTES", 1000)
    code = "import time\nwhile True: print('x' * 100, flush=True); time.sleep(0.01)"
    child = python_child(tmp_path, code)
    supervisor = Supervisor([child])
    supervisor.start()
    old = child.log.with_name("child.log.1")

    def trimmed_and_written_again() -> bool:
        supervisor.poll()
        return old.exists() and 0 < child.log.stat().st_size < 1000

    try:
        wait_for(trimmed_and_written_again)
    finally:
        supervisor.stop()
    assert b"\0" not in child.log.read_bytes()
    assert child.log.stat().st_mode & 0o077 == 0


def test_stop_ends_a_child_and_what_it_started(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, subprocess, sys, time;"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "pathlib.Path(os.environ['WHERE'], 'pid').write_text(str(p.pid)); time.sleep(600)"
    )
    supervisor = Supervisor([python_child(tmp_path, code)])
    supervisor.start()
    pid_file = tmp_path / "pid"
    wait_for(lambda: pid_file.exists() and bool(pid_file.read_text()))
    pids = [supervisor.pids()["child"], int(pid_file.read_text())]
    assert all(map(is_alive, pids))
    supervisor.stop()
    wait_for(lambda: not any(map(is_alive, pids)))
    assert supervisor.poll() == []


def _serve_until_killed(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, time;"
        "pathlib.Path(os.environ['WHERE'], 'pid').write_text(str(os.getpid())); time.sleep(600)"
    )
    Supervisor([python_child(tmp_path, code)]).start()
    time.sleep(600)


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a child of its parent's death"
)
def test_child_does_not_outlive_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    parent = multiprocessing.get_context("spawn").Process(
        target=_serve_until_killed, args=(tmp_path,)
    )
    parent.start()
    pid_file = tmp_path / "pid"
    wait_for(lambda: pid_file.exists() and bool(pid_file.read_text()))
    pid = int(pid_file.read_text())
    parent.kill()
    parent.join(DEADLINE_S)
    wait_for(lambda: not is_alive(pid))


def test_folder_is_served_by_one_process_only(tmp_path: Path) -> None:
    with (
        only_one(tmp_path / "lock", what="Site a"),
        pytest.raises(SupervisionError, match=f"process {os.getpid()}"),
        only_one(tmp_path / "lock", what="Site a"),
    ):
        pass
    with only_one(tmp_path / "lock", what="Site a"):
        pass


def test_children_see_no_proxy_no_token_and_no_other_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "PYTHONPATH", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "leaks")
    monkeypatch.setenv("LANG", "C.UTF-8")
    environment = child_environment(tmp_path, programs=["flwr-serverapp"])
    assert "leaks" not in environment.values()
    assert environment["LANG"] == "C.UTF-8"
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    shelf = Path(environment["PATH"])
    assert [file.name for file in shelf.iterdir()] == ["flwr-serverapp"]


def test_programs_of_an_earlier_start_leave_the_path(tmp_path: Path) -> None:
    child_environment(tmp_path, programs=["flwr-clientapp"])
    shelf = Path(child_environment(tmp_path, programs=[])["PATH"])
    assert list(shelf.iterdir()) == []


def test_missing_program_is_named() -> None:
    with pytest.raises(SupervisionError, match="flower-nothing"):
        program("flower-nothing")
