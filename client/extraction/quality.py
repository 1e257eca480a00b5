"""The quality gate: one verdict for a recording, with every reason for a rejection."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.geometry import point
from client.extraction.track import FRONTAL_YAW_DEG, FaceTrack, mean_fps
from client.extraction.video import VideoHeader

_PAUSE_S = 0.5

_Rule = tuple[str, bool, str]


@dataclass(frozen=True)
class QualityThresholds:
    """What a recording must reach; a study of long interviews raises ``min_duration_s``.

    Attributes:
        min_detection_rate: Share of the frames with a face.
        min_single_face_rate: Share of those frames with exactly one face.
        min_face_size_px: Median distance between the outer eye corners in pixels.
        min_decoded_fraction: Share of what the header promises that could be decoded.
        min_duration_s: Length in seconds.
        min_fps: Frames per second as decoded; indicators that need more are missing, not wrong.
        min_frontal_fraction: Share of the frames with a face turned aside by at most 30 degrees.
        min_brightness: Smallest mean grey level of the face, 0..255.
        max_brightness: Largest mean grey level of the face, 0..255.
        min_sharpness: Smallest variance of the Laplacian of the face, 128 pixels wide. Below 7.5
            the brows of a rendered face no longer follow what was commanded.
    """

    min_detection_rate: float = 0.80
    min_single_face_rate: float = 0.95
    min_face_size_px: float = 40.0
    min_decoded_fraction: float = 0.95
    min_duration_s: float = 2.0
    min_fps: float = 8.0
    min_frontal_fraction: float = 0.50
    min_brightness: float = 30.0
    max_brightness: float = 235.0
    min_sharpness: float = 7.5


@dataclass(frozen=True)
class Reason:
    """Why a recording was rejected.

    Attributes:
        code: A stable name for counting, such as ``two_faces``.
        text: One sentence with the value found and the limit.
    """

    code: str
    text: str


@dataclass(frozen=True)
class TrackQuality:
    """How good a recording is for measuring behaviour; None where it cannot be told.

    Attributes:
        frames: Frames decoded.
        duration_s: Length in seconds.
        fps: Mean frames per second as analysed.
        decoded_fraction: Share of the promised frames, or of the promised time if that is more.
        detection_rate: Share of the frames with a face.
        single_face_rate: Share of those with exactly one face.
        face_size_px: Median distance between the outer eye corners.
        frontal_fraction: Share of the frames with a face and a yaw within 30 degrees.
        yaw_range_deg: Degrees of yaw between the 5th and 95th percentile.
        brightness: Median grey level of the face, 0..255.
        sharpness: Median variance of the Laplacian of the face.
        rejected_for: Empty if the recording is accepted.
        analysed_frames: Those of the frames in which the face was looked for.
        decoded_fps: Mean frames per second as decoded.
        interlaced: Whether each frame held two half pictures, of which one was kept.
    """

    frames: int
    duration_s: float
    fps: float
    decoded_fraction: float | None
    detection_rate: float
    single_face_rate: float | None
    face_size_px: float | None
    frontal_fraction: float | None
    yaw_range_deg: float | None
    brightness: float | None
    sharpness: float | None
    rejected_for: tuple[Reason, ...] = ()
    analysed_frames: int = 0
    decoded_fps: float = 0.0
    interlaced: bool = False

    @property
    def accepted(self) -> bool:
        """True if nothing speaks against the recording."""
        return not self.rejected_for


def judge_quality(
    track: FaceTrack,
    header: VideoHeader,
    *,
    thresholds: QualityThresholds | None = None,
    decoded_s: NDArray[np.float64] | None = None,
    interlaced: bool = False,
) -> TrackQuality:
    """The quality of a recording and what speaks against it.

    Args:
        track: What the tracker saw.
        header: What the container promised.
        thresholds: Limits; the defaults if None.
        decoded_s: ``[N]`` times of all decoded frames in seconds; those of the track if None.
        interlaced: Whether the frames held two half pictures each.

    Returns:
        The figures, with all the reasons at once.
    """
    times_s = track.timestamps_s if decoded_s is None else decoded_s
    quality = replace(_measure(track, times_s, header), interlaced=interlaced)
    return replace(quality, rejected_for=_reasons(quality, thresholds or QualityThresholds()))


def unreadable(text: str) -> TrackQuality:
    """The quality of a file from which no frame could be decoded.

    Args:
        text: What is wrong with it.

    Returns:
        A rejection for the reason ``unreadable``.
    """
    return TrackQuality(
        frames=0,
        duration_s=0.0,
        fps=0.0,
        decoded_fraction=0.0,
        detection_rate=0.0,
        single_face_rate=None,
        face_size_px=None,
        frontal_fraction=None,
        yaw_range_deg=None,
        brightness=None,
        sharpness=None,
        rejected_for=(Reason("unreadable", text),),
    )


def decoded_fraction(times_s: NDArray[np.float64], header: VideoHeader) -> float | None:
    """Share of what the header promises that was decoded, 0..1.

    Headers count frames wrongly even in healthy files: some are rounded up from the length, and
    recordings of browsers promise a thousand a second. So the promised time counts as well; a
    hole of more than half a second in the timestamps does not count as covered.

    Args:
        times_s: ``[N]`` times of the frames that came, in seconds.
        header: The promise.

    Returns:
        The larger of the two shares; None if the header promises nothing.
    """
    if header.frame_count_promised <= 0:
        return None
    by_count = len(times_s) / header.frame_count_promised
    intervals = np.minimum(np.diff(times_s), _PAUSE_S)
    last_s = float(np.median(intervals)) if len(intervals) else 0.0
    promised_s = header.duration_promised_s
    by_time = (float(intervals.sum()) + last_s) / promised_s if promised_s > 0 else 0.0
    return min(1.0, max(by_count, by_time))


def _measure(track: FaceTrack, times_s: NDArray[np.float64], header: VideoHeader) -> TrackQuality:
    seen = track.detected
    yaw = track.head_pose_deg[seen, 1]
    # The size in the picture decides whether lips and lids are resolved, so no depth here.
    corners = point(track.landmarks[seen], 263)[:, :2] - point(track.landmarks[seen], 33)[:, :2]
    return TrackQuality(
        frames=len(times_s),
        duration_s=track.duration_s,
        fps=track.fps,
        decoded_fraction=decoded_fraction(times_s, header),
        detection_rate=float(seen.mean()) if len(track) else 0.0,
        single_face_rate=_share(track.faces[seen] == 1),
        face_size_px=_median(np.linalg.norm(corners, axis=1)),
        frontal_fraction=_share(np.abs(yaw) <= FRONTAL_YAW_DEG),
        yaw_range_deg=float(np.ptp(np.percentile(yaw, (5, 95)))) if len(yaw) else None,
        brightness=_median(track.inspections.brightness),
        sharpness=_median(track.inspections.sharpness),
        analysed_frames=len(track),
        decoded_fps=mean_fps(times_s),
    )


def _share(matches: NDArray[np.bool_]) -> float | None:
    return float(matches.mean()) if len(matches) else None


def _median(values: NDArray[np.floating]) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


def _reasons(quality: TrackQuality, limits: QualityThresholds) -> tuple[Reason, ...]:
    rules = (
        *_recording_rules(quality, limits),
        *_face_rules(quality, limits),
        *_picture_rules(quality, limits),
    )
    return tuple(Reason(code, text) for code, wrong, text in rules if wrong)


def _recording_rules(found: TrackQuality, limits: QualityThresholds) -> tuple[_Rule, ...]:
    decoded = found.decoded_fraction
    return (
        (
            "truncated",
            _below(decoded, limits.min_decoded_fraction),
            f"Only {_percent(decoded)} of what the file promises could be decoded "
            f"(at least {_percent(limits.min_decoded_fraction)} required)",
        ),
        (
            "too_short",
            found.duration_s < limits.min_duration_s,
            f"{found.duration_s:.1f} s long (at least {limits.min_duration_s:g} s required)",
        ),
        (
            "low_frame_rate",
            found.decoded_fps < limits.min_fps,
            f"{found.decoded_fps:.1f} frames per second (at least {limits.min_fps:g} required)",
        ),
    )


def _face_rules(found: TrackQuality, limits: QualityThresholds) -> tuple[_Rule, ...]:
    seen, single = found.detection_rate, found.single_face_rate
    others = None if single is None else 1.0 - single
    return (
        ("no_face", seen == 0.0, "No face in any frame"),
        (
            "face_missing",
            0.0 < seen < limits.min_detection_rate,
            f"A face in only {_percent(seen)} of the frames "
            f"(at least {_percent(limits.min_detection_rate)} required)",
        ),
        (
            "two_faces",
            _below(single, limits.min_single_face_rate),
            f"Two faces in {_percent(others)} of the frames "
            f"(at most {_percent(1.0 - limits.min_single_face_rate)} allowed)",
        ),
    )


def _picture_rules(found: TrackQuality, limits: QualityThresholds) -> tuple[_Rule, ...]:
    return (
        (
            "face_too_small",
            _below(found.face_size_px, limits.min_face_size_px),
            f"Eye corners {_number(found.face_size_px)} pixels apart "
            f"(at least {limits.min_face_size_px:g} required)",
        ),
        (
            "turned_away",
            _below(found.frontal_fraction, limits.min_frontal_fraction),
            f"Face within {FRONTAL_YAW_DEG:g} degrees of the camera in only "
            f"{_percent(found.frontal_fraction)} of the frames "
            f"(at least {_percent(limits.min_frontal_fraction)} required)",
        ),
        (
            "too_dark",
            _below(found.brightness, limits.min_brightness),
            f"Face brightness {_number(found.brightness)} of 255 "
            f"(at least {limits.min_brightness:g} required)",
        ),
        (
            "too_bright",
            found.brightness is not None and found.brightness > limits.max_brightness,
            f"Face brightness {_number(found.brightness)} of 255 "
            f"(at most {limits.max_brightness:g} allowed)",
        ),
        (
            "blurred",
            _below(found.sharpness, limits.min_sharpness),
            f"Face sharpness {_number(found.sharpness)} "
            f"(at least {limits.min_sharpness:g} required)",
        ),
    )


def _below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{100.0 * share:.0f} %"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f}"
