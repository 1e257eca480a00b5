"""Bundle gate and worker: what the site has not approved is neither unpacked nor answered."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.nodestate import NodeStateFactory
from hostile_bundles import HOSTILE, sound_bundle, with_entry

from client.approval.inspection import inspect_bundle
from client.approval.pending import note_refusal, pending_bundles
from client.service import bundle_gate
from client.service.bundle_gate import BundleGate, GateError, install_gate
from client.service.worker import Worker
from privacy.audit import AuditLog, read

RUN_ID = 42


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The engine's module, put back as it was when the test ends."""
    module = importlib.import_module(bundle_gate.ENGINE_MODULE)
    for name in ("_pull_and_store_message", "_verify_fab", "FAB_VERIFICATION_ERROR"):
        monkeypatch.setattr(module, name, getattr(module, name))
    return module


class UnpackedError(Exception):
    """The engine began to read a bundle."""


def pull_once(
    engine: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    *,
    fab: Fab,
    kind: str = TaskType.SERVER_APP,
) -> Any:
    """One message of an unknown run reaches the engine; the state of the node afterwards.

    Raises:
        UnpackedError: If the engine went on to read the bundle.
    """

    def unpack(*_: object) -> None:
        raise UnpackedError

    monkeypatch.setattr(engine, "get_fused_config_from_fab", unpack)
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    message = Message(RecordDict(), 5, "train")
    message.metadata.__dict__["_run_id"] = RUN_ID
    message.metadata.__dict__["_message_id"] = message.object_id
    run = replace(Run.create_empty(RUN_ID), fab_hash=fab.hash_str, primary_task_type=kind)
    stores = ObjectStoreFactory()
    state = NodeStateFactory(objectstore_factory=stores).state()
    state.set_node_id(5)
    engine._pull_and_store_message(
        state=state,
        object_store=stores.store(),
        node_config={},
        receive=lambda: (message, None),
        get_run=lambda _run_id: run,
        get_fab=lambda _hash, _run_id: fab,
        pull_object=lambda _run_id, _object_id: b"",
        confirm_message_received=lambda _run_id, _object_id: None,
        trusted_entities=None,
    )
    return state


def make_fab(content: bytes, *, claims: str | None = None) -> Fab:
    licence = {"valid_license": "granted by the sender"}
    return Fab(claims or hashlib.sha256(content).hexdigest(), content, licence)


def gate_for(*contents: bytes) -> tuple[BundleGate, list[bytes]]:
    refused: list[bytes] = []
    approved = frozenset(hashlib.sha256(content).hexdigest() for content in contents)
    return BundleGate(approved, refused.append, lambda: None), refused


def test_approved_bundle_passes_the_gate(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, refused = gate_for(b"good")
    install_gate(gate)
    with pytest.raises(UnpackedError):
        pull_once(engine, monkeypatch, fab=make_fab(b"good"))
    assert refused == []


@pytest.mark.parametrize(
    ("fab", "kind"),
    [
        (make_fab(b"evil"), TaskType.SERVER_APP),
        (
            make_fab(b"evil", claims=hashlib.sha256(b"good").hexdigest()),
            TaskType.SERVER_APP,
        ),
        (make_fab(b"good", claims="0" * 64), TaskType.SERVER_APP),
        (make_fab(b"good"), TaskType.AGENT_APP),
        (make_fab(b""), TaskType.SERVER_APP),
    ],
    ids=["not on the list", "states a good hash", "states a wrong hash", "agent", "empty"],
)
def test_other_bundle_is_answered_with_a_refusal_and_never_unpacked(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch, fab: Fab, kind: str
) -> None:
    gate, refused = gate_for(b"good")
    install_gate(gate)
    state = pull_once(engine, monkeypatch, fab=fab, kind=kind)
    [reply] = state.get_messages_legacy(is_reply=True)
    assert reply.has_error()
    assert reply.error.reason == bundle_gate.REFUSAL
    assert state.get_run(RUN_ID) is None
    assert refused == [fab.content]


# Bundles as a hostile coordinator would make them, through the engine's own function.


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_bundle_is_refused_on_both_sides_and_nothing_of_it_runs(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    sound = sound_bundle(tmp_path / "sound")
    make, _ = HOSTILE[kind]
    content = make(sound)
    state_folder, log = tmp_path / "state", AuditLog(tmp_path / "audit.jsonl")
    state_folder.mkdir()
    approved = frozenset({hashlib.sha256(sound).hexdigest()})
    install_gate(BundleGate(approved, lambda c: note_refusal(state_folder, log, c), lambda: None))
    before = set(sys.modules)
    state = pull_once(engine, monkeypatch, fab=make_fab(content))
    [reply] = state.get_messages_legacy(is_reply=True)
    assert reply.error.reason.startswith("bundle_not_approved")
    assert state.get_run(RUN_ID) is None
    assert not {name for name in set(sys.modules) - before if name.startswith("client.app")}
    [entry] = read(tmp_path / "audit.jsonl")
    assert entry.details["sha256"] == hashlib.sha256(content).hexdigest()
    for kept in pending_bundles(state_folder).values():
        assert not inspect_bundle(kept).is_approvable


def test_hostile_bundle_that_states_the_hash_of_an_approved_one_is_refused(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sound = sound_bundle(tmp_path)
    gate, refused = gate_for(sound)
    install_gate(gate)
    hostile = with_entry(sound, "client/app.py")
    fab = make_fab(hostile, claims=hashlib.sha256(sound).hexdigest())
    state = pull_once(engine, monkeypatch, fab=fab)
    assert refused == [hostile]
    assert state.get_run(RUN_ID) is None


def test_empty_list_refuses_every_bundle(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, refused = gate_for()
    install_gate(gate)
    state = pull_once(engine, monkeypatch, fab=make_fab(b"good"))
    assert len(refused) == 1
    assert state.get_run(RUN_ID) is None


def test_without_the_gate_the_engine_would_unpack_any_bundle(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnpackedError):
        pull_once(engine, monkeypatch, fab=make_fab(b"evil"))


@pytest.mark.parametrize("name", sorted(bundle_gate.GATED_SOURCE))
def test_gate_refuses_to_stand_in_another_engine(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def other() -> None:
        """Another version's function."""

    monkeypatch.setattr(engine, name, other)
    gate, _ = gate_for(b"good")
    with pytest.raises(GateError, match=name):
        install_gate(gate)


def test_gate_refuses_a_function_where_the_module_should_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bundle_gate, "ENGINE_MODULE", "somewhere")
    monkeypatch.setattr(bundle_gate.importlib, "import_module", lambda _name: gate_for)
    gate, _ = gate_for(b"good")
    with pytest.raises(GateError, match="module"):
        install_gate(gate)


def answer(train: Callable[[Message, Context], Message], *, approved: bytes) -> Message:
    app = ClientApp()
    app.train()(train)
    approvals = frozenset({hashlib.sha256(approved).hexdigest()})
    message = Message(RecordDict(), 5, "train")
    context = Context(run_id=1, node_id=5, node_config={}, state=RecordDict(), run_config={})
    return Worker(app, "127.0.0.1:1", b"secret", approvals)._answer(message, context, b"good")


@pytest.fixture
def as_task(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.mark.usefixtures("as_task")
def test_failing_app_tells_the_coordinator_nothing_of_the_site() -> None:
    def fail(_message: Message, _context: Context) -> Message:
        msg = "no such file: /srv/hospital/videos/subject-0007.mp4"
        raise FileNotFoundError(msg)

    reply = answer(fail, approved=b"good")
    assert reply.has_error()
    assert "subject" not in reply.error.reason
    assert "/" not in reply.error.reason


@pytest.mark.usefixtures("as_task")
def test_worker_answers_only_runs_of_approved_bundles() -> None:
    def work(message: Message, _context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    assert not answer(work, approved=b"good").has_error()
    assert answer(work, approved=b"another").has_error()
