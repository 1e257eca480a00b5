"""A site under SIGKILL between reserving a release and telling it, and two that are asked at once.

Run as a program, so that the site's data is read once and each child is a fork that starts within
milliseconds. Prints one JSON object: how often it killed, and the first fault that it found.

A child does what the site's worker does for one request. From the moment that it reports the digest
of its message, that message counts as seen by the coordinator.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import torch
from played_coordinator import signed

from client.learning import learner as learner_module
from client.learning import receipts
from client.learning.admission import RefusedError
from client.learning.allow_list import Question
from client.learning.egress import digest_content, release
from client.learning.kept_reply import unpack_content
from client.learning.learner import Learner
from client.learning.outbox import Outbox
from client.records.check import check_records
from client.site import Site, open_site
from privacy.ledger import PrivacyLedger
from shared_models.messages import ModelRequest
from shared_models.weights import digest_weights, trainable_state

VARIANTS = ("honest", "sent first", "made anew", "no lock")
WATCHED = {
    "_answer_once", "charge", "_reserve", "reserve", "note_asked", "keep", "write_chunks",
    "stand", "_tell", "append", "note_told", "_anchor",
}  # fmt: skip
AT_RISK = {"sent first": {"keep", "write_chunks"}, "made anew": set[str]()}
"""Where a kill shows that an order is broken; nowhere, if it shows without a kill."""
DAWDLE_S = 0.03
Tell = Callable[[str, str], None]


@dataclass
class Base:
    """What every child starts from: a site whose data is in memory, and nothing of its state."""

    site: Site
    warm: Learner
    rounds: int

    def at(self, state: Path) -> Site:
        state.mkdir(exist_ok=True)
        return replace(self.site, paths=replace(self.site.paths, state=state))

    def wake(self, state: Path) -> Learner:
        learner = Learner(self.at(state))
        for name in ("network", "dataset", "head_items"):
            learner.__dict__[name] = getattr(self.warm, name)
        return learner

    def request(self, number: int) -> ModelRequest:
        network = self.warm.network
        request = ModelRequest(
            run_id="run",
            server_round=number % self.rounds + 1,
            weights=trainable_state(network),
            base_digest=digest_weights(network.state_dict()),
            consortium_digest=self.site.consortium.digest,
            plan=self.warm.config.training_plan(),
        )
        return signed(self.site, request)


def load(folder: Path) -> Base:
    site = open_site(folder)
    # A real site: its noise cannot be drawn again, so that a second release would show.
    site = replace(site, config=replace(site.config, simulation=None))
    warm = Learner(site)
    assert warm.head_items
    return Base(site, warm, warm.config.training.rounds)


# The child.


def break_it(learner: Learner, variant: str, tell: Tell) -> None:
    honest = learner.outbox.keep

    def keep_late(entry: object, reply: bytes) -> None:
        tell("told", digest_content(unpack_content(reply)))
        honest(entry, reply)  # type: ignore[arg-type]

    if variant == "sent first":
        learner.outbox.keep = keep_late  # type: ignore[method-assign]
    elif variant == "made anew":
        # Nothing of an earlier process is known again: neither question, mark nor receipt.
        this_time = os.urandom(32).hex()
        learner_module.__dict__["digest_question"] = lambda *_, **__: this_time
        Outbox.is_untold = lambda *_: True  # type: ignore[method-assign]
        receipts.__dict__["find_receipt"] = lambda *_: None
    elif variant == "no lock":
        Outbox.locked = lock_nothing  # type: ignore[method-assign]


@contextmanager
def lock_nothing(_: Outbox) -> Iterator[None]:
    yield


def answer(base: Base, state: Path, number: int, variant: str, tell: Tell) -> None:
    learner = base.wake(state)
    break_it(learner, variant, tell)
    request = base.request(number)
    try:
        content = release(learner.train(request), Question("train", request), learner)
    except RefusedError as refused:
        tell("refused", str(refused))
    else:
        tell("told", digest_content(content))


def kill_at_line(wanted: int, watched: set[str]) -> None:
    """Have this process killed before the given line of the watched functions is run."""
    seen = 0

    def trace(frame: FrameType, event: str, _argument: object) -> object:
        nonlocal seen
        if frame.f_code.co_name not in watched:
            return None
        if event == "line":
            seen += 1
            if seen == wanted:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def start(base: Base, state: Path, number: int, variant: str, *, line: int = 0) -> tuple[int, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    status = 1
    try:
        os.close(reading)
        if line:
            kill_at_line(line, AT_RISK.get(variant, WATCHED))
        answer(base, state, number, variant, lambda *word: write_line(writing, word))
        status = 0
    finally:
        os._exit(status)


def write_line(pipe: int, word: tuple[str, str]) -> None:
    os.write(pipe, json.dumps(word).encode() + b"\n")


# The one who kills and looks.


def reap(pid: int, pipe: int) -> tuple[list[list[str]], int]:
    """All that a child reported, once it has ended, and how it ended."""
    with os.fdopen(pipe, "rb") as file:
        told = [json.loads(line) for line in file if line.endswith(b"\n")]
    return told, os.waitpid(pid, 0)[1]


def kept_by(base: Base, state: Path, number: int) -> set[str]:
    """Digest of the reply in the outbox, if it answers this question."""
    learner = base.wake(state)
    kept = learner.outbox.find(learner._entry(base.request(number), "train"))
    return set() if kept is None else {digest_content(unpack_content(kept))}


def find_fault(base: Base, state: Path, number: int, before: set[str], told: list) -> str | None:
    """What is wrong after a question was asked once more; None if all is well."""
    refusals = [text for word, text in told if word == "refused"]
    if refusals:
        return f"refused: {refusals[0]}"
    seen = before | {digest for word, digest in told if word == "told"}
    if len(seen) != 1:
        return f"{len(seen)} answers to one question"
    with PrivacyLedger(base.at(state).paths.ledger, key=base.site.ledger_key) as ledger:
        names = [row.release_id for row in ledger.releases()]
    expected = [f"run/{n + 1}/train/1" for n in range(number % base.rounds + 1)]
    if names != expected:
        return f"charged {names}"
    report = check_records(base.at(state), verify=True)
    return None if report.whole else report.faults[0].fault


def ask_until_told(
    base: Base, state: Path, number: int, told: list, variant: str = "honest"
) -> str | None:
    """Ask the same again of a new process, which nobody kills."""
    before = kept_by(base, state, number) | {d for word, d in told if word == "told"}
    again, status = reap(*start(base, state, number, variant))
    if status:
        return f"the site failed with status {status}"
    return find_fault(base, state, number, before, again)


def kill_at_random(base: Base, folder: Path, variant: str, *, kills: int, seed: int) -> dict:
    chance = random.Random(seed)
    began = time.monotonic()
    reap(*start(base, folder / "undisturbed", 0, "honest"))
    whole_s = time.monotonic() - began
    ends = {"before": 0, "between": 0, "told": 0}
    for number in range(kills):
        state = folder / str(number // base.rounds)
        pid, pipe = start(base, state, number, variant)
        time.sleep(chance.uniform(0, 1.2 * whole_s))
        os.kill(pid, signal.SIGKILL)
        told, _ = reap(pid, pipe)
        ends["told" if told else "between" if is_charged(base, state, number) else "before"] += 1
        if fault := ask_until_told(base, state, number, told):
            return {"kills": number + 1, "fault": fault}
    return {"kills": kills, "fault": None, "ends": ends}


def is_charged(base: Base, state: Path, number: int) -> bool:
    with PrivacyLedger(base.at(state).paths.ledger, key=base.site.ledger_key) as ledger:
        return len(ledger.releases()) > number % base.rounds


def kill_at_each_line(base: Base, folder: Path, variant: str) -> dict:
    number = 0
    while True:
        state = folder / str(number // base.rounds)
        told, status = reap(*start(base, state, number, variant, line=number + 1))
        if fault := ask_until_told(base, state, number, told, variant):
            return {"kills": number + 1, "fault": fault}
        if not os.WIFSIGNALED(status):
            return {"kills": number, "fault": None}
        number += 1


def ask_two_at_once(base: Base, folder: Path, variant: str, *, times: int) -> dict:
    honest = learner_module.site_gradient

    def dawdle(*args: object, **options: object) -> object:
        time.sleep(DAWDLE_S)
        return honest(*args, **options)  # type: ignore[arg-type]

    learner_module.__dict__["site_gradient"] = dawdle
    for number in range(times):
        state = folder / str(number // base.rounds)
        state.mkdir(exist_ok=True)
        both = [start(base, state, number, variant) for _ in range(2)]
        told = [word for child in both for word in reap(*child)[0]]
        if len(told) != 2:
            return {"times": number + 1, "fault": f"{len(told)} of two answered"}
        if fault := find_fault(base, state, number, set(), told):
            return {"times": number + 1, "fault": fault}
    return {"times": times, "fault": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variant", choices=VARIANTS, default="honest")
    parser.add_argument("--kills", type=int, default=0, help="at random; 0 kills at each line")
    parser.add_argument("--pairs", type=int, default=0, help="ask two at once, so often")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    base = load(given.site)
    gc.freeze()  # a fork that collects what it did not make copies every page
    if given.pairs:
        found = ask_two_at_once(base, given.folder, given.variant, times=given.pairs)
    elif given.kills:
        found = kill_at_random(
            base, given.folder, given.variant, kills=given.kills, seed=given.seed
        )
    else:
        found = kill_at_each_line(base, given.folder, given.variant)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
