"""What a coordinator sends a site so that it can join: a folder, whole and signed.

``kit.toml`` says whom it is for and names every other file with its digest; ``kit.sig`` is the
coordinator's signature under ``kit.toml``. So nothing in the folder can be altered, left out or
added without the site noticing, and nothing in it is secret.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from pydantic import Field
from pydantic.dataclasses import dataclass

from privacy.keys import sign, verify
from shared_models.face_model import FACE_MODEL_FILE
from shared_models.roster import ROSTER_FILE, Name
from shared_models.toml import STRICT

KIT_FILE = "kit.toml"
SIGNATURE_FILE = "kit.sig"
STUDY_FILE = "consortium.toml"
AUTHORITY_FILE = "ca.crt"
BUNDLE_FILE = "vultus.fab"
REQUIRED_FILES = (STUDY_FILE, AUTHORITY_FILE, BUNDLE_FILE)
OPTIONAL_FILES = (ROSTER_FILE, FACE_MODEL_FILE)

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, config=STRICT)
class KitTerms:
    """``[kit]``: whom the kit is for, where to connect, what to agree to.

    Attributes:
        site_id: The site.
        number: From 1; a later kit of the same site has a higher one.
        made_at: When it was made, ISO 8601 with offset.
        address: Where the site connects to, ``host:port``.
        bundle_sha256: The bundle that the site is asked to approve.
        vultus_version: What the coordinator runs.
        flwr_version: What its engine is.
    """

    site_id: Name
    number: Annotated[int, Field(ge=1)]
    made_at: str
    address: Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")]
    bundle_sha256: Sha256
    vultus_version: str
    flwr_version: str


@dataclass(frozen=True, config=STRICT)
class KitFile:
    """All of ``kit.toml``: the terms, and every other file of the folder by its SHA-256."""

    kit: KitTerms
    files: dict[str, Sha256]

    @property
    def consortium_sha256(self) -> str:
        """Digest of the study file that the kit brings."""
        return self.files[STUDY_FILE]


def sign_kit(text: bytes, key: EllipticCurvePrivateKey) -> bytes:
    """The content of ``kit.sig`` for a ``kit.toml``."""
    return sign(key, _statement(text))


def is_kit_signed(text: bytes, signature: bytes, *, public_key: str | None) -> bool:
    """Whether the holder of a key made this ``kit.toml``.

    Args:
        text: The file.
        signature: ``kit.sig``.
        public_key: The coordinator's OpenSSH line; without one nothing counts.
    """
    return public_key is not None and verify(public_key, signature, _statement(text))


def find_kit_faults(folder: Path, listed: Mapping[str, str]) -> Iterator[str]:
    """Every file of a kit's folder that is missing, altered, no plain file, or not listed.

    Args:
        folder: The folder.
        listed: SHA-256 of each file by its name, as ``kit.toml`` has it.
    """
    known = {*REQUIRED_FILES, *OPTIONAL_FILES}
    for name in sorted(set(REQUIRED_FILES) - listed.keys()):
        yield f"{KIT_FILE} does not name {name}, which every kit has"
    for name, digest in sorted(listed.items()):
        file = folder / name
        if name not in known:
            yield f"{KIT_FILE} names {name!r}, which is no file of a kit"
        elif not file.is_file() or file.is_symlink():
            yield f"{name} is missing"
        elif _digest(file) != digest:
            yield f"{name} was altered or damaged"
    present = {path.name for path in folder.iterdir()}
    for name in sorted(present - listed.keys() - {KIT_FILE, SIGNATURE_FILE}):
        yield f"{name!r} was added"


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _statement(text: bytes) -> bytes:
    """The bytes that are signed; they begin unlike anything else that this key signs."""
    return b"vultus kit 1|" + text
