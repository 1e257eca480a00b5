"""Certificates of a running coordinator: renewed in time, and taken up where they are used."""

from __future__ import annotations

import datetime as dt
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from server.endpoint import Endpoint
from server.pki import CertificateAuthority, PkiError
from server.workspace import Workspace
from shared_models.console import Screen
from shared_models.supervision import Supervisor

RENEW_BEFORE_DAYS = 30
LOOK_S = 2.0
RENEWAL_LOOK_S = 3600.0


def renew_if_due(folder: Path, screen: Screen, *, what: str) -> None:
    """Issue a certificate anew, for the same names, if its last month has begun.

    Args:
        folder: Holds the authority and the certificate.
        screen: Told what was done, or why not.
        what: Whose certificate it is, for the message.
    """
    try:
        authority = CertificateAuthority.load(folder)
        server = authority.server()
        left = server.not_after - dt.datetime.now(dt.UTC)
        if left.days >= RENEW_BEFORE_DAYS:
            return
        renewed = authority.issue_server(server.hosts)
    except PkiError as error:
        screen.warn(f"{what} could not be renewed: {error}")
        return
    screen.say(f"{what} had {left.days} days left and was renewed until {renewed.not_after:%F}.")


@dataclass
class CertificateUpkeep:
    """Watches the certificates that a coordinator's processes have loaded.

    Attributes:
        workspace: The coordinator's folder.
        endpoint: The engine.
        screen: Where people read what was done.
    """

    workspace: Workspace
    endpoint: Endpoint
    screen: Screen
    _loaded: dict[Path, float] = field(default_factory=dict, init=False, repr=False)
    _looked: float = field(default=float("-inf"), init=False, repr=False)
    _renewed: float = field(default=float("-inf"), init=False, repr=False)

    def begin(self) -> None:
        """Renew what is due, then note what the processes are about to load."""
        self._renew()
        self._loaded = {file: file.stat().st_mtime for file in (self._outer, self._inner)}

    def _renew(self) -> None:
        """Renew what is in its last month; asks at most once an hour."""
        if time.monotonic() - self._renewed < RENEWAL_LOOK_S:
            return
        self._renewed = time.monotonic()
        renew_if_due(self._outer.parent, self.screen, what="The coordinator's certificate")
        if self._inner != self._outer:
            renew_if_due(self._inner.parent, self.screen, what="The engine's own certificate")

    def look(self, supervisor: Supervisor) -> None:
        """Have changed certificates loaded: nginx rereads its own, the engine starts anew.

        A run outlives a restart of the engine, and sites try again; with nginx, what sites verify
        changes without either.
        """
        if time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        self._renew()
        for file, loaded in self._loaded.items():
            if (written := file.stat().st_mtime) != loaded:
                self._loaded[file] = written
                self._reload(file, supervisor.pids())

    def _reload(self, file: Path, pids: dict[str, int]) -> None:
        name, number = (
            ("superlink", signal.SIGTERM) if file == self._inner else ("proxy", signal.SIGHUP)
        )
        if name in pids:
            os.kill(pids[name], number)
            self.screen.say(f"{file.name} was replaced; {name} takes it up.")

    @property
    def _outer(self) -> Path:
        return self.workspace.folder / "pki" / "server.crt"

    @property
    def _inner(self) -> Path:
        return self.endpoint.certificate.certificate
