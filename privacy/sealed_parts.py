"""Several parts in one sealed file, each readable without the others, under one data key.

A file is ``magic | version | wrapped data key | label | table of parts``, then each part in chunks
of 256 KiB, sealed with AES-256-GCM. The nonce counts parts and chunks, which is safe because a
data key seals one file once. Each chunk is bound to the whole header, to its part, its number,
whether it is the last, and to whatever the caller binds the file to.

Guarantees:
    Chunks that were changed, swapped, repeated, left out or taken from another file are noticed
    when their part is read. Whoever lacks the storage key learns the label and the names and
    lengths of the parts. Not covered: damage to a part that nobody reads.

Source:
    The construction is STREAM: Hoang, Reyhanitabar, Rogaway and Vizar, "Online authenticated
    encryption and its nonce-reuse misuse-resistance", 2015, doi:10.1007/978-3-662-47989-6_24.
"""

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.vault import MAGIC, TAG_BYTES, WRAPPED_BYTES, Vault, VaultError, check_prefix

CHUNK_BYTES = 1 << 18
_PREFIX = MAGIC + b"\x02"
_SIZES = struct.Struct(">BB")
_PART = struct.Struct(">16sQ")
_PLACE = struct.Struct(">BQ?")
_FIXED_BYTES = len(_PREFIX) + WRAPPED_BYTES + _SIZES.size


def seal_parts(
    parts: Mapping[str, bytes], *, vault: Vault, associated: bytes, label: bytes = b""
) -> Iterator[bytes]:
    """The bytes of a sealed file, piece by piece.

    Args:
        parts: content by name, in the order in which it is to lie in the file; names are ASCII,
            at most 16 characters.
        vault: wraps the file's data key.
        associated: what the file is bound to; not stored.
        label: at most 255 bytes that anyone can read and nobody can change.

    Yields:
        The header, then one sealed chunk after another.
    """
    data_key, wrapped = vault.make_data_key()
    header = _PREFIX + wrapped + _SIZES.pack(len(label), len(parts)) + label
    header += b"".join(_PART.pack(name.encode("ascii"), len(data)) for name, data in parts.items())
    yield header
    cipher, bound = AESGCM(data_key), _bind(header, associated)
    for part, data in enumerate(parts.values()):
        view = memoryview(data)
        chunks = _chunks(len(data))
        for chunk in range(chunks):
            piece = view[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]
            place = _PLACE.pack(part, chunk, chunk == chunks - 1)
            yield cipher.encrypt(_nonce(part, chunk), piece, bound + place)


class SealedFile:
    """A sealed file opened for reading, to be used in a ``with`` statement.

    Args:
        path: the file.
        vault: unwraps its data key.
        associated: exactly as given to :func:`seal_parts`.

    Attributes:
        label: as given to :func:`seal_parts`; vouched for once a part was read.
        parts: length of each part by name, in bytes.

    Raises:
        VaultError: not a sealed file of this kind, cut short, or of another key.
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: Path, *, vault: Vault, associated: bytes) -> None:
        self._file = path.open("rb", buffering=0)
        try:
            self._start(vault, associated)
        except BaseException:
            self._file.close()
            raise

    def read(self, name: str) -> bytes:
        """One part, after checking every chunk of it.

        Raises:
            KeyError: the file has no such part.
            VaultError: a chunk was changed or moved, or the file is bound to something else.
        """
        if name not in self.parts:
            raise KeyError(name)
        place, lengths = list(self.parts).index(name), list(self.parts.values())
        self._file.seek(self._header_bytes + sum(map(_sealed_bytes, lengths[:place])))
        sealed = memoryview(self._read(_sealed_bytes(lengths[place])))
        chunks = _chunks(lengths[place])
        step = CHUNK_BYTES + TAG_BYTES
        try:
            return b"".join(
                self._cipher.decrypt(
                    _nonce(place, chunk),
                    sealed[chunk * step : (chunk + 1) * step],
                    self._bound + _PLACE.pack(place, chunk, chunk == chunks - 1),
                )
                for chunk in range(chunks)
            )
        except InvalidTag as error:
            msg = "The sealed file was changed, or belongs to another subject, site or schema."
            raise VaultError(msg) from error

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, vault: Vault, associated: bytes) -> None:
        """Read the header, check the file's length against it and unwrap the key."""
        fixed = self._file.read(_FIXED_BYTES)
        check_prefix(fixed, _PREFIX)
        if len(fixed) < _FIXED_BYTES:
            raise VaultError(_cut_short(_FIXED_BYTES, len(fixed)))
        label_bytes, count = _SIZES.unpack(fixed[-_SIZES.size :])
        rest = self._read(label_bytes + count * _PART.size)
        self.label = rest[:label_bytes]
        self.parts = {
            name.rstrip(b"\0").decode("ascii", errors="replace"): length
            for name, length in _PART.iter_unpack(rest[label_bytes:])
        }
        self._header_bytes = len(fixed) + len(rest)
        expected = self._header_bytes + sum(map(_sealed_bytes, self.parts.values()))
        found = os.fstat(self._file.fileno()).st_size
        if found != expected:
            raise VaultError(_cut_short(expected, found))
        wrapped = fixed[len(_PREFIX) : len(_PREFIX) + WRAPPED_BYTES]
        self._cipher = AESGCM(vault.unwrap(wrapped))
        self._bound = _bind(fixed + rest, associated)

    def _read(self, wanted: int) -> bytes:
        data = b""
        while len(data) < wanted and (more := self._file.read(wanted - len(data))):
            data += more
        if len(data) < wanted:
            raise VaultError(_cut_short(wanted, len(data)))
        return data


def _bind(header: bytes, associated: bytes) -> bytes:
    """What every chunk of a file is bound to, in 32 bytes."""
    return hashlib.sha256(len(header).to_bytes(8, "big") + header + associated).digest()


def _nonce(part: int, chunk: int) -> bytes:
    return part.to_bytes(4, "big") + chunk.to_bytes(8, "big")


def _chunks(length: int) -> int:
    """Chunks of a part; an empty part has one, so that its emptiness is vouched for."""
    return max(1, -(-length // CHUNK_BYTES))


def _sealed_bytes(length: int) -> int:
    return length + _chunks(length) * TAG_BYTES


def _cut_short(expected: int, found: int) -> str:
    return f"Expected {expected} bytes, got {found}: the sealed file was cut or added to."
