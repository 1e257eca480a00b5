"""Features of a rendered face against the behaviour that it was commanded to show."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from client.extraction.behaviour.blinks import find_blinks
from client.extraction.behaviour.features import frame_signals
from client.extraction.face import FaceTracker
from client.extraction.track import FaceTrack
from client.extraction.video import Frame

pytestmark = [pytest.mark.needs_model, pytest.mark.slow]

FPS = 30.0
TIMES = np.arange(round(10.5 * FPS)) / FPS
BLINKS_S = (9.0, 9.5, 10.1)


def wave(start_s: float, end_s: float) -> np.ndarray:
    """Half a sine between two times, 0 elsewhere."""
    inside = np.logical_and(start_s <= TIMES, end_s > TIMES)
    return np.where(inside, np.sin(np.pi * (TIMES - start_s) / (end_s - start_s)), 0.0)


COMMANDS = {
    "smile": wave(0.5, 2.0),
    "corner_drop": wave(2.0, 3.0),
    "brow": wave(3.0, 4.0),
    "jaw": wave(4.0, 5.0),
    "gaze_down": wave(5.0, 6.0),
    "pitch_deg": 15.0 * (wave(6.3, 6.65) - wave(6.65, 7.0)),
    "yaw_deg": 20.0 * (wave(7.0, 7.5) - wave(7.5, 8.0)),
    "roll_deg": 15.0 * (wave(8.0, 8.4) - wave(8.4, 8.8)),
}


@pytest.fixture(scope="module")
def track(face_model) -> FaceTrack:
    commands = pytest.importorskip("simulation.commands")
    faces = pytest.importorskip("simulation.faces")
    command = commands.BehaviourCommand(10.5, FPS, blinks_s=BLINKS_S, **COMMANDS)
    frames = (
        Frame(time_s, image)
        for time_s, image in zip(TIMES.tolist(), faces.render_frames(command), strict=True)
    )
    with FaceTracker(face_model) as tracker:
        return tracker.track(frames)


@pytest.fixture(scope="module")
def signals(track) -> dict[str, np.ndarray]:
    pose = dict(zip(("pitch", "yaw", "roll"), track.head_pose_deg.T, strict=True))
    return frame_signals(track) | pose


def test_every_rendered_frame_is_tracked(track):
    assert track.detected.all()
    assert set(track.faces.tolist()) == {1}


@pytest.mark.parametrize(
    ("command", "signal", "sign"),
    [
        ("smile", "smile", 1),
        ("smile", "corner_elevation", 1),
        ("corner_drop", "corner_elevation", -1),
        ("brow", "brow_height", -1),
        ("brow", "brow_lowering", 1),
        ("jaw", "mouth_aspect_ratio", 1),
        ("jaw", "jaw_open", 1),
        ("gaze_down", "gaze_down", 1),
        ("gaze_down", "iris_drop", 1),
        ("pitch_deg", "pitch", 1),
        ("yaw_deg", "yaw", 1),
        ("roll_deg", "roll", 1),
    ],
)
def test_a_signal_follows_its_command(signals, command, signal, sign):
    active = np.flatnonzero(COMMANDS[command])
    around = slice(active[0] - 3, active[-1] + 6)
    told, seen = COMMANDS[command][around], sign * signals[signal][around]
    assert spearmanr(told, seen).statistic > 0.75
    assert abs(int(np.argmax(seen)) - int(np.argmax(told))) <= 7


@pytest.mark.parametrize(
    ("command", "signal", "least"), [("pitch_deg", "pitch", 0.7), ("roll_deg", "roll", 0.8)]
)
def test_head_angles_have_their_size_and_do_not_leak(signals, command, signal, least):
    active = COMMANDS[command] != 0.0
    slope = np.polyfit(COMMANDS[command][active], signals[signal][active], 1)[0]
    assert least < abs(slope) < 1.2
    for other in {"pitch", "yaw", "roll"} - {signal}:
        leak = np.polyfit(COMMANDS[command][active], signals[other][active], 1)[0]
        assert abs(leak) < 0.25 * abs(slope)


def test_the_commanded_blinks_and_no_others_are_found_at_their_times(track):
    found = find_blinks(track).times_s
    late = found[found > 8.9]
    assert late == pytest.approx(np.array(BLINKS_S), abs=2.5 / FPS)
