"""The rounds of a run: when sites are asked, how long they are waited for, what a crash leaves.

Everything that a round changes is in a checkpoint before the next question is put, and a question
for a secure sum is in one before it is put. A process that takes the run up puts the very question
that the last one was waiting for, and so ends at the same model.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from flwr.app import Message
from flwr.serverapp import Grid

from server.checkpoints import CheckpointStore
from server.conversation import (
    HELLO_S,
    PATIENCE_S,
    Bounds,
    Conversation,
    PromptGrid,
    Waiting,
    meet_newcomers,
)
from server.model_requests import Asked
from server.progress import Progress, write_progress
from server.quorum import require_reachable
from server.run_folder import check_stopped, has_roster, load_present
from server.strategy import ConsortiumStrategy
from shared_models.signed_models import Kind

GATHER_S = 0.5
_PHASES: dict[Kind, str] = {"train": "training", "evaluate": "evaluating"}


class Rounds:
    """Conducts a run from where its checkpoint left it.

    Args:
        strategy: What is asked, and what the answers do.
        grid: Connection to the nodes.
        folder: The run's folder.

    Attributes:
        progress: What the run does right now.

    Raises:
        CheckpointError: If the folder holds a checkpoint that does not fit together.
    """

    def __init__(self, strategy: ConsortiumStrategy, grid: Grid, folder: Path) -> None:
        self._strategy = strategy
        self._grid = PromptGrid(grid)
        self._folder = folder
        self._store = CheckpointStore(folder)
        self._began = time.monotonic()
        self._earlier_s = 0.0
        self._tensors = ""
        self._is_gathered = False
        self.progress = Progress(strategy.run_id, 0, self._rounds, "gathering")
        if checkpoint := self._store.read():
            tensors = self._store.read_tensors(checkpoint, strategy.tensors())
            strategy.restore(checkpoint, tensors)
            self._earlier_s, self._tensors = checkpoint.seconds, checkpoint.tensors

    @property
    def seconds(self) -> float:
        """Time that the run took until now, over all its lives."""
        return self._earlier_s + time.monotonic() - self._began

    def conduct(self) -> None:
        """Train and judge until nothing is left to do.

        Raises:
            QuorumError: If too few sites took part in a round.
            StoppedError: If somebody stopped the run.
        """
        require_reachable(self._strategy.config)
        if not self._tensors:
            # Fixes the run's name before any site hears it.
            self._keep_step()
        while (step := self._next()) is not None:
            kind, server_round = step
            check_stopped(self._folder)
            if kind == "train":
                self._train(server_round)
            else:
                self._judge(server_round)

    @property
    def _rounds(self) -> int:
        return self._strategy.config.training.rounds

    def _next(self) -> tuple[Kind, int] | None:
        """What comes next: a round's judgement if it is due, then the next round."""
        trained = len(self._strategy.rounds)
        is_due = trained > 0 and self._strategy.config.training.evaluates_after(trained)
        if is_due and self._strategy.judged < trained:
            return "evaluate", trained
        return ("train", trained + 1) if trained < self._rounds else None

    def _train(self, server_round: int) -> None:
        self._follow_roster()
        self._gather(server_round)
        self._strategy.train(server_round, self._ask)
        self._keep_step()

    def _judge(self, server_round: int) -> None:
        if not self._is_gathered:
            self._gather(server_round)
        self._strategy.judge(server_round, self._ask)
        self._keep()

    def _follow_roster(self) -> None:
        """Take over a roster that was signed meanwhile; its sites are asked from this round on.

        Nobody is waited for because of it: who is not there yet joins a later round.
        """
        if not has_roster(self._folder):
            return
        present, followed = load_present(self._folder), self._strategy.consortium
        if present.roster != followed.roster:
            self._strategy.follow(present)

    def _gather(self, server_round: int) -> None:
        """Wait for a quorum, and in the first round of a life a while for all sites.

        Raises:
            QuorumError: If it does not come together in time.
        """
        patience_s = 0.0 if self._is_gathered else PATIENCE_S
        self._strategy.admission.refresh(self._grid, timeout_s=HELLO_S)
        began = time.monotonic()
        while not self._is_settled(time.monotonic() - began, patience_s):
            check_stopped(self._folder)
            self._note(server_round if server_round > 1 else 0, "gathering")
            time.sleep(GATHER_S)
            meet_newcomers(self._grid, self._strategy.admission)
        present = len(self._strategy.admission.sites)
        if present < self._strategy.least:
            self._strategy.refuse_round(server_round, self._strategy.least, present)
        self._is_gathered = True

    def _is_settled(self, waited_s: float, patience_s: float) -> bool:
        admission, config = self._strategy.admission, self._strategy.config
        if len(admission.sites) + len(admission.rejected) >= len(config.sites):
            return True
        is_enough = len(admission.sites) >= self._strategy.least and waited_s >= patience_s
        return is_enough or waited_s >= config.training.round_timeout_s

    def _ask(self, asked: Asked) -> Iterator[Message]:
        """Put a question as soon as somebody listens, and hand over the replies as they come."""
        question = asked.question
        if self._strategy.is_distributed:
            # A sum that was asked for may not be asked for again in another way.
            self._keep()
        sites = tuple(sorted(asked.exchange.asked.values()))
        self._note(
            question.server_round, _PHASES[question.kind], waiting=sites, attempt=question.attempt
        )
        bounds = Bounds(
            enough=self._strategy.least,
            whole=self._strategy.is_distributed,
            timeout_s=self._strategy.config.training.round_timeout_s,
            patience_s=PATIENCE_S,
        )
        conversation = Conversation(
            self._grid, self._strategy.admission, asked, bounds, self._watch
        )
        yield from conversation.replies()

    def _watch(self, waiting: Waiting) -> None:
        check_stopped(self._folder)
        now = replace(
            self.progress,
            waiting_for=waiting.sites,
            answered=waiting.answered,
            lost=waiting.lost,
            refused=tuple(self._strategy.refusals()),
        )
        if now != self.progress:
            self.progress = now
            write_progress(self._folder, now)

    def _note(
        self, server_round: int, phase: str, *, waiting: tuple[str, ...] = (), attempt: int = 1
    ) -> None:
        """Write what the run does now; the wait keeps its beginning while it is the same."""
        missing = self._strategy.admission.missing()
        same = (server_round, phase, attempt) == (
            self.progress.server_round,
            self.progress.phase,
            self.progress.attempt,
        )
        now = Progress(
            self._strategy.run_id,
            server_round,
            self._rounds,
            phase,
            waiting_for=waiting or missing,
            since=self.progress.since if same and self.progress.since else _now(),
            attempt=attempt,
            quorum=self._strategy.least,
            answered=len(self._strategy.admission.sites) if phase == "gathering" else 0,
            missing=missing,
            refused=tuple(self._strategy.refusals()),
        )
        if now != self.progress:
            self.progress = now
            write_progress(self._folder, now)

    def _keep_step(self) -> None:
        """Let what the last step made of the model count from now on."""
        trained = len(self._strategy.rounds)
        self._tensors = self._store.write_tensors(trained, self._strategy.tensors())
        self._keep()

    def _keep(self) -> None:
        self._store.write(self._strategy.checkpoint(seconds=self.seconds, tensors=self._tensors))


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
