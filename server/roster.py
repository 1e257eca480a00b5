"""The sites of a consortium: admitted by key, each with the kit it needs to join.

A kit holds nothing secret. It has to reach the site unaltered: the site compares the digests it
shows with those that ``add-site`` printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import tomlkit
from cryptography.hazmat.primitives import serialization

from privacy.keys import KeyFileError, fingerprint, load_public_line, public_line
from privacy.vault import write_atomic
from server.control import Engine
from server.study_file import with_site
from server.workspace import CONSORTIUM_FILE, Workspace
from shared_models.console import InputError
from shared_models.consortium import ConsortiumConfig
from shared_models.roster import SiteEntry
from shared_models.toml import parse_toml

KIT_FILE = "kit.toml"
CA_FILE = "ca.crt"
KIT_NOTE = (
    "What a site needs to join; made by 'vultus-coordinator add-site'. Nothing here is secret, but",
    "compare the digests with the coordinator by telephone before you trust them.",
)


@dataclass(frozen=True)
class Admission:
    """A site that was added.

    Attributes:
        site_id: The site.
        fingerprint: Of its public key, as ``ssh-keygen -l`` prints it.
        kit: Folder to send to the site.
        refreshed: Sites whose kits changed with the study file and have to be sent again.
        consortium_sha256: Digest of the study file that all sites pin.
    """

    site_id: str
    fingerprint: str
    kit: Path
    refreshed: tuple[str, ...]
    consortium_sha256: str


def add_site(workspace: Workspace, site_id: str, *, key_file: Path, weight: int) -> Admission:
    """Add a site to the study file and write its kit; the kits of the others follow.

    Args:
        workspace: The coordinator's folder.
        site_id: Name of the site.
        key_file: The ``identity.pub`` that the site sent.
        weight: Number of subjects the site is counted with.

    Raises:
        InputError: If the file holds no public P-384 key, or the id or key is taken.
        ConfigError: If the study file would not be valid with this site.
    """
    key = _read_public_key(key_file)
    earlier = workspace.consortium.config.sites
    _refuse_taken(earlier, site_id, key)
    text = workspace.consortium_file.read_text(encoding="utf-8")
    # Built as text first, so that an id or weight that is not allowed is named by its key.
    changed = with_site(text, site_id, weight=weight, public_key=key)
    parse_toml(changed, ConsortiumConfig, name=CONSORTIUM_FILE)
    write_atomic(workspace.consortium_file, changed.encode(), mode=0o644)
    write_kits(workspace)
    return Admission(
        site_id,
        fingerprint(key),
        workspace.kit(site_id),
        tuple(entry.id for entry in earlier),
        workspace.consortium.digest,
    )


def write_kits(workspace: Workspace) -> None:
    """Bring every site's kit to the present study file, certificate and bundle."""
    consortium, bundle = workspace.consortium, workspace.bundle
    study = workspace.consortium_file.read_bytes()
    authority = workspace.authority.certificate_file.read_bytes()
    for entry in consortium.config.sites:
        folder = workspace.kit(entry.id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(folder / CONSORTIUM_FILE, study, mode=0o644)
        write_atomic(folder / CA_FILE, authority, mode=0o644)
        text = _kit_text(
            entry, workspace.settings.address, study=consortium.digest, bundle=bundle.sha256
        )
        write_atomic(folder / KIT_FILE, text.encode(), mode=0o644)


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


def _read_public_key(file: Path) -> str:
    """The OpenSSH line of a key file, without its comment."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        msg = f"Expected a site's identity.pub at {file}, got: {reason}."
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


def _refuse_taken(entries: tuple[SiteEntry, ...], site_id: str, key: str) -> None:
    faults = []
    for entry in entries:
        if entry.id == site_id:
            faults.append(f"Expected a new site id, got {site_id!r}, which the study has already.")
        if _pem(entry.public_key) == _pem(key):
            faults.append(f"Expected a key of its own, got the key of site {entry.id!r}.")
    if faults:
        raise InputError("\n".join(faults))


def _kit_text(entry: SiteEntry, address: str, *, study: str, bundle: str) -> str:
    document = tomlkit.document()
    for line in KIT_NOTE:
        document.add(tomlkit.comment(line))
    kit = tomlkit.table()
    kit.update(
        {
            "site_id": entry.id,
            "address": address,
            "consortium_sha256": study,
            "bundle_sha256": bundle,
            "vultus_version": version("vultus"),
            "flwr_version": version("flwr"),
        }
    )
    document.add("kit", kit)
    return tomlkit.dumps(document)


def _pem(public_openssh: str) -> bytes:
    """A key as the engine compares it."""
    return load_public_line(public_openssh).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
