"""A request whose run ends while it arrives leaves nothing for the worker to wait for."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.nodestate import NodeStateFactory

from client.service import ended_runs
from client.service.ended_runs import drop_ended_requests

RUN, NODE = 7, 9


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The SuperNode's module, put back as it was when the test ends."""
    module = importlib.import_module(ended_runs.SUPERNODE_MODULE)
    monkeypatch.setattr(module, "pull_objects", module.pull_objects)
    return module


@pytest.fixture
def message(monkeypatch: pytest.MonkeyPatch) -> Message:
    for name, value in (("_task_id", 1), ("_run_id", RUN), ("_node_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value)
    content = RecordDict({"asked": ConfigRecord({"round": 1})})
    made = Message(content, NODE, "train", group_id="1")
    made.metadata.__dict__["_message_id"] = made.object_id
    return made


def receive(engine: ModuleType, message: Message, pull: Callable[[int, str], bytes]) -> Any:
    """Let the engine's own function take a message; the node's memory afterwards."""
    store = ObjectStoreFactory().store()
    state = NodeStateFactory(objectstore_factory=ObjectStoreFactory()).state()
    state.set_node_id(NODE)
    state.store_run(Run.create_empty(RUN))
    taken = engine._pull_and_store_message(
        state, store, {}, lambda: (message, get_object_tree(message)),
        lambda _: Run.create_empty(RUN), lambda *_: SimpleNamespace(), pull, lambda *_: None, None,
    )  # fmt: skip
    return SimpleNamespace(taken=taken, waiting=state.get_messages_legacy(is_reply=False))


def end_run(_run_id: int, _object_id: str) -> bytes:
    raise RunNotRunningException


def test_the_engine_alone_leaves_a_request_without_parts(
    engine: ModuleType, message: Message
) -> None:
    """The fault that this is about; where it is gone, so can be the remedy."""
    left = receive(engine, message, end_run)
    assert left.taken is None
    assert len(left.waiting) == 1


def test_a_request_whose_run_ended_is_dropped_whole(engine: ModuleType, message: Message) -> None:
    assert drop_ended_requests()
    left = receive(engine, message, end_run)
    assert left.taken is None
    assert left.waiting == []


def test_an_engine_that_reads_differently_is_left_alone(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ended_runs, "RECEIVE_SOURCE", "another")
    before = engine.pull_objects
    with caplog.at_level(logging.WARNING):
        assert not drop_ended_requests()
    assert engine.pull_objects is before
    assert "_pull_and_store_message" in caplog.text


ENTRY = """
import importlib, sys, types
from flwr.supercore.run import RunNotRunningException
from client.service import supernode_entry

def supernode():
    def pull(_):
        raise RunNotRunningException
    engine = importlib.import_module("flwr.supernode.start_client_internal")
    try:
        engine.pull_objects(["part"], pull)
    except Exception as error:
        print(type(error).__name__, "not in" if "service" not in
              str(engine._pull_and_store_message.__module__) else "behind the gate")

cli = types.ModuleType("flwr.supernode.cli.flower_supernode")
cli.flower_supernode = supernode
sys.modules["flwr.supernode.cli.flower_supernode"] = cli
supernode_entry.main(["--audit", "audit.jsonl", "--contact", "contact", "--"])
"""


def test_the_site_s_own_process_drops_them_behind_its_gate(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENTRY], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.stdout.strip() == "RunEndedError behind the gate", done.stderr
