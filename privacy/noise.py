"""Sources of Gaussian noise: cryptographic where privacy counts, seeded for simulation.

Guarantees:
    :class:`ChaChaNoise` draws from a keystream that nobody without its key can predict, never
    reuses a key across processes, and has tails to 8.5 standard deviations. Not covered: the
    last bits of floating-point addition, which an observer of exact sums could study.
"""

import os
import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms
from numpy.typing import NDArray
from scipy.special import ndtri


class NoiseSource(Protocol):
    """A source of independent random numbers, separate from every global generator."""

    def normal(
        self, shape: Sequence[int], std: float, *, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Independent normal numbers of mean 0 and standard deviation ``std``."""
        ...

    def normal_array(self, shape: Sequence[int], std: float) -> NDArray[np.float64]:
        """The same as :meth:`normal`, as a float64 array."""
        ...

    def uniform(self, count: int) -> NDArray[np.float64]:
        """``count`` independent uniform numbers in [0, 1)."""
        ...


class ChaChaNoise:
    """Noise from a ChaCha20 keystream keyed by the operating system's entropy."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = -1
        self._stream: CipherContext | None = None

    def normal(
        self, shape: Sequence[int], std: float, *, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Independent normal numbers of mean 0 and standard deviation ``std``."""
        return torch.from_numpy(self.normal_array(shape, std)).to(dtype)

    def normal_array(self, shape: Sequence[int], std: float) -> NDArray[np.float64]:
        """The same as :meth:`normal`, as a float64 array."""
        words = self._words(int(np.prod(shape, dtype=np.int64)))
        # 53 bits choose a point of the lower half, one more the sign: symmetric, never infinite.
        lower_half = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-54
        sign = 1.0 - 2.0 * (words & np.uint64(1)).astype(np.float64)
        values: NDArray[np.float64] = ndtri(lower_half)
        values *= sign * std
        return values.reshape(tuple(shape))

    def uniform(self, count: int) -> NDArray[np.float64]:
        """``count`` independent uniform numbers in [0, 1)."""
        return (self._words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def _words(self, count: int) -> NDArray[np.uint64]:
        with self._lock:
            # A forked process holds a copy of the key: the same noise twice would cancel out.
            if self._stream is None or self._process != os.getpid():
                self._stream = _fresh_stream()
                self._process = os.getpid()
            return np.frombuffer(self._stream.update(bytes(8 * count)), dtype="<u8")


class SeededNoise:
    """Repeatable noise for simulation only: whoever knows the seed can subtract it.

    Args:
        seed: of this source's own generator; the global one is left alone.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(
        self, shape: Sequence[int], std: float, *, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Independent normal numbers of mean 0 and standard deviation ``std``."""
        return torch.randn(tuple(shape), generator=self._generator, dtype=dtype) * std

    def normal_array(self, shape: Sequence[int], std: float) -> NDArray[np.float64]:
        """The same as :meth:`normal`, as a float64 array."""
        values: NDArray[np.float64] = self.normal(shape, std, dtype=torch.float64).numpy()
        return values

    def uniform(self, count: int) -> NDArray[np.float64]:
        """``count`` independent uniform numbers in [0, 1)."""
        values: NDArray[np.float64] = torch.rand(
            count, generator=self._generator, dtype=torch.float64
        ).numpy()
        return values


def _fresh_stream() -> CipherContext:
    # The key is used once, so the all-zero starting nonce and counter never repeat under it.
    return Cipher(algorithms.ChaCha20(os.urandom(32), bytes(16)), mode=None).encryptor()
