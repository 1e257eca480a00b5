"""What a bundle holds, read without unpacking it, and why it could never be approved.

A bundle of a consortium names the installed app and carries a notice: three small text files. So
it is compared with that, not searched for what is dangerous: whatever else stands in it is shown,
named and never approvable.
"""

from __future__ import annotations

import hashlib
import io
import stat
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

DESCRIPTION, LICENCE, CONTENTS = "pyproject.toml", "LICENSE", ".info/CONTENT"
EXPECTED = frozenset({DESCRIPTION, LICENCE, CONTENTS})
COMPONENTS = {"serverapp": "server.app:app", "clientapp": "client.app:app"}
LARGEST_BYTES = 64 << 10
LARGEST_ENTRY_BYTES = 64 << 10
MOST_ENTRIES = 64
MOST_SHOWN = 24
LONGEST_NAME = 80
CODE = frozenset(
    {".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".pth", ".sh", ".bat", ".exe", ".js", ".ipynb"}
)
ARCHIVES = frozenset({".zip", ".whl", ".fab", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".egg", ".7z"})
ENCRYPTED = 0x1
END_OF_ARCHIVE = slice(-22, -18)
METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
UNREADABLE = (
    zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, OSError, EOFError,
    RecursionError,
)  # fmt: skip
"""All that the standard library raises over an archive that is not what it says."""


@dataclass(frozen=True)
class BundleEntry:
    """One file of a bundle, as its table of contents describes it.

    Attributes:
        name: Its path, with ``?`` for what a terminal should not be sent.
        size: Bytes when unpacked, as stated.
    """

    name: str
    size: int


@dataclass(frozen=True)
class BundleView:
    """What can be said of a bundle without running or unpacking it.

    Attributes:
        sha256: Of its bytes, hexadecimal.
        size: Number of its bytes.
        entries: Its files, at most as many as anyone would read.
        faults: Why it is no bundle that can be approved; empty if it can.
    """

    sha256: str
    size: int
    entries: tuple[BundleEntry, ...]
    faults: tuple[str, ...]

    @property
    def is_approvable(self) -> bool:
        """Whether it holds no code and nothing that does not belong there."""
        return not self.faults


def inspect_bundle(content: bytes) -> BundleView:
    """What a bundle holds, and every reason against it.

    Guarantees:
        Nothing is written, imported or run. An entry is decompressed only if it has an expected
        name and an honest, small size, and never further than that.
    """
    digest = hashlib.sha256(content).hexdigest()
    if len(content) > LARGEST_BYTES:
        fault = f"it has {len(content)} bytes, and one without code needs no more than 64 KiB"
        return BundleView(digest, len(content), (), (fault,))
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            faults = tuple(_find_faults(archive, infos, content))
    except UNREADABLE as error:
        return BundleView(digest, len(content), (), (f"it is no whole archive: {_shown(error)}",))
    entries = tuple(BundleEntry(_shown(i.filename), i.file_size) for i in infos[:MOST_SHOWN])
    return BundleView(digest, len(content), entries, faults)


def _find_faults(
    archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo], content: bytes
) -> Iterator[str]:
    if len(infos) > MOST_ENTRIES:
        yield f"it has {len(infos)} files"
        return
    whole = content.startswith(b"PK\x03\x04") and content[END_OF_ARCHIVE] == b"PK\x05\x06"
    if not whole or archive.comment:
        yield "something stands before or behind the archive"
    names = [info.filename for info in infos]
    if len(set(names)) < len(names):
        yield "it names a file twice"
    for name in sorted(EXPECTED - set(names)):
        yield f"it lacks {name}"
    for info in infos:
        faults = list(_entry_faults(info))
        yield from (f"{_shown(info.filename)}: {fault}" for fault in faults)
    if not any(fault for info in infos for fault in _entry_faults(info)):
        yield from _content_faults(_read(archive, infos))


def _entry_faults(info: zipfile.ZipInfo) -> Iterator[str]:
    """What is wrong with an entry by its table line alone."""
    for fault, wrong in _ENTRY_RULES:
        if wrong(info):
            yield fault
    if info.filename not in EXPECTED:
        yield f"only {', '.join(sorted(EXPECTED))} belong into a bundle"


def _leads_outside(info: zipfile.ZipInfo) -> bool:
    name = info.orig_filename
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name


def _is_no_file(info: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(info.external_attr >> 16)
    return info.is_dir() or kind not in {0, stat.S_IFREG}


def _suffixes(info: zipfile.ZipInfo) -> set[str]:
    return {suffix.lower() for suffix in PurePosixPath(info.filename).suffixes}


_ENTRY_RULES: tuple[tuple[str, Callable[[zipfile.ZipInfo], bool]], ...] = (
    ("code, where only what this site installed may run", lambda i: bool(_suffixes(i) & CODE)),
    ("an archive within the archive", lambda i: bool(_suffixes(i) & ARCHIVES)),
    ("its path leads out of the bundle", _leads_outside),
    ("a link, folder or device, not a file", _is_no_file),
    ("encrypted, so that nobody can read it", lambda i: bool(i.flag_bits & ENCRYPTED)),
    ("packed in a way that is not read here", lambda i: i.compress_type not in METHODS),
    ("larger than 64 KiB when unpacked", lambda i: i.file_size > LARGEST_ENTRY_BYTES),
)  # fmt: skip


def _read(archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo]) -> dict[str, bytes]:
    """The expected files, none read further than it says it is long.

    Raises:
        ValueError: If one is longer than it says.
    """
    files = {}
    for info in infos:
        with archive.open(info) as entry:
            data = entry.read(LARGEST_ENTRY_BYTES + 1)
        if len(data) != info.file_size:
            msg = f"{_shown(info.filename)} is not as long as it says"
            raise ValueError(msg)
        files[info.filename] = data
    return files


def _content_faults(files: Mapping[str, bytes]) -> Iterator[str]:
    """What is wrong with the three files themselves."""
    if set(files) != EXPECTED:
        return
    try:
        _ = files[LICENCE].decode()
        description = tomllib.loads(files[DESCRIPTION].decode())
        listed = files[CONTENTS].decode().splitlines()
    except ValueError:
        yield "its files are not the text that they should be"
        return
    yield from _description_faults(description)
    own = [
        f"{name},{hashlib.sha256(files[name]).hexdigest()},{8 * len(files[name])}"
        for name in (DESCRIPTION, LICENCE)
    ]
    if sorted(listed) != sorted(own):
        yield f"{CONTENTS} does not describe the files that are there"


def _description_faults(description: Mapping[str, object]) -> Iterator[str]:
    app = _table(_table(_table(description, "tool"), "flwr"), "app")
    components = _table(app, "components")
    if components != COMPONENTS:
        told = _shown(", ".join(f"{key} {value}" for key, value in components.items()) or "nothing")
        yield f"{DESCRIPTION} starts {told} instead of {' and '.join(COMPONENTS.values())}"
    if _table(description, "project").get("dependencies"):
        yield f"{DESCRIPTION} asks for packages to be installed"
    unknown = set(description) - {"project", "tool"} | set(_table(description, "tool")) - {"flwr"}
    if unknown:
        yield f"{DESCRIPTION} has a section {_shown(', '.join(sorted(unknown)))}"


def _table(table: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = table.get(name)
    return value if isinstance(value, dict) else {}


def _shown(text: object) -> str:
    """Words that came with the bundle, short and unable to steer a terminal."""
    cleaned = "".join(letter if letter.isprintable() else "?" for letter in str(text))
    return cleaned if len(cleaned) <= LONGEST_NAME else f"{cleaned[:LONGEST_NAME]}..."
