"""Key files of a site: storage, ledger and identity, each for one purpose only.

Every private key lies in a file of mode 0600 inside a folder of mode 0700; anything looser is
refused before the key is read. Nothing here ever overwrites a key.
"""

import base64
import hashlib
import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

STORAGE_KEY_BYTES = 32


class KeyFileError(Exception):
    """A key file that is missing, exposed or not a key; the message says what to do."""


def create_storage_key(path: Path) -> bytes:
    """Write and return a fresh random 256-bit key for the vault.

    Args:
        path: file to create; its folder is created with mode 0700 if absent.

    Raises:
        KeyFileError: the file exists, or its folder is open to others.
    """
    key = os.urandom(STORAGE_KEY_BYTES)
    _write_new(path, key, mode=0o600)
    return key


def load_storage_key(path: Path) -> bytes:
    """The vault's 256-bit key.

    Raises:
        KeyFileError: the file is missing, open to others, or not 32 bytes long.
    """
    key = _read_private(path)
    if len(key) != STORAGE_KEY_BYTES:
        msg = f"Expected {STORAGE_KEY_BYTES} bytes in {path}, got {len(key)}: restore the key."
        raise KeyFileError(msg)
    return key


def create_ledger_key(path: Path) -> Ed25519PrivateKey:
    """Write (PEM, PKCS8) and return a fresh Ed25519 key that signs the privacy ledger.

    Raises:
        KeyFileError: the file exists, or its folder is open to others.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write_new(path, pem, mode=0o600)
    return key


def load_ledger_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 key that signs the privacy ledger.

    Raises:
        KeyFileError: the file is missing, open to others, or not an Ed25519 key.
    """
    try:
        key = serialization.load_pem_private_key(_read_private(path), password=None)
    except (ValueError, TypeError) as error:
        msg = f"Expected an Ed25519 private key (PEM) in {path}: restore the key."
        raise KeyFileError(msg) from error
    if not isinstance(key, Ed25519PrivateKey):
        msg = f"Expected an Ed25519 private key in {path}, got another kind: restore the key."
        raise KeyFileError(msg)
    return key


def create_identity_key(private_path: Path, public_path: Path) -> ec.EllipticCurvePrivateKey:
    """Write and return a fresh P-384 key pair in OpenSSH form, by which the coordinator knows us.

    Args:
        private_path: OpenSSH PEM, mode 0600.
        public_path: one OpenSSH line, mode 0644, to be handed to the coordinator.

    Raises:
        KeyFileError: either file exists, or the private key's folder is open to others.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    _write_new(private_path, pem, mode=0o600)
    _write_new(public_path, public_line(key).encode() + b"\n", mode=0o644, private_folder=False)
    return key


def load_identity_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-384 private key of this party.

    Raises:
        KeyFileError: the file is missing, open to others, or not a P-384 key in OpenSSH form.
    """
    try:
        key = serialization.load_ssh_private_key(_read_private(path), password=None)
    except (ValueError, TypeError) as error:
        msg = f"Expected a P-384 private key (OpenSSH) in {path}: restore the key."
        raise KeyFileError(msg) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not _is_p384(key.public_key()):
        msg = f"Expected a P-384 private key in {path}, got another kind: restore the key."
        raise KeyFileError(msg)
    return key


def public_line(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> str:
    """The OpenSSH line of the public key, without comment."""
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    line = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return line.decode()


def load_public_line(public_openssh: str) -> ec.EllipticCurvePublicKey:
    """The P-384 public key written in an OpenSSH line (a trailing comment is ignored).

    Raises:
        KeyFileError: the line is not a P-384 public key.
    """
    try:
        key = serialization.load_ssh_public_key(public_openssh.strip().encode())
    except (ValueError, TypeError) as error:
        msg = "Expected a line 'ecdsa-sha2-nistp384 ...' as the public key."
        raise KeyFileError(msg) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not _is_p384(key):
        msg = f"Expected a P-384 public key, got {public_openssh.split(' ', 1)[0]!r}."
        raise KeyFileError(msg)
    return key


def fingerprint(public_openssh: str) -> str:
    """SHA-256 fingerprint of a public key, as ``ssh-keygen -l`` prints it."""
    blob = base64.b64decode(public_line(load_public_line(public_openssh)).split(" ")[1])
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def sign(private_key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """ECDSA signature (SHA-384, DER) of the message."""
    return private_key.sign(message, ec.ECDSA(hashes.SHA384()))


def verify(public_openssh: str, signature: bytes, message: bytes) -> bool:
    """Whether the signature of the message was made by the holder of this public key.

    Raises:
        KeyFileError: the line is not a P-384 public key.
    """
    try:
        load_public_line(public_openssh).verify(signature, message, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


def check_private(path: Path) -> None:
    """Refuse a private file that anyone but its owner could read.

    Args:
        path: the file; its folder is checked too.

    Raises:
        KeyFileError: the file is missing or no plain file, belongs to someone else, or it or its
            folder is open to group or others.
    """
    if not path.is_file():
        msg = f"Expected a key in {path}, found none: run init, or restore it from your backup."
        raise KeyFileError(msg)
    _check_closed(path.parent, remedy_mode="700")
    _check_closed(path, remedy_mode="600")


def _check_closed(path: Path, *, remedy_mode: str) -> None:
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        msg = (
            f"Expected {path} to be closed to others, got mode {mode:04o}: "
            f"run chmod {remedy_mode} {path}, and make new keys if others had access."
        )
        raise KeyFileError(msg)
    if status.st_uid != os.geteuid():
        msg = f"Expected {path} to belong to this account, got uid {status.st_uid}: run chown."
        raise KeyFileError(msg)


def _read_private(path: Path) -> bytes:
    check_private(path)
    return path.read_bytes()


def _write_new(path: Path, data: bytes, *, mode: int, private_folder: bool = True) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if private_folder:
        _check_closed(path.parent, remedy_mode="700")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        msg = f"Expected no file at {path} yet: a key is never overwritten; move it away first."
        raise KeyFileError(msg) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _is_p384(key: ec.EllipticCurvePublicKey) -> bool:
    return isinstance(key.curve, ec.SECP384R1)
