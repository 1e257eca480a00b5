"""How often a site and a coordinator look for what has arrived."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, MAX_RETRY_DELAY
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.nodestate import NodeStateFactory

from client.service import pacing
from client.service.pacing import pace_supernode, pace_worker
from server.bundle import RUN_FOLDER
from server.pacing import CONNECTION_MODULE, pace_server_app
from shared_models.pacing import RETRY_MODULE, Pace, shorten_backoff


class Clock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds

    def pace(self, **limits: float) -> Pace:
        return Pace(**limits, clock=lambda: self.now_s, sleep=self.sleep)


class StoppedError(Exception):
    """The loop was ended by the test."""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The SuperNode's module, put back as it was when the test ends."""
    module = importlib.import_module(pacing.SUPERNODE_MODULE)
    for name in ("_push_messages", "time", "pull_objects", "_init_connection"):
        monkeypatch.setattr(module, name, getattr(module, name))
    retry = importlib.import_module(RETRY_MODULE)
    monkeypatch.setattr(retry, "MAX_RETRY_DELAY", MAX_RETRY_DELAY)
    for beating in (pacing.CLAIM_MODULE, pacing.HEARTBEAT_MODULE):
        unit = "HEARTBEAT_DEFAULT_INTERVAL"
        monkeypatch.setattr(importlib.import_module(beating), unit, HEARTBEAT_DEFAULT_INTERVAL)
    monkeypatch.setattr(module, "register_signal_handlers", lambda **_: None)
    return module


def idle(engine: ModuleType, clock: Clock, *, seconds: float) -> int:
    """Let the engine's own loop ask for messages that never come; how often it asked."""
    asked = []

    def receive() -> None:
        if clock.now_s >= seconds:
            raise StoppedError
        asked.append(clock.now_s)

    @contextmanager
    def connect(**_: object) -> Iterator[tuple[Any, ...]]:
        yield (5, receive, *[None] * 6)

    vars(engine)["_init_connection"] = connect
    stores = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    with pytest.raises(StoppedError):
        engine.start_client_internal(
            state_factory=stores,
            server_address="127.0.0.1:1",
            node_config={},
            insecure=True,
            isolation="process",
        )
    return len(asked)


def test_pause_is_a_tenth_of_the_wait_within_its_bounds() -> None:
    clock = Clock()
    pace = clock.pace(shortest_s=0.05, longest_s=5.0)
    for waited_s, pause_s in ((0, 0.05), (0.5, 0.05), (20, 2.0), (50, 5.0), (9000, 5.0)):
        clock.now_s = waited_s
        assert pace.pause_s == pytest.approx(pause_s)
    pace.note()
    assert pace.pause_s == pytest.approx(0.05)


def test_answer_is_found_at_most_a_tenth_late() -> None:
    for came_s in (0.3, 2.0, 17.0, 80.0):
        clock = Clock()
        pace = clock.pace()
        while clock.now_s < came_s:
            pace.rest()
        assert clock.now_s - came_s <= max(0.05, 0.1 * came_s)


def test_idle_site_asks_often_at_first_and_rarely_in_the_end(engine: ModuleType) -> None:
    clock = Clock()
    assert pace_supernode(clock.pace())
    asked = idle(engine, clock, seconds=3600)
    assert clock.pauses[0] == pytest.approx(0.05)
    assert clock.pauses[-1] == pytest.approx(5.0)
    # Ten looks in the first half second, 48 until the pause is 5 s, one in 5 s from then on.
    assert asked == pytest.approx(10 + 48 + 710, abs=3)


def test_engine_left_alone_sleeps_three_seconds(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(engine.time, "sleep", clock.sleep)
    idle(engine, clock, seconds=9)
    assert clock.pauses == [pacing.IDLE_PAUSE_S] * 3


def test_site_that_answered_looks_for_the_next_question_at_once(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    pace = clock.pace()
    short: list[float] = []
    monkeypatch.setattr(pacing.time, "sleep", short.append)
    pace_supernode(pace)
    clock.now_s = 600.0
    assert pace.pause_s == pytest.approx(5.0)
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    message = Message(RecordDict(), 5, "train")
    message.metadata.__dict__["_message_id"] = message.object_id
    reply = Message(RecordDict(), reply_to=message)
    stores = ObjectStoreFactory()
    state = NodeStateFactory(objectstore_factory=stores).state()
    engine._insert_message(reply, state, stores.store())
    looks = iter([[], [], [reply]])
    monkeypatch.setattr(state, "get_messages_legacy", lambda **_: next(looks))
    monkeypatch.setattr(state, "get_message_processing_duration", lambda **_: 1.0)
    sent: list[Message] = []
    engine._push_messages(
        state=state,
        object_store=stores.store(),
        send=lambda message, *_: sent.append(message) or (set(), "session"),
        push_object=lambda *_: None,
    )
    assert len(sent) == 1
    assert short == [pacing.REPLY_POLL_S] * 2
    assert pace.pause_s == pytest.approx(0.05)


@pytest.mark.parametrize("name", sorted(pacing.PACED_SOURCE))
def test_unknown_engine_keeps_its_pace_and_the_log_says_so(
    engine: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    def other() -> None:
        """Another version's function."""

    monkeypatch.setattr(engine, name, other)
    before = dict(vars(engine))
    with caplog.at_level(logging.WARNING, logger="vultus.site"):
        assert not pace_supernode(Pace())
    assert vars(engine) == before
    assert name in caplog.text


def test_worker_in_unknown_engine_still_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = importlib.import_module(pacing.WORKER_MODULE)
    monkeypatch.setattr(module, "pull_and_inflate_object_from_tree", lambda *_: None)
    with caplog.at_level(logging.WARNING, logger="vultus.site"):
        assert not pace_worker()
    assert "pull_and_inflate_object_from_tree" in caplog.text


def test_parts_on_their_way_are_looked_for_with_short_pauses(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = importlib.import_module(pacing.WORKER_MODULE)
    server = importlib.import_module(CONNECTION_MODULE)
    pulls = ((worker, "pull_and_inflate_object_from_tree"), (server, "pull_objects"))
    for module, name in pulls:
        monkeypatch.setattr(module, name, getattr(module, name))
    assert pace_supernode(Pace())
    assert pace_worker()
    assert pace_server_app()
    for module, name in (*pulls, (engine, "pull_objects")):
        given = getattr(module, name).keywords
        assert given["initial_backoff"] < given["backoff_cap"] <= 1.0


def test_paced_pull_still_gets_what_arrives_late(engine: ModuleType) -> None:
    pending = importlib.import_module("flwr.supercore.inflatable.inflatable_utils")
    tries: list[str] = []

    def pull(object_id: str) -> bytes:
        tries.append(object_id)
        if len(tries) < 3:
            raise pending.ObjectUnavailableError(object_id)
        return b"there"

    assert shorten_backoff(engine, "pull_objects")
    assert engine.pull_objects(["a"], pull_object_fn=pull) == {"a": b"there"}


def test_answer_whose_sender_is_gone_is_given_up_after_a_minute(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = importlib.import_module("flwr.supercore.inflatable.inflatable_utils")
    server = importlib.import_module(CONNECTION_MODULE)
    monkeypatch.setattr(server, "pull_objects", server.pull_objects)
    assert pace_server_app()
    given = server.pull_objects.keywords
    assert given["max_tries_per_object"] * given["backoff_cap"] <= 60.0
    assert shorten_backoff(engine, "pull_objects", tries=3)
    tries: list[str] = []

    def pull(object_id: str) -> bytes:
        tries.append(object_id)
        raise pending.ObjectUnavailableError(object_id)

    with pytest.raises(pending.ObjectPullError):
        engine.pull_objects(["a"], pull_object_fn=pull)
    assert len(tries) == 3


def test_server_that_is_down_is_tried_every_few_seconds(engine: ModuleType) -> None:
    def pauses() -> list[float]:
        waits = make_simple_http_retry_invoker().wait_gen_factory()
        return [next(waits) for _ in range(6)]

    assert pauses() == [1, 2, 4, 8, 16, 20]
    pace_supernode(Pace())
    assert pauses() == [1, 2, 4, 5, 5, 5]


def taken_back_s(monkeypatch: pytest.MonkeyPatch) -> int:
    """First whole second at which the SuperNode has taken back a silent worker's request."""
    claims = importlib.import_module(pacing.CLAIM_MODULE)
    began = datetime(2026, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(claims, "now", lambda: began)
    state = NodeStateFactory(objectstore_factory=ObjectStoreFactory()).state()
    task = state.create_task("flwr-clientapp", run_id=1)
    token = state.claim_task(task)
    assert state.activate_task(task)
    for seconds in range(120):
        monkeypatch.setattr(claims, "now", lambda at=began + timedelta(seconds=seconds): at)
        if state.get_task_by_token(token) is None:
            return seconds
    raise AssertionError


def beats_s() -> list[float]:
    """Pauses between a worker's signs of life."""
    waits: list[float] = []
    sender = HeartbeatSender(lambda: True)

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 20:
            sender._stop_event.set()

    sender._stop_event.wait = wait
    sender._run()
    return waits


def test_request_whose_worker_died_is_taken_back_within_seconds(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert taken_back_s(monkeypatch) == 61
    assert pace_supernode(Pace())
    assert pace_worker()
    assert taken_back_s(monkeypatch) == 21
    # Four signs may be lost, or come late, before a request is.
    assert max(beats_s()) * 4 <= 20


def test_process_without_a_connection_has_nothing_to_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(importlib.import_module("sys").modules, CONNECTION_MODULE, raising=False)
    assert not pace_server_app()


def test_server_app_paces_its_connection_before_it_conducts_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    server = importlib.import_module("server.app")
    monkeypatch.setattr(server, "pace_server_app", lambda: done.append("paced"))
    monkeypatch.setattr(server, "conduct_run", lambda *_, **__: done.append("conducted"))
    server.app(None, Context(1, 1, {}, RecordDict(), {RUN_FOLDER: "run"}))
    assert done == ["paced", "conducted"]
