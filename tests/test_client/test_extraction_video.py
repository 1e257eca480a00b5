"""Decoding: order, timestamps, bounded memory and files that are no videos."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from client.extraction import video
from client.extraction.container import refuse_huge
from client.extraction.inspector import light_and_sharpness
from client.extraction.video import Sampler, VideoError, VideoReader, probe_video, read_frames


def write_video(path: Path, *, frames: int = 20, fps: float = 25.0) -> Path:
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (64, 48))
    for index in range(frames):
        image = np.zeros((48, 64, 3), dtype=np.uint8)
        image[..., 2] = 10 * index  # red, in OpenCV's order
        writer.write(image)
    writer.release()
    return path


def test_frames_come_in_order_as_rgb_with_their_times(tmp_path):
    frames = list(read_frames(write_video(tmp_path / "red.avi")))
    times = [frame.timestamp_s for frame in frames]
    assert times == pytest.approx([0.04 * n for n in range(20)])
    reds = [frame.image[..., 0].mean() for frame in frames]
    assert np.all(np.diff(reds) > 5.0)
    assert frames[-1].image[..., 2].mean() < 20.0


def test_the_header_says_what_it_promises(tmp_path):
    header = probe_video(write_video(tmp_path / "red.avi"))
    assert (header.width_px, header.height_px) == (64, 48)
    assert (header.frame_count_promised, header.fps) == (20, 25.0)
    assert header.duration_promised_s == pytest.approx(0.8)


def test_few_frames_wait_however_slow_the_reader(tmp_path, monkeypatch):
    decoded = []
    original = video.Frame

    def counting(*args: object) -> video.Frame:
        decoded.append(1)
        return original(*args)

    monkeypatch.setattr(video, "Frame", counting)
    frames = read_frames(write_video(tmp_path / "red.avi", frames=24))
    next(frames)
    time.sleep(0.3)
    # One with the reader, the queue, and one in the decoder's hand.
    assert len(decoded) <= video.QUEUED_FRAMES + 2
    frames.close()


def test_a_reader_that_stops_early_leaves_no_thread(tmp_path):
    before = set(threading.enumerate())
    frames = read_frames(write_video(tmp_path / "red.avi", frames=24))
    next(frames)
    frames.close()
    assert set(threading.enumerate()) <= before


@dataclass
class FakeFrame:
    """A frame whose timestamp is given."""

    time: float | None


@pytest.mark.parametrize(
    ("stamps_s", "expected_s"),
    [
        ([0.0, 0.04, 0.04, 0.08], [0.0, 0.04, 0.041, 0.08]),
        ([0.0, 0.04, 0.03, 0.08], [0.0, 0.04, 0.041, 0.08]),
        ([None, None, None], [0.0, 0.04, 0.08]),
        ([1.4, 1.44, 1.48], [0.0, 0.04, 0.08]),
    ],
)
def test_times_count_from_the_first_frame_and_strictly_increase(stamps_s, expected_s):
    frames = iter([FakeFrame(stamp) for stamp in stamps_s])
    assert [time for time, _ in video._timed(frames, fps=25.0)] == pytest.approx(expected_s)


def test_an_error_in_the_decoder_reaches_the_reader(tmp_path, monkeypatch):
    def failing(reader: object, opened: object) -> None:
        msg = "disk gone"
        raise OSError(msg)

    monkeypatch.setattr(VideoReader, "_frames", failing)
    with pytest.raises(OSError, match="disk gone"):
        list(read_frames(write_video(tmp_path / "red.avi")))


def test_a_recording_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MOST_FRAMES", 12)
    with pytest.raises(VideoError, match=r"at most 12 frames in red\.avi"):
        list(read_frames(write_video(tmp_path / "red.avi")))


@pytest.mark.parametrize(
    ("analysis_hz", "expected"),
    [
        (None, list(range(20))),
        (25.0, list(range(20))),
        (60.0, list(range(20))),
        (12.5, list(range(0, 20, 2))),
        (10.0, [0, 2, 5, 7, 10, 12, 15, 17]),
    ],
)
def test_only_as_many_frames_are_handed_out_as_are_analysed(tmp_path, analysis_hz, expected):
    reader = VideoReader(write_video(tmp_path / "red.avi"), analysis_hz=analysis_hz)
    times = [frame.timestamp_s for frame in reader]
    assert times == pytest.approx([0.04 * n for n in expected])
    assert reader.decoded_s == pytest.approx([0.04 * n for n in range(20)])
    assert set(times) <= set(reader.decoded_s)


def test_a_jittering_camera_loses_no_frame_at_its_own_rate():
    rng = np.random.default_rng(5)
    stamps = np.arange(50) / 25.0 + rng.uniform(-0.004, 0.004, 50)
    sampler = Sampler(25.0)
    assert all(sampler.take(float(stamp)) for stamp in stamps - stamps[0])


@pytest.mark.parametrize("content", [b"", b"no video at all"])
def test_a_file_that_is_no_video_says_what_to_do(tmp_path, content):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"broken\.mp4 .*(Copy it again|ffmpeg)"):
        probe_video(path)


def test_the_decoders_own_messages_do_not_reach_the_terminal(tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    script = (
        "import sys; from pathlib import Path; from client.extraction.video import *\n"
        "try: probe_video(Path(sys.argv[1]))\n"
        "except VideoError: print('refused')"
    )
    # A fresh process, because the decoder reads its level once, at its first use.
    done = subprocess.run(
        [sys.executable, "-c", script, str(broken)], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(VideoError, match=r"found none at .*gone\.mp4"):
        next(read_frames(tmp_path / "gone.mp4"))


def test_a_sharp_face_is_sharper_than_a_blurred_one_at_any_size():
    import cv2

    rng = np.random.default_rng(6)
    coarse = rng.integers(0, 255, size=(24, 24, 3), dtype=np.uint8)
    sharp = cv2.resize(coarse, (240, 240), interpolation=cv2.INTER_CUBIC)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 8.0)
    points = np.array([[0.1, 0.1], [0.9, 0.9]])
    assert light_and_sharpness(sharp, points)[1] > 10 * light_and_sharpness(blurred, points)[1]
    double = cv2.resize(sharp, (480, 480), interpolation=cv2.INTER_CUBIC)
    ratio = light_and_sharpness(double, points)[1] / light_and_sharpness(sharp, points)[1]
    assert 0.7 < ratio < 1.4


def test_brightness_is_that_of_the_face_alone():
    image = np.full((100, 100, 3), 250, dtype=np.uint8)
    image[30:70, 30:70] = 60
    brightness, _ = light_and_sharpness(image, np.array([[0.3, 0.3], [0.7, 0.7]]))
    assert brightness == pytest.approx(60.0)
    outside = light_and_sharpness(image, np.array([[1.2, 1.2], [1.4, 1.4]]))
    assert np.isnan(outside).all()


def frames_and_times(path: Path) -> np.ndarray:
    return np.array([frame.timestamp_s for frame in read_frames(path)])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("single_face_30fps.mp4", 72),
        ("face_then_none_vfr.mov", 169),
        ("no_face.mp4", 95),
        ("nod_30fps.mkv", 65),
        ("two_faces_12fps.gif", 56),
        ("truncated.mkv", 25),
    ],
)
def test_real_files_decode_completely_with_increasing_times(assets, name, count):
    times = frames_and_times(assets / "videos" / name)
    assert len(times) == count
    assert np.diff(times).min() >= 0.001 - 1e-9


def test_a_variable_frame_rate_keeps_its_real_times(assets):
    times = frames_and_times(assets / "videos" / "face_then_none_vfr.mov")
    intervals = np.diff(times)
    assert intervals.max() > 1.2 * intervals.min()
    assert len(intervals) / (times[-1] - times[0]) == pytest.approx(26.4, abs=0.1)


def test_a_picture_larger_than_any_cameras_is_refused():
    with pytest.raises(VideoError, match="at most 8192 x 8192 pixels, got 16384 x 8192"):
        refuse_huge(16_384, 8_192)
    refuse_huge(7_680, 4_320)
