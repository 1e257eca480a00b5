"""Rendered faces do what they are told, as the mesh shows and as a face tracker sees them."""

import cv2
import numpy as np
import pytest
from scipy.stats import spearmanr

from simulation.casting import command_for
from simulation.cohort import CohortDesign, generate_site
from simulation.commands import BehaviourCommand, draw_episodes
from simulation.faces import fill_triangles, fit_planes, render_frames, render_video
from simulation.movements import EYES
from simulation.portrait import SIDE_PX, load_portrait, measure_landmarks

RATE_HZ = 30.0
DURATION_S = 2.0
TIMES = np.arange(60) / RATE_HZ
UP_AND_DOWN = 1 - np.abs(TIMES - 1.0)
WAVE = np.sin(np.pi * TIMES)


def command(**behaviour):
    return BehaviourCommand(DURATION_S, RATE_HZ, **behaviour)


def first_frame(**behaviour):
    return next(render_frames(BehaviourCommand(0.1, RATE_HZ, **behaviour)))


def test_a_smile_of_one_is_the_untouched_photograph():
    assert np.array_equal(first_frame(smile=1.0), load_portrait().image)


@pytest.mark.parametrize(
    "behaviour",
    [{"corner_drop": 1.0}, {"brow": 1.0}, {"brow": -1.0}, {"inner_brow": 1.0}, {"dimple": 1.0},
     {"dimple": -1.0}, {"gaze_down": 1.0}, {"gaze_side": 1.0}, {"gaze_side": -1.0}, {"jaw": 0.5},
     {"blinks_s": (0.0,)}, {"pitch_deg": 10.0}, {"yaw_deg": 10.0}, {"roll_deg": 10.0}],
)  # fmt: skip
def test_every_movement_changes_the_face_and_leaves_the_border(behaviour):
    rest, moved = first_frame().astype(int), first_frame(**behaviour).astype(int)
    change = np.abs(moved - rest).max(axis=2)
    assert change.max() > 40
    assert change[0].max() <= 2
    assert change[:, 0].max() <= 2


def test_an_expression_moves_only_its_part_of_the_face():
    rest, frown = first_frame().astype(int), first_frame(brow=1.0).astype(int)
    left, top, right, bottom = (int(value) for value in load_portrait().face_box)
    middle = (top + bottom) // 2
    change = np.abs(frown - rest).max(axis=2)
    assert change[top:middle, left:right].max() > 40
    assert change[middle + 40 : bottom].max() <= 3


@pytest.mark.parametrize(("dimple", "side"), [(1.0, "right"), (-1.0, "left")])
def test_a_dimple_moves_one_side_of_the_face(dimple, side):
    change = np.abs(first_frame(dimple=dimple).astype(int) - first_frame().astype(int)).sum(axis=2)
    middle = round(load_portrait().vertices[[13, 14], 0].mean())
    halves = {"left": change[:, : middle - 4].sum(), "right": change[:, middle + 4 :].sum()}
    assert halves[side] > 0.9 * sum(halves.values())


def eye_opening(eye, shape):
    vertices = load_portrait().vertices
    inside = np.zeros(shape, dtype=np.uint8)
    outline = vertices[[eye.corners[0], *eye.upper, eye.corners[1], *eye.lower[::-1]]]
    cv2.fillPoly(inside, [np.rint(outline).astype(np.int32)], 1)
    return inside


def test_the_eyes_move_within_their_lids_alone():
    change = np.abs(first_frame(gaze_side=1.0).astype(int) - first_frame().astype(int)).sum(axis=2)
    inside = sum(eye_opening(eye, change.shape) for eye in EYES)
    around = cv2.dilate(inside, np.ones((9, 9), np.uint8)) > 0
    assert change[around].max() > 100
    assert change[~around].max() == 0


@pytest.mark.parametrize("eye", EYES, ids=["image_left", "image_right"])
def test_the_iris_goes_where_the_gaze_is_told_to(eye):
    def iris_x(gaze_side):
        frame = first_frame(smile=1.0, gaze_side=gaze_side)
        dark = np.maximum(110.0 - frame.mean(axis=2), 0.0) * eye_opening(eye, frame.shape[:2])
        return (dark.sum(axis=0) * np.arange(SIDE_PX)).sum() / dark.sum()

    left, middle, right = (iris_x(gaze_side) for gaze_side in (-1.0, 0.0, 1.0))
    assert left + 2 < middle < right - 2


def test_frames_are_deterministic():
    behaviour = command(smile=UP_AND_DOWN, pitch_deg=8 * WAVE)
    first, second = list(render_frames(behaviour)), list(render_frames(behaviour))
    assert len(first) == 60
    assert np.array_equal(first, second)


def test_a_frame_that_was_written_to_is_drawn_afresh():
    spoilt = first_frame()
    clean = spoilt.copy()
    spoilt[:] = 0
    np.testing.assert_array_equal(first_frame(), clean)


def test_triangles_cover_a_square_without_a_gap():
    rng = np.random.default_rng(0)
    from scipy.spatial import Delaunay

    points = np.concatenate([rng.uniform(0, 31, (40, 2)), [[0, 0], [0, 31], [31, 0], [31, 31]]])
    corners = points[Delaunay(points).simplices]
    x, y, which = fill_triangles(corners, 32)
    seen = np.zeros((32, 32), dtype=bool)
    seen[y, x] = True
    assert seen.all()
    plane = fit_planes(corners, corners * 3.0 + 1.0)[which]
    value = plane[..., 0] * x[:, None] + plane[..., 1] * y[:, None] + plane[..., 2]
    np.testing.assert_allclose(value, 3.0 * np.stack([x, y], axis=1) + 1.0, atol=1e-3)


def test_pixels_of_a_triangle_are_those_inside_it():
    corners = np.array([[[2.2, 1.1], [14.7, 5.3], [6.4, 13.9]]])
    x, y, _ = fill_triangles(corners, 16)
    found = set(zip(x.tolist(), y.tolist(), strict=True))
    polygon = corners[0].astype(np.float32)
    inside = {
        (i, j)
        for i in range(16)
        for j in range(16)
        if cv2.pointPolygonTest(polygon, (float(i), float(j)), measureDist=False) >= 0
    }
    assert found == inside


def test_two_faces_double_the_width():
    assert first_frame(faces=2).shape == (SIDE_PX, 2 * SIDE_PX, 3)


def test_spoilt_pictures():
    clear = first_frame()
    assert first_frame(brightness=0.2).mean() == pytest.approx(0.2 * clear.mean(), abs=1.0)
    sharpness = [cv2.Laplacian(f, cv2.CV_64F).var() for f in (clear, first_frame(blur_px=4.0))]
    assert sharpness[1] < 0.1 * sharpness[0]
    assert first_frame(brightness=4.0)[100:240, 130:250].mean() > 240
    assert np.ptp(first_frame(away=1.0), axis=(0, 1)).max() == 0
    half = first_frame(away=0.5)
    np.testing.assert_array_equal(half[:, SIDE_PX // 2 :], clear[:, : SIDE_PX // 2])
    covered = (first_frame(occlusion=0.6) == (90, 90, 94)).all(axis=2).mean()
    assert 0.2 < covered < 0.6


def test_the_video_has_every_frame(tmp_path):
    path = tmp_path / "face.mp4"
    assert render_video(command(smile=UP_AND_DOWN), path) == 60
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(RATE_HZ)
    frames = 0
    while capture.read()[0]:
        frames += 1
    capture.release()
    assert frames == 60


def test_a_folder_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "nowhere" / "face.mp4"
    with pytest.raises(OSError, match=r"nowhere.*folder must exist"):
        render_video(command(), path)


def test_faults_of_a_command_are_told_at_once():
    with pytest.raises(ValueError, match=r"smile from 0 to 1.*faces.*blinks_s"):
        command(smile=1.5, faces=3, blinks_s=(9.0,))
    with pytest.raises(ValueError, match=r"pitch_deg of one value or 60 frames"):
        command(pitch_deg=[0.0, 1.0])
    with pytest.raises(ValueError, match="smile from 0 to 1"):
        command(smile=float("nan"))
    with pytest.raises(ValueError, match=r"duration_s > 0.*rate_hz > 0"):
        BehaviourCommand(0.0, -1.0)


def test_lids_are_closed_at_the_commanded_frame_and_open_between():
    lids = command(blinks_s=(0.5, 1.51)).curves["lids"]
    assert lids[[15, 45]].tolist() == [1.0, 1.0]
    assert lids[30] == 0.0
    assert 0.1 < (lids > 0.5).sum() / RATE_HZ / 2 < 0.3, "seconds a blink is half closed"


def test_overlapping_episodes_take_the_higher():
    curve = draw_episodes(TIMES, [(0.0, 2.0, 0.4), (0.5, 1.5, 0.9)], ramp_s=0.1)
    assert curve.max() == pytest.approx(0.9)
    assert curve[6] == pytest.approx(0.4)


@pytest.fixture(scope="module")
def casts():
    """Severity and command of many recordings."""
    recordings = generate_site(
        CohortDesign(sites=1, subjects_per_site=250, clips_per_recording=1), 0
    ).recordings
    return [(recording, command_for(recording, rate_hz=10.0)) for recording in recordings]


@pytest.mark.parametrize(
    ("measure", "sign"),
    [
        (lambda c: c.smile.mean(), -1),
        (lambda c: c.gaze_down.mean(), 1),
        (lambda c: c.pitch_deg.mean(), -1),
        (lambda c: c.yaw_deg.std(), -1),
        (lambda c: c.jaw.mean(), -1),
        (lambda c: c.brow.mean(), 1),
        (lambda c: len(c.blinks_s), 1),
    ],
    ids=["smile", "gaze", "head_down", "head_motion", "jaw", "brow", "blinks"],
)
def test_commands_follow_severity(casts, measure, sign):
    severity = [recording.severity for recording, _ in casts]
    rho, p = spearmanr([measure(command) for _, command in casts], severity)
    assert sign * rho > 0
    assert p < 0.05


def test_commands_are_the_same_for_the_same_recording(casts):
    recording, first = casts[0]
    second = command_for(recording, rate_hz=10.0)
    assert first.blinks_s == second.blinks_s
    assert all(np.array_equal(first.curves[name], second.curves[name]) for name in first.curves)


class Tracker:
    """What MediaPipe makes of a command: blendshapes by name, landmarks, head rotation."""

    def __init__(self, model):
        self.model = model

    def __call__(self, behaviour):
        import mediapipe as mp
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(self.model)),
            running_mode=vision.RunningMode.VIDEO,
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
        shapes, points, rotations = [], [], []
        with vision.FaceLandmarker.create_from_options(options) as landmarker:
            for index, frame in enumerate(render_frames(behaviour)):
                image = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(frame))
                seen = landmarker.detect_for_video(image, round(index * 1000 / behaviour.rate_hz))
                assert len(seen.face_landmarks) == 1, f"frame {index} is not tracked"
                shapes.append({s.category_name: s.score for s in seen.face_blendshapes[0]})
                points.append([(p.x * SIDE_PX, p.y * SIDE_PX) for p in seen.face_landmarks[0]])
                rotations.append(seen.facial_transformation_matrixes[0][:3, :3])
        self.shapes, self.points, self.rotations = shapes, np.array(points), np.array(rotations)
        return self

    def shape(self, name):
        sides = [name] if name in self.shapes[0] else [f"{name}Left", f"{name}Right"]
        return np.array([np.mean([row[side] for side in sides]) for row in self.shapes])

    def corner_elevation(self):
        line = self.points[:, 263] - self.points[:, 33]
        iod = np.linalg.norm(line, axis=1)
        down = np.stack([-line[:, 1], line[:, 0]], axis=1) / iod[:, None]
        height = {i: (self.points[:, i] * down).sum(axis=1) for i in (13, 14, 61, 291)}
        return (height[13] + height[14] - height[61] - height[291]) / 2 / iod

    def gap(self, upper, lower):
        iod = np.linalg.norm(self.points[:, 263] - self.points[:, 33], axis=1)
        return np.linalg.norm(self.points[:, upper] - self.points[:, lower], axis=1) / iod


@pytest.fixture
def track(face_model):
    return Tracker(face_model)


def correlation(a, b):
    return np.corrcoef(a, b)[0, 1]


@pytest.mark.needs_model
def test_the_stored_landmarks_are_those_that_the_model_measures(face_model):
    from simulation.portrait import LANDMARKS_FILE

    stored = np.loadtxt(LANDMARKS_FILE, delimiter=",", skiprows=1)
    assert np.abs(measure_landmarks(face_model) - stored).max() < 0.5


@pytest.mark.needs_model
def test_a_tracker_sees_the_smile(track):
    seen = track(command(smile=UP_AND_DOWN))
    smile = seen.shape("mouthSmile")
    assert correlation(UP_AND_DOWN, smile) > 0.95
    assert spearmanr(UP_AND_DOWN, smile).statistic > 0.97
    assert smile.min() < 0.1
    assert smile.max() > 0.8
    assert correlation(UP_AND_DOWN, seen.corner_elevation()) > 0.95


@pytest.mark.needs_model
def test_a_tracker_sees_the_corners_drop_though_its_frown_is_dead(track):
    seen = track(command(corner_drop=UP_AND_DOWN))
    assert correlation(UP_AND_DOWN, seen.corner_elevation()) < -0.9
    assert seen.shape("mouthFrown").max() < 0.05


@pytest.mark.needs_model
def test_a_tracker_sees_each_blink_within_two_frames(track):
    times = (0.4, 1.0, 1.6)
    seen = track(command(blinks_s=times))
    blink, opening = seen.shape("eyeBlink"), seen.gap(159, 145)
    for time in times:
        frame = round(time * RATE_HZ)
        around = slice(frame - 5, frame + 6)
        assert abs(int(blink[around].argmax()) - 5) <= 2
        assert blink[around].max() > 5 * np.median(blink)
        assert opening[around].min() < 0.6 * np.median(opening)


@pytest.mark.needs_model
def test_a_tracker_sees_gaze_jaw_and_brows(track):
    seen = track(command(gaze_down=UP_AND_DOWN))
    assert correlation(UP_AND_DOWN, seen.shape("eyeLookDown")) > 0.95
    assert seen.shape("eyeLookDown").max() > 0.4
    seen = track(command(jaw=UP_AND_DOWN))
    assert correlation(UP_AND_DOWN, seen.shape("jawOpen")) > 0.9
    assert correlation(UP_AND_DOWN, seen.gap(13, 14)) > 0.95
    seen = track(command(brow=UP_AND_DOWN))
    assert correlation(UP_AND_DOWN, seen.shape("browDown")) > 0.85
    assert correlation(UP_AND_DOWN, seen.gap(105, 159)) < -0.85
    assert correlation(UP_AND_DOWN, seen.gap(107, 336)) < -0.85
    assert correlation(-UP_AND_DOWN, track(command(brow=-UP_AND_DOWN)).shape("browInnerUp")) < -0.9
    assert (
        correlation(UP_AND_DOWN, track(command(inner_brow=UP_AND_DOWN)).shape("browInnerUp")) > 0.9
    )


@pytest.mark.needs_model
def test_a_tracker_sees_what_one_side_does(track):
    seen = track(command(dimple=WAVE))
    left, right = (
        np.array([row[f"mouthDimple{s}"] for row in seen.shapes]) for s in ("Left", "Right")
    )
    assert correlation(WAVE, left - right) > 0.9
    assert left.max() > 0.3
    assert right.max() > 0.3
    seen = track(command(gaze_side=WAVE))
    names = ("eyeLookOutLeft", "eyeLookInRight", "eyeLookInLeft", "eyeLookOutRight")
    outward, inward, *others = (np.array([row[name] for row in seen.shapes]) for name in names)
    assert correlation(WAVE, outward + inward - sum(others)) > 0.9


@pytest.mark.needs_model
@pytest.mark.parametrize(
    ("angle", "amplitude_deg", "element"),
    [("pitch_deg", 15.0, (1, 2)), ("yaw_deg", 20.0, (0, 2)), ("roll_deg", 20.0, (1, 0))],
)
def test_a_tracker_sees_the_head_turn(track, angle, amplitude_deg, element):
    commanded = amplitude_deg * WAVE
    turned = track(command(**{angle: commanded})).rotations
    # The sine of the angle about each axis, in MediaPipe's axes: x right, y up, z to the camera.
    sine = turned[:, element[0], element[1]]
    assert spearmanr(commanded, sine).statistic > 0.97
    slope = np.polyfit(np.sin(np.radians(commanded)), sine, 1)[0]
    assert 0.8 < slope < 1.2


@pytest.mark.needs_model
def test_a_tracker_sees_every_frame_of_a_cast_recording(track):
    recording = generate_site(CohortDesign(sites=1, subjects_per_site=1), 0).recordings[0]
    behaviour = command_for(recording, duration_s=4.0)
    assert len(track(behaviour).shapes) == behaviour.frames


@pytest.mark.needs_model
def test_a_tracker_counts_two_faces_and_none_behind_a_bar(face_model):
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(face_model)), num_faces=2
    )
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        counts = [
            len(
                landmarker.detect(
                    mp.Image(image_format=mp.ImageFormat.SRGB, data=frame)
                ).face_landmarks
            )
            for frame in (first_frame(faces=2), first_frame(), first_frame(occlusion=1.0))
        ]
    assert counts == [2, 1, 0]
