"""A site's service: joining, the bundle gate, reaching the coordinator, answering requests."""

from __future__ import annotations

import hashlib
import http.server
import importlib
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
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

from client.service import bundle_gate, supernode
from client.service.bundle_gate import BundleGate, GateError, install_gate
from client.service.kit import join_site, read_kit
from client.service.reachability import (
    Address,
    UnreachableError,
    await_coordinator,
    parse_address,
    probe,
)
from client.service.supernode import plan_service
from client.service.worker import Worker
from client.site import Site, SiteError, init_site, open_site
from server.pki import CertificateAuthority
from server.roster import add_site
from server.study_file import new_study
from server.workspace import Workspace, create_workspace
from shared_models.console import InputError, RefusedError, Screen
from shared_models.supervision import Child, Death
from shared_models.toml import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

RUN_ID = 42


def agree(_changes: object) -> bool:
    return True


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    study = new_study("north", instrument="phq9")
    return create_workspace(
        tmp_path / "co", consortium_toml=study, name="north", hosts=["localhost"], port=8443
    )


@pytest.fixture
def site(tmp_path: Path, workspace: Workspace) -> Site:
    return init_site(tmp_path / "a", site_id="a", consortium_file=workspace.consortium_file)


@pytest.fixture
def kit(site: Site, workspace: Workspace) -> Path:
    return add_site(workspace, "a", key_file=site.public_key_file, weight=40).kit


# --- joining -------------------------------------------------------------------------------------


def test_joining_takes_over_study_address_authority_and_bundle(
    site: Site, kit: Path, workspace: Workspace
) -> None:
    joined = join_site(site.folder, kit, confirm=agree)
    assert joined.consortium.digest == workspace.consortium.digest
    assert joined.config.coordinator is not None
    assert joined.config.coordinator.address == "localhost:8443"
    authority = site.folder / joined.config.coordinator.ca_certificate
    assert authority.read_bytes() == workspace.authority.certificate_file.read_bytes()
    assert joined.policy is not None
    assert joined.policy.approved_bundles == (workspace.bundle.sha256,)
    assert joined.config_file.stat().st_mode & 0o077 == 0


def test_joining_shows_what_changes_and_changes_nothing_when_declined(
    site: Site, kit: Path, workspace: Workspace
) -> None:
    before = {f: f.read_bytes() for f in site.folder.rglob("*") if f.is_file()}
    shown: list[str] = []

    def decline(changes: Any) -> bool:
        shown.extend(changes)
        return False

    join_site(site.folder, kit, confirm=decline)
    assert {f: f.read_bytes() for f in site.folder.rglob("*") if f.is_file()} == before
    text = "\n".join(shown)
    for part in (workspace.bundle.sha256, workspace.consortium.digest, "localhost:8443"):
        assert part in text


def test_joining_again_changes_nothing(site: Site, kit: Path) -> None:
    joined = join_site(site.folder, kit, confirm=agree)
    before = joined.config_file.read_bytes()
    shown: list[str] = []
    join_site(site.folder, kit, confirm=lambda changes: bool(shown.extend(changes)) or True)
    assert shown == []
    assert joined.config_file.read_bytes() == before


def test_joining_keeps_the_sites_own_edits(site: Site, kit: Path) -> None:
    text = site.config_file.read_text().replace("workers = 1", "workers = 3 # night shift")
    site.config_file.write_text(text)
    joined = join_site(site.folder, kit, confirm=agree)
    assert "workers = 3 # night shift" in joined.config_file.read_text()


def test_altered_kit_is_refused(site: Site, kit: Path) -> None:
    study = kit / "consortium.toml"
    study.write_text(study.read_text().replace("target_epsilon = 3.0", "target_epsilon = 300.0"))
    with pytest.raises(SiteError, match="altered"):
        join_site(site.folder, kit, confirm=agree)


def test_kit_of_another_site_is_refused(site: Site, kit: Path, tmp_path: Path) -> None:
    study = kit / "consortium.toml"
    other = init_site(tmp_path / "b", site_id="b", consortium_file=study)
    with pytest.raises(SiteError, match="'b'"):
        join_site(other.folder, kit, confirm=agree)


def test_kit_that_names_another_key_is_refused(
    site: Site, workspace: Workspace, tmp_path: Path
) -> None:
    stranger = init_site(tmp_path / "x", site_id="a", consortium_file=workspace.consortium_file)
    kit = add_site(workspace, "a", key_file=stranger.public_key_file, weight=40).kit
    with pytest.raises(SiteError, match="SHA256:"):
        join_site(site.folder, kit, confirm=agree)


@pytest.mark.parametrize(
    ("name", "content"),
    [("kit.toml", b"[kit]\n"), ("consortium.toml", b""), ("ca.crt", b"not a certificate")],
)
def test_damaged_kit_is_refused(kit: Path, name: str, content: bytes) -> None:
    (kit / name).write_bytes(content)
    with pytest.raises((SiteError, ConfigError)):
        read_kit(kit)


def test_kit_for_another_engine_version_is_refused(site: Site, kit: Path) -> None:
    file = kit / "kit.toml"
    file.write_text(file.read_text().replace('flwr_version = "1.', 'flwr_version = "9.'))
    with pytest.raises(SiteError, match="flwr"):
        join_site(site.folder, kit, confirm=agree)


# --- the gate ------------------------------------------------------------------------------------


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


def gate_for(*contents: bytes) -> tuple[BundleGate, list[str]]:
    refused: list[str] = []
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
    assert refused == [hashlib.sha256(fab.content).hexdigest()]


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
    monkeypatch.setattr(bundle_gate.importlib, "import_module", lambda _name: agree)
    gate, _ = gate_for(b"good")
    with pytest.raises(GateError, match="module"):
        install_gate(gate)


# --- answering requests --------------------------------------------------------------------------


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


# --- reaching the coordinator --------------------------------------------------------------------


class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def listen() -> Iterator[Callable[..., Address]]:
    """Start health servers on loopback, with or without TLS."""
    servers: list[tuple[http.server.HTTPServer, threading.Thread]] = []

    def start(authority: CertificateAuthority | None, hosts: tuple[str, ...] = ()) -> Address:
        server = http.server.HTTPServer(("127.0.0.1", 0), Healthy)
        if authority:
            issued = authority.issue_server(hosts)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(issued.certificate, issued.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        servers.append((server, thread))
        return Address("127.0.0.1", server.server_address[1])

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def test_coordinator_with_its_own_certificate_is_reached(
    listen: Callable[..., Address], tmp_path: Path
) -> None:
    authority = CertificateAuthority.create(tmp_path)
    probe(listen(authority, ("127.0.0.1",)), authority.certificate_file)


def test_certificate_of_another_authority_is_told_apart_and_not_waited_for(
    listen: Callable[..., Address], tmp_path: Path
) -> None:
    ours = CertificateAuthority.create(tmp_path / "ours")
    theirs = CertificateAuthority.create(tmp_path / "theirs")
    address = listen(theirs, ("127.0.0.1",))
    with pytest.raises(UnreachableError, match="consortium's authority") as caught:
        await_coordinator(address, ours.certificate_file, stopping=threading.Event())
    assert not caught.value.may_pass


def test_certificate_for_another_host_is_refused(
    listen: Callable[..., Address], tmp_path: Path
) -> None:
    authority = CertificateAuthority.create(tmp_path)
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1"):
        probe(listen(authority, ("fl.example.org",)), authority.certificate_file)


def test_closed_port_says_that_nothing_listens(
    listen: Callable[..., Address], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.service.reachability.PAUSE_S", 0.0)
    authority = CertificateAuthority.create(tmp_path)
    with pytest.raises(UnreachableError, match="has been started") as caught:
        await_coordinator(
            Address("127.0.0.1", 1), authority.certificate_file, stopping=threading.Event()
        )
    assert caught.value.may_pass


def test_port_without_tls_is_told_apart(listen: Callable[..., Address], tmp_path: Path) -> None:
    authority = CertificateAuthority.create(tmp_path)
    with pytest.raises(UnreachableError, match="does not speak TLS"):
        probe(listen(None), authority.certificate_file)


@pytest.mark.parametrize("text", ["127.0.0.1:8443", "[::1]:8443", "fl.example.org:443"])
def test_address_reads_back_as_written(text: str) -> None:
    assert str(parse_address(text)) == text


# --- serving -------------------------------------------------------------------------------------


def test_site_that_has_not_joined_does_not_serve(site: Site) -> None:
    with pytest.raises(InputError, match="vultus-site join"):
        plan_service(site)


def test_site_without_an_approved_bundle_does_not_serve(site: Site, kit: Path) -> None:
    joined = join_site(site.folder, kit, confirm=agree)
    approved = joined.policy.approved_bundles[0] if joined.policy else ""
    text = joined.config_file.read_text().replace(f'"{approved}"', "")
    joined.config_file.write_text(text)
    with pytest.raises(RefusedError, match="approved_bundles"):
        plan_service(open_site(joined.folder))


def test_processes_get_the_sites_list_key_and_authority_and_no_programs(
    site: Site, kit: Path
) -> None:
    joined = join_site(site.folder, kit, confirm=agree)
    plan = plan_service(joined)
    node, worker = supernode._children(plan)
    for child in (node, worker):
        at = child.command.index("--approve")
        assert child.command[at + 1] == plan.approved[0]
        assert list(Path(child.environment["PATH"]).iterdir()) == []
    assert str(joined.identity_key_file) in node.command
    assert str(site.folder / "ca.crt") in node.command
    assert "--insecure" not in node.command
    assert (plan.engine / "secret").stat().st_mode & 0o077 == 0


def death(site: Site, output: str) -> Death:
    return Death(Child("supernode", (), {}, site.paths.state / "x.log"), 1, output)


def test_refused_key_ends_the_service_unless_an_old_session_may_linger(
    site: Site, kit: Path
) -> None:
    plan = plan_service(join_site(site.folder, kit, confirm=agree))
    connection = supernode._Connection(plan, Screen())
    refusal = death(site, "[code: 2004] Failed to activate SuperNode.")
    with pytest.raises(Exception, match=r"identity\.pub"):
        connection.note_death(refusal)
    plan.session.touch()
    connection.note_death(refusal)
    long_ago = time.time() - supernode.OLD_SESSION_S - 1
    os.utime(plan.session, (long_ago, long_ago))
    with pytest.raises(Exception, match=r"identity\.pub"):
        connection.note_death(refusal)


def test_busy_session_counts_as_one_that_may_linger(site: Site, kit: Path) -> None:
    plan = plan_service(join_site(site.folder, kit, confirm=agree))
    connection = supernode._Connection(plan, Screen())
    plan.contact.touch()
    # The file system's clock ticks coarsely: a plain touch may lie before the start.
    os.utime(plan.contact, (time.time(), time.time()))
    connection.look()
    assert connection.connected
    long_ago = time.time() - 3600
    os.utime(plan.contact, (long_ago, long_ago))
    os.utime(plan.session, (long_ago, long_ago))
    connection.look()
    connection.note_death(death(site, "[code: 2004] Failed to activate SuperNode."))


def test_refused_signature_points_to_the_clock(site: Site, kit: Path) -> None:
    plan = plan_service(join_site(site.folder, kit, confirm=agree))
    with pytest.raises(Exception, match="clock"):
        supernode._Connection(plan, Screen()).note_death(
            death(site, "Client error '401 Unauthorized'")
        )
