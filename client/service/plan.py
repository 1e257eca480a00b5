"""What the processes of a site that serves need to know, read from its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.approval.record import approved_bundles
from client.service.identity_link import IdentityLink
from client.service.reachability import Address, parse_address
from client.service.site_health import SiteHealth
from client.site import IDENTITY_PUBLIC, Site
from shared_models.console import InputError, RefusedError


@dataclass(frozen=True)
class ServicePlan:
    """What the site's processes need to know.

    Attributes:
        site_id: The site.
        address: The coordinator.
        authority: CA certificate that the kit brought.
        keys: Folder of the private keys.
        identity_key: Name of the one by which the coordinator knows the site.
        site_toml: What the app opens for each request.
        state: Folder of logs and the engine's own files.
        audit: The site's audit log.
        approved: SHA-256 of bundles that may start.
        wall_required: Whether nothing may start where the wall cannot be raised.
        health_port: Port on loopback that monitoring tools ask; 0 for none.
    """

    site_id: str
    address: Address
    authority: Path
    keys: Path
    identity_key: str
    site_toml: Path
    state: Path
    audit: Path
    approved: tuple[str, ...]
    wall_required: bool = False
    health_port: int = 0

    @property
    def identity(self) -> IdentityLink:
        """What the engine takes for the site's key."""
        return IdentityLink(self.engine / "identity", self.keys)

    @property
    def contact(self) -> Path:
        """File whose age is the time since the coordinator was last asked for messages."""
        return self.state / "last_contact"

    @property
    def session(self) -> Path:
        """File whose age is the time since this site last held a session, even a busy one."""
        return self.state / "last_session"

    @property
    def logs(self) -> Path:
        """Folder of the processes' logs."""
        return self.state / "logs"

    @property
    def public_key(self) -> Path:
        """The one file that is sent to the coordinator."""
        return self.keys / IDENTITY_PUBLIC

    @property
    def engine(self) -> Path:
        """Folder of the engine's own files."""
        return self.state / "engine"

    @property
    def health(self) -> SiteHealth:
        """What monitoring tools are told."""
        return SiteHealth.of(self.engine, self.health_port)


def plan_service(site: Site) -> ServicePlan:
    """The processes of a site that may serve.

    Raises:
        InputError: If the site has not joined, or the study does not list it.
        RefusedError: If the site has no policy, or approved no bundle for the study as it is.
        KeyFileError: If the identity key is missing or open to others.
    """
    coordinator = site.config.coordinator
    if coordinator is None or site.entry is None:
        msg = (
            f"Expected site {site.id!r} to have joined a consortium, got no coordinator: ask the "
            f"coordinator for a kit and run 'vultus-site join {site.folder} KIT'."
        )
        raise InputError(msg)
    approved = approved_bundles(site)
    if site.policy is None or not approved:
        what = "a [policy] in site.toml" if site.policy is None else "an approved bundle"
        msg = (
            f"Expected {what} for the study as it is pinned now, got none: nothing may start here. "
            f"Run 'vultus-site approve {site.folder}' and read what is asked."
        )
        raise RefusedError(msg)
    _ = site.identity_key
    return ServicePlan(
        site_id=site.id,
        address=parse_address(coordinator.address),
        authority=site.folder / coordinator.ca_certificate,
        keys=site.paths.keys,
        identity_key=site.identity_key_file.name,
        site_toml=site.config_file,
        state=site.paths.state,
        audit=site.paths.audit,
        approved=approved,
        wall_required=site.config.service.wall == "required",
        health_port=site.config.service.health_port,
    )
