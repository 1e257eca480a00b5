"""The site folder: what belongs to the site is there, private, whole, and has room to grow."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from client.checkup.finding import Ailment
from client.site import Site, refuse_readable_by_others
from privacy.audit import verify as verify_audit
from privacy.keys import fingerprint, public_line
from privacy.ledger import PrivacyLedger

FREE_DISK_BYTES = 1 << 30
STORED_BYTES_A_FRAME = 1024
"""Upper bound of what the store keeps of a frame; 30 min at 30 frames/s need at most 55 MB."""
USUAL_FRAMES = 54_000
PROBED = 100
RENEWAL = timedelta(days=30)


def permissions(site: Site) -> str:
    """Private folders and the files in them are closed to others and open to this account."""
    private = [site.paths.keys, site.paths.store, site.paths.state]
    for path in (*private, *sorted(site.paths.keys.glob("*.key")), site.config_file):
        refuse_readable_by_others(path)
    for path in private:
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            msg = f"Expected to be able to write in {path}: run 'chown' for this account."
            raise Ailment(msg)
    return "closed to other accounts"


def keys(site: Site) -> str:
    """The private keys open, and the study knows the public one, or waits for a renewed one."""
    _ = site.storage_key, site.ledger_key
    own, entry = public_line(site.identity_key), site.entry
    if entry is not None and entry.public_key.split()[:2] != own.split()[:2]:
        msg = (
            f"The study file names another public key for site '{site.id}': send "
            f"{site.public_key_file} to the coordinator, or restore the key they know."
        )
        raise Ailment(msg)
    return fingerprint(own)


def policy(site: Site) -> str:
    """The site limits what a coordinator may ask."""
    if site.policy is None:
        msg = f"Add a [policy] section to {site.config_file}: without limits all is refused."
        raise Ailment(msg)
    return f"epsilon {site.policy.max_epsilon_per_subject:g} for a subject in total"


def kit(site: Site) -> str:
    """The coordinator's kit fits what is installed and what was agreed to."""
    from client.approval.record import approved_bundles
    from client.service.kit import find_version_faults
    from shared_models.kits import AUTHORITY_FILE, KIT_FILE, KitFile
    from shared_models.toml import load_toml

    if not (site.folder / KIT_FILE).is_file():
        return "does not apply: no kit was taken yet"
    taken = load_toml(site.folder / KIT_FILE, KitFile)
    again = f"ask the coordinator for a new kit and run 'vultus-site join {site.folder} KIT'"
    if wrong := list(find_version_faults(taken)):
        msg = f"The kit was made by other versions. {' '.join(wrong)} Or {again}."
        raise Ailment(msg)
    if taken.consortium_sha256 != site.consortium.digest:
        msg = f"The kit belongs to another study file than the pinned one: {again}."
        raise Ailment(msg)
    if taken.kit.bundle_sha256 not in approved_bundles(site):
        msg = (
            "Nobody has approved the bundle of the kit for the study and the privacy plans as they "
            f"are now: run 'vultus-site approve {site.folder}'."
        )
        raise Ailment(msg)
    trusted = site.config.coordinator.ca_certificate if site.config.coordinator else AUTHORITY_FILE
    until = _valid_until(site.folder / trusted)
    if until - datetime.now(UTC) < RENEWAL:
        msg = f"The certificate authority of the kit ends on {until:%Y-%m-%d}: {again}."
        raise Ailment(msg)
    return (
        f"number {taken.kit.number} for {taken.kit.address}, its authority holds until "
        f"{until:%Y-%m-%d}"
    )


def _valid_until(certificate: Path) -> datetime:
    from cryptography import x509

    authorities = x509.load_pem_x509_certificates(certificate.read_bytes())
    return max(authority.not_valid_after_utc for authority in authorities)


def thresholds(site: Site) -> str:
    """``[quality]`` names thresholds that exist."""
    from client.preparation.batch import read_thresholds

    read_thresholds(site)
    changed = len(site.config.quality)
    return f"{changed} changed in site.toml" if changed else "the defaults"


def recordings(site: Site) -> str:
    """The table has no fault, and this account can read the videos."""
    from client.preparation.steps import load_manifest
    from client.recordings.recording import ManifestError

    try:
        manifest = load_manifest(site)
    except ManifestError as error:
        msg = f"{len(error.faults)} faults: run 'vultus-site check {site.folder}' to read them."
        raise Ailment(msg) from error
    closed = [r.recording_id for r in manifest.recordings if r.file and not _is_open(r.file)]
    if closed:
        msg = (
            f"{len(closed)} videos cannot be read by this account, the first is that of recording "
            f"{closed[0]}: let the account, or the group of the extraction, read them."
        )
        raise Ailment(msg)
    return f"{len(manifest.recordings)} of {len(manifest.subjects)} subjects"


def _is_open(file: Path) -> bool:
    return os.access(file, os.R_OK)


def disk(folder: Path) -> str:
    """Room below the site folder, or where it is going to be."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    if free < FREE_DISK_BYTES:
        msg = f"Expected 1 GiB free below {nearest}, got {free / (1 << 30):.2f}: make room."
        raise Ailment(msg)
    return f"{free / (1 << 30):.1f} GiB free"


def room(site: Site) -> str:
    """Room for the features of the recordings that are still to be extracted."""
    pending = _pending(site)
    needed = _frames(pending) * STORED_BYTES_A_FRAME
    free = shutil.disk_usage(site.paths.store).free
    if free < FREE_DISK_BYTES + needed:
        msg = (
            f"Expected {(FREE_DISK_BYTES + needed) / (1 << 30):.1f} GiB free in {site.paths.store} "
            f"for {len(pending)} recordings, got {free / (1 << 30):.1f}: make room, or set "
            "paths.store to another disk."
        )
        raise Ailment(msg)
    return f"{len(pending)} recordings to extract need at most {needed / (1 << 20):.0f} MiB"


def _pending(site: Site) -> list[Path]:
    from client.preparation.steps import load_manifest
    from client.recordings.recording import ManifestError
    from client.storage.store import open_store

    try:
        listed = load_manifest(site).recordings
    except ManifestError:
        return []
    stored = {record.recording_id for record in open_store(site).records()}
    return [r.file for r in listed if r.file is not None and r.recording_id not in stored]


def _frames(videos: list[Path]) -> int:
    """Frames by the headers of some, and as many for each of the others."""
    from client.extraction.video import VideoError, probe_video

    counts = []
    for video in videos[:: max(1, len(videos) // PROBED)]:
        try:
            counts.append(probe_video(video).frame_count_promised or USUAL_FRAMES)
        except VideoError:
            counts.append(0)
    return round(sum(counts) / len(counts) * len(videos)) if counts else 0


def store(site: Site) -> str:
    """Every stored recording opens and is whole."""
    from client.storage.store import open_store

    opened = open_store(site)
    damaged = opened.find_damaged()
    if damaged:
        msg = f"{len(damaged)} stored files are damaged, the first: {damaged[0]}"
        raise Ailment(msg)
    return f"{sum(1 for _ in opened.records())} recordings, all whole"


def ledger(site: Site) -> str:
    """The privacy ledger is as it was written."""
    if not site.paths.ledger.exists():
        return "nothing was spent yet"
    with PrivacyLedger(site.paths.ledger, key=site.ledger_key) as opened:
        broken = opened.verify()
        releases = len(opened.releases())
    if broken:
        msg = (
            f"{len(broken)} rows of {site.paths.ledger} are not as they were written: stop, and "
            "restore the newest backup; the site must not train on a broken ledger."
        )
        raise Ailment(msg)
    return f"{releases} releases, whole"


def audit(site: Site) -> str:
    """The log of what happened is as it was written."""
    verdict = verify_audit(site.paths.audit)
    if not verdict.whole:
        msg = f"{site.paths.audit} was changed at line {verdict.first_broken}: find out by whom."
        raise Ailment(msg)
    return f"{verdict.entries} entries, whole"


def exclusions(site: Site) -> str:
    """The list of forgotten subjects is as it was written."""
    from client.withdrawal.exclusion import open_exclusions

    return f"{len(open_exclusions(site).read())} subjects forgotten, whole"
