"""The processes below ``vultus-coordinator start``, each as a program to keep alive.

==============  ===================================================================
``superlink``   the engine's server, on loopback
``superexec``   starts the server app of each run: :mod:`server.app_starter`
``proxy``       nginx, which the sites reach (``proxy = "nginx"``)
``health``      tells monitoring tools how the others are (``health_port``)
==============  ===================================================================
"""

from __future__ import annotations

import sys

from server.bundle import BUNDLE_FILE
from server.endpoint import Endpoint
from server.proxy import Proxy
from server.workspace import Workspace
from shared_models.health import HealthFile
from shared_models.supervision import Child, child_environment, program

STARTER = "server.app_starter"
HEALTH_FILE = "health.json"


def superlink(workspace: Workspace, endpoint: Endpoint) -> Child:
    """The engine's server: sites prove their keys, apps run in processes of their own."""
    certificate = endpoint.certificate
    command = (
        *(str(program("flower-superlink")), "--host", endpoint.host, "--port", str(endpoint.port)),
        *("--ssl-ca-certfile", str(endpoint.authorities)),
        *("--ssl-certfile", str(certificate.certificate), "--ssl-keyfile", str(certificate.key)),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        *("--database", str(workspace.database), "--isolation", "process"),
        *("--superexec-auth-secret-file", str(workspace.secret)),
    )
    return _child(workspace, "superlink", command)


def superexec(workspace: Workspace, endpoint: Endpoint) -> Child:
    """The starter of server apps: of our own bundle, in folders of our own runs."""
    command = (
        *(sys.executable, "-m", STARTER, "--runtime-api-address", endpoint.address),
        *("--root-certificates", str(endpoint.authorities)),
        *("--secret-file", str(workspace.secret)),
        *("--bundle", str(workspace.folder / "bundle" / BUNDLE_FILE)),
        *("--runs", str(workspace.runs)),
    )
    return _child(workspace, "superexec", command)


def proxy(workspace: Workspace, endpoint: Endpoint) -> Child:
    """Nginx before the engine.

    Raises:
        ProxyError: If nginx is not installed, or the folder's name cannot stand in its files.
    """
    settings, certificate = workspace.settings, workspace.authority.server()
    front = Proxy(
        listen=settings.listen,
        port=settings.port,
        certificate=certificate.certificate,
        key=certificate.key,
        upstream=endpoint.address,
        upstream_authority=endpoint.authorities,
        folder=workspace.engine / "nginx",
        requests_per_s=settings.requests_per_s,
        connections=settings.connections,
    )
    return front.child(_environment(workspace), log=workspace.logs / "proxy.log")


def health_file(workspace: Workspace) -> HealthFile:
    """What the supervisor tells :func:`health`."""
    return HealthFile(workspace.engine / HEALTH_FILE)


def health(workspace: Workspace) -> Child:
    """The server of the gRPC health protocol."""
    return health_file(workspace).child(
        workspace.settings.health_port,
        environment=_environment(workspace),
        log=workspace.logs / "health.log",
    )


def children(workspace: Workspace, endpoint: Endpoint) -> tuple[Child, ...]:
    """All processes of a folder, in the order in which they start."""
    settings = workspace.settings
    chosen = [superlink(workspace, endpoint), superexec(workspace, endpoint)]
    if settings.behind_nginx:
        chosen.append(proxy(workspace, endpoint))
    if settings.health_port:
        chosen.append(health(workspace))
    return tuple(chosen)


def _child(workspace: Workspace, name: str, command: tuple[str, ...]) -> Child:
    return Child(name, command, _environment(workspace), workspace.logs / f"{name}.log")


def _environment(workspace: Workspace) -> dict[str, str]:
    # PATH is empty: what is started is started by its full path.
    return child_environment(workspace.engine, programs=[])
