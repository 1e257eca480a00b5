"""What is compared: the cohort, the ways of training it, and what varies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast, get_args

from privacy.secure_sum import MIN_COHORT
from shared_models.consortium import Mode
from simulation.effect_file import EffectFile, shipped_effects
from simulation.study import StudyDesign, design_study

Family = Literal["pooled", "local", "federated", "federated_dp", "leave_one_site_out"]
Varied = Literal["sites", "subjects", "rounds", "heterogeneity"]

NO_EPSILON = 1.0
"""Stands where a study without privacy needs a number; it is never used."""


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        family: What kind of training it is.
        mode: Where noise is added; ``off`` without privacy.
        epsilon: Promised to each subject; None without privacy.
    """

    family: Family
    mode: Mode = "off"
    epsilon: float | None = None

    @property
    def label(self) -> str:
        """What a reader calls it."""
        names = {
            "pooled": "pooled",
            "local": "each site alone",
            "federated": "federated",
            "leave_one_site_out": "a site left out",
        }
        if self.family != "federated_dp":
            return names[self.family]
        where = "secure sums" if self.mode == "distributed" else "noise at each site"
        return f"{where}, epsilon {self.epsilon:g}"


POOLED, LOCAL, FEDERATED = Arm("pooled"), Arm("local"), Arm("federated")
LEFT_OUT = Arm("leave_one_site_out")


@dataclass(frozen=True)
class Setting:
    """A cohort and how long it is trained; seeds are added one by one.

    Attributes:
        sites: Number of sites.
        subjects: Subjects at each site.
        rounds: Rounds of training, for every way.
        trainable: ``head`` or ``all``.
        heterogeneity: Multiplies all differences between the sites; 1 is the cohort as described.
        effects: What moves behaviour, severity and scores.
        effects_spread: 1 draws each cohort's effects from what is not known about them, 0 takes
            them as they are.
    """

    sites: int = 8
    subjects: int = 100
    rounds: int = 30
    trainable: Literal["head", "all"] = "head"
    heterogeneity: float = 1.0
    effects: EffectFile = field(default_factory=shipped_effects, repr=False)
    effects_spread: float = 0.0

    def varied(self, what: Varied, value: float) -> Setting:
        """The setting with another number of sites, subjects or rounds, or other differences.

        Raises:
            ValueError: If a count is not a whole number.
        """
        if what == "heterogeneity":
            return replace(self, heterogeneity=value)
        if value != int(value):
            msg = f"Expected whole numbers of {what}, got {value:g}"
            raise ValueError(msg)
        match what:
            case "sites":
                return replace(self, sites=int(value))
            case "subjects":
                return replace(self, subjects=int(value))
            case "rounds":
                return replace(self, rounds=int(value))

    def design(self, arm: Arm, seed: int) -> StudyDesign:
        """The study of a way of training.

        Raises:
            ValueError: If a number is out of range.
        """
        design = design_study(
            sites=self.sites,
            subjects=self.subjects,
            rounds=self.rounds,
            epsilon=arm.epsilon or NO_EPSILON,
            mode=arm.mode,
            network="behaviour_net",
            trainable=self.trainable,
            seed=seed,
            effects=self.effects,
        )
        cohort = replace(
            design.cohort, site_scale=self.heterogeneity, effects_spread=self.effects_spread
        )
        return replace(design, cohort=cohort)

    def check(self, arms: Sequence[Arm]) -> None:
        """Refuse a setting that some way cannot be trained in.

        Raises:
            ValueError: If a secure sum would have too few sites, or a number is out of range.
        """
        if self.sites < MIN_COHORT and any(arm.mode == "distributed" for arm in arms):
            msg = (
                f"Expected at least {MIN_COHORT} sites for secure sums, got {self.sites}: add "
                "sites or use --mode local"
            )
            raise ValueError(msg)
        self.design(FEDERATED, 0)


def read_sweep(text: str) -> tuple[Varied, list[float]]:
    """What varies, and its values, from ``WHAT=A,B,...``.

    >>> read_sweep("sites=2,4,8")
    ('sites', [2.0, 4.0, 8.0])

    Raises:
        ValueError: If it is not of that form, or a value comes twice.
    """
    what, _, listed = text.partition("=")
    values = _read_numbers(listed)
    if what not in get_args(Varied) or not values:
        msg = (
            f"Expected --vary as WHAT=A,B,... with WHAT one of {', '.join(get_args(Varied))} or "
            f"epsilon, and different numbers, as sites=2,4,8, got {text!r}"
        )
        raise ValueError(msg)
    return cast("Varied", what), values


def read_epsilons(text: str) -> list[float]:
    """The epsilons of ``epsilon=A,B,...``.

    Raises:
        ValueError: If it is not of that form, a value comes twice, or one is not positive.
    """
    values = _read_numbers(text.partition("=")[2])
    if not values or min(values) <= 0:
        msg = f"Expected --vary as epsilon=A,B,... with different numbers above 0, got {text!r}"
        raise ValueError(msg)
    return values


def _read_numbers(listed: str) -> list[float]:
    """Different finite numbers separated by commas; none if the text holds anything else."""
    try:
        values = [float(value) for value in listed.split(",")]
    except ValueError:
        return []
    is_good = len(set(values)) == len(values) and all(map(math.isfinite, values))
    return values if is_good else []


def choose_arms(
    epsilons: Sequence[float], modes: Sequence[Mode], *, leave_one_out: bool
) -> tuple[Arm, ...]:
    """The ways of training, those without privacy first."""
    private = [Arm("federated_dp", mode, epsilon) for mode in modes for epsilon in epsilons]
    return (POOLED, LOCAL, FEDERATED, *private, *([LEFT_OUT] if leave_one_out else []))
