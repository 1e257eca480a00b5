"""Joining a consortium: the coordinator's kit becomes part of the site, after a person agreed.

A kit carries no secret and no code, but it decides whom the site trusts and what may run here. So
it is checked as a whole against the coordinator's signature, everything it asks and changes is
shown, and agreeing to it is what approves its bundle.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import cast

import tomlkit
from cryptography import x509
from tomlkit import TOMLDocument
from tomlkit.items import Table

from client.approval.inspection import BundleView, inspect_bundle
from client.approval.question import Request, Topic, describe_request
from client.approval.record import add_bundle, approved_bundles
from client.renewal import adopt_next_key, own_keys
from client.site import SITE_FILE, Site, SiteError, open_site
from client.site_template import describe_changes
from privacy.keys import fingerprint
from privacy.vault import write_atomic
from shared_models.consortium import Consortium, load_consortium
from shared_models.face_model import FACE_MODEL_FILE, FACE_MODEL_SHA256
from shared_models.kits import (
    AUTHORITY_FILE,
    BUNDLE_FILE,
    KIT_FILE,
    SIGNATURE_FILE,
    STUDY_FILE,
    KitFile,
    find_kit_faults,
    is_kit_signed,
)
from shared_models.roster import ROSTER_FILE, RosterError, keep_roster
from shared_models.toml import ConfigError, load_toml
from shared_models.versions import explain

CA_FILE = AUTHORITY_FILE


@dataclass(frozen=True)
class Kit:
    """A kit that is whole and signed by the coordinator of its study.

    Attributes:
        folder: Where it lies.
        file: ``kit.toml``.
        consortium: The study that it brings, with the sites of its roster.
        bundle: What it asks to approve.
    """

    folder: Path
    file: KitFile
    consortium: Consortium
    bundle: BundleView

    def read(self, name: str) -> bytes:
        """One of its files."""
        return (self.folder / name).read_bytes()

    def has(self, name: str) -> bool:
        """Whether the kit brings a file that not every kit has."""
        return name in self.file.files


@dataclass(frozen=True)
class Proposal:
    """What joining with a kit asks of a site.

    Attributes:
        topics: What a person should know.
        changes: What would change at the site, one sentence a change; empty if nothing would.
        alarms: Changes that a person has to agree to, whatever a script says.
        bundle: What would be approved.
    """

    topics: tuple[Topic, ...]
    changes: tuple[str, ...]
    alarms: tuple[str, ...]
    bundle: BundleView


def read_kit(folder: Path) -> Kit:
    """The kit in a folder, checked against its signature and against itself.

    Raises:
        ConfigError: If ``kit.toml`` is missing or faulty.
        SiteError: With everything else that is wrong with it.
    """
    folder = folder.expanduser().absolute()
    file = load_toml(folder / KIT_FILE, KitFile)
    faults = list(find_kit_faults(folder, file.files))
    consortium = _read_study(folder, file, faults)
    if consortium is not None and not _is_signed(folder, consortium):
        faults.insert(0, f"{KIT_FILE} does not bear the signature of the coordinator of its study")
    if not faults:
        faults += _find_contradictions(folder, file, consortium)
    if faults or consortium is None:
        listed = "\n".join(f"  {fault}" for fault in faults)
        msg = (
            f"Expected in {folder} the kit as the coordinator signed it, got one that was altered "
            f"or damaged:\n{listed}\nDo not use it; ask the coordinator for it again."
        )
        raise SiteError(msg)
    return Kit(folder, file, consortium, inspect_bundle((folder / BUNDLE_FILE).read_bytes()))


def join_site(site_folder: Path, kit_folder: Path, *, confirm: Callable[[Proposal], bool]) -> Site:
    """The site after it took over what its kit says.

    Args:
        site_folder: A site made by ``vultus-site init``.
        kit_folder: The folder that the coordinator sent.
        confirm: Called with what is asked and what would change; False leaves all as it is.

    Returns:
        The site, opened again; unchanged if ``confirm`` declined.

    Raises:
        ConfigError: If a file of the kit or the site is faulty.
        SiteError: If the kit is damaged, for another site or for another version, names another
            key, or the site is a simulated one.
    """
    site, kit = open_site(site_folder), read_kit(kit_folder)
    _refuse_unfit(site, kit)
    if not confirm(_propose(site, kit)):
        return site
    return adopt_next_key(_take_over(site, kit))


def _take_over(site: Site, kit: Kit) -> Site:
    """Write all that the kit brings; the pinned study last, for it decides what counts."""
    for name in (BUNDLE_FILE, KIT_FILE):
        write_atomic(site.folder / name, kit.read(name))
    write_atomic(_authority_of(site), kit.read(AUTHORITY_FILE))
    if _brings_face_model(site, kit):
        write_atomic(site.folder / FACE_MODEL_FILE, kit.read(FACE_MODEL_FILE))
    study = kit.read(STUDY_FILE)
    add_bundle(site, kit.bundle.sha256, kit.consortium, study=study.decode())
    text = _joined(site, kit)
    if kit.consortium.digest != site.consortium.digest:
        site.paths.roster.unlink(missing_ok=True)
    # A crash between these two leaves a site that refuses to open, never one that trusts more.
    write_atomic(site.paths.consortium, study)
    write_atomic(site.config_file, text.encode())
    if kit.consortium.roster is not None:
        keep_roster(site.paths.roster, kit.consortium.signed_roster)
    return open_site(site.folder)


def _propose(site: Site, kit: Kit) -> Proposal:
    request = Request(site, kit.consortium, kit.file.kit.address, kit.bundle)
    alarms = tuple(_find_alarms(site, kit))
    changes = tuple(_find_changes(site, kit))
    return Proposal(describe_request(request), (*alarms, *changes), alarms, kit.bundle)


def _find_alarms(site: Site, kit: Kit) -> Iterator[str]:
    agreed, brought = site.consortium.coordinator_key, kit.consortium.coordinator_key
    if agreed and brought and fingerprint(agreed) != fingerprint(brought):
        yield (
            f"ANOTHER COORDINATOR: this site agreed to the one with key {fingerprint(agreed)}, the "
            f"kit is signed by {fingerprint(brought)}. Say no unless the coordinator told you on "
            "the telephone why"
        )
    before = site.folder / KIT_FILE
    if before.is_file() and (number := _number(before)) > kit.file.kit.number:
        yield (
            f"AN OLDER KIT: number {kit.file.kit.number}, made {kit.file.kit.made_at[:10]}; this "
            f"site took number {number} before"
        )


def _find_changes(site: Site, kit: Kit) -> Iterator[str]:
    """What joining would change at the site, one sentence a change."""
    yield from (f"study: {line}" for line in _compare_studies(site, kit))
    if site.consortium.digest != kit.consortium.digest:
        yield f"pin the study file with SHA-256 {kit.consortium.digest}"
    is_same_study = site.consortium.digest == kit.consortium.digest
    if not is_same_study or kit.bundle.sha256 not in approved_bundles(site):
        yield f"approve the bundle with SHA-256 {kit.bundle.sha256} for this study"
    known, address = site.config.coordinator, kit.file.kit.address
    if known is None or known.address != address:
        yield f"connect to {address}" + (f" instead of {known.address}" if known else "")
    authority, current = kit.read(AUTHORITY_FILE), _authority_of(site)
    if not current.is_file() or current.read_bytes() != authority:
        digest = hashlib.sha256(authority).hexdigest()
        yield f"trust the certificate authority with SHA-256 {digest}"
    if _brings_face_model(site, kit):
        yield f"use the face landmarker bundle of the kit, {FACE_MODEL_FILE}"
    if site.consortium.roster_number != kit.consortium.roster_number and is_same_study:
        yield f"follow roster {kit.consortium.roster_number} of the sites"


def _compare_studies(site: Site, kit: Kit) -> list[str]:
    """What differs in the terms; the sites of a roster are no terms and are shown apart."""
    before, after = site.consortium.config, kit.consortium.config
    if kit.consortium.roster is not None:
        before, after = replace(before, sites=()), replace(after, sites=())
    return describe_changes(before, after)


def _refuse_unfit(site: Site, kit: Kit) -> None:
    """Refuse a kit that would not work here, with every reason."""
    terms, faults = kit.file.kit, []
    entry = kit.consortium.config.site(site.id)
    own = [fingerprint(key) for key in own_keys(site)]
    if terms.site_id != site.id:
        faults.append(f"Expected a kit for site {site.id!r}, got one for {terms.site_id!r}.")
    elif entry is None:
        faults.append(f"Expected site {site.id!r} among the sites of the kit, got none.")
    elif fingerprint(entry.public_key) not in own:
        faults.append(
            f"Expected the kit to name this site's key {own[0]}, got "
            f"{fingerprint(entry.public_key)}: send {site.public_key_file} again."
        )
    faults += find_version_faults(kit.file)
    faults += _find_site_faults(site)
    if _steps_back(site, kit):
        faults.append(
            f"Expected roster {site.consortium.roster_number} or a later one, got "
            f"{kit.consortium.roster_number}: the kit is old. Ask for a new one."
        )
    if faults:
        raise SiteError("\n".join(faults))


def find_version_faults(file: KitFile) -> Iterator[str]:
    """Why a kit was made for other versions than those installed here, each with what mends it."""
    theirs = file.kit.vultus_version
    if fault := explain(here=version("vultus"), there=theirs, whose="the coordinator"):
        yield fault
    if file.kit.flwr_version != version("flwr"):
        yield (
            f"Expected flwr {version('flwr')} at the coordinator, got {file.kit.flwr_version}: "
            "both must run the same version."
        )


def _find_site_faults(site: Site) -> Iterator[str]:
    if site.config.simulation:
        yield f"Expected a real site, got a simulated one: remove [simulation] ({SITE_FILE})."
    if site.policy is None:
        yield f"Expected [policy] in {SITE_FILE}, got none: without it all is refused."


def _steps_back(site: Site, kit: Kit) -> bool:
    same = site.consortium.digest == kit.consortium.digest
    return same and kit.consortium.roster_number < site.consortium.roster_number


def _read_study(folder: Path, file: KitFile, faults: list[str]) -> Consortium | None:
    """The kit's study with its roster; None, and why, if it cannot be read."""
    try:
        consortium = load_consortium(folder / STUDY_FILE)
        if ROSTER_FILE in file.files and (folder / ROSTER_FILE).is_file():
            return consortium.with_roster((folder / ROSTER_FILE).read_bytes())
    except (ConfigError, RosterError) as error:
        faults += str(error).splitlines()
        return None
    return consortium


def _is_signed(folder: Path, consortium: Consortium) -> bool:
    signature = folder / SIGNATURE_FILE
    if not signature.is_file():
        return False
    text = (folder / KIT_FILE).read_bytes()
    return is_kit_signed(text, signature.read_bytes(), public_key=consortium.coordinator_key)


def _find_contradictions(
    folder: Path, file: KitFile, consortium: Consortium | None
) -> Iterator[str]:
    """What the coordinator signed and yet cannot be right."""
    if file.files[BUNDLE_FILE] != file.kit.bundle_sha256:
        yield f"{BUNDLE_FILE} is not the bundle that {KIT_FILE} asks to approve"
    if file.files.get(FACE_MODEL_FILE, FACE_MODEL_SHA256) != FACE_MODEL_SHA256:
        yield f"{FACE_MODEL_FILE} is not the bundle with SHA-256 {FACE_MODEL_SHA256}"
    authority = (folder / AUTHORITY_FILE).read_bytes()
    try:
        x509.load_pem_x509_certificates(authority)
    except ValueError:
        yield f"{AUTHORITY_FILE} holds no certificate (PEM)"
    roster = consortium.roster if consortium else None
    if roster is not None and roster.authorities.encode() != authority:
        yield f"{AUTHORITY_FILE} is not the authority that the roster names"


def _number(kit_file: Path) -> int:
    """Number of a kit that was taken before; 0 where an earlier version wrote it."""
    try:
        return load_toml(kit_file, KitFile).kit.number
    except ConfigError:
        return 0


def _brings_face_model(site: Site, kit: Kit) -> bool:
    return kit.has(FACE_MODEL_FILE) and site.paths.face_model is None


def _authority_of(site: Site) -> Path:
    """Where whom the site trusts is kept: the service takes over a renewed authority by itself."""
    return site.paths.state / AUTHORITY_FILE


def _joined(site: Site, kit: Kit) -> str:
    """``site.toml`` with the kit's terms; every other line and comment stays."""
    document = tomlkit.parse(site.config_file.read_text(encoding="utf-8"))
    _section(document, "site")["consortium_sha256"] = kit.consortium.digest
    coordinator = _section(document, "coordinator")
    coordinator["address"] = kit.file.kit.address
    coordinator["ca_certificate"] = os.path.relpath(_authority_of(site), site.folder)
    if _brings_face_model(site, kit):
        _section(document, "paths")["face_model"] = FACE_MODEL_FILE
    return tomlkit.dumps(document)


def _section(document: TOMLDocument, name: str) -> Table:
    """A table of the file, made at its end if it has none."""
    if name not in document:
        document.add(tomlkit.nl())
        document.add(name, tomlkit.table())
    return cast("Table", document[name])
