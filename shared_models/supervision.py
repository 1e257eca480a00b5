"""Child processes kept alive: restarted with growing pauses, stopped by their id, quiet in a file.

Both parties run the engine's programs this way. Children see a short list of environment variables
and a PATH with the named programs alone, so that neither a proxy setting nor a program of another
kind reaches them.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from shared_models.console import CommandError

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
SETTLED_S = 60.0
"""A child that lived this long starts with the first pause again."""
GRACE_S = 15.0
LARGEST_LOG_BYTES = 20 << 20

PASSED_ON = (
    "CUDA_VISIBLE_DEVICES",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_CACHE_HOME",
)
"""Variables that children inherit; everything else, proxies above all, stays behind."""


class SupervisionError(CommandError):
    """A child that cannot be kept alive, or a folder that another process serves already."""


@dataclass(frozen=True)
class Child:
    """A program that has to run.

    Attributes:
        name: What messages call it.
        command: Program and arguments; no shell reads it.
        environment: All variables it sees.
        log: File that its output is appended to.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path


@dataclass(frozen=True)
class Death:
    """A child that ended by itself.

    Attributes:
        child: Which one.
        code: Its exit status; negative for a signal.
        output: What its last life left in the log, the end of it.
    """

    child: Child
    code: int
    output: str


@dataclass
class _Life:
    """One child's present process, and how often it has failed in a row."""

    child: Child
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    due_s: float = 0.0
    failures: int = 0
    log_start: int = 0


@dataclass
class Supervisor:
    """Keeps children alive until told to stop.

    Attributes:
        children: In the order in which they start; they stop in the opposite order.
        max_failures: A child that fails so often in a row ends the supervision.
    """

    children: Sequence[Child]
    max_failures: int = 20
    _lives: list[_Life] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        self._lives = [_Life(child) for child in self.children]

    def start(self, *names: str) -> None:
        """Start the named children, or all, that do not run."""
        for life in self._lives:
            if life.process is None and (not names or life.child.name in names):
                _launch(life)

    def pids(self) -> dict[str, int]:
        """Process ids of the children that run, by name."""
        return {life.child.name: life.process.pid for life in self._lives if life.process}

    def poll(self) -> list[Death]:
        """Note children that died, and start again those whose pause is over.

        Raises:
            SupervisionError: If a child failed too often in a row; with the end of its log.
        """
        deaths = [death for life in self._lives if (death := _note_death(life))]
        for life in self._lives:
            _trim_log(life)
            if life.failures > self.max_failures:
                msg = (
                    f"{life.child.name} ended {life.failures} times in a row and is given up. "
                    f"Its log ({life.child.log}) ends:\n{_tail(life)}"
                )
                raise SupervisionError(msg)
            if life.process is None and 0 < life.due_s <= time.monotonic():
                _launch(life)
        return deaths

    def stop(self) -> None:
        """End every child: politely, then for good, with whatever it started itself."""
        for life in reversed(self._lives):
            life.due_s = 0.0
            if life.process is not None:
                _end(life.process)
                life.process = None


def _launch(life: _Life) -> None:
    child = life.child
    child.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _trim_log(life)
    child.log.touch(mode=0o600)
    with child.log.open("ab") as log:
        life.log_start = log.tell()
        life.process = subprocess.Popen(
            child.command,
            env=dict(child.environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, and no threads run yet
        )
    life.started_s, life.due_s = time.monotonic(), 0.0


def _note_death(life: _Life) -> Death | None:
    if life.process is None or (code := life.process.poll()) is None:
        return None
    _end(life.process)
    life.process = None
    now = time.monotonic()
    life.failures = 1 if now - life.started_s > SETTLED_S else life.failures + 1
    life.due_s = now + min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (life.failures - 1))
    return Death(life.child, code, _tail(life))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, and its process group, which holds nothing but what it started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _trim_log(life: _Life) -> None:
    """Set a full log aside as ``NAME.1``; the child keeps writing, since it only ever appends."""
    log = life.child.log
    if log.exists() and log.stat().st_size > LARGEST_LOG_BYTES:
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)
        life.log_start = 0


def _tail(life: _Life, *, size: int = 4000) -> str:
    """The end of what the child's last life wrote."""
    try:
        with life.child.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(life.log_start, end - size))
            return log.read().decode(errors="replace").strip()
    except OSError:
        return ""


# Looked up before any fork: between fork and exec a child must not load libraries.
_prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """Let the kernel end the child when the supervisor is killed without a chance to stop it."""
    if _prctl is not None:
        set_parent_death_signal = 1
        _prctl(set_parent_death_signal, signal.SIGTERM)


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM or Ctrl-C sets, instead of ending the process at any point."""
    stopping = threading.Event()

    def note(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def only_one(lock: Path, *, what: str) -> Iterator[None]:
    """Hold a lock file for as long as a folder is served.

    The kernel drops the lock when the process ends, however it ends.

    Args:
        lock: The file; it stays, empty of meaning, when nobody holds it.
        what: What is served, for the message.

    Raises:
        SupervisionError: If another process holds it.
    """
    lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            msg = f"{what} is already being served by process {holder}: stop that one first."
            raise SupervisionError(msg) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def child_environment(home: Path, *, programs: Sequence[str]) -> dict[str, str]:
    """The variables that an engine program sees.

    Args:
        home: Folder for the engine's own files and for links to the programs, made if missing.
        programs: Names of installed programs that the child may start; its PATH has no others.

    Raises:
        SupervisionError: If a program is not installed.
    """
    shelf = home / "programs"
    shelf.mkdir(mode=0o700, parents=True, exist_ok=True)
    for stale in shelf.iterdir():
        stale.unlink()
    for name in programs:
        (shelf / name).symlink_to(program(name))
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return kept | {
        "PATH": str(shelf),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "PYTHONUNBUFFERED": "1",
        # Nothing is imported from the folder in which a process happens to start.
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
    }


def program(name: str) -> Path:
    """Path of a program that was installed with this environment.

    Raises:
        SupervisionError: If it is missing.
    """
    for folder in (sysconfig.get_path("scripts"), Path(sys.executable).parent):
        path = Path(folder) / name
        if path.is_file():
            return path
    msg = f"Expected the program {name} beside {sys.executable}, got none: install vultus again."
    raise SupervisionError(msg)
