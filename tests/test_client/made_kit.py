"""A coordinator that signs kits, for sites that join."""

from __future__ import annotations

import hashlib
from pathlib import Path

from client.site import Site, init_site
from server.kits import _render
from server.roster import add_site
from server.signing import open_signing_key
from server.study_file import new_study
from server.workspace import Workspace, create_workspace
from shared_models.kits import KIT_FILE, SIGNATURE_FILE, KitFile, sign_kit
from shared_models.toml import load_toml


def new_coordinator(folder: Path, *, port: int = 8443, host: str = "localhost") -> Workspace:
    study = new_study("north", instrument="phq9")
    return create_workspace(folder, consortium_toml=study, name="north", hosts=[host], port=port)


def repin(site: Site, workspace: Workspace) -> Site:
    """The site, once it agreed to the coordinator's study."""
    return init_site(site.folder, site_id=site.id, consortium_file=workspace.consortium_file)


def kit_for(workspace: Workspace, site: Site) -> Path:
    kit = add_site(workspace, site.id, key_file=site.public_key_file, weight=40).kit
    assert kit is not None
    return kit


def sign_again(kit: Path, workspace: Workspace, *, text: str | None = None) -> None:
    """Sign a kit as it lies there now, as a careless or hostile coordinator would."""
    if text is None:
        file = load_toml(kit / KIT_FILE, KitFile)
        present = [p for p in kit.iterdir() if p.name not in {KIT_FILE, SIGNATURE_FILE}]
        digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in present}
        text = _render(KitFile(file.kit, digests)).decode()
    (kit / KIT_FILE).write_text(text)
    key = open_signing_key(workspace.runs, workspace.consortium)
    (kit / SIGNATURE_FILE).write_bytes(sign_kit(text.encode(), key))
