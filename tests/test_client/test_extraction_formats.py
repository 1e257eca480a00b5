"""Every format that hospitals bring gives the numbers of its source: encoded here, read back."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from client.extraction import video
from client.extraction.container import missing_decoders
from client.extraction.face import FaceTracker
from client.extraction.pipeline import extract_recording
from client.extraction.track import FaceTrack
from client.extraction.video import VideoError, VideoReader, probe_video, read_frames

FRAMES = 20
SOURCE = "single_face_30fps.mp4"
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "12")


@pytest.fixture(scope="session")
def ffmpeg():
    """Calls the binary that imageio-ffmpeg brings along."""
    binary = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()

    def call(*arguments: object) -> None:
        words = [binary, "-y", "-loglevel", "error", "-nostdin", *map(str, arguments)]
        subprocess.run(words, check=True, timeout=120)

    return call


@pytest.fixture(scope="module")
def source(assets, ffmpeg, tmp_path_factory) -> Path:
    """Twenty frames of a real recording, lossless."""
    path = tmp_path_factory.mktemp("formats") / "source.mkv"
    ffmpeg("-i", assets / "videos" / SOURCE, "-frames:v", FRAMES, "-an", "-c:v", "ffv1", path)
    return path


@pytest.fixture(scope="module")
def track_of(face_model):
    def follow(path: Path) -> FaceTrack:
        with FaceTracker(face_model) as tracker:
            return tracker.track(read_frames(path))

    return follow


@pytest.fixture(scope="module")
def truth(source, track_of) -> FaceTrack:
    return track_of(source)


@dataclass(frozen=True)
class Format:
    """How a file is made, and how far its pictures are from those of the source."""

    name: str
    words: tuple[str, ...]
    scale: float = 1.0
    bits_lost_px: float = 0.7


FORMATS = [
    Format("h264.mp4", X264),
    Format("h264.mov", X264),
    Format("h264.mkv", X264),
    Format("h264.mts", (*X264, "-f", "mpegts")),
    Format("mpeg4.avi", ("-c:v", "mpeg4", "-q:v", "2")),
    Format("mjpeg.avi", ("-c:v", "mjpeg", "-q:v", "2")),
    Format("mpeg2.mpg", ("-c:v", "mpeg2video", "-q:v", "2")),
    Format("vp8.webm", ("-c:v", "libvpx", "-b:v", "6M")),
    Format("vp9.webm", ("-c:v", "libvpx-vp9", "-b:v", "6M", "-deadline", "realtime")),
    Format("hevc.mp4", ("-c:v", "libx265", "-preset", "ultrafast", "-crf", "14")),
    Format(
        "hevc-10-bit.mp4",
        ("-c:v", "libx265", "-preset", "ultrafast", "-crf", "14", "-pix_fmt", "yuv420p10le"),
    ),
    Format("av1.mkv", ("-c:v", "libaom-av1", "-cpu-used", "8", "-crf", "20")),
    Format("prores.mov", ("-c:v", "prores_ks")),
    Format("4k.mp4", (*X264, "-preset", "ultrafast", "-vf", "scale=3840:2160"), scale=6.0),
    Format("odd-width.mp4", (*X264, "-vf", "scale=854:480"), scale=854 / 640),
    Format("narrow-pixels.mp4", (*X264, "-vf", "scale=480:360,setsar=4/3"), bits_lost_px=1.2),
]


def typical_distance_px(found: FaceTrack, truth: FaceTrack, *, scale: float = 1.0) -> float:
    """Median distance of landmarks in pixels of the source."""
    apart = found.landmarks[..., :2] / scale - truth.landmarks[..., :2]
    return float(np.median(np.linalg.norm(apart, axis=-1)))


@pytest.mark.needs_model
@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_a_format_gives_the_numbers_of_its_source(  # noqa: PLR0917 - fixtures
    kind, source, truth, track_of, ffmpeg, tmp_path
):
    path = tmp_path / kind.name
    words = ("-pix_fmt", "yuv420p", *kind.words)
    ffmpeg("-i", source, "-an", *words, path)
    found = track_of(path)
    assert len(found) == FRAMES
    assert found.detected.all()
    assert found.timestamps_s == pytest.approx(truth.timestamps_s, abs=0.002)
    assert typical_distance_px(found, truth, scale=kind.scale) < kind.bits_lost_px
    assert np.abs(found.head_pose_deg - truth.head_pose_deg).max() < 2.0
    assert np.median(np.abs(found.blendshapes - truth.blendshapes)) < 0.005


@pytest.mark.needs_model
@pytest.mark.parametrize(
    ("turn", "display_deg"),
    [("transpose=clock", 90), ("transpose=cclock", -90), ("hflip,vflip", 180)],
)
@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
def test_a_turned_recording_is_read_upright(  # noqa: PLR0917 - fixtures
    turn, display_deg, container, source, truth, track_of, ffmpeg, tmp_path
):
    lying = tmp_path / f"lying.{container}"
    turned = tmp_path / f"turned.{container}"
    ffmpeg("-i", source, "-an", "-pix_fmt", "yuv420p", *X264, "-vf", turn, lying)
    ffmpeg("-display_rotation", display_deg, "-i", lying, "-c", "copy", turned)
    found = track_of(turned)
    assert typical_distance_px(found, truth) < 0.7
    assert np.abs(found.head_pose_deg - truth.head_pose_deg).max() < 2.0


@pytest.mark.needs_model
def test_a_variable_frame_rate_keeps_its_times_and_its_faces(
    source, truth, track_of, ffmpeg, tmp_path
):
    path = tmp_path / "variable.mkv"
    slower = "settb=1/1000,setpts='if(lt(N,10),N/30,10/30+(N-10)/12)/TB'"
    times = ("-fps_mode", "passthrough", "-enc_time_base", "1:1000")
    ffmpeg("-i", source, "-an", "-vf", slower, *times, "-pix_fmt", "yuv420p", *X264, path)
    found = track_of(path)
    expected = [n / 30 if n < 10 else 10 / 30 + (n - 10) / 12 for n in range(FRAMES)]
    assert found.timestamps_s == pytest.approx(expected, abs=0.002)
    # The landmarker smooths by time, so that the slower half follows more closely.
    assert typical_distance_px(found, truth) < 1.5


INTERLACED = {
    "marked.mpg": ("-c:v", "mpeg2video", "-q:v", "2", "-flags", "+ilme+ildct"),
    "marked.mts": (*X264, "-x264opts", "tff=1", "-f", "mpegts"),
    "unmarked.avi": ("-c:v", "mpeg4", "-q:v", "2"),
}
# A camera that pans by 2 pixels every 1/50 s.
PAN = "select=eq(n\\,0),loop=loop=49:size=1,setpts=N/50/TB,crop=425:340:2*n:10"


def combs(image: np.ndarray) -> float:
    """How much the odd lines differ from the even ones around them."""
    grey = image.astype(np.float64).mean(axis=2)
    between = (grey[:-2:2] + grey[2::2]) / 2
    return float(np.abs(grey[1:-1:2][: len(between)] - between).mean())


def pan(ffmpeg, source: Path, path: Path, words: tuple[str, ...], *, lines: str) -> Path:
    marked = "tff" if path.name.startswith("marked") else "prog"
    weave = f"{PAN},fps=50,scale=720:576,setsar=1,tinterlace={lines},setfield={marked}"
    ffmpeg("-i", source, "-an", "-vf", weave, "-pix_fmt", "yuv420p", *words, path)
    return path


@pytest.fixture(scope="module")
def still(source, ffmpeg, tmp_path_factory) -> Path:
    """The same pan, photographed whole 25 times a second."""
    path = tmp_path_factory.mktemp("pan") / "whole.mkv"
    return pan(ffmpeg, source, path, ("-c:v", "ffv1"), lines="drop_even,scale=720:576")


@pytest.mark.needs_model
@pytest.mark.parametrize("name", sorted(INTERLACED))
def test_half_pictures_are_taken_apart_so_that_motion_shows_no_comb(  # noqa: PLR0917 - fixtures
    name, still, source, track_of, face_model, ffmpeg, tmp_path, monkeypatch
):
    path = pan(ffmpeg, source, tmp_path / name, INTERLACED[name], lines="interleave_top")
    reader = VideoReader(path)
    clean = [combs(frame.image) for frame in reader]
    whole = [combs(frame.image) for frame in read_frames(still)]
    assert reader.interlaced
    assert len(clean) == 25
    assert np.median(clean) < 1.3 * np.median(whole)
    expected = track_of(still)
    assert typical_distance_px(track_of(path), expected) < 2.0
    assert extract_recording(path, face_model).quality.interlaced

    monkeypatch.setattr(video, "is_interlaced", lambda _: False)
    woven = [combs(frame.image) for frame in read_frames(path)]
    assert np.median(woven) > 2.0 * np.median(clean)


@pytest.mark.parametrize(
    ("name", "size"), [("nod_30fps.mkv", "1920:1080"), ("talking_man_24fps.mp4", "720:576")]
)
def test_motion_in_whole_pictures_is_left_whole(name, size, assets, ffmpeg, tmp_path):
    path = tmp_path / "whole.mp4"
    ffmpeg(
        *("-i", assets / "videos" / name, "-an", "-frames:v", 30, "-vf", f"scale={size}"),
        *(*X264, "-pix_fmt", "yuv420p", path),
    )
    assert not VideoReader(path).interlaced


def test_fine_lines_that_stand_still_are_no_combs(ffmpeg, tmp_path):
    path = tmp_path / "lines.mp4"
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc=size=720x576:rate=25", "-frames:v", 30),
        *("-vf", "geq=lum='lum(X,Y)*mod(Y,2)':cb=128:cr=128", *X264, path),
    )
    assert not VideoReader(path).interlaced


def test_a_small_picture_is_never_searched_for_combs(source):
    assert not VideoReader(source).interlaced


def test_no_decoder_of_a_camera_is_missing():
    assert missing_decoders() == ()


def test_an_unknown_format_is_named_and_not_taken_for_damage(source, ffmpeg, tmp_path):
    path = tmp_path / "unknown.mp4"
    ffmpeg("-i", source, "-an", *X264, "-pix_fmt", "yuv420p", path)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1"))
    with pytest.raises(VideoError, match=r"unknown\.mp4 .*convert it with: ffmpeg"):
        probe_video(path)


def test_a_sound_recording_is_refused(ffmpeg, tmp_path):
    path = tmp_path / "sound.mp4"
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", path)
    with pytest.raises(VideoError, match=r"sound\.mp4 holds no pictures"):
        probe_video(path)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile secret.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nsecret.mp4\n",
    ],
    ids=["concat", "playlist"],
)
def test_a_list_of_other_files_is_no_video(text, source, ffmpeg, tmp_path):
    ffmpeg("-i", source, "-an", *X264, "-pix_fmt", "yuv420p", tmp_path / "secret.mp4")
    path = tmp_path / "list.mp4"
    path.write_text(text)
    with pytest.raises(VideoError, match=r"list\.mp4 could not be opened"):
        probe_video(path)
