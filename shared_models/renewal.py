"""A site's new identity key, vouched for by the old one.

The site makes the new pair beside the old; its public half goes to the coordinator in a file that
the old key signed, so that nobody else can put a key of theirs into the roster under its name.
"""

from __future__ import annotations

import base64
import json

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from privacy.keys import public_line, sign, verify
from shared_models.roster import Name, check_key
from shared_models.toml import STRICT

RENEWAL_FILE = "renewal.json"


class RenewalError(ValueError):
    """A renewal that the site's present key did not sign, or that is none."""

    exit_code = 2


@dataclass(frozen=True, config=STRICT)
class Renewal:
    """The file that the site sends.

    Attributes:
        site_id: The site.
        public_key: OpenSSH line of its new key.
        signature: By the present key, base64.
    """

    site_id: Name
    public_key: str
    signature: str

    def __post_init__(self) -> None:
        """Refuse a line that is no key.

        Raises:
            ValueError: If it is none.
        """
        check_key(self.public_key, "the OpenSSH line of the site's new key")


def sign_renewal(
    site_id: str, new_key: EllipticCurvePrivateKey, *, present_key: EllipticCurvePrivateKey
) -> bytes:
    """The file by which a site asks for its new key to count."""
    line = public_line(new_key)
    signature = base64.b64encode(sign(present_key, _statement(site_id, line))).decode()
    fields = {"site_id": site_id, "public_key": line, "signature": signature}
    return json.dumps(fields, indent=2).encode()


def read_renewal(content: bytes, *, site_id: str, present_key: str) -> str:
    """OpenSSH line of the new key, if the site's present key vouches for it.

    Args:
        content: The file.
        site_id: Whose key is to be renewed.
        present_key: Its OpenSSH line in the roster.

    Raises:
        RenewalError: If the file is none, is another site's, or is not signed by that key.
    """
    try:
        renewal = TypeAdapter(Renewal).validate_json(content)
        signature = base64.b64decode(renewal.signature, validate=True)
    except (ValidationError, ValueError) as error:
        msg = "Expected the file renewal.json that 'vultus-site renew-key' wrote, got another."
        raise RenewalError(msg) from error
    if renewal.site_id != site_id:
        msg = f"Expected a renewal of site {site_id!r}, got one of {renewal.site_id!r}."
        raise RenewalError(msg)
    if not verify(present_key, signature, _statement(site_id, renewal.public_key)):
        msg = (
            f"Expected a renewal signed by the present key of site {site_id!r}, got another "
            "signature. If that key is lost, compare the new one by telephone and use --lost."
        )
        raise RenewalError(msg)
    return renewal.public_key


def _statement(site_id: str, public_key: str) -> bytes:
    return b"vultus renewal 1|" + json.dumps([site_id, public_key]).encode()
