"""Which of a site's services are up, for the monitoring tools of its IT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared_models.health import OVERALL, HealthFile
from shared_models.supervision import Child

PROCESSES = ("supernode", "worker")
FILE = "health.json"


@dataclass(frozen=True)
class SiteHealth:
    """What is told, and where; nothing at all with port 0.

    Attributes:
        file: What the supervisor writes.
        port: Port on loopback that tools ask.
    """

    file: HealthFile
    port: int

    @classmethod
    def of(cls, engine: Path, port: int) -> SiteHealth:
        """The health of a site whose engine's files lie in a folder."""
        return cls(HealthFile(engine / FILE), port)

    def children(
        self, module: tuple[str, ...], environment: Mapping[str, str], *, logs: Path
    ) -> tuple[Child, ...]:
        """The process that answers tools, if any is to.

        Args:
            module: Words that start :mod:`shared_models.health`, behind the wall if there is one.
            environment: All variables it sees.
            logs: Folder of logs.
        """
        if not self.port:
            return ()
        return (
            self.file.child(self.port, module, environment=environment, log=logs / "health.log"),
        )

    def tell(self, pids: Mapping[str, int], *, connected: bool) -> None:
        """Say what is up.

        Args:
            pids: Processes that run, by name.
            connected: Whether the coordinator was heard lately.
        """
        if self.port:
            services = {name: name in pids for name in PROCESSES}
            overall = all(services.values())
            self.file.write({**services, "coordinator": overall and connected, OVERALL: overall})
