"""The processes of a running coordinator: killed, renewed, watched, and lied to."""

from __future__ import annotations

import datetime as dt
import hashlib
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from cryptography import x509
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from running_coordinator import Running, free_port, make_folder, serving, wait_for

from privacy.keys import create_identity_key
from server import app_gate
from server.app_gate import AppGate, GateError, RefusedAppError, install_gate
from server.bundle import build_bundle, describe_app
from server.control import Engine, RunState
from server.deployment import engine_of
from server.pki import CertificateAuthority
from server.proxy import ProxyError, find_nginx
from server.readiness import proxy_answers
from server.roster import add_site
from server.runs import start_run, stop_run
from server.upkeep import renew_if_due
from shared_models.console import Screen

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
SERVICES = ("", "superlink", "superexec", "proxy")
FLIPS_WITHIN_S = 10.0
BACK_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    try:
        find_nginx()
    except ProxyError:
        pytest.skip("nginx is not installed")
    root = tmp_path_factory.mktemp("processes")
    folder = make_folder(root / "co", proxy="nginx", health_port=free_port())
    create_identity_key(root / "identity", root / "identity.pub")
    with serving(folder) as running:
        add_site(running.workspace, "a", key_file=root / "identity.pub", weight=40)
        yield running


@pytest.fixture
def health(coordinator: Running) -> Iterator[HealthStub]:
    with grpc.insecure_channel(
        f"127.0.0.1:{coordinator.workspace.settings.health_port}"
    ) as channel:
        yield HealthStub(channel)


@pytest.fixture
def engine(coordinator: Running) -> Engine:
    return engine_of(coordinator.workspace)


def status(health: HealthStub, service: str) -> int:
    return int(health.Check(HealthCheckRequest(service=service), timeout=10).status)


def all_serve(health: HealthStub) -> bool:
    return all(status(health, service) == SERVING for service in SERVICES)


def hostile_bundle(folder: Path) -> tuple[bytes, Path]:
    """A bundle that shadows the coordinator's own server app, and the file that it would make."""
    from flwr.cli.build import build_fab_from_files

    marker = folder / "hostile-code-ran"
    description = describe_app("vultus", client_app="client.app:app", settings=("run-folder",))
    description = description.replace('fab-include = ["LICENSE"]', 'fab-include = ["**/*.py"]')
    code = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
    files = {"pyproject.toml": description, "server/__init__.py": code, "server/app.py": code}
    content, _ = build_fab_from_files({name: text.encode() for name, text in files.items()})
    return content, marker


def ended(engine: Engine, run_id: int) -> RunState:
    wait_for(lambda: engine.run_state(run_id).is_over, seconds=60, what="the end of the run")
    return engine.run_state(run_id)


def test_every_service_serves_and_no_run_is_under_way(health: HealthStub) -> None:
    wait_for(lambda: all_serve(health), seconds=20, what="health")
    assert status(health, "run") == NOT_SERVING


def test_hostile_bundle_is_refused_by_name_and_none_of_it_runs(
    coordinator: Running, engine: Engine, tmp_path: Path
) -> None:
    content, marker = hostile_bundle(tmp_path)
    digest = hashlib.sha256(content).hexdigest()
    folder = {"run-folder": str(coordinator.folder / "runs" / "run-0001")}
    state = ended(engine, engine.start_run(content, digest, config=folder))
    assert state.outcome == "failed"
    assert "bundle_not_approved" in state.details
    assert digest in state.details
    assert "Traceback" in coordinator.log("superexec")
    assert not marker.exists()
    unpacked = [path.name for path in coordinator.folder.rglob("app.py")]
    assert unpacked == []


def test_run_in_a_folder_of_somebody_elses_is_refused(
    coordinator: Running, engine: Engine, tmp_path: Path
) -> None:
    bundle = coordinator.workspace.bundle
    run_id = engine.start_run(bundle.content, bundle.sha256, config={"run-folder": str(tmp_path)})
    state = ended(engine, run_id)
    assert state.outcome == "failed"
    assert "run_folder_not_approved" in state.details
    assert list(tmp_path.iterdir()) == []


def gates(starter: psutil.Process, before: set[int]) -> list[psutil.Process]:
    """Children of the starter that hold a server app since then."""
    young = [child for child in starter.children() if child.pid not in before]
    return [child for child in young if "server.app_gate" in child.cmdline()]


def test_run_is_healthy_while_it_lasts_and_its_token_stands_on_no_command_line(
    coordinator: Running, health: HealthStub, engine: Engine
) -> None:
    starter = coordinator.child("server.app_starter")
    # The app of the run before may still be on its way out.
    before = {child.pid for child in starter.children()}
    run = start_run(coordinator.workspace, engine)
    wait_for(lambda: gates(starter, before), seconds=80, what="the server app")
    [app] = gates(starter, before)
    assert [word for word in app.cmdline() if word.startswith("--")] == [
        *("--runtime-api-address", "--root-certificates", "--bundle", "--runs", "--parent-pid")
    ]
    wait_for(lambda: status(health, "run") == SERVING, seconds=90, what="a run's health")
    stop_run(run, engine)
    wait_for(lambda: status(health, "run") == NOT_SERVING, seconds=60, what="the run's end")


@pytest.mark.parametrize(
    ("service", "words"),
    [("proxy", "nginx"), ("superexec", "server.app_starter"), ("superlink", "flower-superlink")],
)
def test_a_killed_process_is_told_within_seconds_and_is_back(
    coordinator: Running, health: HealthStub, service: str, words: str
) -> None:
    wait_for(lambda: all_serve(health), seconds=BACK_WITHIN_S, what="health")
    changes = health.Watch(HealthCheckRequest(service=service), timeout=BACK_WITHIN_S)
    assert next(changes).status == SERVING
    killed = coordinator.child(words)
    killed.kill()
    took = wait_for(
        lambda: status(health, "") == NOT_SERVING, seconds=FLIPS_WITHIN_S, what="the flip"
    )
    assert took < FLIPS_WITHIN_S
    assert next(changes).status == NOT_SERVING
    assert next(changes).status == SERVING
    changes.cancel()
    wait_for(lambda: all_serve(health), seconds=BACK_WITHIN_S, what="the return")
    assert coordinator.child(words).pid != killed.pid
    assert f"{service} ended with status -9; starting it again" in coordinator.said()


def test_death_of_the_proxys_master_leaves_no_worker_on_the_port(coordinator: Running) -> None:
    master = coordinator.child("nginx")
    workers = master.children()
    assert len(workers) == 2
    master.kill()
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert alive == []
    wait_for(lambda: proxy_answers(coordinator.workspace), seconds=20, what="the proxy's return")


def served_certificate(coordinator: Running) -> x509.Certificate:
    pem = ssl.get_server_certificate(("127.0.0.1", coordinator.port), timeout=10)
    return x509.load_pem_x509_certificate(pem.encode())


def test_renewed_certificate_is_taken_up_and_no_process_ends(coordinator: Running) -> None:
    wait_for(lambda: proxy_answers(coordinator.workspace), seconds=20, what="the proxy")
    names = ("nginx", "server.app_starter", "flower-superlink")
    before = [coordinator.child(name).pid for name in names]
    old = served_certificate(coordinator)
    authority = CertificateAuthority.load(coordinator.folder / "pki")
    authority.issue_server(authority.server().hosts)
    wait_for(
        lambda: served_certificate(coordinator).serial_number != old.serial_number,
        seconds=15,
        what="the new certificate",
    )
    assert [coordinator.child(name).pid for name in names] == before
    assert proxy_answers(coordinator.workspace)


def test_renewal_of_the_engines_own_certificate_restarts_the_engine_alone(
    coordinator: Running, engine: Engine
) -> None:
    front, back = coordinator.child("nginx").pid, coordinator.child("flower-superlink")
    own = CertificateAuthority.load(coordinator.folder / "engine" / "tls")
    own.issue_server(own.server().hosts)
    wait_for(
        lambda: "server.crt was replaced; superlink takes it up" in coordinator.said(),
        seconds=15,
        what="the restart",
    )
    wait_for(lambda: not back.is_running(), seconds=20, what="the engine's end")
    wait_for(lambda: proxy_answers(coordinator.workspace), seconds=60, what="the engine's return")
    assert coordinator.child("nginx").pid == front
    assert engine.is_up()


def test_nothing_secret_is_said_or_logged(coordinator: Running) -> None:
    secret = (coordinator.folder / "engine" / "secret").read_text()
    logs = "".join(file.read_text() for file in (coordinator.folder / "logs").iterdir())
    assert secret not in logs + coordinator.said()
    for file in (coordinator.folder / "logs").iterdir():
        assert file.stat().st_mode & 0o077 == 0
    for child in psutil.Process(coordinator.process.pid).children(recursive=True):
        assert secret not in " ".join(child.cmdline())


def test_sigkill_of_the_supervisor_leaves_no_process(tmp_path: Path, coordinator: Running) -> None:
    del coordinator  # only so that this machine has nginx
    folder = make_folder(tmp_path / "co", proxy="nginx")
    with serving(folder, exit_code=-signal.SIGKILL) as first:
        started = psutil.Process(first.process.pid).children(recursive=True)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        _, alive = psutil.wait_procs(started, timeout=15)
        assert alive == []


@pytest.mark.parametrize(("days", "renewed"), [(31, False), (29, True)])
def test_certificate_is_renewed_in_its_last_month(
    tmp_path: Path, days: int, renewed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.pki.SERVER_LIFETIME_DAYS", days)
    authority = CertificateAuthority.create(tmp_path)
    before = authority.issue_server(["fl.example.org", "localhost"])
    monkeypatch.setattr("server.pki.SERVER_LIFETIME_DAYS", 365)
    renew_if_due(tmp_path, Screen(), what="The certificate")
    after = authority.server()
    assert (after.not_after > before.not_after) is renewed
    assert after.hosts == before.hosts
    if renewed:
        assert after.not_after - dt.datetime.now(dt.UTC) > dt.timedelta(days=364)


def test_certificate_whose_authority_lies_elsewhere_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renew_if_due(tmp_path, Screen(), what="The certificate")
    assert "could not be renewed" in capsys.readouterr().out


def test_gate_knows_only_the_bytes_of_the_coordinators_bundle(tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path)
    gate = AppGate(bundle.path, tmp_path)
    gate.check_bundle(bundle.content)
    with pytest.raises(RefusedAppError, match="bundle_not_approved"):
        gate.check_bundle(bundle.content + b" ")


def test_gate_knows_only_folders_of_runs(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    (runs / "run-0001").mkdir(parents=True)
    gate = AppGate(tmp_path / "x", runs)
    gate.check_folder(str(runs / "run-0001"))
    for folder in (tmp_path, runs, runs / "a" / "b", runs / "run-0001" / ".." / ".." / "x"):
        with pytest.raises(RefusedAppError, match="run_folder_not_approved"):
            gate.check_folder(str(folder))
    (runs / "link").symlink_to(tmp_path)
    with pytest.raises(RefusedAppError, match="run_folder_not_approved"):
        gate.check_folder(str(runs / "link"))


def test_gate_refuses_an_engine_that_reads_differently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = AppGate(tmp_path / "x", tmp_path)
    monkeypatch.setattr(app_gate, "GATED_SOURCE", "0" * 64)
    with pytest.raises(GateError, match=r"flwr 1\.41"):
        install_gate(gate)
    monkeypatch.undo()
    monkeypatch.setattr(app_gate, "GATED_NAMES", ("install_from_fab", "no_longer_there"))
    with pytest.raises(GateError, match=r"flwr 1\.41"):
        install_gate(gate)
