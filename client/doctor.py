"""Preflight: everything that can be checked at a site without asking anyone outside."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

from client.site import Site, open_site, refuse_readable_by_others
from privacy.audit import verify as verify_audit
from privacy.keys import public_line
from privacy.ledger import PrivacyLedger

FREE_DISK_BYTES = 1 << 30
MEMORY_BYTES = 4 << 30
CLOCK_SLACK = timedelta(minutes=5)
DISTRIBUTION = "vultus"


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: What was checked.
        passed: Whether all is well.
        remedy: What to do; empty if it passed.
    """

    name: str
    passed: bool
    remedy: str = ""


class Ailment(Exception):  # noqa: N818 - found by a check, not thrown at a caller
    """What a check found; the message is the remedy."""


def examine(folder: Path, *, face_model: Path | None = None) -> list[Check]:
    """Every check of a site, in an order in which it makes sense to mend them.

    Args:
        folder: The site folder.
        face_model: The face landmarker bundle, if not the one that the site names.
    """
    checks = [
        _check("Python and packages", _packages),
        _check("memory", _memory),
        _check("video codecs", _codecs),
        _check("disk", lambda: _disk(folder)),
    ]
    opened: list[Site] = []
    checks.append(
        _check("site folder, site.toml and study", lambda: opened.append(open_site(folder)))
    )
    for site in opened:
        checks += _site_checks(site, face_model)
    return checks


def _site_checks(site: Site, face_model: Path | None) -> Iterator[Check]:
    checks: tuple[tuple[str, Callable[[], None]], ...] = (
        ("permissions", lambda: _permissions(site)),
        ("keys", lambda: _keys(site)),
        ("clock", lambda: _clock(site)),
        ("policy", lambda: _policy(site)),
        ("training device", lambda: _device(site)),
        ("quality thresholds", lambda: _thresholds(site)),
        ("face landmarker bundle", lambda: _face_model(site, face_model)),
        ("recordings", lambda: _recordings(site)),
        ("feature store", lambda: _store(site)),
        ("privacy ledger", lambda: _ledger(site)),
        ("audit log", lambda: _audit(site)),
    )
    for name, examine_one in checks:
        yield _check(name, examine_one)


def _check(name: str, examine_one: Callable[[], None]) -> Check:
    try:
        examine_one()
    except Exception as error:  # noqa: BLE001 - a check that breaks has failed; the others go on
        return Check(name, passed=False, remedy=str(error) or type(error).__name__)
    return Check(name, passed=True)


def _packages() -> None:
    """Installed versions against what the distribution asks for."""
    from packaging.requirements import Requirement

    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        msg = f"Expected Python 3.11 or 3.12, got {sys.version.split()[0]}."
        raise Ailment(msg)
    wrong = []
    for line in metadata.requires(DISTRIBUTION) or []:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": "site"}):
            found = _version(wanted.name)
            if found is None or not wanted.specifier.contains(found, prereleases=True):
                wrong.append(f"{wanted.name}{wanted.specifier} (got {found or 'none'})")
    if wrong:
        msg = f"Install with 'pip install vultus[site]'; wrong are {', '.join(wrong)}."
        raise Ailment(msg)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _memory() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if total < MEMORY_BYTES:
        msg = f"Expected at least {MEMORY_BYTES >> 30} GiB of memory, got {total / (1 << 30):.1f}."
        raise Ailment(msg)


def _codecs() -> None:
    """Write a tiny clip and read it back, as extraction reads videos."""
    import cv2
    import numpy as np

    from client.extraction.video import read_frames

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 64))
        for level in range(5):
            writer.write(np.full((64, 64, 3), 50 * level, np.uint8))
        writer.release()
        decoded = sum(1 for _ in read_frames(path))
    if decoded != 5:
        msg = f"Expected 5 frames of an MP4 clip, decoded {decoded}: reinstall opencv-python."
        raise Ailment(msg)


def _disk(folder: Path) -> None:
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    if free < FREE_DISK_BYTES:
        msg = f"Expected 1 GiB free below {nearest}, got {free / (1 << 30):.2f}: make room."
        raise Ailment(msg)


def _permissions(site: Site) -> None:
    for path in (site.paths.keys, site.paths.store, site.paths.state):
        refuse_readable_by_others(path)
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            msg = f"Expected to be able to write in {path}: run 'chown' for this account."
            raise Ailment(msg)


def _keys(site: Site) -> None:
    _ = site.storage_key, site.ledger_key
    own, entry = public_line(site.identity_key), site.entry
    if entry is not None and entry.public_key.split()[:2] != own.split()[:2]:
        msg = (
            f"The study file names another public key for site '{site.id}': send "
            f"{site.public_key_file} to the coordinator, or restore the key they know."
        )
        raise Ailment(msg)


def _clock(site: Site) -> None:
    """The clock may not be behind what was written here before."""
    now = datetime.now(UTC)
    for path in (site.config_file, site.paths.ledger, site.paths.audit):
        if path.exists():
            written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            if written > now + CLOCK_SLACK:
                msg = (
                    f"The clock says {now:%Y-%m-%d %H:%M} UTC, but {path} is newer: set the clock."
                )
                raise Ailment(msg)


def _policy(site: Site) -> None:
    if site.policy is None:
        msg = f"Add a [policy] section to {site.config_file}: without limits all is refused."
        raise Ailment(msg)


def _device(site: Site) -> None:
    import torch

    name = site.config.device.torch
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        msg = f'Expected a usable device.torch, got "{name}" ({reason}): use "cpu" in site.toml.'
        raise Ailment(msg) from error


def _thresholds(site: Site) -> None:
    from client.batch import read_thresholds

    read_thresholds(site)


def _face_model(site: Site, face_model: Path | None) -> None:
    from client.extraction.face_model import find_face_model

    find_face_model([face_model, site.paths.face_model], url=None)


def _recordings(site: Site) -> None:
    from client.preparation import load_manifest
    from client.recording import ManifestError

    try:
        load_manifest(site)
    except ManifestError as error:
        msg = f"{len(error.faults)} faults: run 'vultus-site check {site.folder}' to read them."
        raise Ailment(msg) from error


def _store(site: Site) -> None:
    from client.store import open_store

    damaged = open_store(site).find_damaged()
    if damaged:
        msg = f"{len(damaged)} stored files are damaged, the first: {damaged[0]}"
        raise Ailment(msg)


def _ledger(site: Site) -> None:
    if not site.paths.ledger.exists():
        return
    with PrivacyLedger(site.paths.ledger, key=site.ledger_key) as ledger:
        broken = ledger.verify()
    if broken:
        msg = (
            f"{len(broken)} rows of {site.paths.ledger} are not as they were written: stop, and "
            "restore the newest backup; the site must not train on a broken ledger."
        )
        raise Ailment(msg)


def _audit(site: Site) -> None:
    verdict = verify_audit(site.paths.audit)
    if not verdict.whole:
        msg = f"{site.paths.audit} was changed at line {verdict.first_broken}: find out by whom."
        raise Ailment(msg)
