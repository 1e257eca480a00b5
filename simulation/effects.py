"""What severity, age and sex do to behaviour in the simulated cohort: one table, with its sources.

The directions are published; the sizes are chosen within the range of published effects, so that
the whole cohort is about as hard as the literature says. They are the truth a study is judged
against, and no claim about patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SEVERITY_GAP = 1.61
"""Distance of the group means at a split of 40 to 60 % of a normal variable, in its SDs."""


@dataclass(frozen=True)
class Effect:
    """What moves one behavioural parameter.

    Attributes:
        parameter: Name of the parameter; one of :data:`PARAMETERS`.
        severity_d: Difference between subjects at or above the clinical threshold and those below,
            in SDs between persons.
        age_d: Change per 20 years, in the same unit.
        female_d: Women minus men, in the same unit.
        expressivity: Loading on the personal expressivity that parameters share, -1 to 1.
        source: Where the direction of severity was reported, as a correlation with severity or as a
            difference between patients and controls; several of them are single small studies.
    """

    parameter: str
    severity_d: float
    age_d: float
    female_d: float
    expressivity: float
    source: str


EFFECTS: tuple[Effect, ...] = (
    Effect("smile_rate", -0.60, -0.10, 0.40, 0.3, "Girard 2014, 10.1016/j.imavis.2013.12.007"),
    Effect("smile_duration", -0.45, 0.0, 0.10, 0.2, "Girard 2014, 10.1016/j.imavis.2013.12.007"),
    Effect("smile_amplitude", -0.55, -0.30, 0.25, 0.3, "Girard 2014, 10.1016/j.imavis.2013.12.007"),
    Effect("gaze_down", 0.60, 0.0, 0.0, 0.0, "Scherer 2014, 10.1016/j.imavis.2014.06.001"),
    Effect("head_down", 0.50, 0.10, 0.0, 0.0, "Fiquer 2018, 10.1016/j.jad.2018.05.071"),
    Effect("head_motion", -0.60, -0.15, 0.10, 0.3, "Girard 2014, 10.1016/j.imavis.2013.12.007"),
    Effect("mouth_motion", -0.55, 0.0, 0.10, 0.3, "Kacem 2018, 10.1109/FG.2018.00116"),
    Effect("brow_lowering", 0.45, 0.15, -0.20, 0.1, "Fiquer 2018, 10.1016/j.jad.2018.05.071"),
    Effect("inner_brow", 0.35, 0.25, 0.10, 0.2, "Kim 2023, 10.3390/s23167080"),
    Effect("blink_rate", 0.50, 0.10, 0.20, 0.0, "Mackintosh 1983, 10.1192/bjp.143.1.55"),
    Effect("tempo", -0.50, -0.20, 0.0, 0.2, "Kacem 2018, 10.1109/FG.2018.00116"),
    Effect("contempt", 0.35, 0.0, -0.10, 0.1, "Girard 2014, 10.1016/j.imavis.2013.12.007"),
)

PARAMETERS: tuple[str, ...] = tuple(effect.parameter for effect in EFFECTS)

VISIT_SHARE = 0.15
"""Part of a parameter's personal variance that changes from visit to visit."""


@dataclass(frozen=True)
class Covariates:
    """What is known of the subjects behind a batch of recordings; every array is ``[R]``.

    Attributes:
        severity_z: True severity in SDs of the population.
        age_years: Age in years.
        female: 1 for female, 0 otherwise.
    """

    severity_z: Array
    age_years: Array
    female: Array


def draw_parameters(
    covariates: Covariates,
    severity_d: Sequence[float] | Array,
    *,
    person_noise: Array,
    visit_noise: Array,
) -> Mapping[str, Array]:
    """Standardised behavioural parameters of each recording: a personal baseline and the effects.

    Args:
        covariates: Of the recordings' subjects.
        severity_d: ``[P]`` in the order of :data:`PARAMETERS`, or ``[R, P]``.
        person_noise: ``[R, P + 1]`` standard normal, equal over the visits of a subject; the last
            column is personal expressivity.
        visit_noise: ``[R, P]`` standard normal.

    Returns:
        ``[R]`` for each parameter; SD about 1 between persons of equal covariates.
    """
    loading = np.array([effect.expressivity for effect in EFFECTS])
    own = np.sqrt(1.0 - loading**2) * person_noise[:, :-1] + loading * person_noise[:, -1:]
    baseline = np.sqrt(1.0 - VISIT_SHARE) * own + np.sqrt(VISIT_SHARE) * visit_noise
    decades = np.outer((covariates.age_years - 45.0) / 20.0, [e.age_d for e in EFFECTS])
    female = np.outer(covariates.female - 0.5, [e.female_d for e in EFFECTS])
    severity = covariates.severity_z[:, None] * (np.asarray(severity_d) / SEVERITY_GAP)
    values = baseline + decades + female + severity
    return {name: values[:, column] for column, name in enumerate(PARAMETERS)}
