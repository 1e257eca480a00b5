"""Files that an inspection writes: closed to other accounts, and never in place of another's."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from shared_models.console import InputError

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST = 120
_LOOKED_AT_BYTES = 1 << 20


def claim_file(path: Path, mark: bytes) -> None:
    """Make sure that a file can be written where nothing of anybody else is lost.

    Args:
        path: The file that will be written.
        mark: Bytes near the beginning or the end of every file of this kind that we write.

    Raises:
        InputError: If its folder is missing, or another file lies there.
    """
    if not path.parent.is_dir():
        msg = f"Expected an existing folder for {path.name}, got {path.parent}: make it first."
        raise InputError(msg)
    if (path.exists() or path.is_symlink()) and not _bears(path, mark):
        msg = (
            f"Expected {path} to be new or an earlier export, got something else: "
            "name another place, or move it away."
        )
        raise InputError(msg)


def claim_folder(path: Path, name: str, mark: bytes) -> None:
    """Make a private folder, or take one that an earlier export made.

    Args:
        path: The folder; made with mode 0700 if absent.
        name: A file that every such export holds.
        mark: Bytes near the beginning or the end of that file.

    Raises:
        InputError: If it cannot be made, or holds something else.
    """
    if path.is_dir() and (not any(path.iterdir()) or _bears(path / name, mark)):
        return
    if path.exists() or path.is_symlink():
        msg = (
            f"Expected {path} to be new, empty or an earlier export (with its {name}), got "
            "something else: name another place, or move it away."
        )
        raise InputError(msg)
    if not path.parent.is_dir():
        msg = f"Expected an existing folder for {path.name}, got {path.parent}: make it first."
        raise InputError(msg)
    path.mkdir(mode=0o700)


def safe_names(recording_ids: Iterable[str]) -> dict[str, str]:
    """A file name without ending for each recording, different on every file system.

    >>> safe_names(["r1", "../r1", "a b"])
    {'r1': 'r1', '../r1': '%2E.%2Fr1', 'a b': 'a%20b'}
    """
    plain = {name: _safe_name(name) for name in recording_ids}
    taken = Counter(name.casefold() for name in plain.values())
    return {
        recording_id: name if taken[name.casefold()] == 1 else f"{name}-{_short_hash(recording_id)}"
        for recording_id, name in plain.items()
    }


def _safe_name(recording_id: str) -> str:
    """The id with everything but letters, digits, ``._-`` written as percent and hexadecimal."""
    name = _UNSAFE.sub(lambda found: _percent(found.group()), recording_id)
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name) <= _LONGEST:
        return name
    return f"{name[:_LONGEST]}-{_short_hash(recording_id)}"


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _bears(path: Path, mark: bytes) -> bool:
    if not path.is_file() or path.is_symlink():
        return False
    with path.open("rb") as file:
        head = file.read(_LOOKED_AT_BYTES)
        file.seek(max(0, path.stat().st_size - _LOOKED_AT_BYTES), os.SEEK_SET)
        return mark in head or mark in file.read()
