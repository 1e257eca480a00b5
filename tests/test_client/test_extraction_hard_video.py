"""Poor recordings: what cannot be seen is missing and told, never made up."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from rendered_faces import encode
from rendered_script import plateau, tent

from client.extraction.pipeline import extract_recording
from client.extraction.track import BLENDSHAPES
from client.storage.frame_log import FrameOutcome
from simulation.commands import BehaviourCommand
from simulation.faces import render_frames

pytestmark = [pytest.mark.needs_model, pytest.mark.slow]

FPS = 25.0
GAP_S = (2.0, 3.2)
TWIN_GRID_HZ = 50.0
TWIN_S = 16.0
TWIN_SMILES_S = (2.0, 7.0, 12.0)
# Which of ten neighbours on the 50-Hz grid a camera that stutters delivers: every second one on
# average, 20 to 60 ms apart.
STUTTER = (1, 4, 5, 7, 8)


def times_of(duration_s: float, rate_hz: float = FPS) -> np.ndarray:
    return np.arange(round(duration_s * rate_hz)) / rate_hz


@pytest.fixture(scope="module")
def extract(face_model, tmp_path_factory):
    """Renders a command into a file and extracts it, each command once."""
    folder = tmp_path_factory.mktemp("hard")
    known: dict[str, object] = {}

    def extraction(name, command=None, *, options=(), **settings):
        if name not in known:
            rate_hz = command.rate_hz
            path = encode(render_frames(command), folder / f"{name}.mkv", rate_hz, options)
            known[name] = extract_recording(path, face_model, **settings)
        return known[name]

    return extraction


def codes(extraction) -> list[str]:
    return [reason.code for reason in extraction.quality.rejected_for]


def still(duration_s: float = 2.4, rate_hz: float = FPS, **behaviour) -> BehaviourCommand:
    return BehaviourCommand(duration_s, rate_hz, **behaviour)


def test_a_clean_rendered_video_is_accepted(extract):
    extraction = extract("clean", still())
    assert codes(extraction) == []
    assert extraction.quality.detection_rate == 1.0
    assert extraction.features is not None


@pytest.mark.parametrize(
    ("name", "behaviour", "reason"),
    [
        ("two_faces", {"faces": 2}, "two_faces"),
        ("dark", {"brightness": 0.08}, "too_dark"),
        ("washed_out", {"brightness": 2.5}, "too_bright"),
        ("covered", {"occlusion": 1.0}, "no_face"),
        ("gone", {"away": 1.0}, "no_face"),
    ],
)
def test_a_spoilt_video_is_rejected_for_its_reason(extract, name, behaviour, reason):
    extraction = extract(name, still(**behaviour))
    assert reason in codes(extraction)
    assert extraction.features is None


def test_a_blurred_video_is_rejected_before_its_brows_are_lost(extract):
    """From a blur of 4 pixels on, the brows no longer follow; sharpness tells 3 from 4."""
    usable = extract("blur_3", still(blur_px=3.0))
    lost = extract("blur_4", still(blur_px=4.0))
    assert codes(usable) == []
    assert codes(lost) == ["blurred"]


def gap_of(extraction) -> np.ndarray:
    """Frames well inside the time in which no face is there."""
    times = extraction.frames.timestamps_s
    return (times > GAP_S[0] + 0.2) & (times < GAP_S[1] - 0.2)


def with_gap(kind: str) -> BehaviourCommand:
    times = times_of(8.0)
    missing = plateau(times, GAP_S[0], GAP_S[1] - GAP_S[0], 0.1)
    return BehaviourCommand(8.0, FPS, smile=missing, gaze_down=missing, **{kind: missing})


@pytest.mark.parametrize("kind", ["occlusion", "away"])
def test_nothing_is_made_up_while_no_face_is_seen(extract, kind):
    extraction = extract(f"gap_{kind}", with_gap(kind))
    gap, log = gap_of(extraction), extraction.frames
    assert set(log.outcome[gap].tolist()) == {FrameOutcome.NO_FACE}
    assert np.isnan(log.blendshapes[gap]).all()
    assert np.isnan(log.head_pose_deg[gap]).all()
    assert np.isnan(log.signals[gap]).all()
    assert not log.faces[gap].any()
    assert (log.outcome[log.timestamps_s < GAP_S[0] - 0.1] == FrameOutcome.USED).all()
    assert (log.outcome[log.timestamps_s > GAP_S[1] + 0.3] == FrameOutcome.USED).all()


@pytest.mark.parametrize("kind", ["occlusion", "away"])
def test_a_gap_is_masked_and_lowers_the_coverage(extract, kind):
    extraction = extract(f"gap_{kind}", with_gap(kind))
    assert codes(extraction) == []
    rows = slice(round(10 * GAP_S[0]) + 2, round(10 * GAP_S[1]) - 2)
    assert not extraction.features.mask[0, rows].any()
    assert extraction.features.mask[0, : rows.start - 3].all()
    share = 1.0 - (GAP_S[1] - GAP_S[0]) / 8.0
    for name in ("smile_time_fraction", "corner_elevation", "head_pitch_deg", "expressivity"):
        assert extraction.indicators[name].coverage == pytest.approx(share, abs=0.04), name


@pytest.mark.parametrize("kind", ["occlusion", "away"])
def test_what_happens_behind_a_cover_is_not_measured(extract, kind):
    """The face smiles and looks down only while it cannot be seen."""
    found = extract(f"gap_{kind}", with_gap(kind)).indicators
    assert found["smile_time_fraction"].value == 0.0
    assert found["gaze_down_fraction"].value < 0.03


def test_a_face_missing_for_long_rejects_the_recording(extract):
    times = times_of(4.0)
    gone = plateau(times, 1.0, 2.0, 0.1)
    assert codes(extract("long_gap", BehaviourCommand(4.0, FPS, away=gone))) == ["face_missing"]


def three_smiles(times: np.ndarray) -> np.ndarray:
    return np.sum([plateau(times, start_s, 2.0, 0.4) for start_s in TWIN_SMILES_S], axis=0)


def test_a_low_frame_rate_leaves_out_what_it_cannot_show(extract):
    times = times_of(TWIN_S, 12.0)
    jaw = 0.4 * np.abs(np.sin(6 * np.pi * times)) * plateau(times, 4.5, 2.0, 0.2)
    command = BehaviourCommand(
        TWIN_S, 12.0, smile=three_smiles(times), jaw=jaw, blinks_s=(1.0, 5.0, 6.0, 10.5, 15.0)
    )
    extraction = extract("slow", command)
    found = extraction.indicators
    assert codes(extraction) == []
    for name in ("mouth_speed_per_s", "blink_rate_per_min", "blink_interval_s",
                 "brief_movement_rate_per_min", "brief_movement_duration_ms"):  # fmt: skip
        assert found[name].value is None, name
        assert "frames per second, got 12" in found[name].reason, name
    assert found["smile_rate_per_min"].value == pytest.approx(60 * 3 / TWIN_S, rel=0.02)
    assert found["smile_duration_s"].value == pytest.approx(1.6, abs=0.25)


def test_too_low_a_frame_rate_rejects_the_recording(extract):
    extraction = extract("very_slow", still(4.0, 5.0))
    assert codes(extraction) == ["low_frame_rate"]
    assert extraction.indicators["blink_rate_per_min"].value is None


def twin() -> BehaviourCommand:
    times = times_of(TWIN_S, TWIN_GRID_HZ)
    return BehaviourCommand(
        TWIN_S, TWIN_GRID_HZ, smile=three_smiles(times), blinks_s=(1.0, 5.0, 10.4),
        gaze_down=plateau(times, 4.6, 2.0, 0.12).clip(0, 1),
        pitch_deg=-18.0 * plateau(times, 9.4, 2.4, 0.5),
        jaw=0.3 * plateau(times, 14.2, 1.6, 0.2) * np.abs(np.sin(4 * np.pi * times)),
    )  # fmt: skip


def select(kept: tuple[int, ...], of: int) -> tuple[str, ...]:
    """Options that keep some frames of each run, each with its own time."""
    chosen = "+".join(f"eq(mod(n,{of}),{index})" for index in kept)
    return ("-vf", f"select='{chosen}'", "-fps_mode", "vfr")


@dataclass(frozen=True)
class Tolerance:
    """How far the figures of a stuttering camera may lie from those of a steady one."""

    relative: float
    absolute: float


# Speeds suffer most: a step of 60 ms is shared out among samples of 100 ms. Of brief movements a
# quarter of a minute holds one to three, and 60 ms decide whether one is brief.
TWIN_TOLERANCE = {
    "mouth_speed_per_s": Tolerance(0.1, 0.0),
    "jaw_speed_per_s": Tolerance(0.2, 0.0),
    "brief_movement_rate_per_min": Tolerance(0.0, 8.0),
    "brief_movement_duration_ms": Tolerance(0.0, 160.0),
    "brief_brow_movement_rate_per_min": Tolerance(0.0, 8.0),
}
USUAL_TOLERANCE = Tolerance(0.05, 0.01)


def test_a_variable_frame_rate_gives_the_figures_of_its_steady_twin(extract):
    steady = extract("steady", twin(), options=select((0, 2, 4, 6, 8), 10))
    stutter = extract("stutter", twin(), options=select(STUTTER, 10))
    steps = np.diff(stutter.frames.timestamps_s)
    assert steps.min() == pytest.approx(0.02, abs=0.002)
    assert steps.max() == pytest.approx(0.06, abs=0.002)
    assert stutter.quality.fps == pytest.approx(steady.quality.fps, rel=0.01)
    assert codes(stutter) == codes(steady) == []
    for name, found in steady.indicators.items():
        other = stutter.indicators[name]
        limit = TWIN_TOLERANCE.get(name, USUAL_TOLERANCE)
        assert (other.value is None) == (found.value is None), name
        if found.value is not None:
            allowed = max(limit.absolute, limit.relative * abs(found.value))
            assert abs(other.value - found.value) <= allowed, (name, found.value, other.value)


def test_peaks_stay_at_their_times_however_the_camera_stutters(extract):
    log = extract("stutter", twin(), options=select(STUTTER, 10)).frames
    smile = log.blendshapes[:, BLENDSHAPES.index("mouthSmileLeft")].astype(float)
    for start_s in TWIN_SMILES_S:
        high = log.timestamps_s[(smile > 0.5) & (np.abs(log.timestamps_s - start_s - 1.0) < 1.5)]
        assert high.mean() == pytest.approx(start_s + 1.0, abs=2 / FPS)


FADING_TOLERANCE = {
    "smile_peak": 0.05,
    "smile_time_fraction": 0.04,
    "corner_elevation": 0.01,
    "gaze_down_fraction": 0.05,
    "head_pitch_deg": 2.0,
}


def test_light_that_fades_changes_no_figure(extract):
    times = times_of(4.0)
    smiles = tent(times, 1.0, 0.5) + tent(times, 3.0, 0.5)
    dimmer = np.interp(times, [0, 4], [1, 0.35])
    fading = BehaviourCommand(4.0, FPS, smile=smiles, brightness=dimmer)
    lit = extract("lit", BehaviourCommand(4.0, FPS, smile=smiles))
    faded = extract("fading", fading)
    assert codes(faded) == []
    peaks = faded.frames.blendshapes[:, BLENDSHAPES.index("mouthSmileLeft")].astype(float)
    first, last = peaks[times < 2].max(), peaks[times >= 2].max()
    assert last == pytest.approx(first, abs=0.08)
    for name, absolute in FADING_TOLERANCE.items():
        told, seen = lit.indicators[name].value, faded.indicators[name].value
        assert seen == pytest.approx(told, abs=absolute), name


PLAUSIBLE = {"1": (0.0, 1.0), "1/min": (0.0, 120.0), "s": (0.0, 60.0), "ms": (0.0, 1000.0),
             "1/s": (0.0, 20.0), "deg": (-60.0, 60.0), "deg/s": (0.0, 400.0),
             "IOD": (-0.5, 0.5)}  # fmt: skip
SIGNED = {"corner_elevation", "smile_eye_narrowing"}


@pytest.mark.parametrize(
    "name",
    ["single_face_30fps.mp4", "face_then_none_vfr.mov", "no_face.mp4", "nod_30fps.mkv",
     "talking_man_24fps.mp4", "truncated.mkv", "two_faces_12fps.gif", "empty.mp4"],
)  # fmt: skip
def test_figures_of_real_recordings_are_plausible_or_missing_with_a_reason(
    assets, face_model, name
):
    extraction = extract_recording(assets / "videos" / name, face_model)
    for indicator, found in extraction.indicators.items():
        assert (found.value is None) == (found.reason is not None), indicator
        assert found.coverage is None or 0.0 <= found.coverage <= 1.0, indicator
        if found.value is not None:
            low, high = PLAUSIBLE[found.unit]
            low = -1.0 if indicator in SIGNED else low
            assert math.isfinite(found.value), indicator
            assert low <= found.value <= high, (indicator, found.value)
    if extraction.frames is not None:
        log = extraction.frames
        assert (np.diff(log.timestamps_s) > 0).all()
        unseen = log.outcome == FrameOutcome.NO_FACE
        assert np.isnan(log.signals[unseen]).all()
        assert np.isfinite(log.signals[log.outcome == FrameOutcome.USED]).all()
