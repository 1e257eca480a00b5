"""Bundles that a site must never run, and the one that it may."""

from __future__ import annotations

import hashlib
import io
import stat
import struct
import warnings
import zipfile
from pathlib import Path

from server.bundle import build_bundle

CODE = b"raise SystemExit('the coordinator runs code here')\n"


def sound_bundle(folder: Path) -> bytes:
    folder.mkdir(parents=True, exist_ok=True)
    return build_bundle(folder).content


def entries_of(bundle: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(entries: dict[str, bytes] | list[tuple[str | zipfile.ZipInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    pairs = entries.items() if isinstance(entries, dict) else entries
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in pairs:
            archive.writestr(name, content, compress_type=zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def consistent(entries: dict[str, bytes]) -> bytes:
    """A bundle whose own list describes what it holds, as the engine's builder would make it."""
    listed = {name: data for name, data in entries.items() if name != ".info/CONTENT"}
    lines = [f"{n},{hashlib.sha256(d).hexdigest()},{8 * len(d)}" for n, d in listed.items()]
    return pack({**listed, ".info/CONTENT": "\n".join(lines).encode()})


def with_entry(bundle: bytes, name: str, content: bytes = CODE) -> bytes:
    return consistent({**entries_of(bundle), name: content})


def with_link(bundle: bytes) -> bytes:
    link = zipfile.ZipInfo("LICENSE")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    entries = {k: v for k, v in entries_of(bundle).items() if k != "LICENSE"}
    return pack([*entries.items(), (link, b"/etc/passwd")])


def with_twin(bundle: bytes) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pack([*entries_of(bundle).items(), ("pyproject.toml", b"[project]\n")])


def with_bomb(bundle: bytes) -> bytes:
    """A thousandfold of zeros in an expected file."""
    return pack({**entries_of(bundle), "LICENSE": bytes(30 << 20)})


def with_dishonest_bomb(bundle: bytes) -> bytes:
    """The same, but the table of contents says that it is small."""
    packed = bytearray(pack({**entries_of(bundle), "LICENSE": bytes(30 << 20)}))
    at = packed.rindex(b"LICENSE") - 46 + 24
    packed[at : at + 4] = struct.pack("<I", 182)
    return bytes(packed)


def other_app(bundle: bytes) -> bytes:
    entries = entries_of(bundle)
    text = entries["pyproject.toml"].replace(b'"client.app:app"', b'"os:system"')
    return consistent({**entries, "pyproject.toml": text})


def with_packages(bundle: bytes) -> bytes:
    entries = entries_of(bundle)
    text = entries["pyproject.toml"].replace(b"dependencies = []", b'dependencies = ["evil"]')
    return consistent({**entries, "pyproject.toml": text})


def with_build_system(bundle: bytes) -> bytes:
    entries = entries_of(bundle)
    text = entries["pyproject.toml"] + b'\n[build-system]\nrequires = ["evil"]\n'
    return consistent({**entries, "pyproject.toml": text})


HOSTILE = {
    "own client": (lambda b: with_entry(b, "client/app.py"), "code"),
    "compiled code": (lambda b: with_entry(b, "torch.so"), "code"),
    "path hook": (lambda b: with_entry(b, "x.pth"), "code"),
    "out of the folder": (lambda b: with_entry(b, "../../etc/cron.d/x"), "leads out"),
    "absolute path": (lambda b: with_entry(b, "/etc/x"), "leads out"),
    "backslash path": (lambda b: with_entry(b, "..\\..\\x"), "leads out"),
    "archive in it": (lambda b: with_entry(b, "more.zip"), "archive within"),
    "anything else": (lambda b: with_entry(b, "data.json"), "belong into a bundle"),
    "folder": (lambda b: with_entry(b, "client/", b""), "folder"),
    "link": (with_link, "link"),
    "twice": (with_twin, "twice"),
    "bomb": (with_bomb, "larger than 64 KiB"),
    "dishonest bomb": (with_dishonest_bomb, "archive|as long as it says"),
    "huge": (lambda b: b + bytes(10 << 20), "64 KiB"),
    "trailing data": (lambda b: b + b"#!/bin/sh\n", "before or behind|no whole archive"),
    "leading data": (lambda b: b"#!/bin/sh\n" + b, "before or behind"),
    "no archive": (lambda _: b"#!/bin/sh\nrm -rf /\n", "no whole archive"),
    "empty": (lambda _: b"", "no whole archive"),
    "cut": (lambda b: b[:-30], "no whole archive"),
    "another app": (other_app, "starts"),
    "packages": (with_packages, "packages"),
    "build system": (with_build_system, "build-system"),
    "list that lies": (
        lambda b: pack({**entries_of(b), "LICENSE": b"another"}), "does not describe",
    ),
    "nothing in it": (lambda _: pack({}), "lacks|archive"),
    "very many files": (
        lambda b: pack({**entries_of(b), **{f"f{n}": b"" for n in range(100)}}), "103 files",
    ),
}  # fmt: skip
"""How each is made from a sound bundle, and what the site says of it."""
