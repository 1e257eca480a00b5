"""A detached signature beside a published file, which OpenSSL can check without this package."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from privacy.keys import load_public_line, sign
from privacy.vault import write_atomic

SIGNATURE_SUFFIX = ".sig"


def signature_file(model: Path) -> Path:
    """Where the detached signature of a published model lies."""
    return model.with_name(model.name + SIGNATURE_SUFFIX)


def sign_file(model: Path, key: EllipticCurvePrivateKey) -> None:
    """Write the detached signature (ECDSA, SHA-384, DER) of a model file beside it."""
    write_atomic(signature_file(model), sign(key, model.read_bytes()), mode=0o644)


def public_pem(public_key: str) -> bytes:
    """A public key in the form that OpenSSL reads.

    Args:
        public_key: Its OpenSSH line.
    """
    return load_public_line(public_key).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
