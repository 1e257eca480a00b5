"""Face track to behaviour features: the columns of a schema at its rate, cut into clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour import geometry
from client.extraction.behaviour.signals import (
    deviation_from_median,
    from_steps,
    resample,
    speed,
)
from client.extraction.track import BLENDSHAPES, FaceTrack
from shared_models.features import BEHAVIOUR, BehaviourFeatures, FeatureSchema

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

GEOMETRIC_SIGNALS = (
    "corner_elevation", "corner_height", "corner_tilt", "brow_gap", "brow_height",
    "brow_rise", "inner_brow_rise", "eye_aspect_ratio", "iris_drop", "mouth_aspect_ratio",
)  # fmt: skip
"""Signals of :func:`frame_signals` that come from mesh points and not from blendshapes."""

_POSE = ("head_pitch", "head_yaw", "head_roll")
_MIN_LAST_CLIP_S = 2.0
_BLOCK_FRAMES = 4096


@dataclass(frozen=True)
class BehaviourSeries:
    """Behaviour of a whole recording at a fixed rate, before it is cut.

    Attributes:
        rate_hz: Samples per second.
        columns: Signal name to ``[M]`` float64 in the schema's units, NaN where not measured.
        pose_deg: ``[M, 3]`` pitch, yaw, roll as the tracker gives them, before the session's
            median is subtracted.
        blendshapes: ``[M, 52]`` resampled activations.
        levels: Signal name to ``[N]`` float32, the same signals frame by frame.
    """

    rate_hz: float
    columns: dict[str, FloatArray]
    pose_deg: FloatArray
    blendshapes: FloatArray
    levels: dict[str, Float32Array]

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.pose_deg) / self.rate_hz


def mean_blendshape(blendshapes: NDArray[np.floating], name: str) -> FloatArray:
    """Mean of the left and right activation of a blendshape.

    Args:
        blendshapes: ``[N, 52]``.
        name: Name without its side, such as ``mouthSmile``.

    Returns:
        ``[N]``, 0..1.
    """
    left, right = sides(blendshapes, name)
    return (left + right) / 2.0


def sides(blendshapes: NDArray[np.floating], name: str) -> tuple[FloatArray, FloatArray]:
    """Left and right activation of a blendshape; left is the subject's left.

    Args:
        blendshapes: ``[N, 52]``.
        name: Name without its side.

    Returns:
        Two arrays ``[N]``.
    """
    column = BLENDSHAPES.index
    wide = np.asarray(blendshapes, dtype=np.float64)
    return wide[:, column(f"{name}Left")], wide[:, column(f"{name}Right")]


def frame_signals(track: FaceTrack) -> dict[str, Float32Array]:
    """Level signals of every frame, NaN in frames without a usable face.

    Args:
        track: What the tracker saw.

    Returns:
        Signal name to ``[N]``: all columns of the schema that need no neighbouring frame, and
        mouth and brow measures with the turn of the head taken back.
    """
    # In blocks, because the intermediate arrays are many times the size of the result, and cast
    # within the block, because a column that is a view would keep the whole block alive.
    blocks = [
        {
            name: signal.astype(np.float32)
            for name, signal in _block_signals(track, slice(start, start + _BLOCK_FRAMES)).items()
        }
        for start in range(0, max(len(track), 1), _BLOCK_FRAMES)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _block_signals(track: FaceTrack, block: slice) -> dict[str, FloatArray]:
    usable = track.usable[block]
    shapes = np.where(usable[:, None], track.blendshapes[block], np.nan).astype(np.float64)
    points = np.where(usable[:, None, None], track.landmarks[block], np.nan)
    aligned = geometry.align_landmarks(points)
    upright = geometry.upright_landmarks(points, track.head_pose_deg[block])
    dimple_left, dimple_right = sides(shapes, "mouthDimple")
    smile_left, smile_right = sides(shapes, "mouthSmile")
    return {
        "smile": (smile_left + smile_right) / 2.0,
        "corner_elevation": geometry.corner_elevation(aligned),
        "mouth_frown": mean_blendshape(shapes, "mouthFrown"),
        "brow_lowering": mean_blendshape(shapes, "browDown"),
        "brow_gap": geometry.brow_gap(aligned),
        "brow_height": geometry.brow_height(aligned),
        "inner_brow_raise": shapes[:, BLENDSHAPES.index("browInnerUp")],
        "eye_blink": mean_blendshape(shapes, "eyeBlink"),
        "eye_aspect_ratio": geometry.eye_aspect_ratio(aligned),
        "gaze_down": mean_blendshape(shapes, "eyeLookDown"),
        "iris_drop": geometry.iris_drop(aligned),
        "jaw_open": shapes[:, BLENDSHAPES.index("jawOpen")],
        "mouth_aspect_ratio": geometry.mouth_aspect_ratio(aligned),
        "dimple": (dimple_left + dimple_right) / 2.0,
        "dimple_asymmetry": dimple_left - dimple_right,
        "smile_asymmetry": smile_left - smile_right,
        "cheek": mean_blendshape(shapes, "cheekSquint"),
        "lip_press": mean_blendshape(shapes, "mouthPress"),
        "corner_height": geometry.corner_elevation(upright),
        "corner_tilt": geometry.corner_tilt(upright),
        "brow_rise": geometry.brow_rise(upright, 105, 334),
        "inner_brow_rise": geometry.brow_rise(upright, 55, 285),
    }


def behaviour_series(track: FaceTrack, *, rate_hz: float = BEHAVIOUR.rate_hz) -> BehaviourSeries:
    """Behaviour at a fixed rate over the whole recording.

    Args:
        track: What the tracker saw.
        rate_hz: Samples per second.

    Returns:
        All columns; speeds are taken after resampling, so that they do not grow with the frame
        rate of the camera.
    """
    levels = frame_signals(track)
    table = np.column_stack([*levels.values(), track.head_pose_deg, track.blendshapes])
    count = max(1, round(track.duration_s * rate_hz))
    start_s = float(track.timestamps_s[0]) if len(track) else 0.0
    sampled = resample(track.timestamps_s, table, rate_hz=rate_hz, count=count, start_s=start_s)
    pose, shapes = sampled[:, len(levels) : len(levels) + 3], sampled[:, len(levels) + 3 :]
    columns = dict(zip(levels, sampled.T, strict=False))
    columns |= dict(zip(_POSE, deviation_from_median(pose).T, strict=True))
    columns["head_speed"] = from_steps(geometry.turning_angle_deg(pose) * rate_hz)
    columns["mouth_speed"] = speed(columns["mouth_aspect_ratio"], rate_hz=rate_hz)
    change = np.abs(np.diff(shapes, axis=0)).mean(axis=1) * rate_hz
    columns["change_rate"] = from_steps(change)
    return BehaviourSeries(rate_hz, columns, pose, shapes, levels)


def cut_clips(series: BehaviourSeries, *, schema: FeatureSchema = BEHAVIOUR) -> BehaviourFeatures:
    """The schema's columns in clips of its length; what is missing is masked.

    A last clip that holds less than two seconds is dropped, unless it is the only one.

    Args:
        series: Behaviour at the schema's rate.
        schema: Which columns, in which order.

    Returns:
        ``[C, T, F]`` values, 0 where masked.

    Raises:
        ValueError: If the series has another rate than the schema.
    """
    if series.rate_hz != schema.rate_hz:
        msg = f"Expected a series at {schema.rate_hz} Hz, got {series.rate_hz} Hz"
        raise ValueError(msg)
    table = np.column_stack([series.columns[name] for name in schema.names])
    whole, rest = divmod(len(table), schema.steps)
    keep_rest = rest > 0 and (whole == 0 or rest >= _MIN_LAST_CLIP_S * schema.rate_hz)
    clips = whole + int(keep_rest)
    padded = np.full((clips * schema.steps, table.shape[1]), np.nan)
    padded[: len(table)] = table[: len(padded)]
    cut = padded.reshape(clips, schema.steps, table.shape[1])
    mask = np.isfinite(cut)
    return BehaviourFeatures(
        values=np.where(mask, cut, 0.0).astype(np.float32),
        mask=mask,
        clip_start_s=np.arange(clips, dtype=np.float64) * schema.steps / schema.rate_hz,
        schema_digest=schema.digest,
    )
