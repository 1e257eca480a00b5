"""The coordinator's folder: what lies where, and how it is made.

==================  ==============================================================
``coordinator.toml``  address and ports; stays here, mode 0600
``consortium.toml``   the terms of the study; the same bytes go to every site
``pki/``              certificate authority and the coordinator's certificate
``bundle/``           the code-free bundle whose hash sites approve
``kits/ID/``          what site ID receives
``runs/NAME/``        one folder a run: its study file, progress, signed models, report
``runs/roster.json``  the study's sites, numbered and signed
``runs/keys/``        the key that signs every model; it never leaves the machine, mode 0600
``models/``           the registry of models: signed entries, and a journal that chains them
``engine/``           database, shared secret and settings of the engine
``logs/``             what the engine's programs say
==================  ==============================================================
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic import dataclasses as pydantic

from privacy.vault import write_atomic
from server.bundle import Bundle, build_bundle, load_bundle
from server.pki import CertificateAuthority, trusted_authorities
from server.signing import ready_signing_key
from server.study_file import with_coordinator
from shared_models.console import InputError
from shared_models.consortium import Consortium, load_consortium
from shared_models.hosts import is_loopback
from shared_models.roster import ROSTER_FILE, Roster, RosterError, SiteEntry, reread_roster
from shared_models.toml import STRICT, load_toml

SETTINGS_FILE = "coordinator.toml"
CONSORTIUM_FILE = "consortium.toml"
FOLDERS = ("pki", "bundle", "kits", "runs", "engine", "logs")
LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - a name for the warning, and for listening when asked

SETTINGS = """\
# Where the coordinator listens. Stays on this machine, mode 600.

[coordinator]
# What sites connect to. The certificate in pki/ names this host; see 'vultus-coordinator init'.
address = "{address}"
# The interface and port that sites reach. {loopback} reaches this machine alone.
listen = "{listen}"
port = {port}
# "nginx": a reverse proxy listens there and lets through what sites may ask; the engine itself,
# which does not ask who calls, stays on loopback. "none": no proxy, loopback only, to try things
# out or to put a proxy of your own before it.
proxy = "{proxy}"
# Requests a second and connections at a time from one address; hospitals behind one address share.
requests_per_s = {requests_per_s}
connections = {connections}
# Port on loopback for monitoring tools that speak the gRPC health protocol; 0 turns it off.
health_port = 0
"""


@pydantic.dataclass(frozen=True, config=STRICT)
class CoordinatorSection:
    """``[coordinator]``: where sites connect to, what listens there, and within which limits."""

    address: Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")]
    listen: str = LOOPBACK
    port: Annotated[int, Field(ge=1, le=65535)] = 8443
    proxy: Literal["nginx", "none"] | None = None
    requests_per_s: Annotated[int, Field(ge=1, le=10_000)] = 100
    connections: Annotated[int, Field(ge=1, le=1000)] = 64
    health_port: Annotated[int, Field(ge=0, le=65535)] = 0

    def __post_init__(self) -> None:
        """Refuse to show the engine itself to the outside.

        Raises:
            ValueError: If it would listen on another interface than loopback without a proxy.
        """
        if self.proxy == "none" and not is_loopback(self.listen):
            msg = (
                f'Expected listen = "{LOOPBACK}" with proxy = "none", got "{self.listen}": the '
                'engine does not ask who calls. Write proxy = "nginx", or put a proxy of your own '
                "before it"
            )
            raise ValueError(msg)

    @property
    def behind_nginx(self) -> bool:
        """Whether a proxy is started; files of earlier versions do not say."""
        return self.proxy == "nginx" or (self.proxy is None and not is_loopback(self.listen))


@pydantic.dataclass(frozen=True, config=STRICT)
class Settings:
    """All of ``coordinator.toml``."""

    coordinator: CoordinatorSection


@dataclass(frozen=True)
class Workspace:
    """An opened coordinator folder.

    Attributes:
        folder: The folder, absolute.
        settings: ``coordinator.toml``.
    """

    folder: Path
    settings: CoordinatorSection

    @property
    def consortium_file(self) -> Path:
        """The study file, the same at every site."""
        return self.folder / CONSORTIUM_FILE

    @property
    def roster_file(self) -> Path:
        """The sites of the study, signed; server apps read it beside the folders of their runs."""
        return self.runs / ROSTER_FILE

    @property
    def consortium(self) -> Consortium:
        """The study as it stands now; read afresh, since sites come and go at any time.

        Raises:
            InputError: If the study file was edited since the roster was signed.
        """
        try:
            return load_consortium(self.consortium_file, roster=self.roster_file)
        except RosterError as error:
            msg = (
                f"{error} ({ROSTER_FILE}). If {self.consortium_file} was edited, every site has "
                f"to agree to it: run 'vultus-coordinator kits {self.folder}' and send the kits."
            )
            raise InputError(msg) from error

    @property
    def sites_of_any_study(self) -> tuple[SiteEntry, ...]:
        """The sites of the roster, also if the study file was edited since it was signed."""
        held = self._held_roster
        return held.sites if held else ()

    @property
    def roster_number(self) -> int:
        """Number of the roster that was signed last; 0 before the first."""
        held = self._held_roster
        return held.number if held else 0

    @property
    def _held_roster(self) -> Roster | None:
        if not self.roster_file.exists():
            return None
        study = load_consortium(self.consortium_file)
        return reread_roster(self.roster_file.read_bytes(), public_key=study.coordinator_key)

    @property
    def trusted_authorities(self) -> str:
        """Certificates, PEM, that sites trust: two while the authority is renewed."""
        return trusted_authorities(self.folder / "pki")

    @cached_property
    def authority(self) -> CertificateAuthority:
        """The consortium's certificate authority."""
        return CertificateAuthority.load(self.folder / "pki")

    @property
    def bundle(self) -> Bundle:
        """The bundle that sites approve."""
        return load_bundle(self.folder / "bundle")

    @property
    def local_address(self) -> str:
        """Where programs on this machine reach what the sites reach."""
        listen = self.settings.listen
        host = LOOPBACK if listen in {EVERYWHERE, "::"} else listen
        return f"[{host}]:{self.settings.port}" if ":" in host else f"{host}:{self.settings.port}"

    @property
    def engine(self) -> Path:
        """Folder of the engine's own files."""
        return self.folder / "engine"

    @property
    def secret(self) -> Path:
        """The secret between the engine's server and the program that starts server apps."""
        return self.engine / "secret"

    @property
    def database(self) -> Path:
        """The engine's database: registered keys, runs, messages under way."""
        return self.engine / "state.db"

    @property
    def logs(self) -> Path:
        """Folder of the engine's logs."""
        return self.folder / "logs"

    @property
    def runs(self) -> Path:
        """Folder of all runs."""
        return self.folder / "runs"

    def kit(self, site_id: str) -> Path:
        """Folder of what a site receives."""
        return self.folder / "kits" / site_id


def open_workspace(folder: Path) -> Workspace:
    """The coordinator folder at a path.

    Raises:
        InputError: If it is none.
        ConfigError: If ``coordinator.toml`` is faulty.
    """
    folder = folder.expanduser().absolute()
    file = folder / SETTINGS_FILE
    if not file.is_file():
        msg = (
            f"Expected a coordinator's folder with {SETTINGS_FILE}, got {folder}: make one with "
            "'vultus-coordinator init DIR --name NAME'."
        )
        raise InputError(msg)
    return Workspace(folder, load_toml(file, Settings).coordinator)


def create_workspace(
    folder: Path, *, consortium_toml: str, name: str, hosts: Sequence[str], port: int
) -> Workspace:
    """A new coordinator folder with authority, certificate, signing key, bundle and secret.

    Args:
        folder: Made with mode 0700 if it is missing.
        consortium_toml: The study file, without sites and coordinator's key yet.
        name: Name of the consortium, for its certificates.
        hosts: Names and addresses by which sites reach the coordinator, the main one first.
        port: Port that is listened on.

    Raises:
        InputError: If the folder holds a coordinator already.
        PkiError: If a host cannot stand in a certificate.
    """
    folder = folder.expanduser().absolute()
    if (folder / SETTINGS_FILE).exists():
        msg = f"Expected no coordinator in {folder}, got one: name another folder."
        raise InputError(msg)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for part in FOLDERS:
        (folder / part).mkdir(mode=0o700, exist_ok=True)
    authority = CertificateAuthority.create(folder / "pki", name=name)
    authority.issue_server([*hosts, "localhost", LOOPBACK])
    build_bundle(folder / "bundle")
    study = with_coordinator(consortium_toml, public_key=ready_signing_key(folder / "runs"))
    write_atomic(folder / "engine" / "secret", secrets.token_hex(32).encode())
    write_atomic(folder / CONSORTIUM_FILE, study.encode(), mode=0o644)
    listen = LOOPBACK if all(map(is_loopback, hosts)) else EVERYWHERE
    host = f"[{hosts[0]}]" if ":" in hosts[0] else hosts[0]
    settings = SETTINGS.format(
        address=f"{host}:{port}",
        listen=listen,
        port=port,
        loopback=LOOPBACK,
        proxy="none" if listen == LOOPBACK else "nginx",
        requests_per_s=CoordinatorSection.requests_per_s,
        connections=CoordinatorSection.connections,
    )
    # Last: its presence is what makes the folder a coordinator's.
    write_atomic(folder / SETTINGS_FILE, settings.encode())
    return open_workspace(folder)
