"""Joining a consortium: the coordinator's kit becomes part of the site, after a person agreed.

A kit is a folder with the study file, the coordinator's authority and ``kit.toml``. It carries no
secret and no code, but it decides whom the site trusts, so everything it changes is shown first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, cast

import tomlkit
from cryptography import x509
from pydantic import Field
from pydantic import dataclasses as pydantic
from tomlkit import TOMLDocument
from tomlkit.items import Table

from client.site import CONSORTIUM_FILE, SITE_FILE, Site, SiteError, open_site
from client.site_config import Sha256
from client.site_template import describe_changes
from privacy import keys
from privacy.vault import write_atomic
from shared_models.consortium import Consortium, load_consortium
from shared_models.roster import Name
from shared_models.toml import STRICT, load_toml

KIT_FILE = "kit.toml"
CA_FILE = "ca.crt"


@pydantic.dataclass(frozen=True, config=STRICT)
class KitSection:
    """``[kit]``: whom the kit is for, where to connect, what to agree to."""

    site_id: Name
    address: Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")]
    consortium_sha256: Sha256
    bundle_sha256: Sha256
    vultus_version: str
    flwr_version: str


@pydantic.dataclass(frozen=True, config=STRICT)
class KitFile:
    """All of ``kit.toml``."""

    kit: KitSection


@dataclass(frozen=True)
class Kit:
    """A kit whose parts belong together.

    Attributes:
        terms: ``kit.toml``.
        consortium: The study file that it pins.
        study: That file's bytes.
        authority: The coordinator's CA certificate, PEM.
        text: ``kit.toml`` itself.
    """

    terms: KitSection
    consortium: Consortium
    study: bytes
    authority: bytes
    text: bytes


def read_kit(folder: Path) -> Kit:
    """The kit in a folder, checked against itself.

    Raises:
        ConfigError: If ``kit.toml`` or the study file is missing or faulty.
        SiteError: If the study file is not the one that ``kit.toml`` names, or the certificate is
            none.
    """
    folder = folder.expanduser().absolute()
    terms = load_toml(folder / KIT_FILE, KitFile).kit
    consortium = load_consortium(folder / CONSORTIUM_FILE)
    if consortium.digest != terms.consortium_sha256:
        msg = (
            f"Expected {folder / CONSORTIUM_FILE} with SHA-256 {terms.consortium_sha256} "
            f"({KIT_FILE}), got {consortium.digest}: the kit is damaged or was altered. Ask the "
            "coordinator for it again."
        )
        raise SiteError(msg)
    return Kit(
        terms,
        consortium,
        (folder / CONSORTIUM_FILE).read_bytes(),
        _read_authority(folder / CA_FILE),
        (folder / KIT_FILE).read_bytes(),
    )


def join_site(
    site_folder: Path, kit_folder: Path, *, confirm: Callable[[Sequence[str]], bool]
) -> Site:
    """The site after it took over what its kit says.

    Args:
        site_folder: A site made by ``vultus-site init``.
        kit_folder: The folder that the coordinator sent.
        confirm: Called with what would change, one sentence a change; False leaves all as it is.

    Returns:
        The site, opened again; unchanged if ``confirm`` declined.

    Raises:
        ConfigError: If a file of the kit or the site is faulty.
        SiteError: If the kit is for another site, names another key, needs another version, or the
            site is a simulated one.
    """
    site, kit = open_site(site_folder), read_kit(kit_folder)
    _refuse_foreign(site, kit)
    if not confirm(planned_changes(site, kit)):
        return site
    write_atomic(site.folder / CA_FILE, kit.authority)
    # Kept so that 'doctor' can compare it with what is installed later.
    write_atomic(site.folder / KIT_FILE, kit.text)
    text = _joined(site.config_file.read_text(encoding="utf-8"), kit)
    # A crash between these two leaves a site that refuses to open, never one that trusts more.
    write_atomic(site.paths.consortium, kit.study)
    write_atomic(site.config_file, text.encode())
    return open_site(site.folder)


def planned_changes(site: Site, kit: Kit) -> list[str]:
    """What joining would change at the site, one sentence a change."""
    changes = [
        f"study: {line}" for line in describe_changes(site.consortium.config, kit.consortium.config)
    ]
    if site.consortium.digest != kit.consortium.digest:
        changes.append(f"pin the study file with SHA-256 {kit.consortium.digest}")
    approved = site.policy.approved_bundles if site.policy else ()
    if kit.terms.bundle_sha256 not in approved:
        changes.append(f"approve the bundle with SHA-256 {kit.terms.bundle_sha256}")
    known = site.config.coordinator
    if known is None or known.address != kit.terms.address:
        before = f" instead of {known.address}" if known else ""
        changes.append(f"connect to {kit.terms.address}{before}")
    current = site.folder / CA_FILE
    if not current.is_file() or current.read_bytes() != kit.authority:
        digest = hashlib.sha256(kit.authority).hexdigest()
        changes.append(f"trust the certificate authority with SHA-256 {digest}")
    return changes


def _refuse_foreign(site: Site, kit: Kit) -> None:
    """Refuse a kit that would not work here, with every reason."""
    entry = kit.consortium.config.site(site.id)
    faults = []
    if kit.terms.site_id != site.id:
        faults.append(f"Expected a kit for site {site.id!r}, got one for {kit.terms.site_id!r}.")
    elif entry is None:
        faults.append(f"Expected site {site.id!r} in the kit's study file, got a study without it.")
    elif keys.fingerprint(entry.public_key) != _own_fingerprint(site):
        faults.append(
            f"Expected the kit to name this site's key {_own_fingerprint(site)}, got "
            f"{keys.fingerprint(entry.public_key)}: send {site.public_key_file} again."
        )
    if kit.terms.flwr_version != version("flwr"):
        faults.append(
            f"Expected flwr {version('flwr')} at the coordinator, got {kit.terms.flwr_version}: "
            "both must run the same version."
        )
    if site.config.simulation:
        faults.append(
            f"Expected a real site, got a simulated one: remove [simulation] ({SITE_FILE})."
        )
    if site.policy is None:
        faults.append(f"Expected [policy] in {SITE_FILE}, got none: without it all is refused.")
    if faults:
        raise SiteError("\n".join(faults))


def _own_fingerprint(site: Site) -> str:
    return keys.fingerprint(keys.public_line(site.identity_key))


def _read_authority(file: Path) -> bytes:
    try:
        pem = file.read_bytes()
        x509.load_pem_x509_certificate(pem)
    except (OSError, ValueError) as error:
        msg = f"Expected the coordinator's certificate authority (PEM) at {file}, got none."
        raise SiteError(msg) from error
    return pem


def _joined(text: str, kit: Kit) -> str:
    """``site.toml`` with the kit's terms; every other line and comment stays."""
    document = tomlkit.parse(text)
    _section(document, "site")["consortium_sha256"] = kit.consortium.digest
    policy = _section(document, "policy")
    approved = list(policy.get("approved_bundles", []))
    if kit.terms.bundle_sha256 not in approved:
        policy["approved_bundles"] = [*approved, kit.terms.bundle_sha256]
    if "coordinator" not in document:
        document.add(tomlkit.nl())
        document.add("coordinator", tomlkit.table())
    coordinator = _section(document, "coordinator")
    coordinator["address"] = kit.terms.address
    coordinator["ca_certificate"] = CA_FILE
    return tomlkit.dumps(document)


def _section(document: TOMLDocument, name: str) -> Table:
    return cast("Table", document[name])
