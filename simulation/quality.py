"""What goes wrong with recordings, and for whom: lost faces and recordings that fail the gate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulation.effect_file import EffectFile
from simulation.effects import SEVERITY_GAP, Covariates

Array = NDArray[np.float64]

FACE_MISSING = "face_missing"
"""Code of the quality gate for a recording that shows a face too rarely."""


def gap_rates(
    covariates: Covariates, effects: EffectFile, *, usual_per_min: float, noise: Array
) -> Array:
    """``[R]`` stretches per minute without a tracked face.

    Args:
        covariates: Of the recordings' subjects.
        effects: Their ``quality.gaps``.
        usual_per_min: Of the site's camera.
        noise: ``[R]`` standard normal.
    """
    gaps = effects.quality.gaps
    log_ratio = (
        gaps.severity.value * covariates.severity_z / SEVERITY_GAP
        + gaps.age.value * (covariates.age_years - 45.0) / 20.0
        + gaps.female.value * (covariates.female - 0.5)
        + gaps.spread.value * noise
    )
    return np.asarray(usual_per_min * np.exp(log_ratio))


def failure_chances(covariates: Covariates, effects: EffectFile, *, site_shift: float) -> Array:
    """``[R]`` probability that a recording fails the quality gate.

    Args:
        covariates: Of the recordings' subjects.
        effects: Their ``quality.failure``.
        site_shift: Log odds that the site adds.
    """
    failure = effects.quality.failure
    log_odds = (
        failure.base.value
        + site_shift
        + failure.severity.value * covariates.severity_z / SEVERITY_GAP
        + failure.age.value * (covariates.age_years - 45.0) / 20.0
        + failure.female.value * (covariates.female - 0.5)
    )
    return np.asarray(1.0 / (1.0 + np.exp(-log_odds)))
