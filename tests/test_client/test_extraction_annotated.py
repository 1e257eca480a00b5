"""Indicators that take notes beside the video: stimuli, talk turns, a pupil diameter."""

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

from client.extraction.behaviour.indicators import measure_indicators
from client.extraction.behaviour.measures import FACE
from client.recordings.annotations import Annotations, Stimulus, Turn

TIMES = frame_times(120.0, 30.0)


def after(onset_s: float, delay_s: float = 0.0, height: float = 0.74) -> np.ndarray:
    """A jaw that opens some time after a stimulus and closes ten seconds after it."""
    return np.where((onset_s + delay_s <= TIMES) & (onset_s + 10.0 > TIMES), height, 0.0)


def reacting(jaw: np.ndarray, stimuli: list[Stimulus], **arguments):
    track = make_track(TIMES, blendshapes={"jawOpen": jaw}, **arguments)
    return measure_indicators(track, annotations=Annotations(stimuli=tuple(stimuli)))


def test_a_reaction_is_the_mean_after_a_stimulus_minus_the_mean_before():
    shown = [Stimulus(20.0, 2.0, "positive"), Stimulus(60.0, 2.0, "negative")]
    found = reacting(after(20.0) + after(60.0, height=0.37), shown)
    # One of 37 blendshapes moves by 0.74 and by 0.37, so activity changes by 0.02 and by 0.01.
    assert len(FACE) == 37
    assert found["reactivity_positive"].value == pytest.approx(0.02, rel=0.02)
    assert found["reactivity_negative"].value == pytest.approx(0.01, rel=0.02)
    assert found["reactivity"].value == pytest.approx(0.015, rel=0.02)
    assert found["reactivity"].note == "2 of 2 stimuli counted"
    assert found["reactivity"].coverage == pytest.approx(1.0)


def test_a_smile_after_a_positive_stimulus_is_told_apart_from_other_reactions():
    smile = np.where((TIMES >= 20.0) & (TIMES < 30.0), 0.6, 0.1)
    track = make_track(TIMES, blendshapes={"mouthSmileLeft": smile, "mouthSmileRight": smile})
    notes = Annotations(stimuli=(Stimulus(20.0, 2.0, "positive"),))
    found = measure_indicators(track, annotations=notes)["smile_reactivity_positive"]
    assert found.value == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("delay_s", [0.5, 2.0, 6.0])
def test_the_latency_is_the_commanded_one(delay_s):
    shown = [Stimulus(20.0, 2.0, "positive"), Stimulus(60.0, 2.0, "positive")]
    found = reacting(after(20.0, delay_s) + after(60.0, delay_s), shown)["reactivity_latency_s"]
    assert found.value == pytest.approx(delay_s, abs=0.1)
    assert found.note == "2 of 2 stimuli counted; 2 followed by a rise"


def test_no_rise_has_no_latency():
    found = reacting(0 * TIMES, [Stimulus(20.0, 2.0, "positive")])["reactivity_latency_s"]
    assert found.value is None
    assert found.reason == "No stimulus was followed by a rise; 1 of 1 stimuli counted"


@pytest.mark.parametrize(
    "other",
    [
        Stimulus(4.0, 1.0, "positive"),
        Stimulus(111.0, 1.0, "positive"),
    ],
)
def test_stimuli_at_the_edges_are_dropped_and_told(other):
    found = reacting(after(50.0), [Stimulus(50.0, 2.0, "positive"), other])["reactivity"]
    assert found.note == ("1 of 2 stimuli counted; 1 too close to an edge or to another stimulus")
    assert found.value == pytest.approx(0.02, rel=0.02)
    assert found.coverage == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("second", "counted"),
    [
        (Stimulus(58.0, 1.0, "negative"), 0),
        (Stimulus(62.0, 1.0, "negative"), 1),
        (Stimulus(65.0, 1.0, "negative"), 2),
        (Stimulus(50.0, 1.0, "negative"), 0),
    ],
)
def test_stimuli_that_disturb_one_another_are_dropped(second, counted):
    found = reacting(after(50.0), [Stimulus(50.0, 2.0, "positive"), second])["reactivity"]
    if counted:
        assert (found.note or "").startswith(f"{counted} of 2 stimuli counted")
    else:
        assert found.value is None
        assert found.reason == (
            "0 of 2 stimuli counted; 2 too close to an edge or to another stimulus"
        )


def test_a_film_that_still_runs_is_no_baseline():
    film = Stimulus(20.0, 60.0, "positive")
    found = reacting(after(70.0), [film, Stimulus(70.0, 2.0, "negative")])
    assert found["reactivity_negative"].value is None
    assert found["reactivity_positive"].note == "1 of 1 stimuli counted"


def test_a_stimulus_with_the_face_out_of_view_is_told():
    seen = ~((TIMES >= 50.0) & (TIMES < 56.0))
    shown = [Stimulus(20.0, 2.0, "positive"), Stimulus(50.0, 2.0, "positive")]
    found = reacting(after(20.0), shown, detected=seen)["reactivity"]
    assert found.note == "1 of 2 stimuli counted; 1 with the face out of view"


def test_without_stimuli_the_reason_names_what_is_missing():
    camera = [Stimulus(20.0, 5.0, "camera")]
    assert reacting(0 * TIMES, camera)["reactivity"].reason == (
        "Needs an events file that says when each stimulus was shown"
    )
    neutral = [Stimulus(20.0, 5.0, "neutral")]
    found = reacting(0 * TIMES, neutral)["reactivity_positive"]
    assert found.reason == "The events file has no stimulus 'positive'"
    assert found.coverage is None


def test_the_camera_is_where_the_subject_looked_when_asked_to():
    asked = (TIMES >= 10.0) & (TIMES < 16.0)
    yaw = np.where(asked | (TIMES >= 100.0), 0.0, 20.0)
    track = make_track(TIMES, pose_deg=np.stack([0 * yaw, yaw, 0 * yaw], axis=1))
    plain = measure_indicators(track)
    assert plain["gaze_to_camera_fraction"].value == pytest.approx(94.0 / 120.0, abs=0.01)
    assert "for want of a stretch labelled camera" in (plain["gaze_to_camera_fraction"].note or "")
    notes = Annotations(stimuli=(Stimulus(10.0, 6.0, "camera"),))
    found = measure_indicators(track, annotations=notes)
    assert found["gaze_to_camera_fraction"].value == pytest.approx(26.0 / 120.0, abs=0.01)
    assert found["gaze_to_camera_bout_s"].value == pytest.approx(13.0, abs=0.2)
    assert "asked to face the camera" in (found["gaze_to_camera_fraction"].note or "")


TURNS = Annotations(
    turns=(Turn(0.0, 40.0, "subject"), Turn(30.0, 90.0, "other"), Turn(90.0, 120.0, "subject"))
)
TALKING = (TIMES < 30.0) | (TIMES >= 90.0)
LISTENING = (TIMES >= 40.0) & (TIMES < 90.0)


def test_talking_and_listening_are_apart_and_overlap_is_neither():
    both_talk = ~TALKING & ~LISTENING
    face = resting_landmarks(len(TIMES))
    wave = np.sin(np.pi * TIMES)
    move(face, 14, y=5.0 + wave * (4.0 * TALKING + 1.0 * LISTENING + 8.0 * both_talk))
    smile = np.where(LISTENING & (TIMES >= 80.0), 0.8, np.where(TIMES < 15.0, 0.8, 0.1))
    yaw = np.where(LISTENING, 0.0, 20.0)
    track = make_track(
        TIMES,
        blendshapes={"mouthSmileLeft": smile, "mouthSmileRight": smile},
        landmarks=face,
        pose_deg=np.stack([0 * yaw, yaw, 0 * yaw], axis=1),
    )
    camera = Annotations(stimuli=(Stimulus(50.0, 20.0, "camera"),), turns=TURNS.turns)
    found = measure_indicators(track, annotations=camera)
    # Mesh points of a head turned by 20 degrees are drawn flat here, so only ratios are exact.
    slow, fast = (found[f"mouth_speed_{floor}_per_s"].value for floor in ("listening", "talking"))
    assert slow == pytest.approx(0.01 * np.pi / np.sqrt(2.0), rel=0.05)
    assert fast == pytest.approx(4.0 * slow, rel=0.05)
    assert found["smile_time_fraction_talking"].value == pytest.approx(15.0 / 60.0, abs=0.01)
    assert found["smile_time_fraction_listening"].value == pytest.approx(10.0 / 50.0, abs=0.01)
    assert found["gaze_to_camera_fraction_talking"].value == pytest.approx(0.0, abs=0.01)
    assert found["gaze_to_camera_fraction_listening"].value == pytest.approx(1.0, abs=0.01)


def test_the_coverage_of_talking_is_a_share_of_the_talking():
    seen = TIMES >= 15.0
    track = make_track(TIMES, detected=seen)
    found = measure_indicators(track, annotations=TURNS)
    assert found["smile_time_fraction_talking"].coverage == pytest.approx(0.75, abs=0.01)
    assert found["smile_time_fraction_listening"].coverage == pytest.approx(1.0)


def test_the_rest_is_taken_from_where_the_turns_let_the_subject_be_silent():
    frown = np.where(TALKING, 0.4, 0.1)
    track = make_track(TIMES, blendshapes={"browDownLeft": frown, "browDownRight": frown})
    notes = Annotations(turns=(*TURNS.turns, Turn(0.0, 5.0, "other")))
    found = measure_indicators(track, annotations=notes)["brow_lowering"]
    assert found.value == pytest.approx(0.3 * TALKING.mean(), abs=0.01)


def test_turns_are_missing_or_too_short_with_a_reason():
    track = make_track(TIMES)
    missing = measure_indicators(track)["mouth_speed_talking_per_s"]
    assert (missing.reason, missing.coverage) == ("Needs a talk-turn file", None)
    silent = Annotations(turns=(Turn(0.0, 100.0, "other"), Turn(100.0, 110.0, "subject")))
    short = measure_indicators(track, annotations=silent)["mouth_speed_talking_per_s"]
    assert short.reason == "Needs at least 15 seconds of talking in view, got 10.0"
    only = Annotations(turns=(Turn(0.0, 100.0, "other"),))
    none = measure_indicators(track, annotations=only)["smile_time_fraction_talking"]
    assert none.reason == "The talk turns hold no talking"


def test_blinks_are_counted_in_talking_and_in_listening():
    times = frame_times(400.0, 30.0)
    starts = np.concatenate([np.arange(2.0, 200.0, 2.0), np.arange(202.0, 400.0, 4.0)])
    track = make_track(times, landmarks=with_closing_eyes(times, pulses(times, starts, 0.15)))
    notes = Annotations(turns=(Turn(0.0, 200.0, "subject"), Turn(200.0, 400.0, "other")))
    found = measure_indicators(track, annotations=notes)
    assert found["blink_rate_talking_per_min"].value == pytest.approx(30.0, rel=0.02)
    assert found["blink_rate_listening_per_min"].value == pytest.approx(15.0, rel=0.02)
    assert found["blink_rate_per_min"].value == pytest.approx(22.5, rel=0.02)


def test_the_pupil_is_unsupported_or_imported():
    track = make_track(frame_times(5.0, 30.0))
    plain = measure_indicators(track)["pupil_diameter_mm"]
    assert (plain.value, plain.coverage) == (None, None)
    assert "Unsupported by video" in (plain.reason or "")
    imported = measure_indicators(track, annotations=Annotations(pupil_mm=3.4))
    assert imported["pupil_diameter_mm"].value == 3.4
    assert imported["pupil_diameter_mm"].note == "imported, not taken from the video"
