"""The sites of a consortium, as a numbered list that the coordinator signs.

A study file holds what all sites agreed to and never changes during a study; who takes part does.
The roster names the sites, their weights and keys, and the certificate authorities that they trust.
It reaches every site with the first question of a run and again when it changed, so that nobody has
to be sent anything when a site joins, leaves or renews its key (docs/adr/0012).

What the signature does not give: a coordinator can sign a roster with sites that it made up. A site
that wants to know the others by name demands it in its policy (``approve_members``).
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from privacy.keys import KeyFileError, load_public_line, sign, verify
from privacy.vault import write_atomic
from shared_models.toml import STRICT

ROSTER_FILE = "roster.json"

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class RosterError(ValueError):
    """A roster that may not be followed: not signed, of another study, or faulty."""

    exit_code = 2


@dataclass(frozen=True, config=STRICT)
class SiteEntry:
    """A site of the consortium, its fixed weight and its public identity key.

    ``weight`` is the number of subjects that the site is counted with. It is agreed once and
    published: weights that followed the live count would leak who joined (docs/adr/0006).
    """

    id: Name
    weight: Annotated[int, Field(ge=1)]
    public_key: str

    def __post_init__(self) -> None:
        """Refuse a key that no site can prove to hold.

        Raises:
            ValueError: If it is not the OpenSSH line of a P-384 key.
        """
        check_key(self.public_key, "the line of the site's file identity.pub")


@dataclass(frozen=True, config=STRICT)
class Roster:
    """Who takes part in a study from now on.

    Attributes:
        number: From 1; each change counts one up, and a site never goes back.
        consortium_digest: Digest of the study file that it belongs to.
        sites: In the order in which they were added.
        authorities: Certificates, PEM, of which one must have signed the coordinator's; two while
            an authority is renewed.
    """

    number: Annotated[int, Field(ge=1)]
    consortium_digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    sites: tuple[SiteEntry, ...]
    authorities: str

    def __post_init__(self) -> None:
        """Refuse sites named twice.

        Raises:
            ValueError: With every fault.
        """
        check_distinct(self.sites)


@dataclass(frozen=True, config=STRICT)
class _Signed:
    """The file: the exact text that was signed, and the signature."""

    roster: str
    signature: str


_ROSTER, _SIGNED = TypeAdapter(Roster), TypeAdapter(_Signed)


def sign_roster(roster: Roster, key: EllipticCurvePrivateKey) -> bytes:
    """The roster as sites receive it."""
    text = _ROSTER.dump_json(roster).decode()
    signature = base64.b64encode(sign(key, _statement(text))).decode()
    return json.dumps({"roster": text, "signature": signature}).encode()


def read_roster(content: bytes, *, public_key: str | None, consortium_digest: str) -> Roster:
    """The roster in a file or message, if the coordinator signed it for this study.

    Args:
        content: What :func:`sign_roster` made.
        public_key: The coordinator's OpenSSH line in the agreed study; without one nothing counts.
        consortium_digest: Of the agreed study file.

    Raises:
        RosterError: If it may not be followed.
    """
    roster = reread_roster(content, public_key=public_key)
    if roster.consortium_digest != consortium_digest:
        msg = (
            f"The roster belongs to study {roster.consortium_digest[:12]}, agreed is "
            f"{consortium_digest[:12]}"
        )
        raise RosterError(msg)
    return roster


def reread_roster(content: bytes, *, public_key: str | None) -> Roster:
    """A roster of whatever study, if the coordinator signed it; for the coordinator's own use.

    Raises:
        RosterError: If it is not signed, or faulty.
    """
    try:
        signed = _SIGNED.validate_json(content)
        signature = base64.b64decode(signed.signature, validate=True)
    except ValueError as error:
        msg = f"Expected a signed roster, got {len(content)} bytes of another form"
        raise RosterError(msg) from error
    if public_key is None or not verify(public_key, signature, _statement(signed.roster)):
        msg = "The roster is not signed by the coordinator's key in the agreed study"
        raise RosterError(msg)
    try:
        roster = _ROSTER.validate_json(signed.roster)
    except ValidationError as error:
        msg = f"The coordinator signed a faulty roster: {error.errors()[0]['msg']}"
        raise RosterError(msg) from error
    return roster


def keep_roster(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace the roster in a file, durably."""
    write_atomic(path, content, mode=mode)


def check_key(line: str, expected: str) -> None:
    """Refuse a line that is no public P-384 key.

    Raises:
        ValueError: If it is none.
    """
    try:
        load_public_line(line)
    except KeyFileError as error:
        msg = f"Expected {expected}, got {line!r}"
        raise ValueError(msg) from error


def check_distinct(sites: tuple[SiteEntry, ...]) -> None:
    """Refuse sites whose id or key is named twice.

    Raises:
        ValueError: With every fault.
    """
    faults = [
        f"Expected each site's {what} once, got {sorted(twice)}"
        for what, values in (
            ("id", [s.id for s in sites]),
            ("public_key", [s.public_key for s in sites]),
        )
        if (twice := {v for v in values if values.count(v) > 1})
    ]
    if faults:
        raise ValueError("; ".join(faults))


def _statement(text: str) -> bytes:
    """The bytes that are signed; they begin unlike anything else that this key signs."""
    return b"vultus roster 1|" + text.encode()
