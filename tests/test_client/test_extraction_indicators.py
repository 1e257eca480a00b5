"""Indicators of tracks whose behaviour was commanded, and the reasons where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from extraction_tracks import (
    frame_times,
    make_track,
    move,
    pulses,
    resting_landmarks,
    with_closing_eyes,
)

from client.extraction.behaviour.blinks import find_blinks
from client.extraction.behaviour.bursts import find_bursts
from client.extraction.behaviour.catalogue import CATALOGUE
from client.extraction.behaviour.features import behaviour_series
from client.extraction.behaviour.indicators import measure_indicators, without_indicators
from client.extraction.behaviour.measures import IndicatorLimits

CONTRACT = {
    "smile_rate_per_min",
    "smile_time_fraction",
    "smile_duration_s",
    "smile_peak",
    "corner_elevation",
    "brow_lowering",
    "inner_brow_raise",
    "contempt_rate_per_min",
    "mouth_speed_per_s",
    "gaze_down_fraction",
    "gaze_to_camera_fraction",
    "head_down_fraction",
    "head_pitch_deg",
    "head_speed_deg_s",
    "head_amplitude_deg",
    "blink_rate_per_min",
    "blink_interval_s",
    "brief_movement_rate_per_min",
    "brief_movement_duration_ms",
    "change_rate_per_s",
    "expressivity",
    "asymmetry",
    "reactivity",
}


def smiling(times: np.ndarray, on: np.ndarray, height: float = 0.8) -> dict[str, np.ndarray]:
    smile = np.where(on, height, 0.1)
    return {"mouthSmileLeft": smile, "mouthSmileRight": smile}


def test_the_names_are_those_of_the_contract():
    assert set(CATALOGUE) >= CONTRACT
    assert set(without_indicators("why")) == set(CATALOGUE)


def test_four_smiles_in_a_minute():
    times = frame_times(60.0, 30.0)
    found = measure_indicators(
        make_track(times, blendshapes=smiling(times, pulses(times, np.arange(5, 60, 15), 3.0)))
    )
    assert found["smile_rate_per_min"].value == pytest.approx(4.0)
    assert found["smile_duration_s"].value == pytest.approx(3.0, abs=0.15)
    assert found["smile_time_fraction"].value == pytest.approx(0.2, abs=0.01)
    assert found["smile_peak"].value == pytest.approx(0.8, abs=1e-6)
    assert found["smile_rate_per_min"].coverage == 1.0


def test_rates_per_minute_need_one_clip_length_in_view():
    times = frame_times(20.0, 30.0)
    hidden = make_track(
        times, blendshapes=smiling(times, times < 2.0), detected=(times < 7.0) | (times > 17.0)
    )
    rate = measure_indicators(hidden)["smile_rate_per_min"]
    assert rate.value is None
    assert rate.reason == "Needs at least 15 seconds in view, got 10.0"
    assert measure_indicators(hidden)["smile_time_fraction"].value == pytest.approx(0.2, abs=0.02)


def test_a_recording_without_a_smile_has_a_rate_of_zero_and_no_duration():
    found = measure_indicators(make_track(frame_times(60.0, 30.0)))
    assert found["smile_rate_per_min"].value == 0.0
    assert found["smile_duration_s"].value is None
    assert found["smile_duration_s"].reason == "No smile was seen"


@pytest.mark.parametrize("fps", [25.0, 30.0, 60.0])
def test_commanded_blinks_are_counted_and_timed(fps):
    times = frame_times(200.0, fps)
    starts = np.arange(2.0, 200.0, 4.0)
    track = make_track(times, landmarks=with_closing_eyes(times, pulses(times, starts, 0.15)))
    found = measure_indicators(track)
    assert found["blink_rate_per_min"].value == pytest.approx(15.0, rel=0.02)
    assert found["blink_interval_s"].value == pytest.approx(4.0, abs=0.05)
    blinks = find_blinks(track).times_s
    assert np.abs(blinks - starts).max() < 0.15


def test_blinks_are_judged_against_the_subjects_own_eyes():
    times = frame_times(200.0, 30.0)
    starts = np.arange(2.0, 200.0, 4.0)
    narrow = np.where(pulses(times, starts, 0.15), 0.85, 0.5)
    track = make_track(times, landmarks=with_closing_eyes(times, narrow, depth=1.0))
    assert len(find_blinks(track).times_s) == len(starts)


def test_long_closures_and_half_lowered_lids_are_no_blinks():
    times = frame_times(200.0, 30.0)
    long = with_closing_eyes(times, pulses(times, np.arange(2.0, 200.0, 10.0), 2.0))
    blinks = find_blinks(make_track(times, landmarks=long))
    assert len(blinks.times_s) == 0
    assert blinks.observed_s == pytest.approx(160.0, rel=0.02)
    half = with_closing_eyes(times, pulses(times, np.arange(2.0, 200.0, 4.0), 0.15), depth=0.3)
    assert len(find_blinks(make_track(times, landmarks=half)).times_s) == 0


def test_a_long_look_down_is_masked_with_the_blinks_in_it():
    times = frame_times(300.0, 30.0)
    reading = (times >= 100.0) & (times < 160.0)
    starts = np.arange(2.0, 300.0, 4.0)
    # Lids that follow the gaze stay a third lower; a blink closes them from there.
    lids = np.maximum(0.4 * reading, 0.9 * pulses(times, starts, 0.15))
    track = make_track(times, landmarks=with_closing_eyes(times, lids, depth=1.0))
    blinks = find_blinks(track)
    assert blinks.observed_s == pytest.approx(240.0, abs=2.0)
    assert not ((blinks.times_s > 100.5) & (blinks.times_s < 159.5)).any()
    found = measure_indicators(track)
    assert found["blink_rate_per_min"].value == pytest.approx(15.0, rel=0.03)
    assert found["blink_rate_per_min"].coverage == pytest.approx(0.8, abs=0.01)


def test_an_interval_that_was_not_watched_throughout_is_no_interval():
    times = frame_times(400.0, 30.0)
    starts = np.arange(2.0, 400.0, 4.0)
    hidden = pulses(times, starts[::2] + 2.0, 1.0)
    starts[1::2] += 1.0
    track = make_track(
        times, landmarks=with_closing_eyes(times, pulses(times, starts, 0.15)), detected=~hidden
    )
    # Pairs are 5 and 3 s apart in turn; all of the longer ones hold a gap.
    found = measure_indicators(track)["blink_interval_s"]
    assert found.value == pytest.approx(3.0, abs=0.05)


@pytest.mark.parametrize(
    ("duration_s", "fps", "reason"),
    [
        (200.0, 20.0, "Needs at least 25 frames per second, got 20.0"),
        (100.0, 30.0, "Needs at least 180 seconds with open eyes in view, got 100.0"),
    ],
)
def test_blinks_need_25_frames_per_second_and_three_minutes(duration_s, fps, reason):
    found = measure_indicators(make_track(frame_times(duration_s, fps)))
    assert found["blink_rate_per_min"].value is None
    assert found["blink_rate_per_min"].reason == reason


def test_ntsc_frame_rates_count_as_their_nominal_ones():
    found = measure_indicators(make_track(frame_times(185.0, 24.975)))
    assert found["blink_rate_per_min"].value == 0.0


def test_brief_movements_are_counted_above_50_frames_per_second():
    times = frame_times(60.0, 60.0)
    starts = np.arange(3.0, 60.0, 6.0)
    noise = 0.01 * np.random.default_rng(5).random(len(times))
    raised = noise + 0.6 * pulses(times, starts, 0.2)
    track = make_track(times, blendshapes={"browInnerUp": raised, "mouthUpperUpLeft": raised})
    found = measure_indicators(track)
    assert found["brief_movement_rate_per_min"].value == pytest.approx(len(starts))
    assert found["brief_movement_duration_ms"].value == pytest.approx(200.0, abs=20.0)


def test_lasting_movements_are_not_brief():
    times = frame_times(60.0, 60.0)
    noise = 0.01 * np.random.default_rng(5).random(len(times))
    raised = noise + 0.6 * pulses(times, np.arange(3.0, 60.0, 6.0), 0.8)
    assert len(find_bursts(make_track(times, blendshapes={"browInnerUp": raised})).durations_s) == 0


def test_a_brief_movement_has_the_height_of_its_blendshapes():
    times = frame_times(60.0, 60.0)
    noise = 0.01 * np.random.default_rng(5).random(len(times))
    raised = noise + 0.74 * pulses(times, np.arange(3.0, 60.0, 6.0), 0.2)
    track = make_track(times, blendshapes={"browInnerUp": raised})
    peak = measure_indicators(track)["brief_movement_peak"].value
    assert peak == pytest.approx(0.74 / 37.0, rel=0.02)


def test_a_movement_that_is_cut_by_a_gap_was_not_seen_to_return():
    times = frame_times(60.0, 60.0)
    starts = np.arange(3.0, 60.0, 6.0)
    noise = 0.01 * np.random.default_rng(5).random(len(times))
    raised = noise + 0.6 * pulses(times, starts, 0.2)
    seen = ~pulses(times, starts[:4] + 0.1, 1.0)
    track = make_track(times, blendshapes={"browInnerUp": raised}, detected=seen)
    assert len(find_bursts(track).durations_s) == len(starts) - 4


def test_trembling_is_no_brief_movement():
    times = frame_times(60.0, 60.0)
    noise = 0.05 * np.random.default_rng(5).random(len(times))
    assert len(find_bursts(make_track(times, blendshapes={"browInnerUp": noise})).durations_s) == 0


def test_brows_move_briefly_by_geometry_and_not_with_the_mouth():
    times = frame_times(60.0, 60.0)
    starts = np.arange(3.0, 60.0, 6.0)
    rng = np.random.default_rng(5)
    points = resting_landmarks(len(times))
    for brow in (105, 334, 55, 285):
        move(points, brow, y=0.1 * rng.random(len(times)) - 4.0 * pulses(times, starts, 0.2))
    move(points, 14, y=0.1 * rng.random(len(times)) + 8.0 * pulses(times, starts + 2.0, 0.2))
    found = measure_indicators(make_track(times, landmarks=points))
    assert found["brief_brow_movement_rate_per_min"].value == pytest.approx(len(starts))


@pytest.mark.parametrize(
    ("fps", "note"),
    [
        (30.0, "below 50 frames/s: brief movements, of which the shortest are missed"),
        (59.94, "candidates for micro-expressions: brief by duration, no emotion was coded"),
    ],
)
def test_brief_movements_say_what_the_frame_rate_lets_them_be(fps, note):
    rate = measure_indicators(make_track(frame_times(60.0, fps)))["brief_movement_rate_per_min"]
    assert rate.value == 0.0
    assert rate.note == note


def test_brief_movements_need_25_frames_per_second():
    rate = measure_indicators(make_track(frame_times(60.0, 20.0)))["brief_movement_rate_per_min"]
    assert rate.value is None
    assert rate.reason == "Needs at least 25 frames per second, got 20.0"
    assert rate.coverage == 1.0


def test_the_mouth_needs_15_frames_per_second_and_reports_its_rms_speed():
    times = frame_times(20.0, 30.0)
    points = resting_landmarks(len(times))
    move(points, 14, y=5.0 + 4.0 * np.sin(np.pi * times))
    speed = measure_indicators(make_track(times, landmarks=points))["mouth_speed_per_s"]
    assert speed.value == pytest.approx(0.04 * np.pi / np.sqrt(2.0), rel=0.05)
    slow = measure_indicators(make_track(frame_times(20.0, 12.0)))["mouth_speed_per_s"]
    assert slow.value is None


def test_head_down_pitch_and_amplitude():
    times = frame_times(60.0, 30.0)
    pitch = np.where(times < 45.0, 5.0, -9.0)
    found = measure_indicators(
        make_track(times, pose_deg=np.stack([pitch, 0 * pitch, 0 * pitch], axis=1))
    )
    assert found["head_down_fraction"].value == pytest.approx(0.25, abs=0.01)
    assert found["head_pitch_deg"].value == pytest.approx(1.5, abs=0.05)
    assert found["head_amplitude_deg"].value == pytest.approx(14.0 * np.sqrt(3.0) / 4.0, rel=0.01)
    assert found["gaze_to_camera_fraction"].value == pytest.approx(0.75, abs=0.01)


def test_gaze_down_does_not_count_closed_eyes():
    times = frame_times(60.0, 30.0)
    down, closed = (times >= 30.0), (times >= 45.0)
    looking = np.where(down, 0.8, 0.2)
    found = measure_indicators(
        make_track(
            times,
            blendshapes={"eyeLookDownLeft": looking, "eyeLookDownRight": looking},
            landmarks=with_closing_eyes(times, closed),
        )
    )["gaze_down_fraction"]
    assert found.value == pytest.approx(15.0 / 45.0, abs=0.01)
    assert found.coverage == pytest.approx(0.75, abs=0.01)


def test_gaze_down_is_found_in_eyes_that_barely_show_it_and_in_those_that_never_rise():
    times = frame_times(60.0, 30.0)

    def fraction(looking: np.ndarray) -> float | None:
        shapes = {"eyeLookDownLeft": looking, "eyeLookDownRight": looking}
        track = make_track(times, blendshapes=shapes)
        return measure_indicators(track)["gaze_down_fraction"].value

    assert fraction(np.where(times >= 40.0, 0.27, 0.11)) == pytest.approx(1 / 3, abs=0.01)
    assert fraction(np.full(len(times), 0.7)) == 1.0
    assert fraction(np.full(len(times), 0.3)) == 0.0


def test_contempt_is_one_sided_and_outside_smiles():
    times = frame_times(60.0, 30.0)
    one_sided = 0.4 * pulses(times, np.arange(5, 60, 10), 1.0)
    lone = make_track(times, blendshapes={"mouthDimpleLeft": one_sided})
    both = make_track(times, blendshapes={"mouthDimpleLeft": one_sided,
                                          "mouthDimpleRight": one_sided})  # fmt: skip
    smile = make_track(
        times, blendshapes={"mouthDimpleLeft": one_sided, **smiling(times, one_sided > 0)}
    )
    assert measure_indicators(lone)["contempt_rate_per_min"].value == pytest.approx(6.0)
    assert measure_indicators(both)["contempt_rate_per_min"].value == 0.0
    assert measure_indicators(smile)["contempt_rate_per_min"].value == pytest.approx(0.0)


def test_a_face_that_is_uneven_at_rest_shows_contempt_against_its_own_rest():
    times = frame_times(60.0, 30.0)
    one_sided = 0.3 + 0.4 * pulses(times, np.arange(5, 60, 10), 1.0)
    found = measure_indicators(make_track(times, blendshapes={"mouthDimpleLeft": one_sided}))
    assert found["contempt_rate_per_min"].value == pytest.approx(6.0)


def test_a_still_face_has_no_expressivity_and_an_uneven_one_is_asymmetric():
    times = frame_times(20.0, 30.0)
    still = measure_indicators(make_track(times, blendshapes={"mouthSmileLeft": 0.5}))
    assert still["expressivity"].value == pytest.approx(0.0, abs=1e-9)
    assert still["change_rate_per_s"].value == pytest.approx(0.0, abs=1e-9)
    assert still["asymmetry"].value > 0.0
    even = {"mouthSmileLeft": 0.5, "mouthSmileRight": 0.5}
    assert measure_indicators(make_track(times, blendshapes=even))["asymmetry"].value == 0.0


def test_reactivity_asks_for_an_events_file():
    found = measure_indicators(make_track(frame_times(60.0, 30.0)))["reactivity"]
    assert found.value is None
    assert "events file" in (found.reason or "")


def test_without_a_face_every_indicator_says_why():
    times = frame_times(20.0, 60.0)
    found = measure_indicators(make_track(times, detected=np.zeros(len(times), dtype=bool)))
    assert all(item.value is None and item.reason for item in found.values())
    assert found["head_pitch_deg"].reason == "No face was in view"


def test_coverage_is_told_without_a_value_and_unknown_without_a_track():
    times = frame_times(60.0, 20.0)
    found = measure_indicators(make_track(times, detected=times < 45.0))
    assert found["blink_rate_per_min"].value is None
    assert found["blink_rate_per_min"].coverage == pytest.approx(0.75, abs=0.01)
    assert without_indicators("The file could not be read")["smile_peak"].coverage is None


def test_a_study_may_ask_for_more_seconds_for_rates_and_not_for_fewer():
    track = make_track(frame_times(20.0, 30.0))
    long = measure_indicators(track, limits=IndicatorLimits(rate_s=30.0))["smile_rate_per_min"]
    assert long.reason == "Needs at least 30 seconds in view, got 20.0"
    short = make_track(frame_times(10.0, 30.0))
    least = measure_indicators(short, limits=IndicatorLimits(rate_s=5.0))["smile_rate_per_min"]
    assert least.reason == "Needs at least 15 seconds in view, got 10.0"


def test_figures_do_not_depend_on_the_rate_of_a_studys_features():
    times = frame_times(60.0, 30.0)
    track = make_track(times, blendshapes=smiling(times, pulses(times, np.arange(5, 60, 15), 0.5)))
    slow = measure_indicators(track, behaviour_series(track, rate_hz=2.0))
    assert slow == measure_indicators(track)
    assert slow["smile_rate_per_min"].value == pytest.approx(4.0)


def test_one_single_frame_is_survived():
    found = measure_indicators(make_track(np.array([0.0])))
    assert found["smile_rate_per_min"].value is None
