"""The coordinator's processes: the engine's server, the starter of server apps, and their keeper.

**Security.** In the engine's open-source edition the control interface does not ask who calls:
whoever reaches the port and holds the consortium's CA certificate, which every site does, can list,
start and stop runs and register or remove sites. The runtime interface is guarded by a secret file
that only these processes share. Sites themselves are authenticated by their P-384 keys. Therefore
the default is to listen on loopback only, and ``start`` warns when it listens elsewhere: then a
reverse proxy or firewall has to let sites reach ``/v1/fleet/*`` and ``/health`` alone.

A run survives the death of the server: its database is on disk and the server app runs in another
process, which waits until the server is back.
"""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.control import Engine
from server.roster import register_sites
from server.workspace import LOOPBACK, Workspace
from shared_models.console import CommandError, Screen
from shared_models.supervision import (
    Child,
    Death,
    Supervisor,
    child_environment,
    only_one,
    program,
    stop_signals,
)

if TYPE_CHECKING:
    import threading

HEALTHY_WITHIN_S = 90.0
POLL_S = 0.5
RENEW_BEFORE_DAYS = 30


class StartError(CommandError):
    """The coordinator's processes could not be brought up."""


@dataclass(frozen=True)
class Deployment:
    """The processes of one coordinator folder.

    Attributes:
        workspace: The folder.
        screen: Where people read what happens.
    """

    workspace: Workspace
    screen: Screen

    @property
    def engine(self) -> Engine:
        """The engine's control interface on this machine."""
        return engine_of(self.workspace)

    def serve(self) -> None:
        """Run until SIGTERM or Ctrl-C.

        Raises:
            SupervisionError: If this folder is served already, or a process cannot be kept alive.
            StartError: If the engine does not become healthy, or its port is taken.
        """
        with (
            only_one(self.workspace.engine / "lock", what=f"The coordinator {self._name}"),
            stop_signals() as stopping,
        ):
            if self.engine.is_up():
                msg = (
                    f"Expected port {self.workspace.settings.port} to be free, got an answer from "
                    "another coordinator: stop it, or change the port in coordinator.toml."
                )
                raise StartError(msg)
            self._warn()
            supervisor = Supervisor((self._superlink(), self._superexec()))
            try:
                supervisor.start("flower-superlink")
                self._await_health(supervisor, stopping)
                supervisor.start("flower-superexec")
                self._announce()
                self._watch(supervisor, stopping)
            finally:
                self.screen.say("Stopping ...")
                supervisor.stop()

    @property
    def _name(self) -> str:
        return self.workspace.consortium.config.study.name

    def _await_health(self, supervisor: Supervisor, stopping: threading.Event) -> None:
        deadline = time.monotonic() + HEALTHY_WITHIN_S
        while not stopping.is_set():
            deaths = supervisor.poll()
            if self.engine.is_up():
                return
            if deaths or time.monotonic() > deadline:
                log = self.workspace.logs / "superlink.log"
                reason = _reason(deaths) or f"no answer within {HEALTHY_WITHIN_S:.0f} s"
                msg = f"Expected the engine to become healthy, got: {reason}. Its log is {log}."
                raise StartError(msg)
            stopping.wait(POLL_S)

    def _watch(self, supervisor: Supervisor, stopping: threading.Event) -> None:
        """Restart what dies, until told to stop."""
        while not stopping.wait(POLL_S):
            for death in supervisor.poll():
                self.screen.warn(
                    f"{death.child.name} ended with status {death.code}; starting it again. "
                    f"Log: {death.child.log}"
                )

    def _warn(self) -> None:
        if self.workspace.settings.listen != LOOPBACK:
            self.screen.warn(
                f"listening on {self.workspace.settings.listen}. Whoever reaches the port and has "
                "the consortium's CA certificate can start and stop runs and register sites. Let a "
                "reverse proxy or firewall show sites only /v1/fleet/* and /health."
            )
        left = self.workspace.authority.server().not_after - dt.datetime.now(dt.UTC)
        if left.days < RENEW_BEFORE_DAYS:
            self.screen.warn(f"the coordinator's certificate ends in {left.days} days.")

    def _announce(self) -> None:
        """Register the sites, then say what is up and what to do."""
        register_sites(self.workspace, self.engine)
        sites = [entry.id for entry in self.workspace.consortium.config.sites]
        folder = self.workspace.folder
        self.screen.say(
            f"Coordinator {self._name} listens on {self.workspace.local_address}; sites connect to "
            f"{self.workspace.settings.address}."
        )
        self.screen.say(f"Sites admitted: {', '.join(sites) or 'none yet'}.")
        self.screen.say(f"Logs: {self.workspace.logs}. Stop with Ctrl-C.")
        self.screen.next(
            f"in another terminal: vultus-coordinator status {folder}",
            f"when the sites are online: vultus-coordinator run {folder}",
        )

    def _superlink(self) -> Child:
        workspace, server = self.workspace, self.workspace.authority.server()
        return self._child(
            "flower-superlink",
            "superlink",
            ["--host", workspace.settings.listen, "--port", str(workspace.settings.port)],
            ["--ssl-ca-certfile", str(workspace.authority.certificate_file)],
            ["--ssl-certfile", str(server.certificate), "--ssl-keyfile", str(server.key)],
            ["--enable-supernode-auth", "--disable-runtime-dependency-installation"],
            ["--database", str(workspace.database), "--isolation", "process"],
            ["--superexec-auth-secret-file", str(workspace.secret)],
        )

    def _superexec(self) -> Child:
        workspace = self.workspace
        return self._child(
            "flower-superexec",
            "superexec",
            ["--runtime-api-address", workspace.local_address],
            ["--root-certificates", str(workspace.authority.certificate_file)],
            ["--superexec-auth-secret-file", str(workspace.secret)],
        )

    def _child(self, name: str, log: str, *arguments: list[str]) -> Child:
        command = [str(program(name)), *(word for group in arguments for word in group)]
        # Server apps are the only programs that may be started for a run.
        environment = child_environment(self.workspace.engine, programs=["flwr-serverapp"])
        return Child(name, tuple(command), environment, self.workspace.logs / f"{log}.log")


def engine_of(workspace: Workspace) -> Engine:
    """The control interface of a coordinator folder's engine, whether it runs or not."""
    return Engine(workspace.local_address, ca_certificate=workspace.authority.certificate_file)


def _reason(deaths: list[Death]) -> str:
    """The last line in which a process names an error, or its last line at all."""
    lines = [line for death in deaths for line in death.output.splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line]
    return (errors or lines or [""])[-1].strip()
