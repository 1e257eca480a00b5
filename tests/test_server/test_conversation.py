"""How long a question waits, and for whom: with a clock and nodes that a test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Error
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from server import conversation
from server.conversation import PATIENCE_S, Bounds, Conversation, PromptGrid, Waiting
from server.exchange import Exchange
from server.model_requests import Asked, Question

TIMEOUT_S = 600.0
SITES = ("east", "north", "west")


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.began = self.now

    @property
    def elapsed(self) -> float:
        return self.now - self.began

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += max(seconds, 1e-3)


@dataclass
class Behaviour:
    """What becomes of each message to a site: after how long, and answer or error."""

    after_s: float = 0.0
    error: int | None = None


Answering = Callable[[str, int, float], Behaviour | None]
"""The site, how often it was asked, and when: what it does; None for silence."""


@dataclass
class PlayedGrid:
    """Nodes that stand for the sites, and whose answers come when the test says so."""

    clock: Clock
    answering: Answering
    nodes: Callable[[float], dict[int, str]]
    sent: list[tuple[float, str, int]] = field(default_factory=list)
    _due: dict[str, tuple[float, Any]] = field(default_factory=dict)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes(self.clock.elapsed))

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        ids = []
        for message in messages:
            number = str(len(self.sent))
            times = sum(site == message.site for _, site, _ in self.sent)
            self.sent.append((self.clock.elapsed, message.site, message.node))
            behaviour = self.answering(message.site, times, self.clock.elapsed)
            if behaviour:
                due = self.clock.elapsed + behaviour.after_s
                self._due[number] = due, reply_to(number, message, behaviour.error)
            ids.append(number)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        now = self.clock.elapsed
        ready = [i for i in message_ids if i in self._due and self._due[i][0] <= now]
        return [self._due.pop(i)[1] for i in ready]


def reply_to(number: str, message: Any, error: int | None) -> Any:
    metadata = SimpleNamespace(reply_to_message_id=number, src_node_id=message.node)
    failed = Error(error, "gone") if error is not None else None
    return SimpleNamespace(
        metadata=metadata, has_error=lambda: failed is not None, error=failed, site=message.site
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(conversation, "time", clock)
    return clock


@dataclass
class Talk:
    """A question that was put to the end."""

    exchange: Exchange
    grid: PlayedGrid
    seconds: float
    waits: list[Waiting]


def talk(
    clock: Clock,
    answering: Answering,
    *,
    enough: int = 2,
    whole: bool = False,
    nodes: Callable[[float], dict[int, str]] | None = None,
) -> Talk:
    everyone = dict(enumerate(SITES, start=2))
    grid = PlayedGrid(clock, answering, nodes or (lambda _: everyone))
    admission = SimpleNamespace(sites=dict(everyone), rejected={})
    admission.refresh = lambda grid, timeout_s: admission.sites.update(grid.nodes(clock.elapsed))
    exchange = Exchange(dict(everyone), "", {})
    question: Any = Question("train", 1, {}, None)  # type: ignore[arg-type]
    asked = Asked(question, exchange, lambda node, site: SimpleNamespace(node=node, site=site))  # type: ignore[arg-type,return-value]
    waits: list[Waiting] = []
    bounds = Bounds(enough=enough, whole=whole, timeout_s=TIMEOUT_S)
    held = Conversation(grid, admission, asked, bounds, waits.append)  # type: ignore[arg-type]
    for reply in held.replies():
        site = reply.site  # type: ignore[attr-defined]
        exchange.heard.add(site)
        if reply.has_error():
            exchange.refusals.append((site, "internal", "gone"))
        else:
            exchange.answered.add(site)
    return Talk(exchange, grid, clock.elapsed, waits)


def at_once(site: str, times: int, now: float) -> Behaviour:
    return Behaviour()


def slow(who: str, after_s: float) -> Answering:
    return lambda site, times, now: Behaviour(after_s if site == who else 0.0)


def lose(who: str, *, until_s: float, notice_s: float = 40.0) -> Answering:
    """A site whose messages are lost as long as it is away."""

    def answer(site: str, times: int, now: float) -> Behaviour:
        if site == who and now < until_s:
            return Behaviour(notice_s, ErrorCode.NODE_UNAVAILABLE)
        return Behaviour()

    return answer


def test_nobody_waits_where_all_have_answered(clock: Clock) -> None:
    done = talk(clock, at_once)
    assert done.exchange.answered == set(SITES)
    assert done.seconds == 0
    assert done.waits == []


def test_a_refusal_is_an_answer_to_the_wait(clock: Clock) -> None:
    def refuse(site: str, times: int, now: float) -> Behaviour:
        failed = ErrorCode.CLIENT_APP_RAISED_EXCEPTION if site == "west" else None
        return Behaviour(0.0, failed)

    done = talk(clock, refuse)
    assert done.seconds == 0
    assert len(done.grid.sent) == 3
    assert done.exchange.refusals == [("west", "internal", "gone")]


def test_with_a_quorum_the_rest_is_waited_for_a_while(clock: Clock) -> None:
    done = talk(clock, slow("west", 120.0))
    assert done.exchange.missing == ("west",)
    assert PATIENCE_S <= done.seconds <= PATIENCE_S + 2
    assert done.waits[-1].sites == ("west",)
    assert done.waits[-1].answered == 2


def test_without_a_quorum_it_is_waited_to_the_bound_and_no_longer(clock: Clock) -> None:
    done = talk(clock, slow("west", 900.0), enough=3)
    assert done.seconds == pytest.approx(TIMEOUT_S, abs=1.0)


def test_a_site_that_comes_back_is_asked_the_same_again(clock: Clock) -> None:
    done = talk(clock, lose("west", until_s=45.0, notice_s=10.0), enough=3)
    assert done.exchange.answered == set(SITES)
    asked = [at for at, site, _ in done.grid.sent if site == "west"]
    assert len(asked) > 1
    # At worst asked just before it was back, which takes its time to be noticed.
    assert 45.0 <= asked[-1] <= 45.0 + 10.0 + PATIENCE_S / 2 + 4
    assert any(wait.lost == ("west",) for wait in done.waits)


def test_a_site_that_comes_back_as_another_node_is_asked_there(clock: Clock) -> None:
    def nodes(now: float) -> dict[int, str]:
        kept = {2: "east", 3: "north"}
        return kept | ({4: "west"} if now < 5 else {}) | ({9: "west"} if now > 25 else {})

    done = talk(clock, lose("west", until_s=6.0, notice_s=10.0), enough=3, nodes=nodes)
    assert done.exchange.answered == set(SITES)
    assert done.grid.sent[-1][1:] == ("west", 9)
    # Its answer is told from a stranger's by this.
    assert done.exchange.asked[9] == "west"
    assert 25.0 < done.seconds < 30.0


def test_a_site_that_falls_whenever_it_is_asked_is_not_hammered(clock: Clock) -> None:
    def crash(site: str, times: int, now: float) -> Behaviour:
        return Behaviour(0.0, ErrorCode.CLIENT_APP_CRASHED if site == "west" else None)

    done = talk(clock, crash, enough=3)
    times = sum(site == "west" for _, site, _ in done.grid.sent)
    assert times < 10 + TIMEOUT_S / (PATIENCE_S / 2)


def test_a_slow_site_of_a_secure_sum_has_all_the_time_of_the_round(clock: Clock) -> None:
    done = talk(clock, slow("west", 300.0), whole=True)
    assert done.exchange.answered == set(SITES)
    assert 300 <= done.seconds <= 302


def test_a_lost_site_of_a_secure_sum_has_the_patience_to_come_back(clock: Clock) -> None:
    def nodes(now: float) -> dict[int, str]:
        kept = {2: "east", 3: "north"}
        return kept | ({4: "west"} if now < 5 else {})

    done = talk(clock, lose("west", until_s=10_000.0), whole=True, nodes=nodes)
    assert done.exchange.missing == ("west",)
    assert 40 + PATIENCE_S <= done.seconds <= 40 + PATIENCE_S + 3


def test_a_site_that_is_lost_each_time_it_is_asked_does_not_hold_up_a_sum(clock: Clock) -> None:
    done = talk(clock, lose("west", until_s=10_000.0), whole=True)
    assert done.exchange.missing == ("west",)
    assert done.seconds <= 2 * 40 + PATIENCE_S + 3


def test_a_sum_that_somebody_refused_waits_no_longer_than_patience(clock: Clock) -> None:
    def answer(site: str, times: int, now: float) -> Behaviour:
        if site == "east":
            return Behaviour(0.0, ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
        return Behaviour(400.0 if site == "west" else 0.0)

    done = talk(clock, answer, whole=True, enough=1)
    assert PATIENCE_S <= done.seconds <= PATIENCE_S + 2


def test_silence_of_everybody_ends_at_the_bound(clock: Clock) -> None:
    done = talk(clock, lambda *_: None, whole=True)
    assert done.seconds == pytest.approx(TIMEOUT_S, abs=1.0)
    assert done.exchange.missing == SITES


def test_whoever_watches_may_end_the_wait(clock: Clock) -> None:
    grid = PlayedGrid(clock, lambda *_: None, lambda _: {2: "east"})
    admission: Any = SimpleNamespace(sites={2: "east"}, rejected={})
    question: Any = Question("train", 1, {}, None)  # type: ignore[arg-type]
    asked = Asked(
        question, Exchange({2: "east"}, "", {}), lambda n, s: SimpleNamespace(node=n, site=s)
    )  # type: ignore[arg-type,return-value]

    def stop(_waiting: Waiting) -> None:
        raise InterruptedError

    held = Conversation(grid, admission, asked, Bounds(1, False, TIMEOUT_S), stop)  # type: ignore[arg-type]
    with pytest.raises(InterruptedError):
        list(held.replies())


def test_prompt_grid_takes_answers_as_they_come_and_keeps_its_bound(clock: Clock) -> None:
    grid: Grid = PromptGrid(PlayedGrid(clock, slow("west", 7.0), lambda _: {}))  # type: ignore[arg-type]
    messages: list[Any] = [SimpleNamespace(node=n, site=s) for n, s in enumerate(SITES)]
    assert len(list(grid.send_and_receive(messages, timeout=5.0))) == 2
    assert clock.elapsed == pytest.approx(5.0, abs=1.0)
    # The engine's own would have slept three seconds for those that were there at once.
    before = clock.elapsed
    assert len(list(grid.send_and_receive(messages[:2], timeout=5.0))) == 2
    assert clock.elapsed == before
