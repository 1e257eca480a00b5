"""Noisy group counts, and which of them may be shown.

Guarantees:
    Unit: the subject; adjacency: add or remove one. :func:`add_noise` is one Gaussian release of
    sensitivity ``l2_sensitivity`` over all its cells together; suppression reads the noised
    counts only, so it is post-processing and costs nothing.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from privacy.noise import NoiseSource


def add_noise(
    counts: ArrayLike, *, noise_multiplier: float, l2_sensitivity: float, noise: NoiseSource
) -> NDArray[np.float64]:
    """Counts with Gaussian noise of standard deviation noise_multiplier * l2_sensitivity.

    Args:
        counts: any shape; all cells that one subject can touch must be in one call, or be
            accounted for one by one.
        noise_multiplier: > 0.
        l2_sensitivity: how far one subject can move the counts in L2, > 0: 1 where a subject
            falls into one cell, sqrt(k) into one cell of each of k attributes.
        noise: where the noise comes from.

    Returns:
        Noised counts, float64, same shape; may be negative or broken numbers.

    Raises:
        ValueError: noise or sensitivity is not positive, or a count is not finite.
    """
    exact = np.asarray(counts, dtype=np.float64)
    std = noise_multiplier * l2_sensitivity
    if not (noise_multiplier > 0 and l2_sensitivity > 0 and math.isfinite(std)):
        msg = (
            "Expected noise_multiplier > 0 and l2_sensitivity > 0, "
            f"got {noise_multiplier!r} and {l2_sensitivity!r}."
        )
        raise ValueError(msg)
    if not np.isfinite(exact).all():
        msg = "Expected finite counts."
        raise ValueError(msg)
    return exact + noise.normal_array(exact.shape, std)


def suppress_small_cells(counts: Sequence[float] | ArrayLike, min_cell: float) -> NDArray[np.bool_]:
    """Which cells of one attribute must not be shown, given that its total may be known.

    A cell below ``min_cell`` is suppressed. Were it the only one, the total minus the others
    would give it, so the next smallest cell goes with it.

    Args:
        counts: noised counts of all groups of one attribute, 1-D.
        min_cell: smallest count that may be shown, >= 0.

    Returns:
        True where suppressed, bool, same length. Not-a-number counts as small.

    Raises:
        ValueError: ``counts`` is not one-dimensional, or ``min_cell`` is negative.

    Example:
        >>> suppress_small_cells([40.2, 7.9, 22.5, 31.0], 10).tolist()
        [False, True, True, False]
        >>> suppress_small_cells([40.2, 17.9, 22.5], 10).tolist()
        [False, False, False]
    """
    cells = np.asarray(counts, dtype=np.float64)
    if cells.ndim != 1 or not min_cell >= 0:
        msg = f"Expected 1-D counts and min_cell >= 0, got {cells.ndim}-D and {min_cell!r}."
        raise ValueError(msg)
    suppressed: NDArray[np.bool_] = ~(cells >= min_cell)
    if suppressed.sum() == 1 and cells.size > 1:
        shown = np.where(suppressed, np.inf, cells)
        suppressed[int(np.argmin(shown))] = True
    return suppressed
