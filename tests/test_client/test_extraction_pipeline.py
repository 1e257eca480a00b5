"""Real recordings from file to verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.extraction.face import FaceTracker
from client.extraction.face_model import FACE_MODEL_SHA256, sha256_of_file
from client.extraction.landmarker import _detect_directly, _detect_publicly
from client.extraction.pipeline import (
    Extraction,
    UnsteadyFileError,
    annotations_digest,
    extract_recording,
)
from client.extraction.quality import QualityThresholds
from client.extraction.track import LANDMARKS, FaceTrack
from client.extraction.video import read_frames
from client.recordings.annotations import NO_ANNOTATIONS, Annotations
from client.storage.frame_log import FrameOutcome
from shared_models.features import BEHAVIOUR

pytestmark = pytest.mark.needs_model


@pytest.fixture(scope="module")
def extracted(assets, face_model):
    known: dict[str, Extraction] = {}

    def extraction(name: str) -> Extraction:
        if name not in known:
            known[name] = extract_recording(assets / "videos" / name, face_model)
        return known[name]

    return extraction


def track_of(path: Path, face_model: Path) -> FaceTrack:
    with FaceTracker(face_model) as tracker:
        return tracker.track(read_frames(path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("talking_man_24fps.mp4", []),
        ("nod_30fps.mkv", []),
        ("single_face_30fps.mp4", []),
        ("no_face.mp4", ["no_face"]),
        ("face_then_none_vfr.mov", ["face_missing"]),
        ("two_faces_12fps.gif", ["two_faces", "face_too_small"]),
        ("truncated.mkv", ["truncated", "too_short"]),
        ("empty.mp4", ["unreadable"]),
    ],
)
def test_the_verdict_and_all_its_reasons(extracted, name, expected):
    extraction = extracted(name)
    assert [reason.code for reason in extraction.quality.rejected_for] == expected
    assert (extraction.features is None) == bool(expected)


@pytest.mark.parametrize(
    ("name", "frames", "with_face_percent"),
    [
        ("talking_man_24fps.mp4", 472, 100.0),
        ("single_face_30fps.mp4", 72, 100.0),
        ("face_then_none_vfr.mov", 169, 43.2),
        ("no_face.mp4", 95, 0.0),
        ("truncated.mkv", 25, 100.0),
    ],
)
def test_frames_and_faces_are_those_counted_by_hand(extracted, name, frames, with_face_percent):
    quality = extracted(name).quality
    assert quality.frames == frames
    assert 100.0 * quality.detection_rate == pytest.approx(with_face_percent, abs=0.6)


def test_clips_hold_the_whole_recording(extracted):
    features = extracted("talking_man_24fps.mp4").features
    assert features.values.shape == (2, 150, len(BEHAVIOUR.names))
    assert features.mask[0].all()
    assert features.mask[1, :46].all()
    assert not features.mask[1, 48:].any()
    low = np.array([feature.low for feature in BEHAVIOUR.features])
    high = np.array([feature.high for feature in BEHAVIOUR.features])
    inside = (features.values >= low) & (features.values <= high)
    assert inside[features.mask].mean() > 0.98


def test_the_smile_in_the_recording_is_found(extracted):
    found = extracted("talking_man_24fps.mp4").indicators
    assert found["smile_peak"].value > 0.9
    assert found["smile_time_fraction"].value > 0.5
    assert found["blink_rate_per_min"].value is None


def test_a_short_recording_has_no_rates_but_has_levels(extracted):
    found = extracted("nod_30fps.mkv").indicators
    assert found["smile_rate_per_min"].value is None
    assert found["head_amplitude_deg"].value > 5.0
    assert found["head_speed_deg_s"].value > 15.0


def test_a_nod_moves_pitch_most_and_chin_up_moves_the_nose_up(assets, face_model):
    track = track_of(assets / "videos" / "nod_30fps.mkv", face_model)
    spread = np.nanstd(track.head_pose_deg, axis=0)
    assert spread[0] > 3.0 * max(spread[1], spread[2])
    nose_y = track.landmarks[:, LANDMARKS.index(1), 1]
    assert np.corrcoef(track.head_pose_deg[:, 0], nose_y)[0, 1] < -0.8


def test_provenance_names_what_the_numbers_were_made_from(extracted, assets):
    known = extracted("nod_30fps.mkv").provenance
    assert known["file_sha256"] == sha256_of_file(assets / "videos" / "nod_30fps.mkv")
    assert known["schema_digest"] == BEHAVIOUR.digest
    assert known["face_model_sha256"] == FACE_MODEL_SHA256
    assert known["frames"] == 65
    assert known["packages"]["mediapipe"].startswith("1.")


def test_the_same_recording_gives_the_same_numbers_twice(extracted, assets, face_model):
    again = extract_recording(assets / "videos" / "nod_30fps.mkv", face_model)
    first = extracted("nod_30fps.mkv")
    assert np.array_equal(first.features.values, again.features.values)
    assert first.indicators == again.indicators
    assert first.quality == again.quality


def test_reading_arrays_from_memory_gives_the_public_numbers(assets, face_model):
    import mediapipe

    def faces(detect):
        with FaceTracker(face_model) as tracker:
            for frame in read_frames(assets / "videos" / "truncated.mkv"):
                picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=frame.image)
                yield detect(tracker._follower, picture, round(1000 * frame.timestamp_s))

    pairs = list(zip(faces(_detect_directly), faces(_detect_publicly), strict=True))
    assert len(pairs) == 25
    for direct, public in pairs:
        assert np.array_equal(direct.landmarks, public.landmarks)
        assert np.array_equal(direct.blendshapes, public.blendshapes)
        assert np.array_equal(direct.head_matrix, public.head_matrix)


def test_thresholds_and_clips_are_the_callers(assets, face_model):
    extraction = extract_recording(
        assets / "videos" / "truncated.mkv",
        face_model,
        thresholds=QualityThresholds(min_decoded_fraction=0.3, min_duration_s=0.5),
        clip_s=4.0,
        rate_hz=5.0,
    )
    assert extraction.quality.accepted
    assert extraction.features.values.shape == (1, 20, len(BEHAVIOUR.names))
    assert extraction.features.schema_digest == extraction.provenance["schema_digest"]
    assert extraction.features.schema_digest != BEHAVIOUR.digest


def test_half_of_the_frames_give_nearly_the_same_figures(extracted, assets, face_model):
    whole = extracted("talking_man_24fps.mp4")
    told: list[int] = []
    half = extract_recording(
        assets / "videos" / "talking_man_24fps.mp4",
        face_model,
        analysis_hz=12.0,
        on_frame=told.append,
    )
    assert (half.quality.frames, half.quality.analysed_frames) == (472, 236)
    assert half.quality.fps == pytest.approx(12.0, abs=0.1)
    assert half.quality.decoded_fps == whole.quality.fps
    assert half.quality.accepted
    assert len(half.frames) == 472
    assert (half.frames.outcome == FrameOutcome.NOT_ANALYSED).sum() == 236
    assert told[-1] >= 471
    assert told == sorted(told)
    smile = BEHAVIOUR.names.index("smile")
    pitch = BEHAVIOUR.names.index("head_pitch")
    both = half.features.mask & whole.features.mask
    apart = np.abs(half.features.values - whole.features.values)
    assert np.median(apart[..., smile][both[..., smile]]) < 0.02
    assert np.median(apart[..., pitch][both[..., pitch]]) < 0.5
    for name in ("smile_time_fraction", "head_pitch_deg", "corner_elevation"):
        assert half.indicators[name].value == pytest.approx(
            whole.indicators[name].value, rel=0.15, abs=0.02
        )


def test_a_file_that_grows_while_it_is_read_is_no_verdict(assets, face_model, tmp_path):
    path = tmp_path / "copying.mkv"
    data = (assets / "videos" / "truncated.mkv").read_bytes()
    path.write_bytes(data)

    def go_on_copying(frames: int) -> None:
        if frames > 0 and path.stat().st_size == len(data):
            with path.open("ab") as file:
                file.write(b"more")

    with pytest.raises(UnsteadyFileError, match=r"copying\.mkv to stay as it is"):
        extract_recording(path, face_model, on_frame=go_on_copying)


def test_provenance_tells_size_and_time_of_the_file_and_the_notes(extracted, assets):
    known = extracted("nod_30fps.mkv").provenance
    found = (assets / "videos" / "nod_30fps.mkv").stat()
    assert (known["file_bytes"], known["file_mtime_ns"]) == (found.st_size, found.st_mtime_ns)
    assert known["annotations_digest"] == annotations_digest(NO_ANNOTATIONS)
    assert known["annotations_digest"] != annotations_digest(Annotations(pupil_mm=3.0))
    assert known["codec"] == "h264"
