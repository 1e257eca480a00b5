"""One question to the sites: put, waited for within bounds, and put again to those that come back.

The engine's own ``send_and_receive`` looks for answers every three seconds and gives a site that
lost its connection no second chance. Here answers are taken as they come. A site that was lost is
asked the same question again when it is back: it answers with the very bytes it has, or would have,
sent before, so that asking twice neither costs nor tells anything more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from server.admission import LOST_ON_THE_WAY, Admission, nodes_of
from server.exchange import Exchange
from server.model_requests import Asked

PATIENCE_S = 30.0
"""How long a round waits for the last sites once it has a quorum, and for one that was lost."""
HELLO_S = 10.0
"""How long a node has to say who it is, before the round goes on and asks it anew."""
FIRST_POLL_S, LONGEST_POLL_S = 0.1, 1.0
REPLIES_BYTES = 64 << 20
"""Replies that are taken from the engine at a time come to about so many bytes, or are one."""
LOOK_S = 2.0
"""How often is looked whether a lost site is back."""


@dataclass(frozen=True)
class Bounds:
    """How long is waited.

    Attributes:
        enough: Answers with which the others are waited for no longer than ``patience_s``.
        whole: Whether every answer is needed: then a site that is slow has until ``timeout_s``,
            and only one that was lost or a question that failed already ends the wait sooner.
        timeout_s: Longest wait for an answer.
        patience_s: See above.
    """

    enough: int
    whole: bool
    timeout_s: float
    patience_s: float = PATIENCE_S


@dataclass(frozen=True)
class Waiting:
    """Whom a question waits for.

    Attributes:
        answered: Sites whose answer is there.
        sites: Sites that neither answered nor refused.
        lost: Those among them that lost their connection.
        refused: Site, reason code and sentence of each refusal.
    """

    answered: int
    sites: tuple[str, ...]
    lost: tuple[str, ...]
    refused: tuple[tuple[str, str, str], ...]


@dataclass
class Conversation:
    """A question to several sites.

    Attributes:
        grid: Connection to the nodes.
        admission: Which node stands for which site.
        asked: The question.
        bounds: How long is waited.
        watch: Told whom the question waits for, at each look; may end the wait by raising.
    """

    grid: Grid
    admission: Admission
    asked: Asked
    bounds: Bounds
    watch: Callable[[Waiting], None]
    _open: dict[str, str] = field(default_factory=dict, init=False)
    _lost: set[str] = field(default_factory=set, init=False)
    _lost_since: dict[str, float] = field(default_factory=dict, init=False)
    _again_at: dict[str, float] = field(default_factory=dict, init=False)
    _times: dict[str, int] = field(default_factory=dict, init=False)
    _enough_since: float | None = field(default=None, init=False)
    _look_at: float = field(default=0.0, init=False)

    def replies(self) -> Iterator[Message]:
        """Each site's answer or refusal as it comes, until the wait is over.

        Whoever iterates hands each message to the exchange, which tells here who was heard.
        """
        began = time.monotonic()
        for node, site in nodes_of(self._exchange.asked):
            self._send(node, site)
        pause_s = FIRST_POLL_S
        while True:
            arrived = 0
            for reply in self._pull():
                arrived += 1
                yield reply
            if self._is_over(began):
                return
            self.watch(self._waiting())
            self._look_for_lost()
            pause_s = FIRST_POLL_S if arrived else min(LONGEST_POLL_S, 1.5 * pause_s)
            time.sleep(min(pause_s, max(0.0, began + self.bounds.timeout_s - time.monotonic())))

    @property
    def _exchange(self) -> Exchange:
        return self.asked.exchange

    @property
    def _pending(self) -> tuple[str, ...]:
        return tuple(sorted(set(self._exchange.asked.values()) - self._exchange.heard))

    def _send(self, node: int, site: str) -> None:
        # One by one: an engine that cannot take a message leaves it out of its answer.
        ids = [i for i in self.grid.push_messages([self.asked.message_to(node, site)]) if i]
        if not ids:
            self._lose(site)
            return
        self._open[ids[0]] = site
        self._lost.discard(site)

    def _pull(self) -> Iterator[Message]:
        """Answers that count; what was lost on the way is noted."""
        for reply in self._arrived():
            site = self._open.pop(reply.metadata.reply_to_message_id, None)
            if site is None:
                continue
            if reply.has_error() and reply.error.code in LOST_ON_THE_WAY:
                self._lose(site)
                continue
            yield reply
            if site not in self._exchange.heard:
                self._lose(site)

    def _arrived(self) -> Iterator[Message]:
        """Replies that are there, of large models one after another: each is dropped once read."""
        size = sum(part.nbytes for part in self.asked.question.weights.values())
        most = max(1, REPLIES_BYTES // max(1, size))
        waiting = list(self._open)
        for start in range(0, len(waiting), most):
            yield from self.grid.pull_messages(waiting[start : start + most])

    def _lose(self, site: str) -> None:
        now = time.monotonic()
        self._lost.add(site)
        # One that is lost again has had its second chance: patience counts from the first time.
        self._lost_since.setdefault(site, now)
        # A site that falls each time it is asked is not hammered.
        self._times[site] = self._times.get(site, 0) + 1
        self._again_at[site] = now + min(LOOK_S * 2 ** (self._times[site] - 1), PATIENCE_S / 2)

    def _look_for_lost(self) -> None:
        """Ask those again that are back, perhaps as another node."""
        now = time.monotonic()
        if not self._lost or now < self._look_at:
            return
        self._look_at = now + LOOK_S
        meet_newcomers(self.grid, self.admission)
        present = set(self.grid.get_node_ids())
        for node, site in nodes_of(self.admission.sites):
            if node in present and site in self._lost and now >= self._again_at[site]:
                self._exchange.asked[node] = site
                self._send(node, site)

    def _is_over(self, began: float) -> bool:
        now, pending = time.monotonic(), self._pending
        if not pending or now - began >= self.bounds.timeout_s:
            return True
        if self.bounds.whole and self._is_whole_possible():
            if not self._lost.issuperset(pending):
                return False
            # All the others answered, and those that are left do not come back.
            since = max(self._lost_since[site] for site in pending)
            return now - since >= self.bounds.patience_s
        return self._is_enough_for(now)

    def _is_whole_possible(self) -> bool:
        """Whether nobody in this attempt has refused."""
        return self._exchange.heard <= self._exchange.answered

    def _is_enough_for(self, now: float) -> bool:
        if len(self._exchange.answered) < self.bounds.enough:
            return False
        if self._enough_since is None:
            self._enough_since = now
        return now - self._enough_since >= self.bounds.patience_s

    def _waiting(self) -> Waiting:
        pending = self._pending
        return Waiting(
            answered=len(self._exchange.answered),
            sites=pending,
            lost=tuple(site for site in pending if site in self._lost),
            refused=tuple(self._exchange.refusals),
        )


def meet_newcomers(grid: Grid, admission: Admission) -> None:
    """Ask nodes that came who they are, and forget those that left; nothing if all stayed."""
    if set(grid.get_node_ids()) != admission.sites.keys() | admission.rejected.keys():
        admission.refresh(grid, timeout_s=HELLO_S)


class PromptGrid(Grid):
    """A connection that looks for answers often, whichever engine is behind it.

    Args:
        grid: The engine's own connection.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def set_run(self, run: Run) -> None:
        """Replace what is known of the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """What is known of the run."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the nodes that are connected."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand messages to the engine."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there by now."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages and take replies as they come, until all are there or time is up."""
        waiting = {i for i in self._grid.push_messages(list(messages)) if i}
        ends = time.monotonic() + (float("inf") if timeout is None else timeout)
        replies: list[Message] = []
        pause_s = FIRST_POLL_S
        while waiting:
            arrived = list(self._grid.pull_messages(list(waiting)))
            replies += arrived
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            if not waiting or time.monotonic() >= ends:
                break
            pause_s = FIRST_POLL_S if arrived else min(LONGEST_POLL_S, 1.5 * pause_s)
            time.sleep(min(pause_s, max(0.0, ends - time.monotonic())))
        return replies
