"""How much of a recording the figures rest on: fates of the frames and poses of the head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.inspection.traces import analysed_frames
from client.storage.frame_log import FrameLog, FrameOutcome

FATES = {
    "used": "used",
    "two": "used, a second face in view",
    "away": "turned away",
    "none": "no face",
    "idle": "not analysed",
}
"""What can become of a frame: short name and words, in the order of drawing."""

MOST_BINS = 400
YAW_EDGES_DEG = np.arange(-45.0, 45.1, 5.0)
PITCH_EDGES_DEG = np.arange(-30.0, 30.1, 5.0)


@dataclass(frozen=True)
class FrameFates:
    """What became of the frames, over all and over time.

    Attributes:
        shares: Fate to its share of all decoded frames; they sum to 1.
        over_time: Fate to ``[B]`` its share of the frames of each of B equal stretches of time,
            analysed frames only unless a stretch has none.
        longest_gap_s: Longest time between two used frames.
    """

    shares: dict[str, float]
    over_time: dict[str, NDArray[np.float64]]
    longest_gap_s: float

    def tell(self) -> str:
        """The shares in words, largest first, as ``93 % used, 7 % no face``."""
        known = sorted(
            ((share, name) for name, share in self.shares.items() if share > 0), reverse=True
        )
        return ", ".join(f"{_percent(share)} {FATES[name]}" for share, name in known)


def frame_fates(log: FrameLog) -> FrameFates:
    """What became of the frames of a recording with at least one frame."""
    fates = _fates(log)
    used = log.timestamps_s[np.isin(fates, (0, 1))]
    return FrameFates(
        shares={name: float((fates == code).mean()) for code, name in enumerate(FATES)},
        over_time=_over_time(log.timestamps_s, fates),
        longest_gap_s=float(np.diff(_with_ends(used, log.timestamps_s)).max(initial=0.0)),
    )


@dataclass(frozen=True)
class PoseDensity:
    """Where the head pointed in the frames with a face.

    Attributes:
        share: ``[pitch bin, yaw bin]`` share of those frames; poses past the edges count in the
            outermost bins.
        yaw_deg: 5th, 50th and 95th percentile of yaw, towards the camera 0.
        pitch_deg: The same of pitch, as deviation from its median.
    """

    share: NDArray[np.float64]
    yaw_deg: tuple[float, float, float]
    pitch_deg: tuple[float, float, float]


def pose_density(log: FrameLog) -> PoseDensity | None:
    """Distribution of yaw and pitch; None without a face."""
    pose = analysed_frames(log).head_pose_deg.astype(np.float64)
    pose = pose[np.isfinite(pose).all(axis=1)]
    if not len(pose):
        return None
    pitch, yaw = pose[:, 0] - np.median(pose[:, 0]), pose[:, 1]
    counts, _, _ = np.histogram2d(
        np.clip(pitch, PITCH_EDGES_DEG[0], PITCH_EDGES_DEG[-1]),
        np.clip(yaw, YAW_EDGES_DEG[0], YAW_EDGES_DEG[-1]),
        bins=(PITCH_EDGES_DEG, YAW_EDGES_DEG),
    )
    return PoseDensity(counts / len(pose), _percentiles(yaw), _percentiles(pitch))


def _fates(log: FrameLog) -> NDArray[np.int64]:
    """``[N]`` number of each frame's fate in :data:`FATES`."""
    numbers = {name: number for number, name in enumerate(FATES)}
    used = log.outcome == FrameOutcome.USED
    return np.select(
        [
            used & (log.faces < 2),
            used,
            log.outcome == FrameOutcome.TURNED_AWAY,
            log.outcome == FrameOutcome.NO_FACE,
        ],
        [numbers["used"], numbers["two"], numbers["away"], numbers["none"]],
        default=numbers["idle"],
    )


def _over_time(
    times: NDArray[np.float64], fates: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Shares in equal stretches of time; a stretch without frames repeats the one before."""
    bins = min(MOST_BINS, max(1, len(times) // 2))
    span = float(times[-1] - times[0]) or 1.0
    place = np.minimum(((times - times[0]) / span * bins).astype(np.int64), bins - 1)
    idle = len(FATES) - 1
    counts = np.stack(
        [np.bincount(place[fates == code], minlength=bins) for code in range(len(FATES))]
    ).astype(np.float64)
    # Frames that were skipped on purpose between analysed ones say nothing of coverage.
    counts[idle] = np.where(counts[:idle].sum(axis=0) > 0, 0.0, counts[idle])
    total = counts.sum(axis=0)
    filled = np.maximum.accumulate(np.where(total > 0, np.arange(bins), 0))
    shares = (counts / np.maximum(total, 1.0))[:, filled]
    return dict(zip(FATES, shares, strict=True))


def _with_ends(used: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([times[:1], used, times[-1:]])


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float, float]:
    low, middle, high = (float(one) for one in np.percentile(values, (5, 50, 95)))
    return low, middle, high


def _percent(share: float) -> str:
    return "under 1 %" if share < 0.005 else f"{100 * share:.0f} %"
