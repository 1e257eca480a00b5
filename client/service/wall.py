"""The wall: the kernel keeps the processes that speak with the coordinator from reading videos.

Landlock lets a process without privilege give up access for itself and all that it starts. It only
knows what is allowed, so everything is allowed that lies beside the videos on the way down to them;
what is created there later stays out of reach as well. Looking at a file's size or date stays
possible, reading it does not.

``python -m client.service.wall SITE_TOML -- MODULE ...`` raises the wall and becomes that module.
It imports the standard library alone: the wall has to stand before a library starts a thread.

Source:
    M. Salaün, Landlock, Linux kernel documentation, Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import csv
import ctypes
import os
import runpy
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_SET_NO_NEW_PRIVILEGES = 38
_LARGEST_CELL = 1 << 20

REREAD = 75
"""Exit status of a process that must start anew, since a file that it needs was replaced."""


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


class WallError(RuntimeError):
    """The wall could not be raised although the kernel offers it."""


@dataclass(frozen=True)
class Boundary:
    """What of a site lies on which side of the wall; all paths real, free of links.

    Attributes:
        outside: Folders and files that the walled processes must not read.
        needed: Files and folders that they live on.
        exposed: Videos that lie among what they live on, where no wall can stand.
    """

    outside: tuple[Path, ...]
    needed: tuple[Path, ...]
    exposed: tuple[Path, ...] = ()


def landlock_version() -> int:
    """Version of Landlock that this kernel offers; 0 where it offers none."""
    if sys.platform != "linux":
        return 0
    kernel = ctypes.CDLL(None, use_errno=True)
    return max(0, int(kernel.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)))


def find_boundary(site_toml: Path) -> Boundary:
    """Where the wall of a site has to stand.

    Outside are the folder of the videos, each folder that holds a file of the table, and single
    files where their folder also holds what the service lives on.

    Args:
        site_toml: The site's configuration; it was checked before.
    """
    folder = site_toml.resolve().parent
    config = tomllib.loads(site_toml.read_text(encoding="utf-8"))
    paths = config.get("paths", {})
    live = [(folder / paths.get(name, name)).resolve() for name in ("store", "state", "keys")]
    table = folder / paths.get("recordings", "recordings.csv")
    study = folder / config.get("site", {}).get("consortium", "consortium.toml")
    authority = folder / config.get("coordinator", {}).get("ca_certificate", "ca.crt")
    files = [site_toml.resolve(), study.resolve(), table.resolve(), authority.resolve()]
    root = folder / paths.get("videos", ".")
    videos = list(_listed(table, root))
    homes = {path.parent for path in videos} | {root.resolve(), (folder / "videos").resolve()}
    alive = (*files, *live, *_interpreter())
    apart = {home for home in homes if not _beneath_any(home, live)}
    apart = {home for home in apart if not any(one.is_relative_to(home) for one in alive)}
    single = {video for video in videos if not _beneath_any(video, apart)}
    exposed = {video for video in single if _beneath_any(video, live)}
    return Boundary(
        outside=tuple(sorted(_topmost(apart | (single - exposed)))),
        needed=(*files, *live),
        exposed=tuple(sorted(exposed)),
    )


def raise_wall(boundary: Boundary) -> None:
    """Give up reading what lies outside, in this process and in all that it will start.

    Guarantees:
        After it, opening a file or listing a folder outside fails with :class:`PermissionError`,
        by whatever path; neither links nor renames bring one across. It cannot be taken back.
        Not covered: files opened before, hard links made before, a folder that is mounted a second
        time elsewhere, and other processes of the same user.

    Args:
        boundary: What lies outside, and what must stay within reach.

    Raises:
        WallError: If the kernel refuses, or threads run already, which would stay in front of it.
    """
    threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    if threads > 1:
        msg = f"Expected to raise the wall before any thread starts, got {threads} threads."
        raise WallError(msg)
    kernel = ctypes.CDLL(None, use_errno=True)
    handled = ctypes.c_uint64(_READ_FILE | _READ_DIR)
    ruleset = _checked(
        kernel.syscall(_CREATE_RULESET, ctypes.byref(handled), ctypes.sizeof(handled), 0)
    )
    try:
        for path, rights in _within_reach(boundary):
            _allow(kernel, ruleset, path, rights=rights)
        _checked(kernel.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        _checked(kernel.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def identities(files: Iterable[Path]) -> list[tuple[int, int] | None]:
    """What tells a file from another one put in its place, which the wall would hide."""
    found: list[tuple[int, int] | None] = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_dev, status.st_ino))
    return found


def _listed(table: Path, root: Path) -> Iterator[Path]:
    """Each video of the table, as it lies and where its link leads."""
    csv.field_size_limit(_LARGEST_CELL)
    # A table that cannot be read is told elsewhere; here it names no videos.
    with (
        suppress(OSError, ValueError, csv.Error),
        table.open(newline="", encoding="utf-8-sig") as f,
    ):
        first = f.readline()
        columns = next(csv.reader([first], delimiter=_separator(first)), [])
        for row in csv.DictReader(
            f, [name.strip() for name in columns], delimiter=_separator(first)
        ):
            if name := (row.get("file") or "").strip():
                lying = root / name
                yield lying.parent.resolve() / lying.name
                yield lying.resolve()


def _separator(header: str) -> str:
    return max(",;\t", key=header.count)


def _beneath_any(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _topmost(paths: set[Path]) -> set[Path]:
    """Without what lies beneath another one: the way to it must not open that one."""
    return {path for path in paths if not paths.intersection(path.parents)}


def _interpreter() -> set[Path]:
    """Folders that Python and its packages live in."""
    return {Path(place).resolve() for place in (sys.prefix, sys.base_prefix, *sys.path) if place}


def _within_reach(boundary: Boundary) -> Iterator[tuple[Path, int]]:
    """Paths to allow, each with all that is beneath it, and the rights there."""
    outside = set(boundary.outside)
    ways = {parent for path in outside for parent in path.parents}
    interpreter = _interpreter()
    # Named beside what is found: a folder on the way may be closed to listing.
    for path in (*_beside(Path("/"), ways, outside), *boundary.needed, *(interpreter - ways)):
        yield path, _READ_FILE | _READ_DIR
    # Modules are found by listing the folder they lie in.
    for path in interpreter & ways:
        yield path, _READ_DIR


def _beside(folder: Path, ways: set[Path], outside: set[Path]) -> Iterator[Path]:
    """Everything beside the way from a folder down to what lies outside."""
    if not ways:
        yield folder
        return
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.is_symlink()]
    except OSError:
        # A folder that may be passed but not listed; what is needed of it is allowed by name.
        entries = []
    for entry in entries:
        path = Path(entry.path)
        if path not in ways and path not in outside:
            yield path
    for way in ways:
        if way.parent == folder and way != folder:
            yield from _beside(way, ways, outside)


def _allow(kernel: ctypes.CDLL, ruleset: int, path: Path, *, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not path.is_dir():
            rights &= _READ_FILE
        rule = _PathRule(rights, handle)
        _checked(kernel.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0))
    finally:
        os.close(handle)


def _checked(answer: int) -> int:
    if answer < 0:
        msg = f"Expected the kernel to raise the wall, got: {os.strerror(ctypes.get_errno())}."
        raise WallError(msg)
    return answer


def main(words: Sequence[str]) -> None:
    """Raise the wall of a site, then become the named module."""
    site_toml, _, module, *arguments = words
    raise_wall(find_boundary(Path(site_toml)))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
