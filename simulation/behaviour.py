"""Behaviour of simulated faces as time series in the columns of the ``behaviour`` schema.

Events (smiles, gaze shifts, nods, frowns) are trapezoids on a 10-Hz grid; the head sways; lips move
in bouts of talk. A geometric twin and its blendshape follow the same movement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from shared_models.features import BEHAVIOUR

Array = NDArray[np.float32]

Steps = NDArray[np.int64]

RATE_HZ = BEHAVIOUR.rate_hz
SLOTS_PER_CLIP = 6
"""Chances in a clip for an event of each kind; its rate is the chance that a slot is taken."""

EVENTS = ("smile", "gaze", "head_down", "nod", "talk", "frown", "brow_raise", "dimple", "gap")
SWAYS = ("pitch", "yaw", "roll", "lips", "face")
RESTS = ("smile", "corner", "brow_gap", "brow_height", "lids", "iris", "press", "skew", "frown")
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
        events: ``[R, kinds, slots, 4]`` uniform: taken, onset, duration, size.
        series: ``[R, sways + noisy columns, L]`` standard normal.
        blinks: ``[R, L]`` uniform.
        rest: ``[R, rests]`` standard normal, equal over the visits of a subject.
        end: ``[R]`` uniform, decides where the recording stops within its last clip.
    """

    events: Array
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


@dataclass(frozen=True)
class EventShape:
    """Rate, duration and size of one kind of event; ``[R]`` or a number.

    ``ramp_s`` is the time of rising and of falling.
    """

    per_min: Array | float
    duration_s: Array | float
    size: Array | float
    ramp_s: Array | float = 0.3


def draw_randomness(
    rng: np.random.Generator, visits: int, *, samples: int, clips: int
) -> Randomness:
    """Random numbers for the recordings of one subject."""
    rest = np.tile(rng.standard_normal(len(RESTS), dtype=np.float32), (visits, 1))
    events = rng.random((visits, len(EVENTS), SLOTS_PER_CLIP * clips, 4), dtype=np.float32)
    end = rng.random(visits, dtype=np.float32)
    width = len(SWAYS) + len(NOISE)
    series = rng.standard_normal((visits, width, samples), dtype=np.float32)
    blinks = rng.random((visits, samples), dtype=np.float32)
    return Randomness(events, series, blinks, rest, end)


def join_randomness(parts: list[Randomness]) -> Randomness:
    """The random numbers of several subjects as one batch."""
    names = ("events", "series", "blinks", "rest", "end")
    return Randomness(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


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
    curve = flat.reshape(rows, width)[:, :samples].cumsum(axis=1).cumsum(axis=1)
    return curve.astype(np.float32)


def draw_events(kind: str, random: Randomness, shape: EventShape) -> Array:
    """``[R, L]`` course of one kind of event, 0 at rest."""
    uniform = random.events[:, EVENTS.index(kind)]
    lead = 20
    column = {
        name: np.asarray(getattr(shape, name), dtype=np.float32).reshape(-1, 1)
        for name in ("per_min", "duration_s", "size", "ramp_s")
    }
    chance = column["per_min"] * BEHAVIOUR.clip_s / 60.0 / SLOTS_PER_CLIP
    size = np.where(uniform[..., 0] < chance, column["size"] * (0.6 + 0.8 * uniform[..., 3]), 0.0)
    onset = (uniform[..., 1] * (random.samples + lead)).astype(np.int64)
    rise = np.maximum(np.rint(column["ramp_s"] * RATE_HZ), 1).astype(np.int64)
    spread = 0.5 + uniform[..., 2] + uniform[..., 2] ** 3
    hold = np.maximum(np.rint(column["duration_s"] * spread * RATE_HZ), 0).astype(np.int64)
    rise_all = np.broadcast_to(rise, hold.shape)
    return trapezoids(onset, rise_all, hold, size=size, samples=random.samples + lead)[:, lead:]


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
    jaw: Array
    head: Array
    pace: Array


def _move(z: Mapping[str, Array], random: Randomness, camera: Camera) -> _Movement:
    """Movements of each face, from its standardised parameters."""
    ramp = 0.45 * np.exp(-0.4 * z["tempo"])
    smile = draw_events("smile", random, EventShape(
        3.6 * np.exp(0.5 * z["smile_rate"]), 2.0 * np.exp(0.35 * z["smile_duration"]),
        np.clip(0.62 + 0.16 * z["smile_amplitude"], 0.12, 1.1), ramp))  # fmt: skip
    bout = draw_events("talk", random, EventShape(
        5.0 * np.exp(0.2 * z["mouth_motion"]), 5.0, 1.0, 0.4)).clip(0, 1)  # fmt: skip
    lips = np.abs(sway("lips", random, memory_s=0.08))
    head_down = draw_events("head_down", random, EventShape(
        3.0 * np.exp(0.55 * z["head_down"]), 2.0 * np.exp(0.2 * z["head_down"]),
        1.0, 0.7 * np.exp(-0.3 * z["tempo"])))  # fmt: skip
    gaze = draw_events("gaze", random, EventShape(
        6.0 * np.exp(0.35 * z["gaze_down"]), 1.4 * np.exp(0.3 * z["gaze_down"]),
        0.5, 0.2))  # fmt: skip
    frown = draw_events("frown", random, EventShape(
        2.0 * np.exp(0.3 * z["brow_lowering"]), 2.0, 0.2, ramp))  # fmt: skip
    raised = draw_events("brow_raise", random, EventShape(
        4.0 * np.exp(0.25 * z["inner_brow"]), 0.8, 0.3, 0.6 * ramp))  # fmt: skip
    dimple = draw_events("dimple", random, EventShape(
        1.5 * np.exp(0.6 * z["contempt"]), 1.0, 0.22, ramp))  # fmt: skip
    jaw = bout * lips * (0.12 * np.exp(0.3 * z["mouth_motion"]))[:, None] + 0.08 * smile
    return _Movement(
        smile=(smile + 0.10 + 0.09 * random.resting("smile")).clip(0, 1.1),
        gaze=(gaze + 0.35 * head_down + _tonic(0.08, 0.08, z["gaze_down"])).clip(0, 1.1),
        blink=_blinks(z["blink_rate"], random, bout) * camera.blink_seen,
        frown=(frown + _tonic(0.09, 0.07, z["brow_lowering"])).clip(0, 1),
        inner=(raised + _tonic(0.12, 0.08, z["inner_brow"])).clip(0, 1),
        dimple=dimple,
        side=np.sign(random.resting("skew")) * dimple,
        jaw=jaw,
        head=_head(z, random, head_down),
        pace=np.exp(0.35 * z["tempo"])[:, None],
    )


def _tonic(level: float, spread: float, z: Array) -> Array:
    tonic: Array = np.maximum(level + spread * z, 0.0)[:, None]
    return tonic


def _blinks(z: Array, random: Randomness, bout: Array) -> Array:
    """``[R, L]`` closure of the lids.

    Source: Bentivoglio 1997 (10.1002/mds.870120629): 17 a minute at rest, 26 in conversation.
    """
    per_min = 15.0 * np.exp(0.4 * z)[:, None] * (1.0 + 0.5 * bout)
    starts = (random.blinks < per_min / 60.0 / RATE_HZ).astype(np.float32)
    return np.asarray(lfilter(BLINK_KERNEL, np.ones(1, np.float32), starts, axis=1)).clip(0, 1)


def _head(z: Mapping[str, Array], random: Randomness, head_down: Array) -> Array:
    """``[3, R, L]`` pitch (positive up), yaw and roll in degrees, minus the session's median."""
    lively = np.exp(0.32 * z["head_motion"])[:, None]
    pace = 0.3 * np.exp(-0.25 * z["tempo"])
    nods = draw_events("nod", random, EventShape(4.0 * lively[:, 0], 0.0, 5.0, pace))
    pitch = lively * (2.6 * sway("pitch", random, memory_s=2.5) - nods) - 7.0 * head_down
    yaw = lively * 4.5 * sway("yaw", random, memory_s=3.0)
    roll = lively * 2.4 * sway("roll", random, memory_s=3.0)
    angles = smooth(np.stack([pitch, yaw, roll]))
    return np.asarray(angles - np.median(angles, axis=-1, keepdims=True))


def simulate_series(
    parameters: Mapping[str, NDArray[np.float64]], random: Randomness, camera: Camera
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Feature series of R recordings and where they were measured.

    Args:
        parameters: ``[R]`` standardised value of each of :data:`simulation.effects.PARAMETERS`.
        random: The recordings' random numbers.
        camera: Of the site.

    Returns:
        ``[R, L, F]`` float32 in the units of the schema, and ``[R, L, F]`` bool.
    """
    z = {name: value.astype(np.float32) for name, value in parameters.items()}
    columns = _columns(_move(z, random, camera), random, camera)
    shape = (len(random.rest), random.samples, len(BEHAVIOUR.names))
    values = np.empty(shape, dtype=np.float32)
    for index, spec in enumerate(BEHAVIOUR.features):
        np.clip(columns[spec.name], spec.low, spec.high, out=values[..., index])
    return values, _mask(random, camera)


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
        "lip_press": 0.10 + 0.06 * random.resting("press") - 0.3 * move.jaw + 0.1 * move.frown,
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


def _mask(random: Randomness, camera: Camera) -> NDArray[np.bool_]:
    """``[R, L, F]``: no face in gaps, nothing past the end, no speed without a sample before."""
    lost = draw_events("gap", random, EventShape(camera.gaps_per_min, 1.0, 1.0, 0.1)) > 0.1
    clip = BEHAVIOUR.steps
    stop = random.samples - (random.end * 0.6 * clip).astype(np.int64)
    seen = ~lost & (np.arange(random.samples) < stop[:, None])
    before = np.concatenate([np.zeros((len(seen), 1), dtype=bool), seen[:, :-1]], axis=1)
    mask = np.repeat(seen[..., None], len(BEHAVIOUR.names), axis=-1)
    for name in SPEEDS:
        mask[..., BEHAVIOUR.names.index(name)] &= before
    return mask
