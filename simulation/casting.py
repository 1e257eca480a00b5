"""From a simulated recording to the commands of a face video that shows its severity."""

from __future__ import annotations

import zlib
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from simulation.cohort import SimulatedRecording
from simulation.commands import BehaviourCommand, draw_episodes
from simulation.course import hours_of, severity_scale
from simulation.effect_file import PARAMETERS, EffectFile, shipped_effects
from simulation.effects import Covariates, draw_parameters

Array = NDArray[np.float64]


def command_for(
    recording: SimulatedRecording,
    *,
    instrument: str = "phq9",
    effects: EffectFile | None = None,
    duration_s: float = 20.0,
    rate_hz: float = 25.0,
) -> BehaviourCommand:
    """Commands of the video of a recording, moved by the same effects as the feature cohort.

    The personal baseline is that of the subject, whatever the visit. A portrait shows less than
    the feature cohort: it has no contempt, and the gaps and the noise are those of the tracker.

    Args:
        recording: What is to be shown.
        instrument: Key of :data:`shared_models.consortium.INSTRUMENTS` that scored it.
        effects: What moves behaviour; None for those that ship.
        duration_s: Length of the video.
        rate_hz: Frames per second.
    """
    z = _parameters(recording, instrument, effects or shipped_effects())
    rng = _stream(recording.recording_id)
    times = np.arange(max(1, round(duration_s * rate_hz))) / rate_hz
    ramp = 0.45 * np.exp(-0.4 * z["tempo"])
    down = _episodes(rng, times, per_min=4.0 * np.exp(0.5 * z["head_down"]), size=1.0, ramp_s=0.6)
    gaze = _episodes(rng, times, per_min=8.0 * np.exp(0.4 * z["gaze_down"]), size=0.7, ramp_s=0.2)
    lively = np.exp(0.35 * z["head_motion"])
    talk = _episodes(rng, times, per_min=6.0, size=0.22 * np.exp(0.35 * z["mouth_motion"]))
    return BehaviourCommand(
        duration_s=duration_s,
        rate_hz=rate_hz,
        smile=_episodes(
            rng,
            times,
            per_min=7.0 * np.exp(0.5 * z["smile_rate"]),
            size=np.clip(0.75 + 0.16 * z["smile_amplitude"], 0.2, 1.0),
            length_s=2.2 * np.exp(0.35 * z["smile_duration"]),
            ramp_s=ramp,
        ),
        brow=np.clip(
            0.25 + 0.2 * z["brow_lowering"] - _episodes(rng, times, per_min=4.0, size=0.5), -1, 1
        ),
        gaze_down=np.clip(0.08 + 0.08 * z["gaze_down"] + np.maximum(gaze, 0.4 * down), 0, 1),
        jaw=np.clip(talk * np.abs(_sway(rng, times, memory_s=0.12)), 0, 1),
        pitch_deg=np.clip(lively * 2.5 * _sway(rng, times, memory_s=2.5) - 9.0 * down, -20, 20),
        yaw_deg=np.clip(lively * 4.0 * _sway(rng, times, memory_s=3.0), -20, 20),
        roll_deg=np.clip(lively * 2.0 * _sway(rng, times, memory_s=3.0), -20, 20),
        blinks_s=_blinks(rng, duration_s, per_min=17.0 * np.exp(0.4 * z["blink_rate"])),
    )


def _parameters(
    recording: SimulatedRecording, instrument: str, effects: EffectFile
) -> dict[str, float]:
    scale = severity_scale(instrument, effects)
    covariates = Covariates(
        severity_z=scale.standardise(np.array([recording.severity])),
        age_years=np.array([float(recording.age_years)]),
        female=np.array([float(recording.sex == "female")]),
        hour=hours_of([datetime.fromisoformat(recording.recorded_at)]),
        medication=np.array([float(recording.treatment == "medication")]),
    )
    person = _stream(recording.subject_id).standard_normal((1, len(PARAMETERS) + 1))
    visit = _stream(f"visit of {recording.recording_id}").standard_normal((1, len(PARAMETERS)))
    drawn = draw_parameters(covariates, effects, person_noise=person, visit_noise=visit)
    return {name: float(drawn[name][0]) for name in PARAMETERS}


def _stream(name: str) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([zlib.crc32(name.encode()), len(name)]))


def _episodes(  # noqa: PLR0913 - one argument for each property of an episode
    rng: np.random.Generator,
    times: Array,
    *,
    per_min: float,
    size: float,
    length_s: float = 1.5,
    ramp_s: float = 0.35,
) -> Array:
    """``[N]`` curve of chance episodes."""
    end = float(times[-1])
    count = rng.poisson(per_min * end / 60.0)
    starts = rng.uniform(0.0, end, count)
    lengths = 2 * ramp_s + length_s * rng.uniform(0.5, 1.5, count)
    spans = [(float(s), float(s + n), size) for s, n in zip(starts, lengths, strict=True)]
    return draw_episodes(times, spans, ramp_s=ramp_s)


def _sway(rng: np.random.Generator, times: Array, *, memory_s: float) -> Array:
    """Smooth noise of SD about 1 that forgets within ``memory_s``."""
    knots = np.arange(0.0, times[-1] + 2 * memory_s, memory_s)
    values = rng.standard_normal(len(knots))
    place = times / memory_s
    left = np.floor(place).astype(np.int64)
    share = (1 - np.cos(np.pi * (place - left))) / 2
    right = np.minimum(left + 1, len(knots) - 1)
    return np.asarray(values[left] * (1 - share) + values[right] * share)


def _blinks(rng: np.random.Generator, duration_s: float, *, per_min: float) -> tuple[float, ...]:
    """Blink times at least half a second apart."""
    gaps = 0.5 + rng.exponential(max(60.0 / per_min - 0.5, 0.1), size=int(3 * duration_s) + 1)
    times = np.cumsum(gaps)
    return tuple(float(time) for time in times[times < duration_s])
