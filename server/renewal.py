"""Renewing what the sites trust: the coordinator's certificate, and the authority above it.

The authority changes in two steps. First both are trusted, and sites learn it from the next roster,
each with its next run; then the new one takes over. No site has to be sent anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from server.kits import write_kits
from server.pki import ServerCertificate
from server.roster import sign_anew
from server.workspace import Workspace
from shared_models.console import InputError


def renew_certificate(workspace: Workspace, hosts: Sequence[str] = ()) -> ServerCertificate:
    """A fresh certificate of the coordinator, for the hosts it had unless others are named.

    Raises:
        PkiError: If a host cannot stand in a certificate.
    """
    return workspace.authority.issue_server(hosts or workspace.authority.server().hosts)


def begin_authority(workspace: Workspace) -> int:
    """Trust the authority that is to follow beside the present one; number of the roster.

    Raises:
        InputError: If a renewal was begun before.
    """
    if workspace.authority.next is not None:
        msg = (
            "Expected no renewal of the authority under way, got one: see which sites follow it "
            "with 'vultus-coordinator status', then finish it with --finish."
        )
        raise InputError(msg)
    workspace.authority.begin_renewal(name=workspace.consortium.config.study.name)
    return _tell(workspace)


def finish_authority(workspace: Workspace) -> int:
    """Let the following authority take over; number of the roster that names it alone.

    Raises:
        PkiError: If no renewal was begun.
    """
    workspace.authority.finish_renewal()
    return _tell(workspace)


def _tell(workspace: Workspace) -> int:
    number = sign_anew(workspace)
    write_kits(workspace)
    return number
