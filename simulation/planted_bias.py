"""A bias that is planted in a cohort, so that what is done against it can be judged by the truth.

In one group some behaviours show severity the other way round: its depressed members smile more,
say. A model that learns from everybody follows the larger part, and so is worse for the group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulation.effect_file import PARAMETERS
from simulation.effects import Covariates

Array = NDArray[np.float64]

REVERSED = ("smile_rate", "smile_duration", "smile_amplitude", "head_motion", "mouth_motion")


@dataclass(frozen=True)
class PlantedBias:
    """Who shows severity in another way, and how.

    Attributes:
        sex: ``female``, or ``male`` for everybody else, as the effects have it; None for all.
        from_age_years: Youngest age of the group.
        strength: 0 leaves the effects as they are, 1 removes those named, 2 reverses them.
        parameters: Behavioural parameters concerned.
    """

    sex: str | None = None
    from_age_years: float = 0.0
    strength: float = 2.0
    parameters: tuple[str, ...] = REVERSED

    def __post_init__(self) -> None:
        """Refuse a group or a parameter that no cohort has.

        Raises:
            ValueError: With every fault.
        """
        faults = [
            f"Expected parameters of the cohort, got {name!r}"
            for name in self.parameters
            if name not in PARAMETERS
        ]
        if self.sex not in {None, "female", "male"}:
            faults.append(f"Expected sex to be female or male, got {self.sex!r}")
        if not 0 <= self.strength <= 2:
            faults.append(f"Expected strength from 0 to 2, got {self.strength:g}")
        if faults:
            raise ValueError("; ".join(faults))

    def has(self, covariates: Covariates) -> NDArray[np.bool_]:
        """``[R]`` whether each recording is of the group."""
        old_enough = covariates.age_years >= self.from_age_years
        if self.sex is None:
            return old_enough
        return np.asarray(old_enough & (covariates.female == float(self.sex == "female")))

    def apply(self, severity_d: Array, covariates: Covariates) -> Array:
        """``[R, P]`` effect of severity on each parameter of each recording.

        Args:
            severity_d: ``[P]`` effects of everybody else.
            covariates: Of R recordings.
        """
        concerned = np.isin(PARAMETERS, self.parameters)
        changed = np.outer(self.has(covariates), concerned)
        return severity_d * (1.0 - self.strength * changed)
