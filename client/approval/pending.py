"""Bundles that were refused: kept small, few and closed, until somebody has read them.

Nothing here opens a bundle: the process that meets it speaks with the coordinator, and a bundle
that nobody approved is only bytes to it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from privacy.audit import AuditLog
from privacy.vault import write_atomic

PENDING_FOLDER = "pending"
LARGEST_KEPT_BYTES = 64 << 10
"""A bundle without code takes about one kilobyte."""
MOST_KEPT = 16
KEPT, NOT_KEPT = ".fab", ".refused"
REFUSED_EVENT = "bundle_refused"


def note_refusal(state: Path, log: AuditLog, content: bytes) -> None:
    """Put a refusal on record, and keep the bundle for people to read if there is room for it.

    Args:
        state: The site's folder of what it remembers.
        log: The site's log.
        content: The bundle as it arrived.
    """
    digest = hashlib.sha256(content).hexdigest()
    folder = state / PENDING_FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    known = {path.name for path in folder.iterdir()}
    small = len(content) <= LARGEST_KEPT_BYTES
    file = folder / f"{digest}{KEPT if small else NOT_KEPT}"
    if file.name in known:
        file.touch()
    elif len(known) < MOST_KEPT:
        write_atomic(file, content if small else b"")
    log.append(REFUSED_EVENT, sha256=digest, bytes=len(content), kept=small and file.exists())


def pending_bundles(state: Path) -> dict[str, bytes]:
    """The refused bundles that were kept, by their SHA-256, oldest first.

    A file that does not hold what its name says is none of them.
    """
    found: dict[str, bytes] = {}
    files = (state / PENDING_FOLDER).glob(f"*{KEPT}")
    for file in sorted(files, key=lambda path: (path.stat().st_mtime, path.name)):
        if file.is_symlink() or file.stat().st_size > LARGEST_KEPT_BYTES:
            continue
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() == file.stem:
            found[file.stem] = content
    return found


def forget_pending(state: Path, digest: str) -> None:
    """Remove a bundle that somebody has decided on."""
    for suffix in (KEPT, NOT_KEPT):
        (state / PENDING_FOLDER / f"{digest}{suffix}").unlink(missing_ok=True)


class RefusalWatch:
    """Notices refusals that happened since it was made, each bundle once.

    Args:
        state: The site's folder of what it remembers.
    """

    def __init__(self, state: Path) -> None:
        self._folder = state / PENDING_FOLDER
        self._seen = self._moments()
        self._told: set[str] = set()

    def look(self) -> list[str]:
        """SHA-256 of the bundles that were refused, if they were not told yet."""
        moments = self._moments()
        if moments == self._seen:
            return []
        changed = {Path(name).stem for name, _ in moments.items() - self._seen.items()}
        self._seen = moments
        new = sorted(changed - self._told)
        self._told.update(new)
        return new

    def _moments(self) -> dict[str, int]:
        """When each bundle was refused last, by file name."""
        if not self._folder.is_dir():
            return {}
        files = [path for path in self._folder.iterdir() if path.suffix in {KEPT, NOT_KEPT}]
        return {path.name: path.stat().st_mtime_ns for path in files if path.exists()}
