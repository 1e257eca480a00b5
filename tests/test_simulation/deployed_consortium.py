"""A consortium of real processes: prepared, conducted and stopped, for the tests to look at.

Between sites and coordinator stands a proxy with a certificate of the consortium's authority. It
passes everything on and keeps what the sites sent, so that the tests can search the very bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import functools
import hashlib
import json
import socket
import ssl
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from client.site import Site, open_site
from client.site_template import REQUIRED_COLUMNS
from server.bundle import describe_app
from server.control import RunState
from server.deployment import engine_of
from server.pki import CertificateAuthority
from server.proxy import ProxyError, find_nginx
from server.readiness import proxy_answers
from server.workspace import open_workspace
from simulation.casting import command_for
from simulation.cohort import CohortDesign, SimulatedRecording, SiteCohort, generate_site
from simulation.commands import BehaviourCommand
from simulation.faces import render_video
from simulation.sites import store_features, write_recordings

SITES = ("north", "east", "west")
STRANGER = "stranger"
ROUNDS = 3
SMILES = {"faint": (3.0, 0.3), "plain": (7.0, 0.6), "broad": (11.0, 1.0)}
"""Time of the commanded smile's peak in seconds, and its height, by recording."""
SEVERITIES = {"mild": 2.0, "moderate": 12.0, "severe": 24.0}
"""PHQ-9 score that the behaviour of a rendered face follows, by recording."""
REAL_VIDEOS = ("talking_man_24fps.mp4", "nod_30fps.mkv", "no_face.mp4")
RECORDED_AT = "2025-03-02T09:30:00+01:00"


def wait_for(condition: Callable[[], object], *, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:.0f} s"
        time.sleep(0.2)


def call(
    *words: object, expect: int = 0, timeout_s: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts to its end."""
    program, *rest = [str(word) for word in words]
    command = [str(Path(sysconfig.get_path("scripts")) / program), *rest]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == expect, (command, done.returncode, done.stdout, done.stderr)
    return done


def last_json(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout.strip().splitlines()[-1])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RecordingProxy:
    """Terminates TLS for the sites, speaks TLS to the coordinator, keeps what sites send."""

    def __init__(self, upstream_port: int) -> None:
        self.port = free_port()
        self.sent = bytearray()
        self.upstream_port = upstream_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self, coordinator_ca: Path, certificate: Path, key: Path) -> None:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate, key)
        trust = ssl.create_default_context(cafile=str(coordinator_ca))
        self._thread.start()
        relay = functools.partial(self._relay, trust)
        listening = asyncio.start_server(relay, "127.0.0.1", self.port, ssl=server)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        """Close every socket: one left open would be a warning in some later test."""
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        # Closed transports let go of their sockets in the loop's next turns.
        for _ in range(3):
            await asyncio.sleep(0.05)

    async def _relay(
        self,
        trust: ssl.SSLContext,
        site: asyncio.StreamReader,
        to_site: asyncio.StreamWriter,
    ) -> None:
        """Carry bytes both ways until either side closes."""
        with contextlib.suppress(OSError, asyncio.CancelledError):
            coordinator, to_coordinator = await asyncio.open_connection(
                "127.0.0.1", self.upstream_port, ssl=trust
            )
            self._writers |= {to_site, to_coordinator}
            ways = [
                asyncio.create_task(self._copy(site, to_coordinator, keep=True)),
                asyncio.create_task(self._copy(coordinator, to_site)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                to_coordinator.close()
        to_site.close()

    async def _copy(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, keep: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(1 << 16):
                if keep:
                    self.sent += chunk
                target.write(chunk)
                await target.drain()


@dataclass
class Deployment:
    """What the tests look at after everything has run."""

    root: Path
    proxy: RecordingProxy
    cohorts: dict[str, SiteCohort] = field(default_factory=dict)
    inspected: dict[str, Any] = field(default_factory=dict)
    answer: Any = None
    status: Any = None
    idle_status: Any = None
    unreachable: subprocess.CompletedProcess[str] | None = None
    stranger: subprocess.CompletedProcess[str] | None = None
    second_start: subprocess.CompletedProcess[str] | None = None
    second_run: subprocess.CompletedProcess[str] | None = None
    hostile_sha256: str = ""
    hostile_run: RunState | None = None
    exit_codes: dict[str, int] = field(default_factory=dict)
    left_behind: list[str] = field(default_factory=list)

    @property
    def coordinator(self) -> Path:
        return self.root / "coordinator"

    def site(self, site_id: str) -> Site:
        return open_site(self.root / site_id)

    def audit(self, site_id: str) -> list[dict[str, Any]]:
        file = self.site(site_id).paths.audit
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def make_consortium(found: Deployment, *, with_videos: tuple[Path, Path] | None) -> None:
    """Folders, data, keys and kits of everybody, and a stranger whose key is withdrawn again."""
    upstream = found.proxy.upstream_port
    call("vultus-coordinator", "init", found.coordinator, "--name", "trial", "--port", upstream)
    settings = found.coordinator / "coordinator.toml"
    address = f'address = "127.0.0.1:{upstream}"'
    text = settings.read_text()
    assert address in text
    text = text.replace(address, f'address = "127.0.0.1:{found.proxy.port}"')
    # As hospitals meet it, where nginx is installed.
    settings.write_text(text.replace('proxy = "none"', f'proxy = "{present_proxy()}"'))
    study = found.coordinator / "consortium.toml"
    study.write_text(
        study.read_text()
        .replace("rounds = 30", f"rounds = {ROUNDS}")
        .replace("round_timeout_s = 600.0", "round_timeout_s = 240.0")
        .replace('mode = "local"', 'mode = "distributed"')
        .replace("retries = 2", "retries = 0")
    )
    for site_id in (*SITES, STRANGER):
        call("vultus-site", "init", found.root / site_id, "--id", site_id, "--consortium", study)
    if with_videos:
        extract_videos(found, *with_videos)
    design = CohortDesign(sites=len(SITES), subjects_per_site=36, seed=11)
    for index, site_id in enumerate(SITES):
        add_simulated_subjects(found, site_id, generate_site(design, index))
    admit_sites(found)


def present_proxy() -> str:
    try:
        find_nginx()
    except ProxyError:
        return "none"
    return "nginx"


def admit_sites(found: Deployment) -> None:
    for site_id in (*SITES, STRANGER):
        add_site(found, site_id)
        join(found, site_id)
    call("vultus-coordinator", "remove-site", found.coordinator, STRANGER)


def add_site(found: Deployment, site_id: str) -> None:
    key = found.root / site_id / "keys" / "identity.pub"
    words = ("--id", site_id, "--key", key, "--weight", 40)
    call("vultus-coordinator", "add-site", found.coordinator, *words)


def join(found: Deployment, site_id: str) -> None:
    kit = found.coordinator / "kits" / site_id
    call("vultus-site", "join", found.root / site_id, kit, "--yes")


def extract_videos(found: Deployment, videos: Path, model: Path) -> None:
    """Rendered smiles at the first site, real recordings at the second, severities at the third."""
    rendered = {}
    for name, (peak_s, height) in SMILES.items():
        file = found.root / SITES[0] / "videos" / f"{name}.mp4"
        knots = f"0:0,{peak_s - 1}:0,{peak_s}:{height},{peak_s + 1}:0,15:0"
        call(
            *("vultus-simulate", "render", "--out", file, "--seconds", 15, "--rate", 15),
            *("--smile", knots, "--yaw", "0:-8,15:8"),
        )
        rendered[name] = f"videos/{file.name}"
    real = {}
    for name in REAL_VIDEOS:
        file = found.root / SITES[1] / "videos" / name
        file.write_bytes((videos / name).read_bytes())
        real[file.stem] = f"videos/{name}"
    severe = {name: f"videos/{name}.mp4" for name in SEVERITIES}
    for name, severity in SEVERITIES.items():
        render_video(show_severity(name, severity), found.root / SITES[2] / severe[name])
    for site_id, files in zip(SITES, (rendered, real, severe), strict=True):
        folder = found.root / site_id
        write_table(folder / "recordings.csv", files)
        assert last_json(call("vultus-site", "check", folder, "--json"))["faults"] == []
        call("vultus-site", "extract", folder, "--face-model", model, "--json")
        seen = last_json(call("vultus-site", "inspect", folder, "--json"))
        found.inspected[site_id] = {r["recording_id"]: r for r in seen["recordings"]}


def show_severity(name: str, severity: float) -> BehaviourCommand:
    """The behaviour of one person at this severity."""
    visit = SimulatedRecording(
        recording_id=f"p38-{name}",
        subject_id="p38",
        recorded_at=RECORDED_AT,
        age_years=45,
        sex="female",
        score=severity,
        visit=1,
        task="interview",
        treatment="none",
        severity=severity,
    )
    return command_for(visit, duration_s=20.0, rate_hz=15.0)


def write_table(path: Path, files: dict[str, str]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(REQUIRED_COLUMNS)
        for index, (name, file) in enumerate(files.items()):
            subject = f"pseudonym-{path.parent.name}-{index}"
            score = SEVERITIES.get(name, 5 + 5 * index)
            writer.writerow([name, subject, file, RECORDED_AT, 40 + index, "female", score])


def add_simulated_subjects(found: Deployment, site_id: str, cohort: SiteCohort) -> None:
    """Subjects whose features are there already, after those whose videos were extracted."""
    site = found.site(site_id)
    with site.paths.recordings.open(newline="") as stream:
        extracted = list(csv.DictReader(stream))
    write_recordings(site.paths.recordings, cohort.recordings)
    store_features(site, cohort)
    with site.paths.recordings.open(newline="") as stream:
        columns = next(csv.reader(stream))
    with site.paths.recordings.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        for row in extracted:
            writer.writerow({"consent": "granted", **row})
    found.cohorts[site_id] = cohort


@contextlib.contextmanager
def background(found: Deployment, name: str, *words: object) -> Iterator[subprocess.Popen[bytes]]:
    """A serving process; ended by SIGTERM, and everything it started with it."""
    program, *rest = [str(word) for word in words]
    command = [str(Path(sysconfig.get_path("scripts")) / program), *rest]
    with (found.root / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        started = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            found.exit_codes[name] = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            found.exit_codes[name] = -9
        _, alive = psutil.wait_procs(started, timeout=10)
        found.left_behind += [f"{name}: {child.pid}" for child in alive]


def conduct(found: Deployment) -> None:
    """Everything that needs a coordinator, in the order in which it would happen."""
    first = found.root / SITES[0]
    found.unreachable = call("vultus-site", "start", first, expect=1, timeout_s=120)
    with contextlib.ExitStack() as stack:
        serve = ("vultus-coordinator", "start", found.coordinator)
        stack.enter_context(background(found, "coordinator", *serve))
        workspace = open_workspace(found.coordinator)
        wait_for(lambda: proxy_answers(workspace), seconds=120, what="the coordinator's health")
        authority = CertificateAuthority.load(found.coordinator / "pki")
        server = authority.server()
        found.proxy.start(authority.certificate_file, server.certificate, server.key)
        stack.callback(found.proxy.stop)
        found.idle_status = last_json(
            call("vultus-coordinator", "status", found.coordinator, "--json")
        )
        for site_id in SITES:
            start = ("vultus-site", "start", found.root / site_id)
            stack.enter_context(background(found, site_id, *start))
        found.stranger = call("vultus-site", "start", found.root / STRANGER, expect=1)
        found.second_start = call("vultus-site", "start", first, expect=1)
        wait_for(lambda: all_online(found), seconds=240, what="all sites being online")
        run = call("vultus-coordinator", "run", found.coordinator, "--json")
        found.answer = last_json(run)
        found.status = last_json(call("vultus-coordinator", "status", found.coordinator, "--json"))
        found.second_run = call("vultus-coordinator", "run", found.coordinator, expect=3)
        send_hostile_bundle(found)
        call("vultus-coordinator", "report", found.coordinator, "--out", found.root / "page.html")


def all_online(found: Deployment) -> bool:
    told = last_json(call("vultus-coordinator", "status", found.coordinator, "--json"))
    return all(site["state"] == "online" for site in told["sites"])


def send_hostile_bundle(found: Deployment) -> None:
    """Start runs, past our own command line, whose bundle brings code for the sites.

    The first meets the gate of the coordinator's server apps; before the second the coordinator
    itself goes bad and takes the bundle for its own.
    """
    from flwr.cli.build import build_fab_from_files

    marker = found.root / "hostile-code-ran"
    description = describe_app("vultus", client_app="hostile:app", settings=("run-folder",))
    description = description.replace('fab-include = ["LICENSE"]', 'fab-include = ["hostile.py"]')
    code = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\napp = None\n"
    files = {"pyproject.toml": description.encode(), "hostile.py": code.encode()}
    content, _ = build_fab_from_files(files)
    found.hostile_sha256 = hashlib.sha256(content).hexdigest()
    workspace = open_workspace(found.coordinator)
    engine = engine_of(workspace)
    folder = workspace.runs / "hostile"
    folder.mkdir()
    (folder / "consortium.toml").write_bytes(workspace.consortium_file.read_bytes())
    config = {"run-folder": str(folder)}
    run_id = engine.start_run(content, found.hostile_sha256, config=config)
    wait_for(lambda: engine.run_state(run_id).is_over, seconds=60, what="a refusal by the gate")
    found.hostile_run = engine.run_state(run_id)
    workspace.bundle.path.write_bytes(content)
    run_id = engine.start_run(content, found.hostile_sha256, config=config)
    wait_for(
        lambda: all(refusals(found, site_id) for site_id in SITES),
        seconds=180,
        what="a refusal of the hostile bundle by every site",
    )
    engine.stop_run(run_id)


def refusals(found: Deployment, site_id: str) -> list[str]:
    entries = [e for e in found.audit(site_id) if e["event"] == "bundle_refused"]
    return [entry["details"]["sha256"] for entry in entries]


def read_report(found: Deployment) -> Any:
    return json.loads((Path(found.answer["report"]).parent / "report.json").read_text())
