"""Videos of a commanded face, for the tests of extraction."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.features import frame_signals
from client.extraction.face import FaceTracker
from client.extraction.track import FaceTrack
from client.extraction.video import Frame
from simulation.commands import BehaviourCommand
from simulation.faces import render_frames

Array = NDArray[np.float64]
WORKERS = 2


def track_face(command: BehaviourCommand, face_model: Path) -> FaceTrack:
    """What the tracker sees of a commanded face, without a file between."""
    frames = (
        Frame(time_s, image)
        for time_s, image in zip(command.times_s.tolist(), render_frames(command), strict=True)
    )
    with FaceTracker(face_model) as tracker:
        return tracker.track(frames)


def track_faces(commands: Mapping[str, BehaviourCommand], face_model: Path) -> dict[str, FaceTrack]:
    """Several at once, by name."""
    with ThreadPoolExecutor(WORKERS) as pool:
        tracks = pool.map(lambda command: track_face(command, face_model), commands.values())
        return dict(zip(commands, tracks, strict=True))


def all_signals(track: FaceTrack) -> dict[str, Array]:
    """Signals of every frame, the head's angles among them."""
    pose = dict(zip(("pitch", "yaw", "roll"), track.head_pose_deg.T.astype(float), strict=True))
    return frame_signals(track) | pose


def encode(
    frames: Iterable[NDArray[np.uint8]], path: Path, rate_hz: float, options: Sequence[str] = ()
) -> Path:
    """Write frames as H.264; ``options`` go to ffmpeg's output, filters among them."""
    pictures = iter(frames)
    first = next(pictures)
    height, width = first.shape[:2]
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), *("-y", "-loglevel", "error"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate_hz)),
        *("-i", "pipe:", *options, "-c:v", "libx264", "-preset", "ultrafast", "-crf", "12"),
        *("-pix_fmt", "yuv420p", str(path)),
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        for picture in (first, *pictures):
            process.stdin.write(picture.tobytes())
        process.stdin.close()
    assert process.returncode == 0, f"ffmpeg could not write {path.name}"
    return path
