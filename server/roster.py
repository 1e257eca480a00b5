"""The sites of a consortium: admitted, renewed and removed by key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import tomlkit
from cryptography.hazmat.primitives import serialization

from privacy.keys import KeyFileError, fingerprint, load_public_line, public_line
from server.control import Engine
from server.kits import drop_kit, write_kits
from server.signing import open_signing_key
from server.workspace import Workspace
from shared_models.console import InputError
from shared_models.consortium import Consortium, load_consortium
from shared_models.renewal import read_renewal
from shared_models.roster import Roster, SiteEntry, keep_roster, sign_roster
from shared_models.toml import parse_toml


@dataclass(frozen=True)
class Change:
    """A roster that was changed.

    Attributes:
        site_id: The site that joined, left or has a new key.
        fingerprint: Of its public key, as ``ssh-keygen -l`` prints it.
        kit: Folder to send to the site; None for one that left.
        number: Of the new roster.
        consortium_digest: Digest of the study file that all sites pin.
    """

    site_id: str
    fingerprint: str
    kit: Path | None
    number: int
    consortium_digest: str


def add_site(workspace: Workspace, site_id: str, *, key_file: Path, weight: int) -> Change:
    """Add a site to the roster and write its kit; no other site has to be told.

    Args:
        workspace: The coordinator's folder.
        site_id: Name of the site.
        key_file: The ``identity.pub`` that the site sent.
        weight: Number of subjects the site is counted with.

    Raises:
        InputError: If the file holds no public P-384 key, or the id or key is taken.
        ConfigError: If id or weight are not allowed.
    """
    key = _read_public_key(key_file)
    consortium = workspace.consortium
    _refuse_fixed(consortium)
    earlier = consortium.config.sites
    _refuse_taken(earlier, site_id, key)
    text = tomlkit.dumps({"id": site_id, "weight": weight, "public_key": key})
    entry = parse_toml(text, SiteEntry, name="options of add-site")
    return _change(workspace, (*earlier, entry), entry)


def remove_site(workspace: Workspace, site_id: str) -> Change:
    """Take a site out of the roster; a run goes on without it from its next round.

    Raises:
        InputError: If there is no such site.
    """
    consortium = workspace.consortium
    _refuse_fixed(consortium)
    entry = _find(consortium, site_id)
    rest = tuple(site for site in consortium.config.sites if site.id != site_id)
    drop_kit(workspace, site_id)
    return _change(workspace, rest, entry)


def renew_site(workspace: Workspace, site_id: str, *, file: Path, lost: bool = False) -> Change:
    """Put a site's new key in the place of its present one.

    Args:
        workspace: The coordinator's folder.
        site_id: The site.
        file: ``renewal.json`` as the site sent it, or, where the present key is lost, the new
            ``identity.pub``.
        lost: The present key cannot vouch for the new one; somebody compared it by telephone.

    Raises:
        InputError: If there is no such site, or the key is taken.
        RenewalError: If the present key did not sign the renewal.
    """
    consortium = workspace.consortium
    _refuse_fixed(consortium)
    entry = _find(consortium, site_id)
    if lost:
        key = _read_public_key(file)
    else:
        content = _read(file, what="renewal.json")
        key = read_renewal(content, site_id=site_id, present_key=entry.public_key)
    _refuse_taken([s for s in consortium.config.sites if s.id != site_id], site_id, key)
    renewed = replace(entry, public_key=key)
    sites = tuple(renewed if s.id == site_id else s for s in consortium.config.sites)
    return _change(workspace, sites, renewed)


def sign_anew(workspace: Workspace) -> int:
    """The roster for the study file and the authorities as they stand now; its number.

    After an edit of the study file the old roster belongs to another study: its sites stay.
    """
    return _sign(workspace, workspace.sites_of_any_study)


def _change(workspace: Workspace, sites: tuple[SiteEntry, ...], entry: SiteEntry) -> Change:
    number = _sign(workspace, sites)
    write_kits(workspace)
    kit = workspace.kit(entry.id)
    return Change(
        entry.id,
        fingerprint(entry.public_key),
        kit if kit.is_dir() else None,
        number,
        workspace.consortium.digest,
    )


def _sign(workspace: Workspace, sites: tuple[SiteEntry, ...]) -> int:
    consortium = load_consortium(workspace.consortium_file)
    number = workspace.roster_number + 1
    roster = Roster(number, consortium.digest, sites, workspace.trusted_authorities)
    key = open_signing_key(workspace.runs, consortium)
    keep_roster(workspace.roster_file, sign_roster(roster, key), mode=0o644)
    return number


def register_sites(workspace: Workspace, engine: Engine) -> tuple[str, ...]:
    """Make the engine accept the keys of the study's sites, and those alone; newly accepted ids."""
    entries = workspace.consortium.config.sites
    wanted = {_pem(entry.public_key): entry.id for entry in entries}
    known = {node.public_key: node.node_id for node in engine.nodes()}
    for key, node_id in known.items():
        if key not in wanted:
            engine.unregister(node_id)
    new = {key: site_id for key, site_id in wanted.items() if key not in known}
    return tuple(site_id for key, site_id in new.items() if engine.register(key, name=site_id))


def site_states(workspace: Workspace, engine: Engine) -> list[dict[str, object]]:
    """State and seconds since the last sign of life of every site of the study."""
    nodes = {node.public_key: node for node in engine.nodes()}
    states: list[dict[str, object]] = []
    for entry in workspace.consortium.config.sites:
        node = nodes.get(_pem(entry.public_key))
        state = node.state if node else "unknown"
        states.append(
            {
                "id": entry.id,
                "state": "never seen" if state == "registered" else state,
                "last_seen_s": round(node.last_seen_s, 1)
                if node and node.last_seen_s is not None
                else None,
            }
        )
    return states


def _refuse_fixed(consortium: Consortium) -> None:
    if consortium.roster is None and consortium.config.sites:
        msg = (
            "Expected a study file without [[sites]], got one that lists them: it fixes who takes "
            "part. Remove the tables and add each site with add-site."
        )
        raise InputError(msg)


def _find(consortium: Consortium, site_id: str) -> SiteEntry:
    entry = consortium.config.site(site_id)
    if entry is None:
        known = ", ".join(site.id for site in consortium.config.sites) or "none"
        msg = f"Expected the id of a site, got {site_id!r}: there are {known}."
        raise InputError(msg)
    return entry


def _read(file: Path, *, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        msg = f"Expected a site's {what} at {file}, got: {error.strerror}."
        raise InputError(msg) from error


def _read_public_key(file: Path) -> str:
    """The OpenSSH line of a key file, without its comment."""
    try:
        text = _read(file, what="identity.pub").decode()
    except UnicodeDecodeError as error:
        msg = f"Expected a site's identity.pub at {file}, got: not text."
        raise InputError(msg) from error
    if "PRIVATE KEY" in text:
        msg = (
            f"Expected the public key of a site, got a private key ({file}). It has left its site: "
            "delete this copy, let the site make a new pair, and ask for its identity.pub."
        )
        raise InputError(msg)
    try:
        return public_line(load_public_line(text))
    except KeyFileError as error:
        msg = f"{error} Ask the site for the file keys/identity.pub ({file})."
        raise InputError(msg) from error


def _refuse_taken(entries: Iterable[SiteEntry], site_id: str, key: str) -> None:
    faults = []
    for entry in entries:
        if entry.id == site_id:
            faults.append(f"Expected a new site id, got {site_id!r}, which the study has already.")
        if _pem(entry.public_key) == _pem(key):
            faults.append(f"Expected a key of its own, got the key of site {entry.id!r}.")
    if faults:
        raise InputError("\n".join(faults))


def _pem(public_openssh: str) -> bytes:
    """A key as the engine compares it."""
    return load_public_line(public_openssh).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
