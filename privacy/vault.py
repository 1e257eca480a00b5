"""Envelope encryption at rest: a random data key an object, wrapped by the site's storage key.

A sealed object is ``magic | version | wrapped data key | nonce | ciphertext and tag``. The data
key is wrapped with AES key wrap (RFC 3394) and used once with AES-256-GCM, whose associated data
are the header and whatever the caller binds the object to. Losing the wrapped key is erasure.

Guarantees:
    Whoever lacks the storage key learns only the length; any change of header, ciphertext or
    associated data is noticed. Not covered: the time and number of writes, copies kept by the
    file system or by backups.
"""

import os
import tempfile
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

MAGIC = b"VLTS"
VERSION = b"\x01"
_PREFIX = MAGIC + VERSION
_WRAPPED_BYTES = 40
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER_BYTES = len(_PREFIX) + _WRAPPED_BYTES + _NONCE_BYTES


class VaultError(Exception):
    """A sealed object that cannot be opened: changed, moved, or sealed under another key."""


class Vault:
    """Seals and opens byte strings under one storage key.

    Args:
        key: 32 random bytes.

    Raises:
        VaultError: the key has another length.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            msg = f"Expected a storage key of 32 bytes, got {len(key)}."
            raise VaultError(msg)
        self._key = key

    def __repr__(self) -> str:
        return "Vault()"

    def seal(self, plaintext: bytes, *, associated: bytes) -> bytes:
        """Encrypted and authenticated form of ``plaintext``.

        Args:
            plaintext: below 2 GiB.
            associated: what the object is bound to (such as site, pseudonym, schema); not stored.

        Raises:
            VaultError: the plaintext is too large for one object.
        """
        data_key = AESGCM.generate_key(bit_length=256)
        header = _PREFIX + aes_key_wrap(self._key, data_key) + os.urandom(_NONCE_BYTES)
        nonce = header[-_NONCE_BYTES:]
        try:
            return header + AESGCM(data_key).encrypt(nonce, plaintext, header + associated)
        except OverflowError as error:
            msg = f"Expected less than 2 GiB to seal, got {len(plaintext)} bytes: split it."
            raise VaultError(msg) from error

    def open(self, sealed: bytes, *, associated: bytes) -> bytes:
        """The plaintext that was sealed.

        Args:
            sealed: as :meth:`seal` returned it.
            associated: exactly as given to :meth:`seal`.

        Raises:
            VaultError: not a sealed object, of another version, changed, or of another key.
        """
        header = sealed[:_HEADER_BYTES]
        _check_header(sealed)
        wrapped = header[len(_PREFIX) : len(_PREFIX) + _WRAPPED_BYTES]
        try:
            data_key = aes_key_unwrap(self._key, wrapped)
        except InvalidUnwrap as error:
            msg = "Sealed under another storage key, erased, or its header was changed."
            raise VaultError(msg) from error
        try:
            ciphertext = memoryview(sealed)[_HEADER_BYTES:]
            nonce = header[-_NONCE_BYTES:]
            return AESGCM(data_key).decrypt(nonce, ciphertext, header + associated)
        except InvalidTag as error:
            msg = "The sealed object was changed, or belongs to another subject, site or schema."
            raise VaultError(msg) from error


def write_sealed(path: Path, plaintext: bytes, *, vault: Vault, associated: bytes) -> None:
    """Seal ``plaintext`` into a file of mode 0600 that appears whole or not at all.

    Args:
        path: file to create or replace.
        plaintext: what to keep.
        vault: seals it.
        associated: what the object is bound to.
    """
    write_atomic(path, vault.seal(plaintext, associated=associated))


def read_sealed(path: Path, *, vault: Vault, associated: bytes) -> bytes:
    """The plaintext of a sealed file.

    Raises:
        VaultError: the file is not what :func:`write_sealed` wrote under these arguments.
        FileNotFoundError: there is no such file.
    """
    try:
        return vault.open(path.read_bytes(), associated=associated)
    except VaultError as error:
        msg = f"Cannot open {path.name}: {error}"
        raise VaultError(msg) from error


def erase_sealed(path: Path) -> None:
    """Destroy a sealed file: overwrite its wrapped data key on disk, then remove it.

    Args:
        path: the file; nothing happens if it is gone already.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        file.write(os.urandom(min(_HEADER_BYTES, path.stat().st_size)))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    sync_folder(path.parent)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file so that a crash leaves either the old content or all of the new.

    Args:
        path: file to create or replace, in an existing folder.
        data: its whole content.
        mode: permission bits of the new file.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the creation, renaming and removal of files in this folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_header(sealed: bytes) -> None:
    if not sealed.startswith(MAGIC):
        msg = "Expected a sealed object, got something else."
        raise VaultError(msg)
    if not sealed.startswith(_PREFIX):
        msg = f"Expected sealed format version {VERSION[0]}: update this program."
        raise VaultError(msg)
    if len(sealed) < _HEADER_BYTES + _TAG_BYTES:
        msg = f"Expected at least {_HEADER_BYTES + _TAG_BYTES} bytes, got {len(sealed)}: cut short."
        raise VaultError(msg)
