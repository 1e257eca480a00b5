"""Where programs on this machine reach the engine, and what it proves itself with.

Behind nginx the engine has a port of its own on loopback and a certificate of an authority of its
own, which no site ever sees: renewing what sites verify then never disturbs the engine, and whoever
got hold of the consortium's certificate cannot pose as the engine to the proxy.
"""

from __future__ import annotations

import random
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from privacy.vault import write_atomic
from server.pki import TRUSTED, CertificateAuthority, ServerCertificate
from server.proxy import join_address
from server.workspace import LOOPBACK, Workspace
from shared_models.console import CommandError

PORTS = range(20_000, 32_000)
"""Below those that the kernel hands out by itself, so that a restart finds its port free."""
TRIES = 200
FREE_WITHIN_S = 10.0


class PortError(CommandError):
    """A port that cannot be listened on."""


@dataclass(frozen=True)
class Endpoint:
    """The engine on loopback.

    Attributes:
        host: Its interface.
        port: Its port.
        certificate: What it presents, PEM, and the key of that.
        authorities: File of what clients on this machine verify it with, PEM.
    """

    host: str
    port: int
    certificate: ServerCertificate
    authorities: Path

    @property
    def address(self) -> str:
        """``host:port``."""
        return join_address(self.host, self.port)


def endpoint_of(workspace: Workspace) -> Endpoint:
    """Where the engine of a folder listens, or will."""
    settings = workspace.settings
    if not settings.behind_nginx:
        trusted = workspace.authority.folder / TRUSTED
        known = trusted if trusted.exists() else workspace.authority.certificate_file
        return Endpoint(settings.listen, settings.port, workspace.authority.server(), known)
    own = _own_authority(workspace.engine / "tls")
    port = _kept_port(workspace.engine / "port")
    return Endpoint(LOOPBACK, port, own.server(), own.certificate_file)


def ready_endpoint(workspace: Workspace) -> Endpoint:
    """The endpoint with ports that are free, as far as one can know before listening.

    After a SIGKILL of the supervisor its processes need a moment to end, so ports are waited for.

    Raises:
        PortError: If the port that sites connect to is taken or not allowed.
    """
    settings = workspace.settings
    deadline = time.monotonic() + FREE_WITHIN_S
    endpoint = endpoint_of(workspace)
    while not (is_free(settings.listen, settings.port) and is_free(endpoint.host, endpoint.port)):
        if time.monotonic() > deadline:
            _refuse_taken(settings.listen, settings.port)
            # The engine's own port matters to nobody outside: another does as well.
            (workspace.engine / "port").unlink()
            return endpoint_of(workspace)
        time.sleep(0.1)
    return endpoint


def is_free(host: str, port: int) -> bool:
    """Whether a port can be listened on."""
    with suppress(OSError):
        _bind(host, port)
        return True
    return False


def _refuse_taken(host: str, port: int) -> None:
    try:
        _bind(host, port)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        msg = (
            f"Expected port {port} of {host} to be free for the coordinator, got: {reason}. Stop "
            "what listens there, or change the port in coordinator.toml."
        )
        raise PortError(msg) from error


def _bind(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _kept_port(file: Path) -> int:
    """The port in a file, or a free one that is written there."""
    if file.exists():
        return int(file.read_text(encoding="ascii"))
    for port in random.sample(PORTS, TRIES):
        if is_free(LOOPBACK, port):
            write_atomic(file, str(port).encode())
            return port
    msg = f"Expected a free port between {PORTS.start} and {PORTS.stop} on {LOOPBACK}, got none."
    raise PortError(msg)


def _own_authority(folder: Path) -> CertificateAuthority:
    if (folder / "ca.key").exists():
        return CertificateAuthority.load(folder)
    authority = CertificateAuthority.create(folder, name="engine")
    authority.issue_server(["localhost", LOOPBACK])
    return authority
