"""What a site folder holds: what Vultus made and will destroy, and what the hospital brought.

Videos, the table of recordings and everything that is not known stays: it was not made here, or it
is not certain that it was.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from client.site import SITE_FILE, Site
from privacy import audit
from privacy.keys import fingerprint, public_line
from privacy.ledger import PrivacyLedger
from shared_models.console import InputError

NOTE_FILE = "uninstall.json"
"""The inventory, kept while an uninstall is under way, so that it can be gone on with."""
SETTINGS = (
    "README.txt",
    "approvals.toml",
    "ca.crt",
    "kit.sig",
    "kit.toml",
    "vultus.fab",
)
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Group:
    """Files that are destroyed together.

    Attributes:
        what: What they are, for people.
        files: How many.
        size_bytes: All together.
        sha256: Over the names and digests of all of them, in the order of their names; for keys
            over the names alone.
    """

    what: str
    files: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Inventory:
    """What was there before anything was destroyed.

    Attributes:
        begun_at: When the uninstall began, ISO 8601 in UTC.
        site_key: Fingerprint of the site's public key.
        groups: Keys, features, records, settings.
        ledger_rows: Releases that the privacy ledger held.
        ledger_head: Hash of its last row.
        log_entries: Entries of the audit log.
        log_head: Its last hash.
    """

    begun_at: str
    site_key: str
    groups: tuple[Group, ...]
    ledger_rows: int
    ledger_head: str
    log_entries: int
    log_head: str


def own_places(site: Site) -> dict[str, list[Path]]:
    """What Vultus made, by what it is, in the order in which it is destroyed.

    Raises:
        InputError: If something that the hospital brought lies among it.
    """
    settings = [site.folder / name for name in SETTINGS]
    found = {
        "keys": [site.paths.keys],
        "features": [site.paths.store],
        "records": [site.paths.state],
        "settings": [*settings, site.paths.consortium, site.folder / SITE_FILE],
    }
    _refuse_entangled(site, [site.paths.keys, site.paths.store, site.paths.state])
    return found


def left_behind(site: Site) -> list[Path]:
    """What stays: the hospital's own, and whatever else lies in the folder."""
    own = {path.resolve() for paths in own_places(site).values() for path in paths}
    own.add((site.folder / NOTE_FILE).resolve())
    found = [*_content(site.folder), *_content(site.paths.videos), site.paths.recordings]
    kept = {path.resolve(): path for path in found if path.is_file() or _content(path)}
    return [path for place, path in sorted(kept.items()) if place not in own]


def take_inventory(site: Site, *, begun_at: str, advance: Callable[[], None]) -> Inventory:
    """Count and hash all that will be destroyed.

    Args:
        site: The site.
        begun_at: Now, ISO 8601 in UTC.
        advance: Called after each file.
    """
    rows, head = 0, ""
    if site.paths.ledger.exists():
        with PrivacyLedger(site.paths.ledger, key=site.ledger_key) as ledger:
            rows, head = ledger.head()
    entries, log_head = audit.head(site.paths.audit)
    groups = tuple(
        _group(what, paths, base=site.folder, advance=advance)
        for what, paths in own_places(site).items()
    )
    site_key = fingerprint(public_line(site.identity_key))
    return Inventory(begun_at, site_key, groups, rows, head, entries, log_head)


def count_files(site: Site) -> int:
    """How many files will be destroyed."""
    return sum(1 for paths in own_places(site).values() for _ in _files(paths))


def _group(what: str, paths: list[Path], *, base: Path, advance: Callable[[], None]) -> Group:
    digest, size, number = hashlib.sha256(), 0, 0
    for file in _files(paths):
        name = os.path.relpath(file, base)
        # A digest of a private key says nothing that should outlive the key.
        content = "" if what == "keys" else _sha256(file)
        digest.update(f"{name}\0{content}\n".encode())
        size += file.lstat().st_size
        number += 1
        advance()
    return Group(what, number, size, digest.hexdigest())


def _files(paths: list[Path]) -> Iterator[Path]:
    """Every file below these places, links not followed, in the order of their names."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            yield from _files(_content(path))
        elif path.is_symlink() or path.exists():
            yield path


def _content(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _sha256(file: Path) -> str:
    if file.is_symlink() or not file.is_file():
        return "not a file"
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _refuse_entangled(site: Site, folders: list[Path]) -> None:
    """Refuse to delete folders in which somebody else's files lie.

    Raises:
        InputError: With every such place.
    """
    brought = {
        "the site folder": site.folder,
        "the table of recordings": site.paths.recordings,
        "the home of this account": Path.home(),
    }
    if site.paths.videos.resolve() != site.folder.resolve():
        brought["the videos"] = site.paths.videos
    if site.paths.face_model is not None:
        brought["the face landmarker bundle"] = site.paths.face_model
    faults = [
        f"Expected {name} ({place}) outside {folder}, which is deleted as a whole: move it."
        for name, place in brought.items()
        for folder in folders
        if place.resolve().is_relative_to(folder.resolve())
    ]
    faults += [f"Expected a folder, got a link: {path}" for path in folders if path.is_symlink()]
    if faults:
        raise InputError("\n".join(faults))
