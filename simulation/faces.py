"""Face videos whose behaviour is commanded: a portrait warped by its own mesh, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from simulation.commands import BehaviourCommand
from simulation.eyeball import turn_eyes
from simulation.paint import furrow_brow, open_mouth
from simulation.portrait import SIDE_PX, Portrait, load_portrait
from simulation.spoiling import spoil_frame

Array = NDArray[np.float64]
Floats = NDArray[np.float32]
Image = NDArray[np.uint8]
Indices = NDArray[np.int64]

GRID_STEP = 2
"""Pixels between the points at which the warp is computed; between them it is interpolated."""

FOCAL_LENGTH = 5.0
PIVOT_DEPTH = 0.8
"""Distances of the camera and of the axis of turning from the face, in eye distances.

With IOD 9 cm the camera is half a metre away, as on a desk.
"""

FRAMES_KEPT = 64
"""Frames that are kept to be shown again: a face at rest between its movements is drawn once."""

SMILE_POWER = 1.3
"""Bends the way from rest to smile so that what trackers call a smile grows evenly."""

EDGE = 1e-3
"""Pixels by which a triangle reaches over its edge, so that no pixel between two is left out."""


def render_frames(command: BehaviourCommand) -> Iterator[Image]:
    """Frames of the commanded video, one after another.

    Args:
        command: What the face does.

    Yields:
        ``[S, S, 3]`` uint8 RGB, or ``[S, 2 S, 3]`` for two faces.
    """
    names = tuple(command.curves)
    for row in zip(*(command.curves[name].tolist() for name in names), strict=True):
        frame = _draw(names, row).copy()
        yield np.concatenate([frame, frame[:, ::-1]], axis=1) if command.faces == 2 else frame


@lru_cache(maxsize=FRAMES_KEPT)
def _draw(names: tuple[str, ...], values: tuple[float, ...]) -> Image:
    """One face; the same commands give the same frame, which nobody may write to."""
    now = dict(zip(names, values, strict=True))
    portrait = load_portrait()
    target = pose(portrait, express(portrait, now), now)
    frame = open_mouth(_warp(portrait, target), target, now["jaw"])
    frame = furrow_brow(frame, target, now["brow"])
    frame = turn_eyes(frame, target, side=now["gaze_side"], down=now["gaze_down"])
    return spoil_frame(frame, target, now)


def render_video(command: BehaviourCommand, path: Path) -> int:
    """Write the commanded video.

    Args:
        command: What the face does.
        path: Of the file; its ending decides the container (``.mp4``, ``.mkv``, ``.avi``).

    Returns:
        Number of frames written.

    Raises:
        OSError: If the file cannot be written.
    """
    size = (SIDE_PX * command.faces, SIDE_PX)
    code = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), code, command.rate_hz, size)
    if not writer.isOpened():
        msg = (
            f"Expected a video file that can be written, got {path}: the folder must exist and the "
            "name end in .mp4, .mkv or .avi"
        )
        raise OSError(msg)
    try:
        for frame in render_frames(command):
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    finally:
        writer.release()
    return command.frames


def express(portrait: Portrait, now: dict[str, float]) -> Array:
    """``[V, 2]`` mesh of an expression, head upright.

    Lids and gaze share the lids' way: what the gaze has closed, a blink closes no more.

    Args:
        portrait: The face at rest in its photograph.
        now: Value of each curve of the command.
    """
    amounts = {
        "neutral": 1.0 - now["smile"] ** SMILE_POWER,
        "corner_drop": now["corner_drop"],
        "dimple_left": max(now["dimple"], 0.0),
        "dimple_right": max(-now["dimple"], 0.0),
        "frown": max(now["brow"], 0.0),
        "raise": max(-now["brow"], 0.0),
        "inner_brow": now["inner_brow"],
        "lids": now["lids"],
        "gaze_down": now["gaze_down"] * (1.0 - now["lids"]),
        "jaw": now["jaw"],
    }
    moved = portrait.vertices.copy()
    for name, amount in amounts.items():
        if amount:
            moved += amount * portrait.movements[name]
    return moved


def pose(portrait: Portrait, vertices: Array, now: dict[str, float]) -> Array:
    """``[V, 2]`` mesh seen with the head turned; what surrounds the face follows in part.

    Args:
        portrait: Depth of the vertices, and which of them lead others.
        vertices: ``[V, 2]`` with the head upright.
        now: ``pitch_deg``, ``yaw_deg`` and ``roll_deg``.
    """
    angles = np.radians([now["pitch_deg"], now["yaw_deg"], now["roll_deg"]])
    if not angles.any():
        return vertices
    unit = portrait.eye_distance_px
    left, top, right, bottom = portrait.face_box
    pivot = np.array([(left + right) / 2, top + 0.62 * (bottom - top), PIVOT_DEPTH * unit])
    points = np.column_stack([vertices, portrait.depth]) - pivot
    turned = points @ _rotation(*angles).T
    # Perspective relative to the upright head, so that at rest nothing moves.
    near = (FOCAL_LENGTH * unit + points[:, 2]) / (FOCAL_LENGTH * unit + turned[:, 2])
    seen = turned[:, :2] * near[:, None] + pivot[:2]
    way = (seen - vertices)[portrait.leader]
    return np.asarray(vertices + portrait.following[:, None] * way)


def _rotation(pitch: float, yaw: float, roll: float) -> Array:
    """Rotation in image axes: x right, y down, z away; positive pitch lifts the face.

    The signs are those of :mod:`client.extraction.track`.
    """
    (cp, cy, cr), (sp, sy, sr) = np.cos([pitch, yaw, roll]), np.sin([pitch, yaw, roll])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    about_z = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def _warp(portrait: Portrait, target: Array) -> Image:
    """The photograph with its mesh moved to ``target``."""
    size = SIDE_PX // GRID_STEP
    shift = np.zeros((size, size, 2), dtype=np.float32)
    moved = np.abs(target - portrait.vertices).max(axis=1) > 0.02
    triangles = portrait.triangles[moved[portrait.triangles].any(axis=1)]
    if len(triangles):
        far_first = np.argsort(-portrait.depth[triangles].mean(axis=1))
        triangles = triangles[far_first]
        corners = target[triangles] / GRID_STEP - 0.25
        plane = fit_planes(corners, (portrait.vertices - target)[triangles])
        x, y, which = fill_triangles(corners, size)
        rise_x, rise_y, base = plane[which].transpose(2, 0, 1)
        shift[y, x] = rise_x * x[:, None] + rise_y * y[:, None] + base
    source = np.asarray(cv2.resize(shift, (SIDE_PX, SIDE_PX)), dtype=np.float32) + _pixel_grid()
    warped = cv2.remap(
        portrait.image, source[..., 0], source[..., 1], cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    return np.asarray(warped, dtype=np.uint8)


@lru_cache(maxsize=1)
def _pixel_grid() -> Floats:
    steps = np.arange(SIDE_PX, dtype=np.float32)
    return np.stack(np.meshgrid(steps, steps), axis=-1)


def fill_triangles(corners: Array, size: int) -> tuple[Indices, Indices, Indices]:
    """Pixels inside triangles, row by row of all triangles at once.

    Args:
        corners: ``[M, 3, 2]`` x, y of each triangle's corners in pixels.
        size: Side of the square image.

    Returns:
        ``[N]`` column, row and triangle of each covered pixel, in order of the triangles; a pixel
        on a shared edge comes once for each of them.
    """
    top = np.clip(np.ceil(corners[..., 1].min(axis=1)), 0, size).astype(np.int64)
    bottom = np.clip(np.floor(corners[..., 1].max(axis=1)) + 1, 0, size).astype(np.int64)
    triangle, line = _count_up(np.maximum(bottom - top, 0))
    row = top[triangle] + line
    left, right = _span(corners, triangle, row)
    first = np.clip(np.ceil(left - EDGE), 0, size).astype(np.int64)
    last = np.clip(np.floor(right + EDGE) + 1, 0, size).astype(np.int64)
    stretch, step = _count_up(np.maximum(last - first, 0))
    return first[stretch] + step, row[stretch], triangle[stretch]


def _count_up(counts: Indices) -> tuple[Indices, Indices]:
    """Owner of each item and its number among the owner's, from the owners' counts of items."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def _span(corners: Array, triangle: Indices, row: Indices) -> tuple[Array, Array]:
    """Where each row enters and leaves its triangle."""
    start, end = corners, np.roll(corners, -1, axis=1)
    height = end[..., 1] - start[..., 1]
    level = np.abs(height) < 1e-9
    slope = (end[..., 0] - start[..., 0]) / np.where(level, 1.0, height)
    below = row[:, None] - start[triangle, :, 1]
    share = below / np.where(level, 1.0, height)[triangle]
    crossed = (share >= -1e-9) & (share <= 1 + 1e-9) & ~level[triangle]
    x = start[triangle, :, 0] + below * slope[triangle]
    return np.where(crossed, x, np.inf).min(axis=1), np.where(crossed, x, -np.inf).max(axis=1)


def fit_planes(corners: Array, values: Array) -> Floats:
    """Planes through values at the corners of triangles.

    Args:
        corners: ``[M, 3, 2]`` x, y.
        values: ``[M, 3, K]``.

    Returns:
        ``[M, K, 3]`` rise along x, rise along y and value at the origin; level where a triangle has
        no area.
    """
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    flat = np.abs(area) < 1e-3
    inverse = np.where(flat, 0.0, 1.0 / np.where(flat, 1.0, area))[:, None]
    gain = values[:, 1:] - values[:, :1]
    rise_x = (gain[:, 0] * second[:, 1:] - gain[:, 1] * first[:, 1:]) * inverse
    rise_y = (gain[:, 1] * first[:, :1] - gain[:, 0] * second[:, :1]) * inverse
    base = values[:, 0] - rise_x * corners[:, 0, :1] - rise_y * corners[:, 0, 1:]
    return np.stack([rise_x, rise_y, base], axis=-1).astype(np.float32)
