"""Indicators by geometry and against the face at rest, on faces whose shape is known."""

from __future__ import annotations

import numpy as np
import pytest
from extraction_tracks import frame_times, make_track, move, resting_landmarks

from client.extraction.behaviour.indicators import measure_indicators

TIMES = frame_times(60.0, 30.0)
LATE = TIMES >= 45.0
NO_REST = "fewer than 5 calm seconds: neutral is the median of the whole recording"


def measured(**arguments):
    return measure_indicators(make_track(TIMES, **arguments))


def moved(*points: int, x: float = 0.0, y: float = 0.0, when: np.ndarray = LATE) -> np.ndarray:
    face = resting_landmarks(len(TIMES))
    for index in points:
        move(face, index, x=x * when, y=y * when)
    return face


def both(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{name}Left": values, f"{name}Right": values}


def chewing(when: np.ndarray) -> np.ndarray:
    face = resting_landmarks(len(TIMES))
    move(face, 14, y=4.0 * when * np.sin(2.0 * np.pi * TIMES))
    return face


def test_a_frown_counts_by_its_height_above_rest_and_its_time():
    frown = measured(blendshapes=both("browDown", np.where(LATE, 0.5, 0.1)))["brow_lowering"]
    assert frown.value == pytest.approx(0.4 * 0.25, abs=1e-3)
    assert frown.note is None


def test_brows_that_hang_throughout_are_the_rest():
    assert measured(blendshapes={"browDownLeft": 0.5})["brow_lowering"].value == pytest.approx(0.0)


def test_rest_is_the_silent_face_even_of_somebody_who_talks_most_of_the_time():
    talking = TIMES >= 15.0
    shapes = both("browDown", np.where(talking, 0.3, 0.0))
    found = measured(blendshapes=shapes, landmarks=chewing(talking))["brow_lowering"]
    # The median of the whole recording is the talking face, against which nothing would change.
    assert found.value == pytest.approx(0.3 * 0.75, abs=0.01)


@pytest.mark.parametrize(
    ("shapes", "pose_deg"),
    [
        (both("mouthSmile", np.where(TIMES >= 15.0, 0.8, 0.1)), (0.0, 0.0, 0.0)),
        ({"jawOpen": np.where(TIMES >= 15.0, 0.4, 0.0)}, (0.0, 0.0, 0.0)),
        (
            {},
            np.stack([0 * TIMES, (TIMES >= 15.0) * 8.0 * np.sin(12.0 * TIMES), 0 * TIMES], axis=1),
        ),
    ],
)
def test_rest_holds_no_smile_no_open_jaw_and_no_moving_head(shapes, pose_deg):
    frown = both("browDown", np.where(TIMES >= 15.0, 0.3, 0.0))
    found = measured(blendshapes=frown | shapes, pose_deg=pose_deg)["brow_lowering"]
    assert found.value == pytest.approx(0.3 * 0.75, rel=0.1)


def test_without_a_calm_moment_the_note_says_what_rest_is():
    shapes = both("browDown", np.where(LATE, 0.5, 0.1))
    found = measured(blendshapes=shapes, landmarks=chewing(TIMES >= 0.0))["brow_lowering"]
    assert found.note == NO_REST
    assert found.value == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "points", "shift"),
    [
        ("brow_gap_narrowing", (336,), {"x": -4.0}),
        ("brow_height_lowering", (105, 334), {"y": 4.0}),
        ("inner_brow_height_raise", (55, 285), {"y": -4.0}),
        ("corner_lowering", (61, 291), {"y": 4.0}),
        ("corner_raising", (61, 291), {"y": -4.0}),
    ],
)
def test_a_twin_counts_one_direction_in_eye_distances(name, points, shift):
    there = measured(landmarks=moved(*points, **shift))[name]
    back = {axis: -size for axis, size in shift.items()}
    assert there.value == pytest.approx(0.04 * 0.25, abs=2e-4)
    assert there.unit == "IOD"
    assert measured(landmarks=moved(*points, **back))[name].value == pytest.approx(0.0, abs=1e-6)


def test_an_open_jaw_is_not_taken_for_raised_corners():
    jaw = np.where(LATE, 0.5, 0.0)
    found = measured(blendshapes={"jawOpen": jaw}, landmarks=moved(14, y=20.0))
    assert found["corner_raising"].value == pytest.approx(0.0, abs=1e-4)
    assert found["corner_raising"].coverage == pytest.approx(0.75, abs=0.01)
    assert found["corner_elevation"].value == pytest.approx(0.1 * 0.25, abs=1e-3)


def test_raised_inner_brows_count_only_where_geometry_confirms_them():
    shapes = {"browInnerUp": np.where(LATE, 0.6, 0.2)}
    assert measured(blendshapes=shapes)["inner_brow_raise"].value == pytest.approx(0.0, abs=1e-6)
    seen = measured(blendshapes=shapes, landmarks=moved(55, 285, y=-4.0))["inner_brow_raise"]
    assert seen.value == pytest.approx(0.4 * 0.25, abs=2e-3)


def test_the_eyes_of_a_smile_narrow_by_their_share():
    smile = both("mouthSmile", np.where(LATE, 0.8, 0.1))
    lids = moved(160, 158, 387, 385, y=3.5)
    found = measured(blendshapes=smile, landmarks=lids)["smile_eye_narrowing"]
    assert found.value == pytest.approx(0.25, abs=1e-3)
    assert measured(blendshapes=smile)["smile_eye_narrowing"].value == pytest.approx(0.0, abs=1e-6)


def test_the_onset_of_a_smile_has_the_slope_of_its_ramp():
    ramp = np.clip(0.1 + 0.4 * (TIMES - 20.0), 0.1, 0.9)
    found = measured(blendshapes=both("mouthSmile", np.where(TIMES < 40.0, ramp, 0.1)))
    assert found["smile_onset_per_s"].value == pytest.approx(0.4, rel=1e-3)


def test_the_onset_reaches_to_nine_tenths_of_the_peak():
    rise = TIMES - 20.0
    eased = np.interp(rise, [0.0, 0.5, 2.0], [0.1, 0.6, 0.9])
    found = measured(blendshapes=both("mouthSmile", np.where(TIMES < 40.0, eased, 0.1)))
    # 0.3 is passed after 0.2 s and 0.81 after 1.55 s.
    assert found["smile_onset_per_s"].value == pytest.approx(0.51 / 1.35, rel=0.07)


def test_a_smile_that_began_out_of_view_has_no_onset():
    found = measured(blendshapes=both("mouthSmile", np.where(TIMES < 10.0, 0.9, 0.1)))
    assert found["smile_onset_per_s"].value is None
    assert found["smile_onset_per_s"].reason == "No smile began in view"


def test_one_sided_corner_pulls_are_counted_outside_smiles():
    pulled = (TIMES % 10.0 >= 5.0) & (TIMES % 10.0 < 6.0)
    face = moved(291, y=-5.0, when=pulled)
    assert measured(landmarks=face)["corner_pull_rate_per_min"].value == pytest.approx(6.0)
    even = moved(61, 291, y=-5.0, when=pulled)
    assert measured(landmarks=even)["corner_pull_rate_per_min"].value == 0.0
    smiling = measured(landmarks=face, blendshapes=both("mouthSmile", np.where(pulled, 0.8, 0.1)))
    assert smiling["corner_pull_rate_per_min"].value == 0.0


def test_an_uneven_mouth_is_measured_against_its_own_slant():
    found = measured(landmarks=moved(291, y=-4.0))["corner_asymmetry"]
    assert found.value == pytest.approx(0.04 * 0.25, abs=2e-4)
    slanted = measured(landmarks=moved(291, y=-4.0, when=TIMES >= 0.0))["corner_asymmetry"]
    assert slanted.value == pytest.approx(0.0, abs=1e-6)


def test_the_activity_of_the_shape_is_the_mean_of_its_five_measures():
    found = measured(landmarks=moved(105, 334, y=5.0))["shape_expressivity"]
    assert found.value == pytest.approx(0.05 * 0.25 / 5.0, abs=1e-4)


def test_irises_that_sink_by_more_than_nine_degrees_look_down():
    assert measured(landmarks=moved(468, 473, y=3.0))["gaze_down_iris_fraction"].value == (
        pytest.approx(0.25, abs=0.01)
    )
    assert measured(landmarks=moved(468, 473, y=1.0))["gaze_down_iris_fraction"].value == 0.0


def test_a_lowered_head_looks_down_unless_the_eyes_are_raised_against_it():
    pose = np.stack([np.where(LATE, -15.0, 0.0), 0 * TIMES, 0 * TIMES], axis=1)
    down = measured(pose_deg=pose)
    assert down["gaze_head_down_fraction"].value == pytest.approx(0.25, abs=0.01)
    assert down["gaze_down_fraction"].value == 0.0
    raised = measured(pose_deg=pose, blendshapes=both("eyeLookUp", np.where(LATE, 0.5, 0.0)))
    assert raised["gaze_head_down_fraction"].value == 0.0


def test_amplitudes_by_axis_are_those_of_their_waves():
    pose = np.stack([6.0 * np.sin(TIMES), 4.0 * np.cos(TIMES), 0 * TIMES], axis=1)
    found = measured(pose_deg=pose)
    assert found["head_pitch_amplitude_deg"].value == pytest.approx(6.0 / np.sqrt(2.0), rel=0.02)
    assert found["head_yaw_amplitude_deg"].value == pytest.approx(4.0 / np.sqrt(2.0), rel=0.02)


def test_the_jaw_has_the_speed_of_its_wave():
    jaw = 0.3 + 0.2 * np.sin(np.pi * TIMES)
    speed = measured(blendshapes={"jawOpen": jaw})["jaw_speed_per_s"].value
    assert speed == pytest.approx(0.2 * np.pi / np.sqrt(2.0), rel=0.03)
