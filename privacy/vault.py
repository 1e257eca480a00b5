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
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

KEY_BYTES = 32
WRAPPED_BYTES = 40
TAG_BYTES = 16
MAGIC = b"VLTS"
VERSION = b"\x01"
_PREFIX = MAGIC + VERSION
_NONCE_BYTES = 12
_HEADER_BYTES = len(_PREFIX) + WRAPPED_BYTES + _NONCE_BYTES


class VaultError(Exception):
    """A sealed object that cannot be opened: changed, moved, or sealed under another key."""


class ErasedError(VaultError):
    """A sealed object whose data key was destroyed on purpose."""


class Vault:
    """Seals and opens byte strings under one storage key.

    Args:
        key: 32 random bytes.

    Raises:
        VaultError: the key has another length.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            msg = f"Expected a storage key of {KEY_BYTES} bytes, got {len(key)}."
            raise VaultError(msg)
        self._key = key

    def __repr__(self) -> str:
        return "Vault()"

    def make_data_key(self) -> tuple[bytes, bytes]:
        """A fresh data key, and the same key wrapped: 32 and 40 bytes."""
        data_key = AESGCM.generate_key(bit_length=8 * KEY_BYTES)
        return data_key, aes_key_wrap(self._key, data_key)

    def unwrap(self, wrapped: bytes) -> bytes:
        """The data key that was wrapped.

        Raises:
            VaultError: it was wrapped under another storage key, or changed.
        """
        try:
            return aes_key_unwrap(self._key, wrapped)
        except InvalidUnwrap as error:
            msg = "Sealed under another storage key, or its header was changed."
            raise VaultError(msg) from error

    def seal(self, plaintext: bytes, *, associated: bytes) -> bytes:
        """Encrypted and authenticated form of ``plaintext``.

        Args:
            plaintext: below 2 GiB.
            associated: what the object is bound to (such as site, pseudonym, schema); not stored.

        Raises:
            VaultError: the plaintext is too large for one object.
        """
        data_key, wrapped = self.make_data_key()
        header = _PREFIX + wrapped + os.urandom(_NONCE_BYTES)
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
        data_key = self.unwrap(header[len(_PREFIX) : len(_PREFIX) + WRAPPED_BYTES])
        try:
            ciphertext = memoryview(sealed)[_HEADER_BYTES:]
            nonce = header[-_NONCE_BYTES:]
            return AESGCM(data_key).decrypt(nonce, ciphertext, header + associated)
        except InvalidTag as error:
            msg = "The sealed object was changed, or belongs to another subject, site or schema."
            raise VaultError(msg) from error


def erase_sealed(path: Path) -> None:
    """Destroy a sealed file: overwrite its wrapped data key on disk, then remove it.

    Args:
        path: the file; nothing happens if it is gone already.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        destroy_key(file)
    path.unlink()
    sync_folder(path.parent)


def destroy_key(file: BinaryIO) -> None:
    """Overwrite the wrapped data key of a sealed file on disk; what remains opens with no key.

    Args:
        file: opened for reading and writing.
    """
    # Zeros say that this was on purpose, should a crash leave the file behind.
    file.seek(0)
    file.write(bytes(min(_HEADER_BYTES, os.fstat(file.fileno()).st_size)))
    file.flush()
    os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file so that a crash leaves either the old content or all of the new.

    Args:
        path: file to create or replace, in an existing folder.
        data: its whole content.
        mode: permission bits of the new file.
    """
    write_chunks(path, [data], mode=mode)


def write_chunks(
    path: Path, chunks: Iterable[bytes], *, mode: int = 0o600, durable: bool = True
) -> None:
    """Write a file piece by piece so that it appears whole or not at all.

    Until it is whole it bears a name that begins with a dot; a crash may leave that behind.

    Args:
        path: file to create or replace, in an existing folder.
        chunks: its content in pieces; one is held at a time.
        mode: permission bits of the new file.
        durable: whether to wait for the disk, so that a crash of the machine is survived too.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.writelines(chunks)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the creation, renaming and removal of files in this folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_prefix(sealed: bytes, prefix: bytes) -> None:
    """Refuse what does not begin as a sealed object of this kind does.

    Args:
        sealed: the object, or at least its first bytes.
        prefix: what it must begin with: :data:`MAGIC` and one byte for the kind.

    Raises:
        ErasedError: its data key was destroyed.
        VaultError: it is something else.
    """
    if len(sealed) >= len(prefix) and not any(sealed[:_HEADER_BYTES]):
        msg = "Its data key was destroyed."
        raise ErasedError(msg)
    if not sealed.startswith(MAGIC):
        msg = "Expected a sealed object, got something else."
        raise VaultError(msg)
    if not sealed.startswith(prefix):
        msg = (
            f"Expected sealed format version {prefix[-1]}: another version of this program made it."
        )
        raise VaultError(msg)


def _check_header(sealed: bytes) -> None:
    check_prefix(sealed, _PREFIX)
    if len(sealed) < _HEADER_BYTES + TAG_BYTES:
        msg = f"Expected at least {_HEADER_BYTES + TAG_BYTES} bytes, got {len(sealed)}: cut short."
        raise VaultError(msg)
