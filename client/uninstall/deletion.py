"""Uninstalling a site: keys first, then files, then a signed certificate, and last the signing key.

Guarantees:
    Once the storage key is destroyed, no stored feature can be read, whatever happens next. Each
    step may be done again: after a crash, running it once more finishes the work and certifies what
    was there when it began. A site that is being served, or is being written to, is left alone. Not
    covered: backups, and blocks that a drive keeps of what was overwritten.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from pydantic import TypeAdapter

from client.site import IDENTITY_KEY, LEDGER_KEY, STORAGE_KEY, Site
from client.storage.folder import SUFFIX
from client.uninstall.certificate import Deletion
from client.uninstall.inventory import (
    NOTE_FILE,
    Inventory,
    left_behind,
    own_places,
    take_inventory,
)
from client.withdrawal.certificate import CERTIFICATES_FOLDER, write_signed
from client.withdrawal.exclusion import EXCLUSIONS_FILE
from privacy import audit
from privacy.vault import erase_sealed, sync_folder, write_atomic
from shared_models.console import InputError
from shared_models.supervision import only_one

BEGUN = "uninstall begun"
CERTIFICATE_FILE = "deletion.json"
RECORDS_FOLDER = "records"
_KIND = TypeAdapter(Inventory)


@dataclass(frozen=True)
class Uninstalled:
    """What came of an uninstall.

    Attributes:
        certificate: The signed document.
        deletion: What it says.
        left: What the hospital brought, which stayed.
    """

    certificate: Path
    deletion: Deletion
    left: tuple[Path, ...]


def uninstall_site(
    site: Site, out: Path, *, keep_records: bool, advance: Callable[[], None]
) -> Uninstalled:
    """Destroy all that Vultus made at a site, and certify it.

    Args:
        site: The site; nothing may serve it.
        out: Folder for the certificate, outside the site folder; made if missing.
        keep_records: Copy ledger, log, list of the forgotten and certificates there first.
        advance: Called after each file that was counted.

    Raises:
        SupervisionError: If the site is being served.
        InputError: If ``out`` lies in the site folder, or foreign files lie among the site's own.
        KeyFileError: If the identity key cannot sign the certificate any more.
    """
    out = _outside(out, site)
    with (
        only_one(site.paths.state / "engine" / "lock", what=f"Site {site.id}"),
        _nobody_writes(site.paths.store),
    ):
        inventory = _known_inventory(site) or _begin(site, advance)
        if keep_records:
            _copy_records(site, out / RECORDS_FOLDER)
        _destroy(site)
        left = tuple(left_behind(site))
        deletion = Deletion(
            site_id=site.id,
            study=(site.consortium.config.study.name, site.consortium.digest),
            inventory=inventory,
            deleted_at=_now(),
            left_files=sum(_count(path) for path in left),
            records_kept=(out / RECORDS_FOLDER).is_dir(),
        )
        certificate = _certify(site, out / CERTIFICATE_FILE, deletion)
        _finish(site)
    return Uninstalled(certificate, deletion, left)


def _known_inventory(site: Site) -> Inventory | None:
    """What an uninstall that was interrupted had found before it destroyed anything."""
    note = site.folder / NOTE_FILE
    return _KIND.validate_json(note.read_bytes()) if note.exists() else None


def _begin(site: Site, advance: Callable[[], None]) -> Inventory:
    """Write down what is there, durably, before any of it goes."""
    audit.AuditLog(site.paths.audit).append(BEGUN)
    inventory = take_inventory(site, begun_at=_now(), advance=advance)
    write_atomic(site.folder / NOTE_FILE, _KIND.dump_json(inventory))
    return inventory


def _destroy(site: Site) -> None:
    """Everything but what signs the certificate and what opens the site once more."""
    kept = {site.identity_key_file, site.public_key_file, site.paths.consortium, site.config_file}
    destroy_file(site.paths.keys / STORAGE_KEY)
    for file in _files_below(site.paths.keys):
        if file not in kept:
            destroy_file(file)
    for file in _files_below(site.paths.store):
        erase_sealed(file) if file.suffix == SUFFIX else destroy_file(file)
    for folder in (site.paths.store, site.paths.state):
        if folder.exists():
            shutil.rmtree(folder)
            sync_folder(folder.parent)
    for path in own_places(site)["settings"]:
        if path not in kept:
            path.unlink(missing_ok=True)


def _finish(site: Site) -> None:
    """The last: the identity key, and the files without which the folder is no site any more."""
    destroy_file(site.paths.keys / IDENTITY_KEY)
    if site.paths.keys.exists():
        shutil.rmtree(site.paths.keys)
    for path in (site.paths.consortium, site.config_file, site.folder / NOTE_FILE):
        path.unlink(missing_ok=True)
    for folder in (site.folder / "videos", site.folder):
        # Whatever the hospital keeps there stays.
        with suppress(OSError):
            folder.rmdir()


def destroy_file(file: Path) -> None:
    """Overwrite a small secret file on disk, then remove it; nothing happens if it is gone."""
    if file.is_symlink() or not file.exists():
        file.unlink(missing_ok=True)
        return
    with file.open("r+b") as stream:
        size = os.fstat(stream.fileno()).st_size
        for content in (os.urandom(size), bytes(size)):
            stream.seek(0)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    file.unlink()
    sync_folder(file.parent)


def _certify(site: Site, path: Path, deletion: Deletion) -> Path:
    if path.exists() and not site.identity_key_file.exists():
        # Signed before a crash that came after the key was gone.
        return path
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    sheet = deletion.sheet(path)
    return write_signed(path, deletion.to_json(), key=site.identity_key, sheet=sheet)


def _copy_records(site: Site, folder: Path) -> None:
    """Ledger, log and certificates, with the public keys that check them."""
    if not site.paths.state.exists() or not (site.paths.keys / LEDGER_KEY).exists():
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in (site.paths.audit, site.paths.state / EXCLUSIONS_FILE, site.public_key_file):
        if file.exists():
            write_atomic(folder / file.name, file.read_bytes())
    certificates = site.paths.state / CERTIFICATES_FOLDER
    if certificates.is_dir():
        shutil.copytree(certificates, folder / CERTIFICATES_FOLDER, dirs_exist_ok=True)
    public = site.ledger_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_atomic(folder / "ledger.pub.pem", public)
    if site.paths.ledger.exists():
        _copy_database(site.paths.ledger, folder / site.paths.ledger.name)


def _copy_database(source: Path, target: Path) -> None:
    """A whole copy, with what still waits in the write-ahead log."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600))
    reading, writing = sqlite3.connect(source), sqlite3.connect(target)
    try:
        reading.backup(writing)
    finally:
        reading.close()
        writing.close()


@contextmanager
def _nobody_writes(store: Path) -> Iterator[None]:
    """Hold off an extraction; afterwards the folder that it would write to is gone."""
    if not store.exists():
        yield
        return
    descriptor = os.open(store, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _files_below(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*")) if folder.is_dir() else ()
    return [path for path in found if path.is_symlink() or path.is_file()]


def _count(path: Path) -> int:
    return len(_files_below(path)) if path.is_dir() and not path.is_symlink() else 1


def _outside(out: Path, site: Site) -> Path:
    out = out.expanduser().absolute()
    if out.resolve().is_relative_to(site.folder.resolve()):
        msg = f"Expected a folder outside {site.folder} for the certificate, got {out}."
        raise InputError(msg)
    return out


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
