"""Every reason of the quality gate, at and beside its limit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from extraction_tracks import frame_times, make_track, resting_landmarks

from client.extraction.quality import QualityThresholds, decoded_fraction, judge_quality
from client.extraction.track import FaceTrack, hold_latest_count
from client.extraction.video import VideoHeader

TIMES = frame_times(10.0, 30.0)
HEADER = VideoHeader(frame_count_promised=300, fps=30.0, width_px=500, height_px=400)


def codes(track: FaceTrack, header: VideoHeader = HEADER, **limits: float) -> list[str]:
    quality = judge_quality(track, header, thresholds=QualityThresholds(**limits))
    return [reason.code for reason in quality.rejected_for]


def with_inspections(track: FaceTrack, **values: float) -> FaceTrack:
    arrays = {name: np.array([value], dtype=np.float32) for name, value in values.items()}
    return replace(track, inspections=replace(track.inspections, **arrays))


def test_a_good_recording_is_accepted_with_its_figures():
    quality = judge_quality(make_track(TIMES), HEADER)
    assert quality.accepted
    assert quality.duration_s == pytest.approx(10.0)
    assert quality.fps == pytest.approx(30.0)
    assert (quality.detection_rate, quality.single_face_rate) == (1.0, 1.0)
    assert quality.face_size_px == pytest.approx(100.0)
    assert quality.decoded_fraction == 1.0


@pytest.mark.parametrize(("missing", "expected"), [(60, []), (61, ["face_missing"])])
def test_a_face_is_needed_in_80_percent_of_the_frames(missing, expected):
    assert codes(make_track(TIMES, detected=np.arange(300) >= missing)) == expected


def test_no_face_at_all_has_its_own_reason():
    assert codes(make_track(TIMES, detected=np.zeros(300, dtype=bool))) == ["no_face"]


@pytest.mark.parametrize(("doubled", "expected"), [(15, []), (16, ["two_faces"])])
def test_a_second_face_is_allowed_in_5_percent_of_the_frames(doubled, expected):
    faces = np.where(np.arange(300) < doubled, 2, 1).astype(np.uint8)
    assert codes(replace(make_track(TIMES), faces=faces)) == expected


def test_the_reason_names_what_was_found_and_the_limit():
    quality = judge_quality(make_track(TIMES, faces=2), HEADER)
    assert [reason.text for reason in quality.rejected_for] == [
        "Two faces in 100 % of the frames (at most 5 % allowed)"
    ]


@pytest.mark.parametrize(("scale", "expected"), [(0.41, []), (0.39, ["face_too_small"])])
def test_eye_corners_must_be_40_pixels_apart(scale, expected):
    points = resting_landmarks(len(TIMES)) * scale
    assert codes(make_track(TIMES, landmarks=points)) == expected


@pytest.mark.parametrize(("promised", "expected"), [(315, []), (317, ["truncated"])])
def test_95_percent_of_the_promise_must_be_decoded(promised, expected):
    assert codes(make_track(TIMES), replace(HEADER, frame_count_promised=promised)) == expected


def test_a_header_that_counts_wrongly_is_saved_by_the_time_it_promises():
    browser = replace(HEADER, frame_count_promised=10_000, fps=1000.0)
    assert decoded_fraction(TIMES, browser) == pytest.approx(1.0)


def test_a_hole_in_the_middle_counts_as_not_decoded():
    holed = TIMES[(TIMES < 3.0) | (TIMES > 7.0)]
    assert decoded_fraction(holed, HEADER) == pytest.approx(0.65, abs=0.02)
    assert "truncated" in codes(make_track(holed))


def test_a_header_without_a_count_promises_nothing():
    silent = replace(HEADER, frame_count_promised=0, fps=0.0)
    assert decoded_fraction(TIMES, silent) is None
    assert codes(make_track(TIMES), silent) == []


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"brightness": 20.0}, ["too_dark"]),
        ({"brightness": 245.0}, ["too_bright"]),
        ({"sharpness": 2.0}, ["blurred"]),
        ({"brightness": float("nan")}, []),
    ],
)
def test_light_and_blur(figures, expected):
    assert codes(with_inspections(make_track(TIMES), **figures)) == expected


def test_a_face_turned_away_most_of_the_time():
    yaw = np.where(np.arange(300) < 160, 40.0, 0.0)
    assert codes(make_track(TIMES, pose_deg=np.stack([0 * yaw, yaw, 0 * yaw], axis=1))) == [
        "turned_away"
    ]


def test_length_and_frame_rate():
    short = make_track(frame_times(1.5, 30.0))
    assert codes(short, replace(HEADER, frame_count_promised=45)) == ["too_short"]
    slow = make_track(frame_times(10.0, 5.0))
    assert codes(slow, replace(HEADER, frame_count_promised=50, fps=5.0)) == ["low_frame_rate"]
    assert codes(make_track(TIMES), min_duration_s=60.0) == ["too_short"]


def test_all_reasons_come_at_once():
    points = resting_landmarks(30) * 0.2
    found = codes(make_track(frame_times(1.0, 30.0), landmarks=points, faces=2))
    assert found == ["truncated", "too_short", "two_faces", "face_too_small"]


def test_the_latest_count_is_held_and_never_below_the_tracked_face():
    detected = np.array([True, True, True, False, True, True])
    assert hold_latest_count([0, 2], [1, 2], detected).tolist() == [1, 1, 2, 0, 2, 2]
    assert hold_latest_count([0], [0], detected).tolist() == [1, 1, 1, 0, 1, 1]
    assert hold_latest_count([], [], detected).tolist() == [1, 1, 1, 0, 1, 1]


def test_the_rate_of_the_camera_is_judged_and_not_that_of_the_analysis():
    decoded = np.arange(300) / 30.0
    quality = judge_quality(make_track(decoded[::6]), HEADER, decoded_s=decoded)
    assert quality.accepted
    assert (quality.frames, quality.analysed_frames) == (300, 50)
    assert (quality.fps, quality.decoded_fps) == pytest.approx((5.0, 30.0))
    assert quality.decoded_fraction == 1.0
    slow = judge_quality(make_track(decoded[::6]), HEADER, decoded_s=decoded[::6])
    assert "low_frame_rate" in [reason.code for reason in slow.rejected_for]
