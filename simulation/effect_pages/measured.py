"""What an observer of simulated persons would count, and what the file of effects says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared_models.features import BEHAVIOUR
from simulation.behaviour import blink_starts
from simulation.course import severity_scale
from simulation.effect_file import DEPENDENCES, PARAMETERS, EffectFile, Quantity
from simulation.effects import Covariates, draw_parameters
from simulation.episodes import Episodes, draw_events, simulate_events

Array = NDArray[np.float64]
Link = Literal["log", "linear"]

CLIPS = 4
DURATION_S = CLIPS * BEHAVIOUR.clip_s

COUNTED = {
    "smile_rate": ("smile", "smiles per minute at rest"),
    "gaze_down": ("gaze", "lowered glances per minute"),
    "turn_away": ("turn", "turns away per minute"),
    "head_down": ("head_down", "lowered heads per minute"),
    "head_motion": ("nod", "nods per minute"),
    "contempt": ("dimple", "tightened corners per minute"),
    "brief_rate": ("brief", "brief movements per minute"),
}
"""Parameters that are rates: the process that is counted, and what the count is called."""


@dataclass(frozen=True)
class Measured:
    """One parameter as observed in R recordings: ``total / weight`` is a recording's figure.

    Attributes:
        total: ``[R]`` events, or a sum over events.
        weight: ``[R]`` minutes at rest, events, or 1.
        link: Whether effects multiply the figure or add to it.
        label: What the figure is called, with its unit.
    """

    total: Array
    weight: Array
    link: Link
    label: str


@dataclass(frozen=True)
class Population:
    """Recordings of a minute of persons whose covariates are independent of one another.

    Attributes:
        covariates: Severity as in a cohort, ages 18 to 85 and hours 8 to 18 uniform, half women, a
            quarter with a drug whatever their severity.
        measured: By parameter.
    """

    covariates: Covariates
    measured: Mapping[str, Measured]


def observe(effects: EffectFile, *, persons: int, seed: int = 0) -> Population:
    """A population and what is observed of it.

    Args:
        effects: What moves behaviour.
        persons: How many, each recorded once.
        seed: Of everything.
    """
    rng, scale = np.random.default_rng(seed), severity_scale("phq9", effects)
    covariates = Covariates(
        severity_z=scale.standardise(scale.points(rng.standard_normal(persons))),
        age_years=rng.uniform(18, 85, persons),
        female=(rng.random(persons) < 0.5).astype(float),
        hour=rng.uniform(8, 18, persons),
        medication=(rng.random(persons) < 0.25).astype(float),
    )
    z = draw_parameters(
        covariates,
        effects,
        person_noise=rng.standard_normal((persons, len(PARAMETERS) + 1)),
        visit_noise=rng.standard_normal((persons, len(PARAMETERS))),
    )
    return Population(covariates, _measure(z, effects, rng))


def _measure(
    z: Mapping[str, Array], effects: EffectFile, rng: np.random.Generator
) -> dict[str, Measured]:
    persons = len(z["tempo"])
    single = {name: value.astype(np.float32) for name, value in z.items()}
    draws = draw_events(rng, persons, clips=CLIPS)
    none = np.zeros(persons, dtype=np.float32)
    events = simulate_events(single, draws, effects, gaps_per_min=none)
    u = {n: getattr(effects.parameters, n).spread.value * value for n, value in z.items()}
    found = {n: _rate(events[kind], label) for n, (kind, label) in COUNTED.items()}
    smiles = events["smile"]
    inside = smiles.within(DURATION_S)
    talk, one = effects.processes.talk.size.value, np.ones(persons)
    found |= {
        "smile_duration": _mean(smiles.hold_s, inside, "log", "length of a smile, s"),
        "smile_amplitude": _mean(smiles.size, inside, "linear", "height of a smile"),
        "tempo": Measured(smiles.ramp_s[:, 0].astype(float), one, "log", "rise of a smile, s"),
        "mouth_motion": Measured(talk * np.exp(u["mouth_motion"]), one, "log", "opening in talk"),
        "brow_lowering": Measured(0.09 + u["brow_lowering"], one, "linear", "lasting frown"),
        "inner_brow": Measured(0.12 + u["inner_brow"], one, "linear", "lasting raise"),
        "blink_rate": _blinks(u["blink_rate"], effects, rng),
    }
    return found


def _rate(episodes: Episodes, label: str) -> Measured:
    minutes = episodes.rest_s(DURATION_S).astype(float) / 60.0
    return Measured(episodes.counts(DURATION_S).astype(float), minutes, "log", label)


def _mean(
    values: NDArray[np.float32], inside: NDArray[np.bool_], link: Link, label: str
) -> Measured:
    total = np.where(inside, values, 0.0).sum(axis=1)
    return Measured(total.astype(float), inside.sum(axis=1).astype(float), link, label)


def _blinks(log_rate: Array, effects: EffectFile, rng: np.random.Generator) -> Measured:
    silence = np.zeros((len(log_rate), CLIPS * BEHAVIOUR.steps), dtype=np.float32)
    uniform = rng.random(silence.shape, dtype=np.float32)
    starts = blink_starts(log_rate.astype(np.float32), uniform, silence, effects)
    minutes = np.full(len(log_rate), DURATION_S / 60.0)
    return Measured(starts.sum(axis=1).astype(float), minutes, "log", "blinks per minute, silent")


def claimed(effects: EffectFile, parameter: str) -> dict[str, Quantity]:
    """What a parameter depends on, by dependence, as far as it is in the file."""
    entry = getattr(effects.parameters, parameter)
    found = {name: getattr(entry, name) for name in DEPENDENCES}
    return {name: quantity for name, quantity in found.items() if quantity is not None}


def slope(effects: EffectFile, parameter: str, effect: float) -> float:
    """An effect in SDs as what multiplies a design column in the figure's own unit or logarithm."""
    sign = -1.0 if parameter == "tempo" else 1.0  # the faster a person, the shorter the rise
    return sign * effect * float(getattr(effects.parameters, parameter).spread.value)
