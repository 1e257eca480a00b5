"""Behaviour of simulated faces as time series in the columns of the ``behaviour`` schema.

Events (:mod:`simulation.episodes`) become trapezoids on a 10-Hz grid; the head sways; lips move in
bouts of talk. A geometric twin and its blendshape follow the same movement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from shared_models.features import BEHAVIOUR
from simulation.effect_file import EffectFile
from simulation.episodes import GAP, EventDraws, draw_events, simulate_events

Array = NDArray[np.float32]

RATE_HZ = BEHAVIOUR.rate_hz

SWAYS = ("pitch", "yaw", "roll", "lips", "face")
RESTS = (
    "smile", "corner", "brow_gap", "brow_height", "lids", "iris", "press", "skew", "frown", "aside",
)  # fmt: skip
SPEEDS = ("head_speed", "mouth_speed", "change_rate")

MAR_PER_JAW = 0.75
"""Mouth aspect ratio gained by a fully open jaw."""

BLINK_KERNEL = np.array([0.35, 1.0, 0.45], dtype=np.float32)
SIDES = 1.9
"""Blendshapes behind a column: a left and a right one, save for two columns of the ten."""

SHAPES = 52


@dataclass(frozen=True)
class Camera:
    """How a site's recording set-up changes what is measured.

    Attributes:
        noise: Multiplier of measurement noise.
        pitch_deg: Camera above (positive) or below the face; shifts what the eyes and brows show.
        gaps_per_min: Rate of stretches without a tracked face.
        frame_rate_hz: Of the videos; a slow camera misses the closed phase of blinks.
    """

    noise: float
    pitch_deg: float
    gaps_per_min: float
    frame_rate_hz: float

    @property
    def blink_seen(self) -> float:
        """Part of a blink's depth that is seen: 1 at 60 Hz, 0.59 at 15 Hz."""
        return float(min(1.0, (self.frame_rate_hz / 60.0) ** 0.38))


@dataclass(frozen=True)
class Randomness:
    """Random numbers of R recordings of L samples, drawn subject by subject.

    Attributes:
        events: Those of the event processes.
        series: ``[R, sways + noisy columns, L]`` standard normal.
        blinks: ``[R, L]`` uniform.
        rest: ``[R, rests]`` standard normal, equal over the visits of a subject.
        end: ``[R]`` uniform, decides where the recording stops within its last clip.
    """

    events: EventDraws
    series: Array
    blinks: Array
    rest: Array
    end: Array

    @property
    def samples(self) -> int:
        """Samples L of each recording."""
        return int(self.series.shape[-1])

    def resting(self, name: str) -> Array:
        """``[R, 1]`` personal resting level of one part of the face, standard normal."""
        return self.rest[:, RESTS.index(name), None]


def draw_randomness(
    rng: np.random.Generator, visits: int, *, samples: int, clips: int
) -> Randomness:
    """Random numbers for the recordings of one subject."""
    rest = np.tile(rng.standard_normal(len(RESTS), dtype=np.float32), (visits, 1))
    events = draw_events(rng, visits, clips=clips)
    end = rng.random(visits, dtype=np.float32)
    width = len(SWAYS) + len(NOISE)
    series = rng.standard_normal((visits, width, samples), dtype=np.float32)
    blinks = rng.random((visits, samples), dtype=np.float32)
    return Randomness(events, series, blinks, rest, end)


def join_randomness(parts: list[Randomness]) -> Randomness:
    """The random numbers of several subjects as one batch."""
    events = EventDraws(*(
        np.concatenate([getattr(part.events, name) for part in parts])
        for name in ("rests", "lengths", "sizes")
    ))  # fmt: skip
    names = ("series", "blinks", "rest", "end")
    rest = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
    return Randomness(events, *rest)


def sway(kind: str, random: Randomness, *, memory_s: float) -> Array:
    """``[R, L]`` stationary first-order noise of SD 1 that forgets within ``memory_s``."""
    white = random.series[:, SWAYS.index(kind)].copy()
    keep = np.float32(np.exp(-1.0 / (memory_s * RATE_HZ)))
    gain = np.sqrt(1 - keep**2)
    white[:, 0] /= gain
    return np.asarray(lfilter(np.array([gain]), np.array([1, -keep]), white, axis=1))


def smooth(course: Array) -> Array:
    """Mean over three samples: a head has inertia."""
    inner = (course[..., :-2] + course[..., 1:-1] + course[..., 2:]) / 3
    return np.concatenate([course[..., :1], inner, course[..., -1:]], axis=-1)


@dataclass(frozen=True)
class _Movement:
    """The movements behind the columns; every array is ``[R, L]``, ``pace`` is ``[R, 1]``."""

    smile: Array
    gaze: Array
    blink: Array
    frown: Array
    inner: Array
    dimple: Array
    side: Array
    press: Array
    jaw: Array
    head: Array
    pace: Array


def _move(
    z: Mapping[str, Array], events: Mapping[str, Array], random: Randomness, scene: Scene
) -> _Movement:
    """Movements of each face, from its standardised parameters and the course of its events."""
    effects = scene.effects
    u = {name: getattr(effects.parameters, name).spread.value * value for name, value in z.items()}
    bout = (events["talk"] / np.float32(effects.processes.talk.size.value)).clip(0, 1)
    lips = np.abs(sway("lips", random, memory_s=0.08))
    opening = effects.processes.talk.size.value * np.exp(u["mouth_motion"])[:, None]
    gaze = events["gaze"] + 0.05 * events["head_down"] + _tonic(0.08, 0.08 * z["gaze_down"])
    frown = events["frown"] + _tonic(0.09, u["brow_lowering"])
    inner = events["brow_raise"] + events["brief"] + _tonic(0.12, u["inner_brow"])
    return _Movement(
        smile=(events["smile"] + 0.10 + 0.09 * random.resting("smile")).clip(0, 1.1),
        gaze=gaze.clip(0, 1.1),
        blink=_blinks(u["blink_rate"], random, bout, effects) * scene.camera.blink_seen,
        frown=frown.clip(0, 1),
        inner=inner.clip(0, 1),
        dimple=events["dimple"],
        side=np.sign(random.resting("skew")) * events["dimple"],
        press=events["brief"],
        jaw=bout * lips * opening + 0.08 * events["smile"],
        head=_head(u, events, random),
        pace=np.exp(0.35 * z["tempo"])[:, None],
    )


def _tonic(level: float, shift: Array) -> Array:
    tonic: Array = np.maximum(level + shift, 0.0)[:, None]
    return tonic


def blink_starts(
    log_rate: Array, uniform: Array, bout: Array, effects: EffectFile
) -> NDArray[np.bool_]:
    """``[R, L]`` where blinks begin: a Poisson process whose rate rises in talk.

    Args:
        log_rate: ``[R]`` logarithm of the person's rate over the usual one.
        uniform: ``[R, L]`` random numbers.
        bout: ``[R, L]`` 1 in talk, 0 in silence.
        effects: Their ``blinks``.
    """
    silent, talking = effects.blinks.per_min.value, effects.blinks.in_talk.value
    per_min = silent * np.exp(log_rate)[:, None] * (1.0 + (talking - 1.0) * bout)
    return np.asarray(uniform < per_min / 60.0 / RATE_HZ)


def _blinks(log_rate: Array, random: Randomness, bout: Array, effects: EffectFile) -> Array:
    """``[R, L]`` closure of the lids."""
    starts = blink_starts(log_rate, random.blinks, bout, effects).astype(np.float32)
    return np.asarray(lfilter(BLINK_KERNEL, np.ones(1, np.float32), starts, axis=1)).clip(0, 1)


def _head(u: Mapping[str, Array], events: Mapping[str, Array], random: Randomness) -> Array:
    """``[3, R, L]`` pitch (positive up), yaw and roll in degrees, minus the session's median."""
    lively = np.exp(u["head_motion"])[:, None]
    pitch = lively * (2.6 * sway("pitch", random, memory_s=2.5) - events["nod"])
    yaw = lively * 4.5 * sway("yaw", random, memory_s=3.0)
    roll = lively * 2.4 * sway("roll", random, memory_s=3.0)
    aside = np.sign(random.resting("aside")) * events["turn"]
    angles = smooth(np.stack([pitch - events["head_down"], yaw + aside, roll]))
    middle = random.samples // 2
    return np.asarray(angles - np.partition(angles, middle, axis=-1)[..., middle, None])


@dataclass(frozen=True)
class Scene:
    """What a batch of recordings has in common.

    Attributes:
        effects: Processes of events, and spreads of the parameters.
        camera: Of the site.
        gaps_per_min: ``[R]`` rate of stretches without a tracked face.
    """

    effects: EffectFile
    camera: Camera
    gaps_per_min: NDArray[np.float64]


def simulate_series(
    parameters: Mapping[str, NDArray[np.float64]], random: Randomness, scene: Scene
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Feature series of R recordings and where they were measured.

    Args:
        parameters: ``[R]`` standardised value of each parameter of the file of effects.
        random: The recordings' random numbers.
        scene: Effects, camera and lost faces.

    Returns:
        ``[R, L, F]`` float32 in the units of the schema, and ``[R, L, F]`` bool.
    """
    z = {name: value.astype(np.float32) for name, value in parameters.items()}
    episodes = simulate_events(
        z, random.events, scene.effects, gaps_per_min=scene.gaps_per_min.astype(np.float32)
    )
    events = {kind: one.course(random.samples) for kind, one in episodes.items()}
    columns = _columns(_move(z, events, random, scene), random, scene.camera)
    by_column = np.empty((len(columns), len(random.rest), random.samples), dtype=np.float32)
    for index, spec in enumerate(BEHAVIOUR.features):
        np.clip(columns[spec.name], spec.low, spec.high, out=by_column[index])
    # Turned around at once: half the time of writing one column after another in its place.
    values = np.ascontiguousarray(by_column.transpose(1, 2, 0))
    return values, _mask(events[GAP] > 0.1, random)


def _columns(move: _Movement, random: Randomness, camera: Camera) -> dict[str, Array]:
    tilt = camera.pitch_deg / 10.0
    noise = _noise(random, camera)
    lids = (0.62 * move.blink + 0.38 * move.gaze).clip(0, 1)
    shown = {
        "smile": 0.93 / (1.0 + np.exp(-9.0 * (move.smile - 0.45))),
        "mouth_frown": (0.02 + 0.02 * random.resting("frown")).clip(0) + 0.05 * move.frown,
        "brow_lowering": move.frown,
        "inner_brow_raise": move.inner,
        "eye_blink": 0.09 + 0.03 * random.resting("lids") + 0.85 * lids,
        "gaze_down": 0.12 + 0.6 * move.gaze + 0.25 * move.blink + 0.05 * tilt,
        "jaw_open": move.jaw,
        "dimple": 0.03 + move.dimple,
        # MediaPipe hardly moves cheekSquint on real faces; a trunk must not lean on it.
        "cheek": 0.004 * move.smile**2,
        "lip_press": 0.10
        + 0.06 * random.resting("press")
        - 0.3 * move.jaw
        + 0.1 * move.frown
        + 0.6 * move.press,
    }
    shown = {name: (course + noise[name]).clip(0, 1) for name, course in shown.items()}
    twins = {
        "corner_elevation": -0.015 + 0.1 * move.smile + 0.012 * random.resting("corner"),
        "brow_gap": 0.33 + 0.02 * random.resting("brow_gap") - 0.09 * move.frown,
        "brow_height": 0.27 + 0.025 * random.resting("brow_height") + 0.08 * move.inner
        - 0.12 * move.frown - 0.01 * tilt,
        "eye_aspect_ratio": (0.32 + 0.03 * random.resting("lids")) * (1.0 - 0.85 * lids),
        "iris_drop": -0.02 + 0.008 * random.resting("iris") + 0.04 * move.gaze + 0.006 * tilt,
        "mouth_aspect_ratio": 0.02 + MAR_PER_JAW * move.jaw,
        "dimple_asymmetry": 0.9 * move.side,
        "smile_asymmetry": 0.04 * random.resting("skew") * shown["smile"],
    }  # fmt: skip
    twins = {name: course + noise[name] for name, course in twins.items()}
    angles = dict(zip(("head_pitch", "head_yaw", "head_roll"), move.head, strict=True))
    head = {name: course + noise[name] for name, course in angles.items()}
    return shown | twins | head | _speeds(shown, twins, head, move.pace)


NOISE = {
    "smile": 0.012, "corner_elevation": 0.004, "mouth_frown": 0.005, "brow_lowering": 0.012,
    "brow_gap": 0.003, "brow_height": 0.006, "inner_brow_raise": 0.012, "eye_blink": 0.015,
    "eye_aspect_ratio": 0.012, "gaze_down": 0.015, "iris_drop": 0.004, "jaw_open": 0.006,
    "mouth_aspect_ratio": 0.006, "dimple": 0.008, "dimple_asymmetry": 0.008,
    "smile_asymmetry": 0.02, "head_pitch": 0.15, "head_yaw": 0.15, "head_roll": 0.1,
    "cheek": 0.003, "lip_press": 0.012,
}  # fmt: skip
"""SD of a face tracker's frame-to-frame noise at 10 Hz in each column's unit, still faces."""


def _noise(random: Randomness, camera: Camera) -> dict[str, Array]:
    white = random.series[:, len(SWAYS) :]
    return {
        name: white[:, column] * (NOISE[name] * camera.noise) for column, name in enumerate(NOISE)
    }


def _step(course: Array) -> Array:
    step: Array = np.abs(np.diff(course, axis=-1, prepend=course[..., :1])) * np.float32(RATE_HZ)
    return step


def _speeds(
    shown: Mapping[str, Array],
    twins: Mapping[str, Array],
    head: Mapping[str, Array],
    pace: Array,
) -> dict[str, Array]:
    angular = np.sqrt(sum(_step(course) ** 2 for course in head.values()))
    # The shapes that are no columns change as much together, at the pace of the person.
    changed = sum(_step(course) for course in shown.values()) * SIDES / SHAPES * (1 + pace)
    return {
        "head_speed": np.asarray(angular),
        "mouth_speed": _step(twins["mouth_aspect_ratio"]),
        "change_rate": np.asarray(changed),
    }


def _mask(lost: NDArray[np.bool_], random: Randomness) -> NDArray[np.bool_]:
    """``[R, L, F]``: no face in gaps, nothing past the end, no speed without a sample before."""
    clip = BEHAVIOUR.steps
    stop = random.samples - (random.end * 0.6 * clip).astype(np.int64)
    seen = ~lost & (np.arange(random.samples) < stop[:, None])
    before = np.concatenate([np.zeros((len(seen), 1), dtype=bool), seen[:, :-1]], axis=1)
    mask = np.repeat(seen[..., None], len(BEHAVIOUR.names), axis=-1)
    for name in SPEEDS:
        mask[..., BEHAVIOUR.names.index(name)] &= before
    return mask
