"""What severity, age, sex, hour and drugs do to behaviour: the effects of a file, applied.

The directions are published; most sizes are chosen within the range of published effects, so that
the whole cohort is about as hard as the literature says (:mod:`simulation.effect_file`). They are
the truth a study is judged against, and no claim about patients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from simulation.effect_file import DEPENDENCES, PARAMETERS, EffectFile, Parameter, Quantity

Array = NDArray[np.float64]
Section = TypeVar("Section")

SEVERITY_GAP = 1.61
"""Distance of the group means at a split of 40 to 60 % of a normal variable, in its SDs."""


@dataclass(frozen=True)
class Covariates:
    """What is known of the subjects behind a batch of recordings; every array is ``[R]``.

    Attributes:
        severity_z: True severity in SDs of the population, as the body shows it at that hour.
        age_years: Age in years.
        female: 1 for female, 0 otherwise.
        hour: Time of day, 0 to 24.
        medication: 1 for who takes a drug against depression, 0 otherwise.
    """

    severity_z: Array
    age_years: Array
    female: Array
    hour: Array
    medication: Array

    @property
    def design(self) -> Array:
        """``[R, D]`` one column for each of :data:`DEPENDENCES`, in the units of the file."""
        severity = self.severity_z / SEVERITY_GAP
        age = (self.age_years - 45.0) / 20.0
        female = self.female - 0.5
        morning = (13.0 - self.hour) / 10.0
        columns = (severity, age, female, morning, self.medication, severity * female,
                   severity * age)  # fmt: skip
        return np.stack(columns, axis=1)


def draw_parameters(
    covariates: Covariates,
    effects: EffectFile,
    *,
    person_noise: Array,
    visit_noise: Array,
    severity_d: Array | None = None,
) -> Mapping[str, Array]:
    """Standardised behavioural parameters of each recording: a personal baseline and the effects.

    Args:
        covariates: Of the recordings' subjects.
        effects: What moves the parameters.
        person_noise: ``[R, P + 1]`` standard normal, equal over the visits of a subject; the last
            column is personal expressivity.
        visit_noise: ``[R, P]`` standard normal.
        severity_d: ``[R, P]`` effect of severity on each recording; None takes that of ``effects``.

    Returns:
        ``[R]`` for each parameter; SD about 1 between persons of equal covariates.
    """
    parameters: list[Parameter] = [getattr(effects.parameters, name) for name in PARAMETERS]
    loading = np.array([parameter.expressivity for parameter in parameters])
    own = np.sqrt(1.0 - loading**2) * person_noise[:, :-1] + loading * person_noise[:, -1:]
    share = effects.persons.visit_share.value
    baseline = np.sqrt(1.0 - share) * own + np.sqrt(share) * visit_noise
    table = effect_matrix(effects)
    values = baseline + covariates.design @ table
    if severity_d is not None:
        values += covariates.design[:, :1] * (severity_d - table[0])
    return {name: values[:, column] for column, name in enumerate(PARAMETERS)}


def effect_matrix(effects: EffectFile) -> Array:
    """``[D, P]`` effect of each dependence on each parameter, in SDs between persons."""
    table = np.zeros((len(DEPENDENCES), len(PARAMETERS)))
    for column, name in enumerate(PARAMETERS):
        for row, dependence in enumerate(DEPENDENCES):
            quantity = getattr(getattr(effects.parameters, name), dependence)
            table[row, column] = 0.0 if quantity is None else quantity.value
    return table


def scale_severity(effects: EffectFile, scale: float) -> EffectFile:
    """All that severity does to behaviour and to recordings, times ``scale``.

    That of drugs too, which the severe take: without it 0 would leave a trace of severity.
    """
    if scale == 1.0:
        return effects

    def scaled(key: str, quantity: Quantity) -> Quantity:
        moved = key.startswith(("parameters.", "quality."))
        if moved and key.rsplit(".", 1)[-1].startswith(("severity", "medication")):
            return replace(quantity, value=scale * quantity.value)
        return quantity

    return _rebuilt(effects, scaled)


def vary_effects(effects: EffectFile, rng: np.random.Generator, spread: float) -> EffectFile:
    """Effects drawn from what is not known about them.

    What may have either sign varies; rates, durations and spreads, which may not, stay.

    Args:
        effects: Means and SDs.
        rng: Draws one normal number for each.
        spread: Multiplies the SDs; 0 leaves all as it is.
    """
    if spread == 0.0:
        return effects

    def varied(_: str, quantity: Quantity) -> Quantity:
        if type(quantity) is not Quantity:
            return quantity
        error = spread * quantity.sd * float(rng.standard_normal())
        return replace(quantity, value=quantity.value + error)

    return _rebuilt(effects, varied)


def _rebuilt(
    section: Section, change: Callable[[str, Quantity], Quantity], key: str = ""
) -> Section:
    """A section of the file with every number changed."""
    if isinstance(section, Quantity):
        return cast("Section", change(key, section))
    if not is_dataclass(section) or isinstance(section, type):
        return section
    parts = {
        part.name: _rebuilt(
            getattr(section, part.name), change, f"{key}.{part.name}" if key else part.name
        )
        for part in fields(section)
    }
    return cast("Section", replace(section, **parts))
