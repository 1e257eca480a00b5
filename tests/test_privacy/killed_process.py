"""A site's records under SIGKILL: a child works and reports, this process kills it and looks.

Run as a program, so that nothing but ledger and log is in memory and a child starts within
milliseconds. Prints one JSON object: how often it killed, and the first fault that it found.

A child does what a site does for each release: reserve it, make it, log it, anchor both. Between
the reservation and the report the release counts as unmade; from the report on it counts as made.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy import audit
from privacy.accounting import calibrate_noise_multiplier, epsilon_spent
from privacy.audit import AuditLog
from privacy.ledger import BudgetExceeded, PrivacyLedger

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
DELTA, CAP, ROUNDS = 1e-3, 3.0, 12
NOISE = calibrate_noise_multiplier(CAP, DELTA, steps=ROUNDS)
SUBJECTS = tuple(f"subject-{number}" for number in range(5))
VARIANTS = ("honest", "release first", "no transaction", "charged anew", "logged first")
# The functions in which something becomes durable; a kill elsewhere comes before or after them.
WATCHED = ("work", "reserve", "_transaction", "_write", "append", "head", "_head")


@dataclass
class Told:
    """What the children of one folder reported."""

    made: list[str] = field(default_factory=list)
    anchors: list[list] = field(default_factory=list)
    full: bool = False
    buffer: bytes = b""

    def take(self, data: bytes) -> None:
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            word, value = json.loads(line)
            if word == "made":
                self.made.append(value)
            elif word == "anchor":
                self.anchors.append(value)
            else:
                self.full = True


# The child.


class WithoutTransaction(PrivacyLedger):
    """The broken variant whose statements each become durable by themselves."""

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        yield


class Child:
    def __init__(self, folder: Path, pipe: int, variant: str) -> None:
        kind = WithoutTransaction if variant == "no transaction" else PrivacyLedger
        self.ledger = kind(folder / "ledger.sqlite", key=KEY)
        self.path = folder / "audit.jsonl"
        self.log = AuditLog(self.path)
        self.pipe = pipe
        self.variant = variant

    def tell(self, word: str, value: object) -> None:
        os.write(self.pipe, json.dumps([word, value]).encode() + b"\n")

    def reserve(self, name: str) -> None:
        charged = f"{name}/{uuid.uuid4().hex}" if self.variant == "charged anew" else name
        self.ledger.reserve(
            charged, SUBJECTS, noise_multiplier=NOISE, sample_rate=1.0, steps=1, delta=DELTA,
            purpose="train", cap_epsilon=CAP, cap_epsilon_per_year=CAP,
        )  # fmt: skip

    def work(self, name: str) -> None:
        steps = [
            lambda: self.reserve(name),
            lambda: self.tell("made", name),
            lambda: self.log.append("sent", release=name),
        ]
        order = {"release first": (1, 0, 2), "logged first": (2, 0, 1)}.get(self.variant, (0, 1, 2))
        for number in order:
            steps[number]()
        self.tell("anchor", [*self.ledger.head(), *audit.head(self.path)])

    def live(self, first: int, last: int) -> None:
        for number in range(first, last):
            try:
                self.work(f"run/{number}")
            except BudgetExceeded:
                self.tell("full", True)
                return


def kill_at_line(wanted: int) -> None:
    """Have this process killed before the given line of the watched functions is run."""
    seen = 0

    def trace(frame: FrameType, event: str, _argument: object) -> object:
        nonlocal seen
        if frame.f_code.co_name not in WATCHED:
            return None
        if event == "line":
            seen += 1
            if seen == wanted:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def start(folder: Path, variant: str, *, first: int, last: int, line: int = 0) -> tuple[int, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    status = 1
    try:
        os.close(reading)
        child = Child(folder, writing, variant)
        if line:
            kill_at_line(line)
        child.live(first, last)
        status = 0
    finally:
        os._exit(status)


# The one who kills and looks.


def drain(pipe: int, told: Told, *, lines: int | None = None) -> None:
    """Take what was reported, to the end, or until so many lines have come."""
    before = len(told.made) + len(told.anchors)
    while lines is None or len(told.made) + len(told.anchors) - before < lines:
        data = os.read(pipe, 65536)
        if not data:
            return
        told.take(data)


def find_fault(folder: Path, told: Told, *, finished: bool = False) -> str | None:
    """What does not fit between what was reported and what is on disk; None if all is well."""
    with PrivacyLedger(folder / "ledger.sqlite", key=KEY) as ledger:
        if broken := ledger.verify():
            return f"ledger: {broken[0]}"
        names = ["/".join(row.release_id.split("/")[:2]) for row in ledger.releases()]
        spent = ledger.spent(DELTA)
        if twice := {name for name in names if names.count(name) > 1}:
            return f"charged twice: {min(twice)}"
        if missing := set(told.made) - set(names):
            return f"made and not charged: {min(missing)}"
        # One release may be charged and not be made yet: that of the moment of death.
        if len(names) > len(told.made) + (not finished):
            return f"charged {len(names)}, made {len(told.made)}"
        expected = epsilon_spent(NOISE, DELTA, steps=len(names)) if names else 0.0
        if abs(spent - expected) > 1e-9 or spent > CAP:
            return f"spent {spent}, expected {expected} of {CAP}"
        behind = [a for a in told.anchors if not ledger.extends(*a[:2])]
    return f"ledger behind {behind[0]}" if behind else find_log_fault(folder, told, set(names))


def find_log_fault(folder: Path, told: Told, charged: set[str]) -> str | None:
    path = folder / "audit.jsonl"
    verdict = audit.verify(path)
    lines = path.read_bytes().count(b"\n") if path.exists() else 0
    if not verdict.whole and verdict.first_broken != lines + 1:
        return f"log: {verdict}"
    receipts = [entry.details["release"] for entry in audit.read(path) if entry.event == "sent"]
    if early := set(receipts) - charged:
        return f"logged and not charged: {min(map(str, early))}"
    behind = [a for a in told.anchors if not audit.extends(path, *a[2:])]
    return f"log behind {behind[0]}" if behind else None


def kill_at_random(folder: Path, variant: str, *, kills: int, seed: int) -> dict:
    """SIGKILL at any moment, over several ledgers, each of which fills up to its cap."""
    chance = random.Random(seed)
    told, ledgers, reservations = Told(), 0, 0
    place = folder / "0"
    place.mkdir()
    for kill in range(kills):
        pid, pipe = start(place, variant, first=len(told.made), last=10_000)
        drain(pipe, told, lines=chance.choice((0, 0, 1, 2, 4)))
        time.sleep(chance.uniform(0, 0.012))
        os.kill(pid, signal.SIGKILL)
        drain(pipe, told)
        os.waitpid(pid, 0)
        os.close(pipe)
        if fault := find_fault(place, told):
            return {"kills": kill + 1, "fault": fault}
        if told.full:
            if len(told.made) != ROUNDS:
                return {"kills": kill + 1, "fault": f"full after {len(told.made)} releases"}
            reservations += len(told.made)
            shutil.rmtree(place)
            ledgers, told = ledgers + 1, Told()
            place = folder / str(ledgers)
            place.mkdir()
    reservations += len(told.made)
    return {"kills": kills, "fault": None, "ledgers": ledgers, "reservations": reservations}


def kill_at_each_line(folder: Path, variant: str) -> dict:
    """SIGKILL before each statement that a release goes through, one release for each.

    After each kill a new process goes on, and all must have been charged and logged once.
    """
    told, line = Told(), 0
    while True:
        line += 1
        place = folder / str(line // ROUNDS)
        if not place.exists():
            place.mkdir()
            told = Told()
        first = len(told.made)
        pid, pipe = start(place, variant, first=first, last=first + 1, line=line)
        drain(pipe, told)
        _, status = os.waitpid(pid, 0)
        os.close(pipe)
        fault = find_fault(place, told)
        if fault or not os.WIFSIGNALED(status):
            return {"kills": line - (not fault), "fault": fault}
        pid, pipe = start(place, variant, first=len(told.made), last=first + 1)
        drain(pipe, told)
        os.waitpid(pid, 0)
        os.close(pipe)
        fault = find_fault(place, told, finished=True)
        if fault or len(told.made) != first + 1:
            return {"kills": line, "fault": fault or f"made {len(told.made)} of {first + 1}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variant", choices=VARIANTS, default="honest")
    parser.add_argument("--kills", type=int, default=0, help="0 kills at each line instead")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.kills:
        found = kill_at_random(
            options.folder, options.variant, kills=options.kills, seed=options.seed
        )
    else:
        found = kill_at_each_line(options.folder, options.variant)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
