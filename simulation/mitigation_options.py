"""``--mitigate`` and ``--planted-bias``: what a simulated study does about groups, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import TypeAdapter, ValidationError

from shared_models.mitigation import GroupWeight, MitigationConfig
from simulation.planted_bias import PlantedBias
from simulation.study import StudyDesign

_WORDS = ("worst_group", "recalibrate")


def with_mitigation(
    design: StudyDesign, mitigate: Sequence[str], planted_bias: str | None
) -> StudyDesign:
    """The study with what the two options ask for.

    Args:
        design: The study without.
        mitigate: ``worst_group``, ``recalibrate``, or weights as :func:`read_weight` takes them.
        planted_bias: As :func:`read_planted_bias` takes it.

    Raises:
        ValueError: If an option is not of its form, or names a group that the study does not have.
    """
    weights = tuple(read_weight(text) for text in mitigate if text not in _WORDS)
    planted = None if planted_bias is None else read_planted_bias(planted_bias)
    try:
        mitigation = MitigationConfig(
            weights=weights,
            choose="worst_group" if "worst_group" in mitigate else "last",
            recalibrate="recalibrate" in mitigate,
        )
        config = replace(design.config, mitigation=mitigation)
    except ValidationError as error:
        faults = (fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        raise ValueError("; ".join(faults)) from None
    return replace(design, config=config, cohort=replace(design.cohort, planted=planted))


def read_weight(text: str) -> GroupWeight:
    """A weight from ``ATTRIBUTE.GROUP=WEIGHT`` or ``ATTRIBUTE.GROUP.above|below=WEIGHT``.

    >>> read_weight("age_band.60+.above=2")
    GroupWeight(attribute='age_band', group='60+', weight=2.0, label='above')

    Raises:
        ValueError: If it is not of that form.
    """
    named, _, weight = text.partition("=")
    attribute, _, rest = named.partition(".")
    group, _, label = rest.partition(".")
    given = {"attribute": attribute, "group": group, "weight": weight, "label": label or "any"}
    try:
        return TypeAdapter(GroupWeight).validate_strings(given)
    except ValidationError:
        msg = (
            "Expected --mitigate worst_group, recalibrate, or ATTRIBUTE.GROUP=WEIGHT (optionally "
            f"ATTRIBUTE.GROUP.above or .below) as sex.female=1.5, from 0.2 to 5, got {text!r}."
        )
        raise ValueError(msg) from None


def read_planted_bias(text: str) -> PlantedBias:
    """A planted bias from ``sex=female``, ``sex=male`` or ``age=YEARS``.

    >>> read_planted_bias("age=60").from_age_years
    60.0

    Raises:
        ValueError: If it is not of that form.
    """
    what, _, value = text.partition("=")
    try:
        if what == "sex" and value:
            return PlantedBias(sex=value)
        if what == "age":
            return PlantedBias(from_age_years=float(value))
    except ValueError:
        pass
    msg = f"Expected --planted-bias sex=female, sex=male or age=YEARS, got {text!r}."
    raise ValueError(msg)
