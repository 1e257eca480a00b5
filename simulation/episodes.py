"""Behaviour as event processes: smiles, glances, nods, frowns, brief movements, lost faces.

Each kind is an alternating renewal process. At rest an event begins with a constant hazard, so that
the times of rest are exponential; it rises, stays for a lognormal time at its height, falls, and no
other of its kind begins before. How many begin and how long the face is at rest are kept: with a
known hazard the first is Poisson given the second.

Source: Cox 1962, Renewal Theory, chapter 7 (alternating renewal processes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared_models.features import BEHAVIOUR
from simulation.effect_file import PROCESSES, EffectFile

Array = NDArray[np.float32]
Steps = NDArray[np.int64]

RATE_HZ = BEHAVIOUR.rate_hz
GAP = "gap"
KINDS = (*PROCESSES, GAP)

LEAD_S = 10.0
"""Run before the recording starts: long beside every event, so that it starts as it goes on."""

SLOTS_PER_CLIP, SPARE_SLOTS = 6, 8
"""Events that are drawn: 32 in a recording of a minute."""

DURATION_SPREAD = 0.4
"""SD of the logarithm of the time at the height."""


@dataclass(frozen=True)
class EventDraws:
    """Random numbers of R recordings; every array is ``[R, kinds, slots]``.

    Attributes:
        rests: Standard exponential: times of rest between events.
        lengths: Standard normal: times at the height.
        sizes: Uniform: heights.
    """

    rests: Array
    lengths: Array
    sizes: Array


def draw_events(rng: np.random.Generator, recordings: int, *, clips: int) -> EventDraws:
    """Random numbers for the events of some recordings of equal length."""
    shape = (recordings, len(KINDS), SPARE_SLOTS + SLOTS_PER_CLIP * clips)
    return EventDraws(
        rng.standard_exponential(shape, dtype=np.float32),
        rng.standard_normal(shape, dtype=np.float32),
        rng.random(shape, dtype=np.float32),
    )


@dataclass(frozen=True)
class Episodes:
    """The events of one kind in R recordings.

    Attributes:
        onset_s: ``[R, M]`` when each begins, from the start of the recording.
        ramp_s: ``[R, 1]`` time of rising and of falling.
        hold_s: ``[R, M]`` time at the height.
        size: ``[R, M]`` height.
    """

    onset_s: Array
    ramp_s: Array
    hold_s: Array
    size: Array

    @property
    def end_s(self) -> Array:
        """``[R, M]`` when each is over."""
        over: Array = self.onset_s + self.hold_s + 2 * self.ramp_s
        return over

    def within(self, duration_s: float) -> NDArray[np.bool_]:
        """``[R, M]`` whether each begins in the recording."""
        return np.asarray((self.onset_s >= 0) & (self.onset_s < duration_s))

    def counts(self, duration_s: float) -> Steps:
        """``[R]`` events that begin in the recording."""
        return np.asarray(self.within(duration_s).sum(axis=1), dtype=np.int64)

    def rest_s(self, duration_s: float) -> Array:
        """``[R]`` time in which one could have begun."""
        busy = self.end_s.clip(0, duration_s) - self.onset_s.clip(0, duration_s)
        rest: Array = duration_s - busy.sum(axis=1)
        return rest

    def course(self, samples: int) -> Array:
        """``[R, L]`` the events as trapezoids at 10 Hz, 0 at rest."""
        rise = np.maximum(np.rint(self.ramp_s * RATE_HZ), 1).astype(np.int64)
        hold = np.maximum(np.rint(self.hold_s * RATE_HZ), 0).astype(np.int64)
        lead = round(LEAD_S * RATE_HZ)
        onset = np.floor(self.onset_s * RATE_HZ).astype(np.int64) + lead
        rises = np.broadcast_to(rise, hold.shape)
        return trapezoids(onset, rises, hold, size=self.size, samples=samples + lead)[:, lead:]


@dataclass(frozen=True)
class EventShape:
    """Hazard, duration and size of one kind of event; each ``[R]`` or a number."""

    per_min: Array | float
    duration_s: Array | float
    size: Array | float
    ramp_s: Array | float


def run_process(kind: str, draws: EventDraws, shape: EventShape) -> Episodes:
    """The events of one kind.

    Args:
        kind: One of :data:`KINDS`.
        draws: Their random numbers.
        shape: What they are like in each recording; a hazard of 0 gives none.
    """
    place = KINDS.index(kind)
    per_min, duration_s, size, ramp_s = (
        np.asarray(getattr(shape, name), dtype=np.float32).reshape(-1, 1)
        for name in ("per_min", "duration_s", "size", "ramp_s")
    )
    hold_s = duration_s * np.exp(np.float32(DURATION_SPREAD) * draws.lengths[:, place])
    rest_s = draws.rests[:, place] * (60.0 / np.maximum(per_min, 1e-6))
    ends = np.cumsum(rest_s + hold_s + 2 * ramp_s, axis=1, dtype=np.float64)
    onset_s = ends - hold_s - 2 * ramp_s - LEAD_S
    height = size * (0.6 + 0.8 * draws.sizes[:, place])
    return Episodes(onset_s.astype(np.float32), ramp_s, hold_s, height)


def simulate_events(
    z: Mapping[str, Array], draws: EventDraws, effects: EffectFile, *, gaps_per_min: Array
) -> dict[str, Episodes]:
    """The events of every kind.

    Args:
        z: ``[R]`` standardised value of each parameter.
        draws: Random numbers.
        effects: Processes, and the spreads that turn z into units.
        gaps_per_min: ``[R]`` rate of stretches without a tracked face.
    """
    u = {name: getattr(effects.parameters, name).spread.value * value for name, value in z.items()}
    # What follows a parameter that is named after something else does so less than that itself.
    factors = {
        "smile": (u["smile_rate"], u["smile_duration"]),
        "gaze": (u["gaze_down"], 0.8 * u["gaze_down"]),
        "turn": (u["turn_away"], 0.0),
        "head_down": (u["head_down"], 0.4 * u["head_down"]),
        "nod": (u["head_motion"], 0.0),
        "talk": (0.7 * u["mouth_motion"], 0.0),
        "frown": (0.3 * z["brow_lowering"], 0.0),
        "brow_raise": (0.25 * z["inner_brow"], 0.0),
        "dimple": (u["contempt"], 0.0),
        "brief": (u["brief_rate"], 0.0),
    }
    slow = np.exp(-u["tempo"])
    events = {}
    for kind, (rate, duration) in factors.items():
        process = getattr(effects.processes, kind)
        shape = EventShape(
            process.per_min.value * np.exp(rate),
            process.duration_s.value * np.exp(duration),
            process.size.value,
            process.ramp_s.value * slow,
        )
        events[kind] = run_process(kind, draws, shape)
    events["smile"] = _sized(events["smile"], u["smile_amplitude"], effects)
    events[GAP] = run_process(GAP, draws, EventShape(gaps_per_min, 0.9, 1.0, 0.05))
    return events


def _sized(smiles: Episodes, amplitude: Array, effects: EffectFile) -> Episodes:
    usual = effects.processes.smile.size.value
    size = np.clip(usual + amplitude, 0.12, 1.1).astype(np.float32)[:, None] / usual
    return Episodes(smiles.onset_s, smiles.ramp_s, smiles.hold_s, smiles.size * size)


def trapezoids(onset: Steps, rise: Steps, hold: Steps, *, size: Array, samples: int) -> Array:
    """Sum of trapezoid events.

    Args:
        onset: ``[R, M]`` first sample of each event, >= 0.
        rise: ``[R, M]`` samples of rising and of falling, >= 1.
        hold: ``[R, M]`` samples at the top, >= 0.
        size: ``[R, M]`` height; 0 where there is no event.
        samples: Length L.

    Returns:
        ``[R, L]``.

    >>> onset, rise, hold = (np.array([[steps]]) for steps in (1, 2, 1))
    >>> trapezoids(onset, rise, hold, size=np.ones((1, 1), np.float32), samples=8)[0].tolist()
    [0.0, 0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    """
    rows = len(onset)
    slope = size / rise
    knots = np.stack([onset, onset + rise, onset + rise + hold, onset + 2 * rise + hold])
    bends = np.stack([slope, -slope, -slope, slope])
    width = samples + 1
    # A bend at sample k shows one sample later, hence the shift; what lies past the end is unseen.
    place = np.minimum(knots + 1, samples) + width * np.arange(rows)[:, None]
    flat = np.bincount(place.ravel(), weights=bends.ravel(), minlength=rows * width)
    bent = flat.reshape(rows, width)[:, :samples]
    np.cumsum(bent, axis=1, out=bent)
    return np.cumsum(bent, axis=1, out=bent).astype(np.float32)
