"""Shape measures and head angles against faces whose shape is known."""

from __future__ import annotations

import numpy as np
import pytest
from extraction_tracks import IOD_PX, move, resting_landmarks
from scipy.spatial.transform import Rotation

from client.extraction.behaviour import geometry
from client.extraction.track import LANDMARKS, head_pose_deg

MEASURES = (
    geometry.corner_elevation,
    geometry.mouth_aspect_ratio,
    geometry.eye_aspect_ratio,
    geometry.brow_gap,
    geometry.brow_height,
    geometry.iris_drop,
)


def turned_and_scaled(points: np.ndarray, *, degrees: float, scale: float) -> np.ndarray:
    turn = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
    return scale * points @ turn.T + np.array([37.0, -12.0, 5.0])


@pytest.mark.parametrize("measure", MEASURES)
def test_tilt_distance_and_place_of_the_head_do_not_enter_a_measure(measure):
    face = resting_landmarks(1)
    move(face, 468, y=2.0)
    moved = turned_and_scaled(face, degrees=25.0, scale=1.7)
    expected = measure(geometry.align_landmarks(face))
    assert measure(geometry.align_landmarks(moved)) == pytest.approx(expected, abs=1e-9)


def test_measures_of_the_resting_face_are_those_of_its_drawing():
    aligned = geometry.align_landmarks(resting_landmarks(1))
    assert geometry.corner_elevation(aligned)[0] == pytest.approx(0.0)
    assert geometry.mouth_aspect_ratio(aligned)[0] == pytest.approx(4.0 / IOD_PX)
    assert geometry.eye_aspect_ratio(aligned)[0] == pytest.approx(14.0 / 35.0)
    assert geometry.brow_gap(aligned)[0] == pytest.approx(24.0 / IOD_PX)
    assert geometry.brow_height(aligned)[0] == pytest.approx(24.0 / IOD_PX)


def test_raised_mouth_corners_raise_the_corner_elevation():
    face = resting_landmarks(1)
    for corner in (61, 291):
        move(face, corner, y=-7.0)
    assert geometry.corner_elevation(geometry.align_landmarks(face))[0] == pytest.approx(0.07)


def test_lowered_irises_raise_the_iris_drop():
    face = resting_landmarks(1)
    for iris in (468, 473):
        move(face, iris, y=3.0)
    assert geometry.iris_drop(geometry.align_landmarks(face))[0] == pytest.approx(0.03)


def test_the_unit_survives_a_head_turned_aside():
    face = resting_landmarks(1)
    aside = face @ Rotation.from_euler("y", 30.0, degrees=True).as_matrix().T
    assert geometry.eye_corner_distance(aside)[0] == pytest.approx(IOD_PX)
    mouth = geometry.mouth_aspect_ratio(geometry.align_landmarks(aside))[0]
    assert mouth == pytest.approx(4.0 / IOD_PX, rel=0.01)


def test_a_point_that_the_track_does_not_keep_is_refused():
    assert 200 not in LANDMARKS
    with pytest.raises(KeyError):
        geometry.point(resting_landmarks(1), 200)


@pytest.mark.parametrize("pose", [(20.0, 0.0, 0.0), (0.0, -25.0, 0.0), (0.0, 0.0, 15.0)])
def test_single_turns_are_read_without_crosstalk(pose):
    pitch, yaw, roll = pose
    # An independent construction: y up and z to the camera, so chin up turns about x backwards.
    matrix = Rotation.from_euler("YXZ", [yaw, -pitch, roll], degrees=True).as_matrix()
    assert head_pose_deg(matrix) == pytest.approx(np.array(pose), abs=1e-9)


def test_chin_up_points_the_nose_up_and_yaw_points_it_to_the_right():
    nose = np.array([0.0, 0.0, 1.0])
    up = geometry.rotation_matrices(np.array([10.0, 0.0, 0.0])) @ nose
    right = geometry.rotation_matrices(np.array([0.0, 10.0, 0.0])) @ nose
    assert up[1] == pytest.approx(np.sin(np.radians(10.0)))
    assert right[0] == pytest.approx(np.sin(np.radians(10.0)))


def test_rotation_matrices_invert_the_head_pose():
    poses = np.random.default_rng(1).uniform(-60.0, 60.0, size=(50, 3))
    assert head_pose_deg(geometry.rotation_matrices(poses)) == pytest.approx(poses, abs=1e-9)


def test_turning_angles_agree_with_scipy():
    poses = np.random.default_rng(2).uniform(-40.0, 40.0, size=(20, 3))
    turns = Rotation.from_matrix(geometry.rotation_matrices(poses))
    expected = np.degrees((turns[:-1].inv() * turns[1:]).magnitude())
    assert geometry.turning_angle_deg(poses) == pytest.approx(expected, abs=1e-6)


def test_a_head_matrix_with_a_scale_gives_the_same_pose():
    matrix = np.eye(4)
    matrix[:3, :3] = 3.0 * geometry.rotation_matrices(np.array([8.0, -5.0, 3.0]))
    assert head_pose_deg(matrix) == pytest.approx([8.0, -5.0, 3.0])


def solid_face() -> np.ndarray:
    """The resting face with depth: brows and mouth stand before the eye corners."""
    face = resting_landmarks(1)
    for depth, indices in ((-12.0, (105, 334, 55, 285)), (-20.0, (13, 14, 61, 291))):
        for index in indices:
            face[:, LANDMARKS.index(index), 2] = depth
    return face


@pytest.mark.parametrize("pose", [(18.0, 0.0, 0.0), (-18.0, 0.0, 0.0), (8.0, -20.0, 15.0)])
def test_upright_measures_do_not_follow_the_head(pose):
    face = solid_face()
    to_camera = np.array([1.0, -1.0, -1.0])
    turn = geometry.rotation_matrices(np.array(pose))
    turned = ((face * to_camera) @ turn.T) * to_camera
    upright = geometry.upright_landmarks(turned, np.array([pose]))
    straight = geometry.upright_landmarks(face, np.zeros((1, 3)))
    assert upright == pytest.approx(straight, abs=1e-9)
    assert geometry.brow_rise(upright, 105, 334)[0] == pytest.approx(32.0 / IOD_PX)
    assert geometry.corner_elevation(upright)[0] == pytest.approx(0.0, abs=1e-9)
    flat = -geometry.align_landmarks(turned)[0, LANDMARKS.index(105), 1]
    assert abs(flat - 32.0 / IOD_PX) > 0.01


def test_brows_rise_and_corners_tilt_by_what_was_moved():
    face = resting_landmarks(1)
    for brow in (55, 285):
        move(face, brow, y=-5.0)
    move(face, 291, y=-3.0)
    upright = geometry.upright_landmarks(face, np.zeros((1, 3)))
    assert geometry.brow_rise(upright, 55, 285)[0] == pytest.approx(29.0 / IOD_PX)
    assert geometry.brow_rise(upright, 105, 334)[0] == pytest.approx(32.0 / IOD_PX)
    assert geometry.corner_tilt(upright)[0] == pytest.approx(3.0 / IOD_PX)
