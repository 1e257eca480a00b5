"""Renewing a site's identity key: the new pair lies beside the old one until the roster names it.

======================  =========================================================
``keys/identity``         the key; ``keys/identity.pub`` its public half
``keys/identity.next``    the key that was asked for, used as soon as a roster names it
``keys/renewal.json``     what the coordinator needs, signed by the present key
``keys/retired/N.pub``    public halves of earlier keys, so that what they signed stays verifiable
======================  =========================================================

Which of the two keys counts is read from the roster alone, so no moment exists at which the site
has none. The files are only tidied up afterwards; a crash in between changes nothing but their
names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from client.site import (
    IDENTITY_KEY,
    IDENTITY_NEXT,
    IDENTITY_PUBLIC,
    Site,
    SiteError,
    open_site,
)
from privacy import audit
from privacy.audit import AuditLog
from privacy.keys import (
    create_identity_key,
    fingerprint,
    load_identity_key,
    public_line,
)
from privacy.vault import sync_folder, write_atomic
from shared_models.renewal import RENEWAL_FILE, sign_renewal

RETIRED_FOLDER = "retired"
DRAFT = "identity.draft"
KEY_RENEWED = "key_renewed"


def request_renewal(site: Site) -> Path:
    """The file by which the site asks for a new key to count; run again, it gives the same key.

    Args:
        site: The site, which goes on with its present key meanwhile.

    Raises:
        SiteError: If the coordinator has not admitted the site's present key yet.
        KeyFileError: If a key is open to others.
    """
    site = adopt_next_key(site)
    if site.entry is None:
        msg = (
            f"Expected site {site.id!r} among the study's sites, got none: its key was not "
            f"admitted yet. Send {site.public_key_file} to the coordinator."
        )
        raise SiteError(msg)
    new = _ready_next_key(site.paths.keys)
    file = site.paths.keys / RENEWAL_FILE
    write_atomic(file, sign_renewal(site.id, new, present_key=site.identity_key), mode=0o644)
    return file


def _ready_next_key(folder: Path) -> EllipticCurvePrivateKey:
    """The key that was asked for, made if there is none; it appears whole or not at all."""
    private = folder / IDENTITY_NEXT
    if not private.exists():
        draft, draft_public = folder / DRAFT, folder / f"{DRAFT}.pub"
        for leftover in (draft, draft_public):
            leftover.unlink(missing_ok=True)
        create_identity_key(draft, draft_public)
        draft_public.unlink()
        draft.replace(private)
        sync_folder(folder)
    return load_identity_key(private)


def own_keys(site: Site) -> tuple[str, ...]:
    """OpenSSH lines of the key that counts now and of the one that was asked for, if any."""
    return tuple(dict.fromkeys((public_line(site.identity_key), *_lines(_private_keys(site)))))


def retired_keys(site: Site) -> tuple[str, ...]:
    """OpenSSH lines of the keys that the site signed with before the present one, oldest first."""
    current = public_line(site.identity_key)
    kept = [file.read_text().strip() for file in _retired_files(site)]
    # The key before a change that nobody has tidied up yet lies where it always did.
    before = _lines([site.paths.keys / IDENTITY_KEY]) if _is_next(site) else ()
    return tuple(line for line in dict.fromkeys((*kept, *before)) if line != current)


def adopt_next_key(site: Site) -> Site:
    """The site with the key that its roster names, and its key files in order.

    Safe to call at any time: without a new key that the roster names, nothing happens. Where the
    service may not write in ``keys/`` the files stay as they are and the new key counts as well.

    Args:
        site: The site with the roster that it follows.
    """
    if _is_next(site):
        _note(site)
        try:
            _settle(site)
        except OSError:
            return site
        return open_site(site.folder)
    _mend_public_half(site)
    return site


def _settle(site: Site) -> None:
    """Put the new pair in the place of the old; each step leaves a site that works."""
    folder = site.paths.keys
    old = folder / IDENTITY_KEY
    retired = folder / RETIRED_FOLDER
    retired.mkdir(mode=0o700, exist_ok=True)
    line = public_line(load_identity_key(old))
    if line not in [file.read_text().strip() for file in _retired_files(site)]:
        number = len(_retired_files(site)) + 1
        write_atomic(retired / f"{number:04d}.pub", line.encode() + b"\n", mode=0o644)
    (folder / IDENTITY_NEXT).replace(old)
    sync_folder(folder)
    (folder / RENEWAL_FILE).unlink(missing_ok=True)
    write_atomic(
        folder / IDENTITY_PUBLIC, public_line(load_identity_key(old)).encode() + b"\n", mode=0o644
    )


def _mend_public_half(site: Site) -> None:
    """Finish what a crash interrupted: the public half beside the key is that of the key."""
    folder = site.paths.keys
    line = public_line(load_identity_key(folder / IDENTITY_KEY))
    public = folder / IDENTITY_PUBLIC
    if public.is_file() and public.read_text().split()[:2] == line.split():
        return
    try:
        write_atomic(public, line.encode() + b"\n", mode=0o644)
    except OSError:
        return


def _note(site: Site) -> None:
    """Leave the change in the site's log, once."""
    new = fingerprint(public_line(site.identity_key))
    renewals = [one for one in audit.read(site.paths.audit) if one.event == KEY_RENEWED]
    if any(one.details.get("new") == new for one in renewals):
        return
    old = fingerprint(public_line(load_identity_key(site.paths.keys / IDENTITY_KEY)))
    AuditLog(site.paths.audit).append(KEY_RENEWED, old=old, new=new)


def _is_next(site: Site) -> bool:
    """Whether the key that counts is the one that still lies beside the old."""
    return site.identity_key_file.name == IDENTITY_NEXT


def _private_keys(site: Site) -> Iterator[Path]:
    for name in (IDENTITY_KEY, IDENTITY_NEXT):
        if (site.paths.keys / name).exists():
            yield site.paths.keys / name


def _lines(files: Iterator[Path] | list[Path]) -> tuple[str, ...]:
    return tuple(public_line(load_identity_key(file)) for file in files)


def _retired_files(site: Site) -> list[Path]:
    return sorted((site.paths.keys / RETIRED_FOLDER).glob("*.pub"))
