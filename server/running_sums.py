"""Sums over the sites that hold one running total, however many sites there are.

An update is added when it arrives and dropped, so that the coordinator's memory grows with the
parameters and not with sites times parameters. Which site was first cannot change a bit of the
result: both sums are sums of integers.
"""

from __future__ import annotations

import numpy as np
import torch

from privacy.secure_sum import Ring, SecureSumError
from shared_models.weights import State

_HIGH_UNIT = 2.0**-20
_LOW_UNIT = 2.0**-70
"""What one unit of each integer stands for; a number is cut at half of the smaller one."""
_LARGEST = 2.0**29
_MOST_UPDATES = 2**13
"""More would let the larger integer leave 2^(29 + 20 + 13) or the smaller 2^(49 + 13)."""
_BLOCK = 2**16


class RunningMean:
    """Weighted mean of updates that are added as they arrive, and then dropped.

    Adding floats gives another result in another order, and with it another digest of the model.
    Here each weighted number is split into two integers on fixed grids, and integers are added:
    no order can be told from the result. The mean is rounded once, to the dtype of the updates.

    >>> mean = RunningMean({"w": torch.zeros(2)})
    >>> mean.add({"w": torch.tensor([1.0, 0.0])}, weight=3)
    >>> mean.add({"w": torch.tensor([4.0, 8.0])}, weight=1)
    >>> mean.mean()
    {'w': tensor([1.7500, 2.0000])}

    Memory is 16 bytes a parameter, however many updates are added.

    Args:
        like: Tensors of the updates' form; only names, shapes and dtypes are read.

    Source: Demmel, Nguyen 2015 (10.1109/TC.2014.2345391), sums by fixed bins.
    """

    def __init__(self, like: State) -> None:
        self._like = {name: torch.empty_like(part, device="meta") for name, part in like.items()}
        self._high = {name: np.zeros(part.numel(), np.int64) for name, part in like.items()}
        self._low = {name: np.zeros(part.numel(), np.int64) for name, part in like.items()}
        self._total = 0
        self.count = 0

    def add(self, update: State, *, weight: int) -> None:
        """Add one update; what cannot be added leaves the mean as it was.

        Args:
            update: Finite tensors of the form that the mean was made for.
            weight: > 0.

        Raises:
            ValueError: If a tensor has another form, a weighted number is too large or not finite,
                or too many updates were added.
        """
        self._check(update, weight)
        for name, part in update.items():
            numbers = part.detach().cpu().numpy().ravel()
            for start in range(0, len(numbers), _BLOCK):
                block = slice(start, start + _BLOCK)
                scaled = numbers[block].astype(np.float64) * weight
                high = np.rint(scaled / _HIGH_UNIT)
                self._high[name][block] += high.astype(np.int64)
                scaled -= high * _HIGH_UNIT
                self._low[name][block] += np.rint(scaled / _LOW_UNIT).astype(np.int64)
        self._total += weight
        self.count += 1

    def mean(self) -> State:
        """The mean of what was added.

        Raises:
            ValueError: If nothing was added.
        """
        if not self.count:
            msg = "Expected at least one update, got none"
            raise ValueError(msg)
        return {name: self._mean(name) for name in self._like}

    def _mean(self, name: str) -> torch.Tensor:
        mean = torch.empty_like(self._like[name], device="cpu")
        numbers = mean.view(-1)
        for start in range(0, len(numbers), _BLOCK):
            block = slice(start, start + _BLOCK)
            total = self._high[name][block] * _HIGH_UNIT + self._low[name][block] * _LOW_UNIT
            numbers[block] = torch.from_numpy(total / self._total)
        return mean

    def _check(self, update: State, weight: int) -> None:
        if update.keys() != self._like.keys() or any(
            part.shape != self._like[name].shape for name, part in update.items()
        ):
            msg = f"Expected an update of {sorted(self._like)} in their shapes, got another form"
            raise ValueError(msg)
        numbers = [part for part in update.values() if part.numel()]
        largest = max((float(part.abs().max()) for part in numbers), default=0.0)
        if not largest * weight < _LARGEST:
            msg = f"Expected weighted numbers below {_LARGEST:.0f}, got {largest * weight:g}"
            raise ValueError(msg)
        if self.count >= _MOST_UPDATES:
            msg = f"Expected at most {_MOST_UPDATES} updates in a mean"
            raise ValueError(msg)


class RunningRingSum:
    """Sum of masked vectors that are added as they arrive, and then dropped.

    The ring is exact, so no order can be told from the result. Memory is 4 bytes an entry.

    Args:
        size: Entries D of each vector.
    """

    def __init__(self, size: int) -> None:
        self._total = np.zeros(size, np.uint32)
        self.count = 0

    def add(self, vector: Ring) -> None:
        """Add one site's vector.

        Raises:
            SecureSumError: If it has another length or is no ring element.
        """
        if vector.shape != self._total.shape or vector.dtype != self._total.dtype:
            msg = (
                f"Expected a masked vector of {len(self._total)} uint32, "
                f"got {vector.dtype} {vector.shape}"
            )
            raise SecureSumError(msg)
        np.add(self._total, vector, out=self._total)
        self.count += 1

    def total(self) -> Ring:
        """``[D]`` the sum; it means nothing unless the whole cohort was added.

        Raises:
            SecureSumError: If nothing was added.
        """
        if not self.count:
            msg = "Expected at least one masked vector, got none"
            raise SecureSumError(msg)
        return self._total
