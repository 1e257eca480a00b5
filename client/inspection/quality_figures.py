"""What each figure of the quality gate means, and which limit it is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from client.extraction.quality import QualityThresholds
from client.storage.stored_recording import Scalar, StoredRecording

Passed = Literal["yes", "no", "unknown"]

UNREADABLE = "unreadable"
"""Reason of a file without frames, all of whose figures are zeros or nothing."""


@dataclass(frozen=True)
class QualityFigure:
    """Meaning and limits of one figure.

    Attributes:
        title: The figure in words.
        unit: Its unit; ``"1"`` for a share.
        definition: How it is computed.
        least: Threshold that it must reach, by name; empty if there is none.
        most: Threshold that it must not pass.
        codes: Reasons for a rejection that come from it.
    """

    title: str
    unit: str
    definition: str
    least: str = ""
    most: str = ""
    codes: tuple[str, ...] = ()


QUALITY_FIGURES: Mapping[str, QualityFigure] = {
    "duration_s": QualityFigure(
        "Duration",
        "s",
        "Time from the first frame to the end of the last.",
        least="min_duration_s",
        codes=("too_short",),
    ),
    "frames": QualityFigure("Frames decoded", "", "Frames that could be decoded."),
    "analysed_frames": QualityFigure(
        "Frames analysed",
        "",
        "Frames in which a face was looked for; fewer than decoded where the site analyses fewer a "
        "second than the camera took.",
    ),
    "decoded_fps": QualityFigure(
        "Frame rate of the camera",
        "frames/s",
        "Mean frames per second as decoded.",
        least="min_fps",
        codes=("low_frame_rate",),
    ),
    "fps": QualityFigure(
        "Frame rate analysed",
        "frames/s",
        "Mean frames per second in which a face was looked for; it decides which indicators have a "
        "value.",
    ),
    "interlaced": QualityFigure(
        "Interlaced", "", "Whether each frame held two half pictures, of which one was kept."
    ),
    "decoded_fraction": QualityFigure(
        "Decoded",
        "1",
        "Share of the frames that the file promises, or of the promised time if that is more.",
        least="min_decoded_fraction",
        codes=("truncated", UNREADABLE),
    ),
    "detection_rate": QualityFigure(
        "Face seen",
        "1",
        "Share of the analysed frames with a face.",
        least="min_detection_rate",
        codes=("no_face", "face_missing"),
    ),
    "single_face_rate": QualityFigure(
        "One face",
        "1",
        "Share of the frames with a face that hold exactly one, by looking at the whole picture "
        "about once a second.",
        least="min_single_face_rate",
        codes=("two_faces",),
    ),
    "face_size_px": QualityFigure(
        "Face size",
        "px",
        "Median distance between the outer corners of the eyes.",
        least="min_face_size_px",
        codes=("face_too_small",),
    ),
    "frontal_fraction": QualityFigure(
        "Facing the camera",
        "1",
        "Share of the frames with a face in which it is turned aside by at most 30 degrees.",
        least="min_frontal_fraction",
        codes=("turned_away",),
    ),
    "yaw_range_deg": QualityFigure(
        "Range of yaw",
        "deg",
        "Degrees between the 5th and the 95th percentile of the head's turn to the side.",
    ),
    "brightness": QualityFigure(
        "Brightness of the face",
        "grey level",
        "Median over inspected pictures of the face's mean grey level, 0 to 255.",
        least="min_brightness",
        most="max_brightness",
        codes=("too_dark", "too_bright"),
    ),
    "sharpness": QualityFigure(
        "Sharpness of the face",
        "1",
        "Median variance of the Laplacian of the face, scaled to 128 pixels wide.",
        least="min_sharpness",
        codes=("blurred",),
    ),
}


@dataclass(frozen=True)
class QualityLine:
    """One figure of one recording beside its limits.

    Attributes:
        name: Name in the exports.
        figure: What it means.
        value: What was measured; None if it cannot be told.
        limit: The limits in words; empty if there are none.
        passed: What the gate said; ``unknown`` if it could not be judged or has no limit.
    """

    name: str
    figure: QualityFigure
    value: Scalar
    limit: str
    passed: Passed


def describe_figure(name: str) -> QualityFigure:
    """Meaning of a figure; its bare name where nothing more is known of it."""
    title = name.replace("_", " ").capitalize()
    return QUALITY_FIGURES.get(name) or QualityFigure(title, "", "")


def quality_lines(stored: StoredRecording, thresholds: QualityThresholds) -> list[QualityLine]:
    """Every figure of the gate beside its limit, those with a meaning first.

    Args:
        stored: The recording.
        thresholds: The limits of the site as they are now.
    """
    names = [*(name for name in QUALITY_FIGURES if name in stored.quality)]
    names += [name for name in stored.quality if name not in QUALITY_FIGURES]
    return [_line(name, stored, thresholds) for name in names]


def judged_by_other_limits(stored: StoredRecording, thresholds: QualityThresholds) -> bool:
    """Whether the limits of the site have changed since the recording was judged by them."""
    return UNREADABLE not in {reason.code for reason in stored.reasons} and any(
        line.passed != "unknown" and (line.passed == "yes") != _within(line, thresholds)
        for line in quality_lines(stored, thresholds)
    )


def _line(name: str, stored: StoredRecording, thresholds: QualityThresholds) -> QualityLine:
    figure, value = describe_figure(name), stored.quality[name]
    limit = _limit(figure, thresholds)
    codes = {reason.code for reason in stored.reasons}
    passed: Passed = "unknown"
    if codes & set(figure.codes):
        passed = "no"
    elif limit and value is not None and UNREADABLE not in codes:
        passed = "yes"
    return QualityLine(name, figure, value, limit, passed)


def _limit(figure: QualityFigure, thresholds: QualityThresholds) -> str:
    parts = []
    if figure.least:
        parts.append(f"at least {getattr(thresholds, figure.least):g}")
    if figure.most:
        parts.append(f"at most {getattr(thresholds, figure.most):g}")
    return ", ".join(parts)


def _within(line: QualityLine, thresholds: QualityThresholds) -> bool:
    if not isinstance(line.value, int | float):
        return line.passed == "yes"
    least = getattr(thresholds, line.figure.least) if line.figure.least else line.value
    most = getattr(thresholds, line.figure.most) if line.figure.most else line.value
    return bool(least <= line.value <= most)
