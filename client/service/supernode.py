"""A site serving a consortium: two supervised processes, one connection, outbound only.

The SuperNode talks to the coordinator behind the bundle gate; the worker holds network and data and
answers requests with the installed ``client.app``. They talk to each other on loopback, guarded by
a secret that is made anew at each start. The site listens on no outside interface.

Neither of the two, nor the process that first asks whether the coordinator is there, can read a
video: they start behind the wall of :mod:`client.service.wall`. This process speaks with nobody
outside and stays in front of the wall, so that what it starts anew sees files put in place since.

A SuperNode that was killed cannot return before its old session at the coordinator ends, which
takes about a minute; until then the coordinator answers as if it did not know the key.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from dataclasses import dataclass, field
from json import dumps
from pathlib import Path

from client.approval.pending import RefusalWatch
from client.approval.record import APPROVALS_FILE, approved_members
from client.service.agreement_watch import AgreementWatch
from client.service.plan import ServicePlan, plan_service
from client.service.wall import REREAD, Boundary, find_boundary
from client.service.walled_start import (
    REACHABILITY,
    BoundaryWatch,
    await_coordinator,
    decide_wall,
    module_command,
)
from client.site import CONSORTIUM_FILE, Site, open_site
from privacy.vault import write_atomic
from shared_models.console import DONE, CommandError, Screen
from shared_models.supervision import (
    Child,
    Death,
    Supervisor,
    child_environment,
    only_one,
    stop_signals,
)

POLL_S = 0.5
OLD_SESSION_S = 75.0
"""A session that was not closed is forgotten after this; measured 52 s, at most two heartbeats."""
SILENT_AFTER_S = 60.0

NOT_ACTIVATED = "[code: 2004]"
NOT_AUTHENTIC = "401 Unauthorized"
SUPERNODE = "client.service.supernode_entry"
WORKER = "client.service.worker"
HEALTH = "shared_models.health"


def serve_site(site: Site, *, screen: Screen | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; the exit code.

    Raises:
        CommandError: If the coordinator cannot be reached or does not know the key, or a process
            cannot be kept alive; with the code to exit with.
    """
    return serve(plan_service(site), screen or Screen())


def serve(plan: ServicePlan, screen: Screen) -> int:
    """Serve a plan until SIGTERM or Ctrl-C; see :func:`serve_site`."""
    with (
        only_one(plan.engine / "lock", what=f"Site {plan.site_id}"),
        stop_signals() as stopping,
    ):
        while not stopping.is_set():
            _serve_until_changed(plan, screen, stopping)
            plan = plan_service(open_site(plan.site_toml))
    return DONE


def _serve_until_changed(plan: ServicePlan, screen: Screen, stopping: threading.Event) -> None:
    """Serve until told to stop, or until the people of the site agreed to something else."""
    boundary = find_boundary(plan.site_toml)
    walled = decide_wall(boundary, screen, required=plan.wall_required)
    screen.say(f"Site {plan.site_id}: looking for the coordinator at {plan.address} ...")
    await_coordinator(
        plan.address,
        plan.authority,
        command=module_command(REACHABILITY, plan.site_toml, walled=walled),
        environment=_environment(plan),
        stopping=stopping,
    )
    if stopping.is_set():
        return
    health = plan.health.children(
        module_command(HEALTH, plan.site_toml, walled=walled), _environment(plan), logs=plan.logs
    )
    supervisor = Supervisor((*_children(plan, boundary if walled else None), *health))
    try:
        supervisor.start()
        connection = _Connection(plan, screen)
        wall = BoundaryWatch(plan.site_toml, boundary) if walled else None
        _watch(connection, supervisor, stopping, wall=wall)
    finally:
        screen.say("Stopping ...")
        supervisor.stop()


def _agreed(plan: ServicePlan) -> object:
    """What of a plan the people of the site decide on, as it stands in their files by now."""
    site = open_site(plan.site_toml)
    now = plan_service(site)
    # Behind the wall a file that was replaced cannot be read: what reads it has to start anew.
    return now.approved, now.address, now.authority, approved_members(site)


@dataclass
class _Connection:
    """What is known of the connection, and told to people when it changes."""

    plan: ServicePlan
    screen: Screen
    began: float = field(default_factory=time.time)
    connected: bool = False
    silent: bool = False
    tried_other_key: bool = False

    def __post_init__(self) -> None:
        self.health = self.plan.health
        self.refusals = RefusalWatch(self.plan.state)
        self.signed_with = self.plan.identity.stamp()
        folder = self.plan.site_toml.parent
        files = (self.plan.site_toml, folder / APPROVALS_FILE, folder / CONSORTIUM_FILE)
        self.agreement = AgreementWatch(files, lambda: _agreed(self.plan))
        self.trusted = self.plan.authority.read_bytes()

    @property
    def trusts_too_little(self) -> bool:
        """Whether nothing is heard any more, and the authorities are others than at the start.

        A roster brings the next authority long before it takes over; what was started before that
        knows it from then on only if it is started again, which can wait until it has to be.
        """
        return self.silent and self.plan.authority.read_bytes() != self.trusted

    def look(self) -> None:
        """Notice that the coordinator was asked for messages, or has not been for long."""
        age = _age_s(self.plan.contact)
        if not self.connected and age is not None and time.time() - age >= self.began:
            self.connected, self.tried_other_key = True, False
            self._tell_connected()
        if self.connected:
            self.plan.session.touch()
        silent = self.connected and age is not None and age > SILENT_AFTER_S
        if silent and not self.silent:
            self.screen.warn(
                f"the coordinator has not been heard for {age:.0f} s, or a request takes long; "
                "this site keeps trying."
            )
        self.silent = silent
        folder = self.plan.site_toml.parent
        for digest in self.refusals.look():
            self.screen.warn(f"refused bundle {digest}; read: vultus-site approve {folder}")

    def note_death(self, death: Death) -> None:
        """Say why a process ended.

        Raises:
            CommandError: If starting it again cannot help: the coordinator does not know the key,
                or calls the signature wrong.
        """
        if death.code == REREAD:
            self.screen.say("A file of this site was replaced; the worker starts anew to read it.")
            return
        self.began, self.connected, self.silent = time.time(), False, False
        self.plan.identity.mend()
        refused = NOT_AUTHENTIC in death.output or NOT_ACTIVATED in death.output
        before, self.signed_with = self.signed_with, self.plan.identity.stamp()
        if refused and before not in {None, self.signed_with}:
            # The roster with the new key came over the very session that the old key had opened.
            self.screen.say("The site's key was renewed meanwhile; connecting with the new one.")
            return
        if refused and self.plan.identity.switch() and not self.tried_other_key:
            self.tried_other_key = True
            self.signed_with = self.plan.identity.stamp()
            self.screen.say("The coordinator does not know this key; trying the renewed one.")
            return
        if NOT_AUTHENTIC in death.output:
            msg = (
                "Expected the coordinator to accept this site's signature, got a refusal: the "
                "clocks may differ, or the site has just been removed. Set this machine's clock by "
                "NTP, ask the coordinator, and start again."
            )
            raise CommandError(msg)
        if NOT_ACTIVATED in death.output:
            self._explain_refusal()
            return
        self.screen.warn(
            f"{death.child.name} ended with status {death.code}; starting it again. "
            f"Log: {death.child.log}"
        )

    def _explain_refusal(self) -> None:
        age = _age_s(self.plan.session)
        if age is None or age > OLD_SESSION_S:
            msg = (
                f"Expected the coordinator to know the key of site {self.plan.site_id}, got a "
                "refusal. Either the site was not added or has been removed, or its key is in use "
                f"elsewhere. Send {self.plan.public_key} to the coordinator and ask for "
                "'add-site'."
            )
            raise CommandError(msg)
        self.screen.say(
            "The coordinator still holds this site's last session, which ends in at most "
            f"{OLD_SESSION_S - age:.0f} s; trying again."
        )

    def _tell_connected(self) -> None:
        folder = self.plan.site_toml.parent
        self.screen.say(
            f"Connected to {self.plan.address}; waiting for requests. Stop with Ctrl-C."
        )
        self.screen.say(f"Logs: {self.plan.logs}.")
        self.screen.next(f"in another terminal, what has been spent: vultus-site budget {folder}")


def _watch(
    connection: _Connection,
    supervisor: Supervisor,
    stopping: threading.Event,
    *,
    wall: BoundaryWatch | None,
) -> None:
    """Restart what dies and tell people what changes, until told to stop or to begin anew."""
    while not stopping.wait(POLL_S):
        if connection.agreement.has_changed():
            connection.screen.say("This site agreed to something else; beginning anew with it.")
            return
        if connection.trusts_too_little:
            connection.screen.say("The coordinator's authority was renewed; beginning anew.")
            return
        for death in supervisor.poll():
            connection.note_death(death)
        connection.look()
        connection.health.tell(
            supervisor.pids(), connected=connection.connected and not connection.silent
        )
        for place in wall.look() if wall else ():
            connection.screen.warn(
                f"{place} holds videos since this service was started and is not walled off: stop "
                "and start it again."
            )


def _age_s(file: Path) -> float | None:
    """Seconds since a file was last touched; None if it never was."""
    try:
        return max(0.0, time.time() - file.stat().st_mtime)
    except FileNotFoundError:
        return None


def _children(plan: ServicePlan, boundary: Boundary | None = None) -> tuple[Child, Child]:
    """SuperNode and worker, joined by a port and a secret of this start; walled off if asked."""
    environment = _environment(plan)
    plan.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    plan.identity.point(plan.identity_key)
    secret = plan.engine / "secret"
    write_atomic(secret, secrets.token_hex(32).encode())
    address = f"127.0.0.1:{_free_port()}"
    approved = [word for digest in plan.approved for word in ("--approve", digest)]
    # What is put in place of a file lies behind the wall; a worker that starts anew can read it.
    watched = (
        [word for file in boundary.needed for word in ("--watch", str(file))] if boundary else []
    )
    supernode = [
        *module_command(SUPERNODE, plan.site_toml, walled=boundary is not None),
        *(*approved, "--audit", str(plan.audit), "--contact", str(plan.contact), "--"),
        *("--superlink", str(plan.address), "--root-certificates", str(plan.authority)),
        *("--auth-supernode-private-key", str(plan.identity.path)),
        *("--host", "127.0.0.1", "--port", address.rpartition(":")[2]),
        *("--isolation", "process", "--superexec-auth-secret-file", str(secret)),
        *("--node-config", f"site-config={dumps(str(plan.site_toml))}"),
    ]
    worker = [
        *module_command(WORKER, plan.site_toml, walled=boundary is not None),
        *(*approved, *watched, "--runtime-api-address", address, "--secret-file", str(secret)),
    ]
    return (
        Child("supernode", tuple(supernode), environment, plan.logs / "supernode.log"),
        Child("worker", tuple(worker), environment, plan.logs / "worker.log"),
    )


def _environment(plan: ServicePlan) -> dict[str, str]:
    """Variables of all that speaks with the coordinator; none starts programs: PATH is empty."""
    scratch = plan.engine / "scratch"
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A common folder for temporary files may lie on the way to the videos.
    return child_environment(plan.engine, programs=[]) | {"TMPDIR": str(scratch)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
