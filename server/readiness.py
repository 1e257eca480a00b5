"""Which of the coordinator's services are up, as monitoring tools are told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from server.endpoint import Endpoint
from server.proxy import is_healthy
from server.run_folder import is_held
from server.runs import latest_run
from server.workspace import EVERYWHERE, LOOPBACK, Workspace
from shared_models.health import OVERALL

PROBE_S = 5.0
"""Between looks at what is up; what is down is looked at each time."""


@dataclass
class Readiness:
    """Looks at the services, at none of them all the time.

    Attributes:
        workspace: The coordinator's folder.
        endpoint: The engine.
    """

    workspace: Workspace
    endpoint: Endpoint
    _seen: dict[str, _Sight] = field(default_factory=dict, init=False, repr=False)

    def look(self, pids: Mapping[str, int]) -> dict[str, bool]:
        """Each service by name.

        Args:
            pids: Processes that run, by name.

        Returns:
            ``""``: every process runs. ``superexec``: it runs. ``superlink`` and ``proxy``: they
            answer the health check. ``run``: a run is under way.
        """
        expected = {"superlink", "superexec"}
        services = {
            "superexec": "superexec" in pids,
            "superlink": self._probed("superlink", pids.get("superlink"), self._engine_answers),
        }
        if self.workspace.settings.behind_nginx:
            expected.add("proxy")
            services["proxy"] = self._probed(
                "proxy", pids.get("proxy"), lambda: proxy_answers(self.workspace)
            )
        running = pids.get("superlink") if services["superlink"] else None
        services["run"] = self._probed("run", running, self._run_under_way)
        return services | {OVERALL: expected <= pids.keys()}

    def _engine_answers(self) -> bool:
        trusted = self.endpoint.authorities.read_text(encoding="ascii")
        return is_healthy((self.endpoint.host, self.endpoint.port), trusted)

    def _run_under_way(self) -> bool:
        latest = latest_run(self.workspace)
        return latest is not None and is_held(latest.folder)

    def _probed(self, name: str, pid: int | None, probe: Callable[[], bool]) -> bool:
        """The last look at a service, or a new one if it is due or the process is another."""
        if pid is None:
            return False
        last, now = self._seen.get(name), time.monotonic()
        if last is None or last.pid != pid or not last.up or now - last.at_s >= PROBE_S:
            last = self._seen[name] = _Sight(pid, now, probe())
        return last.up


@dataclass(frozen=True)
class _Sight:
    """What a look at a service showed, and of which process."""

    pid: int
    at_s: float
    up: bool


def proxy_answers(workspace: Workspace) -> bool:
    """Whether what sites reach answers, and passes the health check on to the engine."""
    settings = workspace.settings
    host = LOOPBACK if settings.listen in {EVERYWHERE, "::"} else settings.listen
    return is_healthy((host, settings.port), workspace.trusted_authorities)
