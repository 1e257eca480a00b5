r"""Secure sum: every site masks its vector so that the masks cancel, and only the sum can be read.

Each pair of sites agrees on a keystream (X25519, HKDF, ChaCha20) that one adds and the other
subtracts in the ring of integers modulo 2^32. Pure functions; who talks to whom is elsewhere.

Guarantees:
    Whoever sees all masked vectors and holds the exchange keys of at most all but two sites of the
    cohort learns the sum of the remaining ones and nothing else about them, as long as X25519,
    HKDF-SHA256 and ChaCha20 hold. Masks are bound to run, round, purpose, attempt and cohort: a
    site that is told another cohort than the rest makes the sum noise. Not covered: a secure sum
    is no differential privacy by itself, the sum still speaks of those who are in it; a site that
    sends a wrong vector; keys of sites that were not checked against their signatures.

Source:
    Bonawitz et al. 2017, doi:10.1145/3133956.3133982 (pairwise masks). Rounding before noise, and
    its part in the sensitivity, as in Kairouz, Liu, Steinke 2021, arXiv:2102.06387.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

Ring = NDArray[np.uint32]
FloatArray = NDArray[np.float64]

MIN_COHORT = 3
"""In a sum of two, each of the two could subtract itself and read the other."""

NOISE_REACH = 9.0
"""Standard deviations beyond which the noise sources never draw; see :mod:`privacy.noise`."""

_VERSION = "vultus secure sum 1"
_HALF_RING = 2**31


class SecureSumError(ValueError):
    """A sum that must not or cannot be made; the message says why."""


@dataclass(frozen=True)
class Attempt:
    """What the masks of one sum are bound to; no two sums share any.

    Attributes:
        run_id: Run of the sum.
        server_round: Round, from 1.
        purpose: What is summed, such as ``train``.
        number: 1 for the first try of a round, one more for each cohort after it.
        cohort: Ids of the sites that are summed, sorted.

    Raises:
        SecureSumError: If the cohort is too small, unsorted or names a site twice.
    """

    run_id: str
    server_round: int
    purpose: str
    number: int
    cohort: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.cohort) < MIN_COHORT:
            msg = f"Expected a cohort of at least {MIN_COHORT} sites, got {len(self.cohort)}"
            raise SecureSumError(msg)
        if list(self.cohort) != sorted(set(self.cohort)):
            msg = f"Expected a cohort of distinct sites in order, got {', '.join(self.cohort)}"
            raise SecureSumError(msg)

    @property
    def salt(self) -> bytes:
        """SHA-256 over all attributes, the same at every site."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).digest()


@dataclass(frozen=True)
class FixedPoint:
    """Numbers as integers of the ring, so that a sum over the cohort cannot overflow.

    Attributes:
        bounds: Largest absolute value of a site's vector before noise, for each site; larger
            values are cut, which moves no two vectors further apart.
        noise_stddev: Standard deviation of the noise that each site adds, >= 0.
    """

    bounds: tuple[float, ...]
    noise_stddev: float

    @property
    def step(self) -> float:
        """Value of one unit of the ring."""
        largest = math.fsum(self.bounds) + len(self.bounds) * NOISE_REACH * self.noise_stddev
        # Each site rounds two numbers, each by at most half a unit.
        return largest / (_HALF_RING - 1 - len(self.bounds))

    def encode(self, values: FloatArray, noise: FloatArray, *, bound: float) -> Ring:
        """One site's vector with its noise, as integers.

        Values and noise are rounded apart: rounding of the values then adds to the sensitivity
        (:meth:`sensitivity`) and rounding of the noise does not know the data.

        Args:
            values: ``[D]``, finite.
            noise: ``[D]``, standard deviation :attr:`noise_stddev`.
            bound: This site's entry of :attr:`bounds`.

        Raises:
            SecureSumError: If a number is not finite.
        """
        if not (np.isfinite(values).all() and np.isfinite(noise).all()):
            msg = "Expected finite numbers to sum"
            raise SecureSumError(msg)
        reach = NOISE_REACH * self.noise_stddev
        units = np.rint(np.clip(values, -bound, bound) / self.step)
        units += np.rint(np.clip(noise, -reach, reach) / self.step)
        encoded: Ring = units.astype(np.int64).astype(np.uint32)
        return encoded

    def decode(self, total: Ring) -> FloatArray:
        """``[D]`` numbers that a sum of encoded vectors stands for."""
        values: FloatArray = total.astype(np.int32).astype(np.float64) * self.step
        return values

    def sensitivity(self, norm: float, size: int) -> float:
        """L2 sensitivity of the rounded vector, if the exact one has sensitivity ``norm``.

        Args:
            norm: Before rounding.
            size: Entries D; each of both vectors moves by at most half a unit.
        """
        return norm + self.step * math.sqrt(size)


def exchange_key(secret: bytes, run_id: str) -> X25519PrivateKey:
    """A site's key pair for one run, the same again after a restart.

    Args:
        secret: 32 random bytes that never leave the site.
        run_id: The run.
    """
    return X25519PrivateKey.from_private_bytes(
        _derive(secret, salt=None, info=f"{_VERSION}|exchange|{run_id}")
    )


def public_bytes(key: X25519PrivateKey) -> bytes:
    """The 32 bytes of the public half."""
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def exchange_statement(run_id: str, site_id: str, public: bytes) -> bytes:
    """What a site signs with its identity key: this exchange key is mine in this run."""
    return f"{_VERSION}|{run_id}|{site_id}|".encode() + public


def pairwise_mask(
    attempt: Attempt, site: str, own: X25519PrivateKey, peers: Mapping[str, bytes], *, size: int
) -> Ring:
    """What a site adds to its vector; over the whole cohort the masks add up to zero.

    Args:
        attempt: Binds the mask.
        site: This site's id.
        own: Its exchange key of the run.
        peers: Public exchange keys of the cohort's other sites, already checked.
        size: Entries D.

    Raises:
        SecureSumError: If the site is not in the cohort, a peer's key is missing or weak.
    """
    others = [name for name in attempt.cohort if name != site]
    missing = [name for name in others if name not in peers]
    if site not in attempt.cohort or missing:
        msg = f"Expected {site} in the cohort with keys of all others, missing {missing or [site]}"
        raise SecureSumError(msg)
    mask = np.zeros(size, np.uint32)
    for other in others:
        stream = _keystream(attempt, own, peers[other], pair=sorted((site, other)), size=size)
        if site < other:
            mask += stream
        else:
            mask -= stream
    return mask


def add_masked(vectors: Iterable[Ring]) -> Ring:
    """Sum of masked vectors in the ring.

    Raises:
        SecureSumError: If there are none, or they differ in length or are no ring elements.
    """
    rows = list(vectors)
    if not rows or len({row.shape for row in rows}) != 1 or {r.dtype for r in rows} != {_UINT32}:
        msg = "Expected masked vectors of one length in the ring of 2^32"
        raise SecureSumError(msg)
    total: Ring = np.sum(rows, axis=0, dtype=np.uint32)
    return total


_UINT32 = np.dtype(np.uint32)


def _keystream(
    attempt: Attempt, own: X25519PrivateKey, peer: bytes, *, pair: list[str], size: int
) -> Ring:
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError as error:
        msg = f"Expected a usable exchange key of {' and '.join(pair)}"
        raise SecureSumError(msg) from error
    key = _derive(shared, salt=attempt.salt, info=f"{_VERSION}|{'|'.join(pair)}")
    # The key is used once, so the all-zero nonce and counter never repeat under it.
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(stream.update(bytes(4 * size)), dtype="<u4").astype(np.uint32, copy=False)


def _derive(secret: bytes, *, salt: bytes | None, info: str) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info.encode()).derive(secret)
