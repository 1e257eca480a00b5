"""Feature clips from tracks whose motion is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from extraction_tracks import frame_times, make_track, move, resting_landmarks

from client.extraction.behaviour.features import behaviour_series, cut_clips
from client.extraction.behaviour.frames import frame_log
from client.extraction.track import BLENDSHAPES
from client.storage.frame_log import FrameOutcome
from shared_models.features import BEHAVIOUR


def column(features, name: str) -> np.ndarray:
    index = BEHAVIOUR.names.index(name)
    return np.where(features.mask[..., index], features.values[..., index], np.nan)


def test_every_column_of_the_schema_is_made_in_its_order():
    features = cut_clips(behaviour_series(make_track(frame_times(15.0, 30.0))))
    assert features.values.shape == (1, 150, len(BEHAVIOUR.names))
    assert features.schema_digest == BEHAVIOUR.digest
    assert features.mask.all()


def test_a_commanded_smile_arrives_with_its_height_and_time():
    times = frame_times(15.0, 24.0)
    smile = np.where((times >= 5.0) & (times < 8.0), 0.8, 0.1)
    track = make_track(times, blendshapes={"mouthSmileLeft": smile, "mouthSmileRight": smile})
    seen = column(cut_clips(behaviour_series(track)), "smile")[0]
    assert seen[52:78] == pytest.approx(np.full(26, 0.8), abs=1e-6)
    assert seen[:48] == pytest.approx(np.full(48, 0.1), abs=1e-6)


def test_sides_are_left_minus_right():
    track = make_track(
        frame_times(15.0, 30.0),
        blendshapes={"mouthSmileLeft": 0.6, "mouthSmileRight": 0.2, "mouthDimpleRight": 0.3},
    )
    features = cut_clips(behaviour_series(track))
    assert np.nanmean(column(features, "smile_asymmetry")) == pytest.approx(0.4, abs=1e-6)
    assert np.nanmean(column(features, "dimple_asymmetry")) == pytest.approx(-0.3, abs=1e-6)
    assert np.nanmean(column(features, "smile")) == pytest.approx(0.4, abs=1e-6)


@pytest.mark.parametrize("fps", [15.0, 24.0, 60.0])
def test_a_steady_turn_has_its_speed_at_any_frame_rate(fps):
    times = frame_times(6.0, fps)
    pose = np.stack([np.zeros_like(times), 4.0 * times - 12.0, np.zeros_like(times)], axis=1)
    series = behaviour_series(make_track(times, pose_deg=pose))
    assert series.columns["head_speed"][3:-3] == pytest.approx(np.full(54, 4.0), rel=1e-3)


def test_head_angles_are_deviations_from_the_sessions_median_with_chin_up_positive():
    times = frame_times(15.0, 30.0)
    pitch = 11.0 + np.where(times > 12.0, 6.0, 0.0)
    track = make_track(times, pose_deg=np.stack([pitch, 0 * pitch, 0 * pitch], axis=1))
    seen = column(cut_clips(behaviour_series(track)), "head_pitch")[0]
    assert seen[:118] == pytest.approx(np.zeros(118), abs=1e-5)
    assert seen[122:] == pytest.approx(np.full(28, 6.0), abs=1e-5)


def test_the_mouth_speed_of_an_opening_at_constant_speed_is_that_speed():
    times = frame_times(4.0, 30.0)
    points = resting_landmarks(len(times))
    move(points, 14, y=5.0 * times)
    series = behaviour_series(make_track(times, landmarks=points))
    assert series.columns["mouth_speed"][2:-2] == pytest.approx(np.full(36, 0.05), rel=1e-3)


def test_the_change_rate_is_the_mean_absolute_slope_of_all_blendshapes():
    times = frame_times(4.0, 30.0)
    track = make_track(times, blendshapes={"jawOpen": 0.2 * times, "cheekPuff": 0.8 - 0.2 * times})
    series = behaviour_series(track)
    expected = 0.4 / len(BLENDSHAPES)
    assert series.columns["change_rate"][2:-2] == pytest.approx(np.full(36, expected), rel=1e-3)


def test_frames_without_a_face_are_masked_and_do_not_become_movement():
    times = frame_times(15.0, 30.0)
    seen = (times < 5.0) | (times > 8.0)
    pose = np.stack([np.where(times < 6.0, 0.0, 20.0), 0 * times, 0 * times], axis=1)
    features = cut_clips(behaviour_series(make_track(times, pose_deg=pose, detected=seen)))
    assert not features.mask[0, 51:79].any()
    assert features.mask[0, :49].all()
    assert np.nanmax(column(features, "head_speed")) < 1e-6


def test_a_face_turned_aside_by_more_than_30_degrees_is_masked():
    times = frame_times(15.0, 30.0)
    pose = np.stack([0 * times, np.where(times > 10.0, 35.0, 0.0), 0 * times], axis=1)
    features = cut_clips(behaviour_series(make_track(times, pose_deg=pose)))
    assert features.mask[0, :99].all()
    assert not features.mask[0, 101:].any()


@pytest.mark.parametrize(
    ("duration_s", "clips"), [(0.5, 1), (14.0, 1), (16.0, 1), (17.0, 2), (30.0, 2), (32.5, 3)]
)
def test_a_last_clip_below_two_seconds_is_dropped_unless_it_is_the_only_one(duration_s, clips):
    features = cut_clips(behaviour_series(make_track(frame_times(duration_s, 30.0))))
    assert features.clip_start_s.tolist() == [15.0 * clip for clip in range(clips)]
    assert features.mask[..., 0].sum() == min(150 * clips, round(duration_s * 10))


def test_another_rate_and_clip_length_have_another_digest():
    schema = replace(BEHAVIOUR, rate_hz=5.0, clip_s=8.0)
    features = cut_clips(
        behaviour_series(make_track(frame_times(16.0, 30.0)), rate_hz=5.0), schema=schema
    )
    assert features.values.shape[:2] == (2, 40)
    assert features.schema_digest != BEHAVIOUR.digest


def test_a_series_at_another_rate_than_the_schema_is_refused():
    series = behaviour_series(make_track(frame_times(3.0, 30.0)), rate_hz=5.0)
    with pytest.raises(ValueError, match=r"10\.0 Hz, got 5\.0 Hz"):
        cut_clips(series)


def test_long_tracks_are_computed_in_blocks_without_seams():
    times = frame_times(300.0, 30.0)
    mouth = 5.0 + 4.0 * np.sin(times)
    points = resting_landmarks(len(times))
    move(points, 14, y=mouth)
    seen = behaviour_series(make_track(times, landmarks=points)).columns["mouth_aspect_ratio"]
    middles = (np.arange(3000) + 0.5) / 10.0
    assert seen[:-1] == pytest.approx((9.0 + 4.0 * np.sin(middles[:-1])) / 100.0, abs=1e-3)


def test_the_frame_log_says_what_became_of_every_decoded_frame():
    decoded = frame_times(1.0, 30.0)
    analysed = decoded[::2]
    seen = np.arange(len(analysed)) != 3
    yaw = np.where(np.arange(len(analysed)) == 5, 40.0, 2.0)
    track = make_track(
        analysed,
        blendshapes={"jawOpen": 0.25},
        pose_deg=np.stack([0 * yaw, yaw, 0 * yaw], axis=1),
        detected=seen,
    )
    log = frame_log(track, decoded)
    assert len(log) == 30
    expected = np.full(30, FrameOutcome.NOT_ANALYSED)
    expected[::2] = FrameOutcome.USED
    expected[6], expected[10] = FrameOutcome.NO_FACE, FrameOutcome.TURNED_AWAY
    assert log.outcome.tolist() == expected.tolist()
    used = log.outcome == FrameOutcome.USED
    assert np.isfinite(log.signals[used]).all()
    assert np.isnan(log.signals[~used]).all()
    mouth = log.signals[:, log.signal_names.index("mouth_aspect_ratio")]
    assert mouth[used] == pytest.approx(np.full(used.sum(), 0.04), abs=1e-6)
    assert log.head_pose_deg[10, 1] == 40.0
    assert log.blendshapes[0, BLENDSHAPES.index("jawOpen")] == 0.25
    assert log.faces.tolist()[:8] == [1, 0, 1, 0, 1, 0, 0, 0]


def test_without_skipped_frames_the_log_has_the_rows_of_the_track():
    track = make_track(frame_times(1.0, 25.0))
    log = frame_log(track)
    assert np.array_equal(log.timestamps_s, track.timestamps_s)
    assert (log.outcome == FrameOutcome.USED).all()


def test_a_frame_log_of_frames_that_were_not_decoded_is_refused():
    with pytest.raises(ValueError, match="among the decoded ones"):
        frame_log(make_track(frame_times(1.0, 25.0)), frame_times(1.0, 24.0))
