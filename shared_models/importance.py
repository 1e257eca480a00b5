"""Which behaviours move scores, as a table that adds over subjects and sites like any tally.

For each subject the attributions of the behaviours (:mod:`shared_models.behaviour_groups`) are made
absolute and scaled to length 1: everybody counts the same, and what is told of one is a direction
alone. The table holds the sum of these vectors and, for the spread between subjects, the sum of
their squared entries.
"""

from __future__ import annotations

import numpy as np

from shared_models.behaviour_groups import BEHAVIOUR_GROUPS
from shared_models.tallies import ERROR_WEIGHT, Float64Array

IMPORTANCE = "importance"
"""Name of the table among the attributes of ``ConsortiumConfig.tally_attributes``."""

SUM, SQUARE = "sum", "square"
IMPORTANCE_ROWS = (SUM, SQUARE)
"""Rows of the table, in order; each begins with one entry a behaviour, and zeros follow."""

BEHAVIOURS = len(BEHAVIOUR_GROUPS)


def unit_vectors(attributions: Float64Array) -> Float64Array:
    """``[S, K]`` absolute attributions of each subject, scaled to length 1.

    A subject whom nothing moved, or whose attributions are not finite, gives zeros.

    Args:
        attributions: ``[S, K]`` net attribution of each behaviour, in any unit, signed.

    >>> unit_vectors(np.array([[3.0, -4.0], [0.0, 0.0], [np.nan, 1.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0], [0.0, 0.0]]
    """
    size = np.abs(attributions)
    usable = np.isfinite(size).all(axis=1, keepdims=True)
    # Scaling by the largest first keeps squares of huge and tiny numbers finite.
    largest = np.where(usable, size, 0.0).max(axis=1, keepdims=True, initial=0.0)
    scaled = np.divide(size, largest, out=np.zeros_like(size), where=usable & (largest > 0))
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: Float64Array = np.divide(scaled, length, out=np.zeros_like(scaled), where=length > 0)
    return unit


def importance_table(attributions: Float64Array, *, columns: int) -> Float64Array:
    """``[2, columns]`` exact sums over the subjects: unit vectors, and their halved squares.

    Guarantees:
        Unit: the subject. Adding or removing one moves the table by at most sqrt(5/4) in L2: a
        vector v of length 1 or 0, and v^2 / 2, whose length is at most 1/2 because the squares
        of v add up to 1. That is the sensitivity of every other tally table. Not covered: the
        table has no noise yet.

    Args:
        attributions: ``[S, K]`` net attribution of each behaviour for each subject, signed.
        columns: Width of the table, at least K; the rest is zeros.

    Raises:
        ValueError: If the width does not hold the behaviours, or the attributions have another.
    """
    subjects, behaviours = attributions.shape
    if behaviours != BEHAVIOURS or columns < BEHAVIOURS:
        msg = f"Expected {BEHAVIOURS} behaviours in as many columns, got {behaviours} in {columns}"
        raise ValueError(msg)
    vectors = unit_vectors(attributions) if subjects else attributions
    table = np.zeros((len(IMPORTANCE_ROWS), columns))
    table[0, :BEHAVIOURS] = vectors.sum(axis=0)
    table[1, :BEHAVIOURS] = ERROR_WEIGHT * (vectors**2).sum(axis=0)
    return table
