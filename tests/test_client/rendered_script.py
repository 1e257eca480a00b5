"""What the rendered face is told to do in the tests of extraction: one clip a purpose."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from simulation.commands import BehaviourCommand

Array = NDArray[np.float64]
Show = Callable[[Array, float], dict[str, Array]]

# The parade: one movement after another, each straight up to its full size and down again.
PARADE_FPS = 30.0
TURN_S = 1.1
PARADE = {
    "smile": 1.0, "corner_drop": 1.0, "dimple": 1.0, "dimple_right": -1.0, "brow": 1.0,
    "brow_up": -1.0, "inner_brow": 1.0, "jaw": 1.0, "gaze_down": 1.0, "pitch_deg": 18.0,
    "pitch_deg_down": -18.0, "yaw_deg": 22.0, "yaw_deg_left": -22.0, "roll_deg": 20.0,
    "roll_deg_right": -20.0,
}  # fmt: skip
CURVE_OF = {
    "dimple_right": "dimple", "brow_up": "brow", "pitch_deg_down": "pitch_deg",
    "yaw_deg_left": "yaw_deg", "roll_deg_right": "roll_deg",
}  # fmt: skip

# The interview: three minutes of slots, and how many of each kind.
INTERVIEW_FPS = 25.0
SLOT_S = 4.0
SLOTS = {
    "smile": 10, "dimple": 5, "dimple_right": 3, "gaze_down": 6, "head_down": 4, "aside": 3,
    "talk": 4, "blinks": 10,
}  # fmt: skip

# The doses: rest, then a movement at half or at full strength; the mouth needs more frames.
DOSE_FPS, JAW_FPS = 10.0, 15.0
DOSE_REST_S, DOSE_S = 5.5, 8.5
DOSES = (0.5, 1.0)

# Brief movements: brows up and down again, on a head that is not quite still.
BRIEF_FPS = 50.0
BRIEF_DURATION_S = 15.5
BRIEF_TIMES_S = (2.0, 4.6, 7.1, 9.9, 12.5, 14.0)
BRIEF_S = 0.24

# Reactions: a smile a second after a stimulus.
REACTION_FPS = 10.0
REACTION_DURATION_S = 16.0
STIMULUS_S, REACTION_LATENCY_S = 5.5, 1.0

POSE_FPS = 20.0
POSE_RANGE = {"pitch_deg": 20.0, "yaw_deg": 25.0, "roll_deg": 30.0}
SWEEP_S = 2.4
HELD_FRAMES = 8


def tent(times_s: Array, peak_s: float, half_s: float) -> Array:
    """Straight up to 1 and straight down again."""
    return np.clip(1.0 - np.abs(times_s - peak_s) / half_s, 0.0, 1.0)


def plateau(times_s: Array, start_s: float, length_s: float, ramp_s: float) -> Array:
    """Up to 1, held, down again; the length includes both ramps."""
    ramp = np.minimum(times_s - start_s, start_s + length_s - times_s) / ramp_s
    # Rounding lets the same phase of two slots share one drawn frame.
    return np.clip(ramp, 0.0, 1.0).round(4)


def parade() -> BehaviourCommand:
    """Every movement once."""
    times = np.arange(round(len(PARADE) * TURN_S * PARADE_FPS)) / PARADE_FPS
    curves: dict[str, Array] = {}
    for place, (name, size) in enumerate(PARADE.items()):
        curve = CURVE_OF.get(name, name)
        shown = size * tent(times, (place + 0.5) * TURN_S, 0.5)
        curves[curve] = curves.get(curve, np.zeros(len(times))) + shown
    return BehaviourCommand(len(times) / PARADE_FPS, PARADE_FPS, **curves)


def turn_of(name: str) -> slice:
    """Frames of one movement of the parade."""
    place = list(PARADE).index(name)
    return slice(round(place * TURN_S * PARADE_FPS), round((place + 1) * TURN_S * PARADE_FPS))


def slot_order() -> list[str]:
    """The interview's slots, shuffled."""
    slots = [name for name, count in SLOTS.items() for _ in range(count)]
    return [slots[index] for index in np.random.default_rng(3).permutation(len(slots))]


_SLOT_SHOWS: dict[str, Show] = {
    "smile": lambda times, start_s: {"smile": plateau(times, start_s + 1.0, 2.0, 0.4)},
    "dimple": lambda times, start_s: {"dimple": plateau(times, start_s + 1.5, 1.0, 0.2)},
    "dimple_right": lambda times, start_s: {"dimple": -plateau(times, start_s + 1.5, 1.0, 0.2)},
    "gaze_down": lambda times, start_s: {"gaze_down": plateau(times, start_s + 0.5, 3.0, 0.12)},
    "head_down": lambda times, start_s: {
        "pitch_deg": -20 * plateau(times, start_s + 0.4, 3.2, 0.4)
    },
    "aside": lambda times, start_s: {"yaw_deg": 16 * plateau(times, start_s + 0.4, 3.2, 0.6)},
    "talk": lambda times, start_s: {
        "jaw": 0.3 * plateau(times, start_s + 0.5, 3.0, 0.2) * np.abs(np.sin(3 * np.pi * times))
    },
}  # fmt: skip


def interview() -> BehaviourCommand:
    """Three minutes of smiles, dimples, glances, nods, talk and twenty blinks."""
    seconds = SLOT_S * len(slot_order())
    times = np.arange(round(seconds * INTERVIEW_FPS)) / INTERVIEW_FPS
    names = ("smile", "dimple", "gaze_down", "pitch_deg", "yaw_deg", "jaw")
    curves = {name: np.zeros(len(times)) for name in names}
    blinks: list[float] = []
    for place, slot in enumerate(slot_order()):
        start_s = SLOT_S * place
        if slot == "blinks":
            uneven_s = 0.04 * (place % 7)
            blinks += [start_s + 1.0 + uneven_s, start_s + 2.6 + 2 * uneven_s]
        else:
            for name, shown in _SLOT_SHOWS[slot](times, start_s).items():
                curves[name] += shown
    return BehaviourCommand(seconds, INTERVIEW_FPS, blinks_s=tuple(blinks), **curves)


def _shown_for(times: Array, dose: float) -> Array:
    """A movement whose dose is its length."""
    return plateau(times, DOSE_REST_S, dose * (DOSE_S - DOSE_REST_S), 0.2)


def _bump(times: Array, dose: float) -> Array:
    """A movement whose dose is its size."""
    return dose * plateau(times, DOSE_REST_S, DOSE_S - DOSE_REST_S, 0.5)


def _swing(times: Array, hz: float) -> Array:
    return np.sin(2 * np.pi * hz * np.maximum(times - DOSE_REST_S, 0.0))


_DOSE_SHOWS: dict[str, Show] = {
    "smile": lambda times, dose: {"smile": (0.5 + 0.5 * dose) * _shown_for(times, dose)},
    "corner_drop": lambda times, dose: {"corner_drop": _bump(times, dose)},
    "brow": lambda times, dose: {"brow": _bump(times, dose)},
    "inner_brow": lambda times, dose: {"inner_brow": _bump(times, dose)},
    "dimple": lambda times, dose: {"dimple": _bump(times, dose)},
    "jaw": lambda times, dose: {"jaw": 0.6 * dose * np.abs(_swing(times, 1.5))},
    "gaze_down": lambda times, dose: {"gaze_down": _shown_for(times, dose)},
    "nod": lambda times, dose: {"pitch_deg": -20.0 * _shown_for(times, dose)},
    "shake": lambda times, dose: {"yaw_deg": 24.0 * dose * _swing(times, 2 / 3)},
}


def doses() -> dict[str, BehaviourCommand]:
    """Each behaviour at half and at full strength, and rest."""
    clips = {"rest": _dose_clip(lambda times, dose: {}, 0.0, JAW_FPS)}
    for name, show in _DOSE_SHOWS.items():
        rate_hz = JAW_FPS if name == "jaw" else DOSE_FPS
        clips |= {f"{name} {dose}": _dose_clip(show, dose, rate_hz) for dose in DOSES}
    return clips


def _dose_clip(show: Show, dose: float, rate_hz: float) -> BehaviourCommand:
    times = np.arange(round(DOSE_S * rate_hz)) / rate_hz
    return BehaviourCommand(DOSE_S, rate_hz, **show(times, dose))


def reactions() -> dict[str, BehaviourCommand]:
    """A smile of half and of full strength in answer to a stimulus."""
    times = np.arange(round(REACTION_DURATION_S * REACTION_FPS)) / REACTION_FPS
    smile = plateau(times, STIMULUS_S + REACTION_LATENCY_S, 8.0, 0.5)
    return {
        f"reaction {dose}": BehaviourCommand(REACTION_DURATION_S, REACTION_FPS, smile=dose * smile)
        for dose in DOSES
    }


def brief() -> BehaviourCommand:
    """Brows that flash up for a quarter of a second."""
    times = np.arange(round(BRIEF_DURATION_S * BRIEF_FPS)) / BRIEF_FPS
    raised = np.sum([tent(times, peak_s, BRIEF_S / 2) for peak_s in BRIEF_TIMES_S], axis=0)
    sway = np.sin(2 * np.pi * np.outer((0.31, 0.23, 0.17), times))
    return BehaviourCommand(
        BRIEF_DURATION_S, BRIEF_FPS, brow=-raised,
        pitch_deg=1.5 * sway[0], yaw_deg=2.0 * sway[1], roll_deg=1.5 * sway[2],
    )  # fmt: skip


def sweep() -> BehaviourCommand:
    """Each angle over its whole range, one after another."""
    times = np.arange(round(3 * SWEEP_S * POSE_FPS)) / POSE_FPS
    knots_s, heights = SWEEP_S * np.linspace(0, 1, 5), (0.0, 1.0, 0.0, -1.0, 0.0)
    curves = {
        name: size * np.interp(times - place * SWEEP_S, knots_s, heights)
        for place, (name, size) in enumerate(POSE_RANGE.items())
    }
    return BehaviourCommand(3 * SWEEP_S, POSE_FPS, **curves)


def sweep_of(angle: str) -> slice:
    """Frames in which one angle is swept."""
    place = list(POSE_RANGE).index(angle)
    return slice(round(place * SWEEP_S * POSE_FPS), round((place + 1) * SWEEP_S * POSE_FPS))


def held_poses() -> Array:
    """``[14, 3]`` chance poses in which all three angles differ from 0."""
    sizes = np.array(list(POSE_RANGE.values()))
    return np.random.default_rng(5).uniform(-0.8, 0.8, (14, 3)) * sizes


def holds() -> BehaviourCommand:
    """The poses of :func:`held_poses`, each held until the tracker has settled."""
    poses = held_poses()
    before = np.concatenate([np.zeros((1, 3)), poses[:-1]])
    way = np.minimum(np.arange(HELD_FRAMES) / 3, 1.0)[None, :, None]
    path = (before[:, None] * (1 - way) + poses[:, None] * way).reshape(-1, 3)
    curves = dict(zip(POSE_RANGE, path.T, strict=True))
    return BehaviourCommand(len(path) / POSE_FPS, POSE_FPS, **curves)


def all_clips() -> dict[str, BehaviourCommand]:
    """Every clip by name, the longest first."""
    named = {"interview": interview(), "brief": brief(), "parade": parade()}
    return named | {"sweep": sweep(), "holds": holds()} | doses() | reactions()
