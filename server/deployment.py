"""The coordinator's processes: the engine, the starter of server apps, the proxy, and their keeper.

**Security.** In the engine's open-source edition the control interface does not ask who calls:
whoever reaches the port can list, start and stop runs and register or remove sites. The runtime
interface is guarded by a secret file that only these processes share. Sites themselves are
authenticated by their P-384 keys. Therefore the engine listens on loopback, always, and the proxy
(:mod:`server.proxy`) shows the outside what sites ask and nothing else. What a run started by
somebody else brings along is not run either: :mod:`server.app_gate`.

A run survives the death of the server: its database is on disk and the server app runs in another
process, which waits until the server is back.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from server.control import Engine
from server.endpoint import Endpoint, endpoint_of, ready_endpoint
from server.processes import children, health_file
from server.proxy import passed_requests
from server.readiness import Readiness, proxy_answers
from server.resume import RunKeeper
from server.roster import register_sites
from server.upkeep import CertificateUpkeep
from server.workspace import Workspace
from shared_models.console import CommandError, Screen
from shared_models.supervision import Death, Supervisor, only_one, stop_signals

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

HEALTHY_WITHIN_S = 90.0
POLL_S = 0.5


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

    @cached_property
    def endpoint(self) -> Endpoint:
        """Where the engine listens; the same for as long as these processes live."""
        return ready_endpoint(self.workspace)

    @cached_property
    def engine(self) -> Engine:
        """The engine's control interface on this machine."""
        return Engine(self.endpoint.address, ca_certificate=self.endpoint.authorities)

    def serve(self) -> None:
        """Run until SIGTERM or Ctrl-C.

        Raises:
            SupervisionError: If this folder is served already, or a process cannot be kept alive.
            ProxyError: If nginx is asked for and not installed.
            StartError: If the engine or the proxy does not become healthy.
            PortError: If the port that sites connect to is taken.
        """
        with (
            only_one(self.workspace.engine / "lock", what=f"The coordinator {self._name}"),
            stop_signals() as stopping,
        ):
            upkeep = CertificateUpkeep(self.workspace, self.endpoint, self.screen)
            upkeep.begin()
            supervisor = Supervisor(children(self.workspace, self.endpoint))
            try:
                self._bring_up(supervisor, stopping)
                if not stopping.is_set():
                    self._announce()
                self._watch(supervisor, stopping, upkeep=upkeep)
            finally:
                self.screen.say("Stopping ...")
                supervisor.stop()

    @property
    def _name(self) -> str:
        return self.workspace.consortium.config.study.name

    def _bring_up(self, supervisor: Supervisor, stopping: threading.Event) -> None:
        """Start the engine, then what needs it; nothing is shown to sites before it answers."""
        supervisor.start("superlink")
        self._await("superlink", self.engine.is_up, supervisor, stopping)
        supervisor.start()
        if self.workspace.settings.behind_nginx:
            self._await("proxy", lambda: proxy_answers(self.workspace), supervisor, stopping)

    def _await(
        self,
        name: str,
        is_up: Callable[[], bool],
        supervisor: Supervisor,
        stopping: threading.Event,
    ) -> None:
        deadline = time.monotonic() + HEALTHY_WITHIN_S
        while not stopping.is_set():
            deaths = [death for death in supervisor.poll() if death.child.name == name]
            if is_up():
                return
            if deaths or time.monotonic() > deadline:
                log = self.workspace.logs / f"{name}.log"
                reason = _reason(deaths) or f"no answer within {HEALTHY_WITHIN_S:.0f} s"
                msg = f"Expected {name} to become healthy, got: {reason}. Its log is {log}."
                raise StartError(msg)
            stopping.wait(POLL_S)

    def _watch(
        self, supervisor: Supervisor, stopping: threading.Event, *, upkeep: CertificateUpkeep
    ) -> None:
        """Restart what dies, until told to stop."""
        readiness = Readiness(self.workspace, self.endpoint)
        told = health_file(self.workspace)
        keeper = RunKeeper(self.workspace, self.engine)
        while not stopping.wait(POLL_S):
            for death in supervisor.poll():
                self.screen.warn(
                    f"{death.child.name} ended with status {death.code}; starting it again. "
                    f"Log: {death.child.log}"
                )
            if taken_up := keeper.look():
                self.screen.warn(taken_up)
            if self.workspace.settings.health_port:
                told.write(readiness.look(supervisor.pids()))
            upkeep.look(supervisor)

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
        self._tell_own_proxy()
        self.screen.say(f"Logs: {self.workspace.logs}. Stop with Ctrl-C.")
        self.screen.next(
            f"in another terminal: vultus-coordinator status {folder}",
            f"when the sites are online: vultus-coordinator run {folder}",
        )

    def _tell_own_proxy(self) -> None:
        """Without nginx, what a proxy of somebody's own may let through."""
        if self.workspace.settings.behind_nginx:
            return
        self.screen.say(
            "No proxy stands before the engine, which does not ask who calls: this machine alone "
            "can connect. A proxy of your own has to verify the engine with "
            f"{self.endpoint.authorities}, to limit bodies to 8 MiB, and to answer 404 to all but"
        )
        self.screen.say(passed_requests())


def engine_of(workspace: Workspace) -> Engine:
    """The control interface of a coordinator folder's engine, whether it runs or not."""
    endpoint = endpoint_of(workspace)
    return Engine(endpoint.address, ca_certificate=endpoint.authorities)


def _reason(deaths: list[Death]) -> str:
    """The last line in which a process names an error, or its last line at all."""
    lines = [line for death in deaths for line in death.output.splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line]
    return (errors or lines or [""])[-1].strip()
