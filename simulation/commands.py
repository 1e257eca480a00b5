"""What a rendered face is told to do: one curve for each movement, one value a frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]
CurveLike = Curve | Sequence[float] | float

RANGES: dict[str, tuple[float, float]] = {
    "smile": (0.0, 1.0),
    "corner_drop": (0.0, 1.0),
    "dimple": (-1.0, 1.0),
    "brow": (-1.0, 1.0),
    "inner_brow": (0.0, 1.0),
    "gaze_down": (0.0, 1.0),
    "gaze_side": (-1.0, 1.0),
    "jaw": (0.0, 1.0),
    "pitch_deg": (-25.0, 25.0),
    "yaw_deg": (-30.0, 30.0),
    "roll_deg": (-40.0, 40.0),
    "occlusion": (0.0, 1.0),
    "away": (0.0, 1.0),
    "brightness": (0.0, 8.0),
    "blur_px": (0.0, 30.0),
}
"""Smallest and largest value of each curve."""

BLINK_CLOSING_S = 0.10
BLINK_CLOSED_S = 0.06
BLINK_OPENING_S = 0.15
"""Course of a blink.

Source: VanderWerf 2003 (10.1152/jn.00557.2002): closing about 100 ms, opening longer.
"""


@dataclass(frozen=True, eq=False)
class BehaviourCommand:
    """Behaviour of one rendered video of N = round(duration_s * rate_hz) frames.

    A curve is given as ``[N]`` or as one number for all frames.

    Attributes:
        duration_s: Length of the video.
        rate_hz: Frames per second.
        smile: 1 is the untouched smiling portrait, 0 its neutral face.
        corner_drop: 1 draws the mouth corners down by about a tenth of the eye distance.
        dimple: 1 tightens the mouth corner of the subject's left (the right of the image), -1 the
            other one.
        brow: 1 frowns (down and together), -1 raises the brows.
        inner_brow: 1 raises the inner ends of the brows alone.
        gaze_down: 1 looks fully down.
        gaze_side: The eyes look to the right of the image (1) or to the left (-1).
        jaw: 1 opens the mouth wide.
        pitch_deg: Head up (positive) or down.
        yaw_deg: Head turned to the right of the image (positive) or to the left.
        roll_deg: Head tilted counterclockwise as seen in the image (positive) or clockwise.
        occlusion: Part of the head behind a grey bar, from the chin up.
        away: Part of the picture's width by which the person has moved out of it to the right; at
            1 only the backdrop is left.
        brightness: 1 is the portrait's own, 0 is black, several times as much washes out.
        blur_px: SD of a Gaussian blur.
        blinks_s: Times at which the lids are closed.
        faces: 1, or 2 for a mirrored second person beside the first.
    """

    duration_s: float
    rate_hz: float = 30.0
    smile: CurveLike = 0.0
    corner_drop: CurveLike = 0.0
    dimple: CurveLike = 0.0
    brow: CurveLike = 0.0
    inner_brow: CurveLike = 0.0
    gaze_down: CurveLike = 0.0
    gaze_side: CurveLike = 0.0
    jaw: CurveLike = 0.0
    pitch_deg: CurveLike = 0.0
    yaw_deg: CurveLike = 0.0
    roll_deg: CurveLike = 0.0
    occlusion: CurveLike = 0.0
    away: CurveLike = 0.0
    brightness: CurveLike = 1.0
    blur_px: CurveLike = 0.0
    blinks_s: tuple[float, ...] = ()
    faces: int = 1
    curves: dict[str, Curve] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Bring every curve to one value a frame.

        Raises:
            ValueError: With every fault.
        """
        faults = [
            f"Expected {name} > 0, got {value:g}"
            for name, value in (("duration_s", self.duration_s), ("rate_hz", self.rate_hz))
            if not (math.isfinite(value) and value > 0)
        ]
        if faults:
            raise ValueError("; ".join(faults))
        curves = {name: np.asarray(getattr(self, name), dtype=np.float64) for name in RANGES}
        faults += [fault for name in RANGES for fault in self._check(name, curves[name])]
        if self.faces not in (1, 2):
            faults.append(f"Expected faces to be 1 or 2, got {self.faces}")
        if any(not 0 <= time <= self.duration_s for time in self.blinks_s):
            faults.append(f"Expected blinks_s from 0 to {self.duration_s:g} s, got {self.blinks_s}")
        if faults:
            raise ValueError("; ".join(faults))
        full = {name: np.broadcast_to(curve, (self.frames,)) for name, curve in curves.items()}
        object.__setattr__(self, "curves", full | {"lids": blink_curve(self)})

    def _check(self, name: str, curve: Curve) -> list[str]:
        low, high = RANGES[name]
        if curve.shape not in ((), (self.frames,)):
            return [f"Expected {name} of one value or {self.frames} frames, got {curve.shape}"]
        if not (np.all(curve >= low) and np.all(curve <= high)):
            return [
                f"Expected {name} from {low:g} to {high:g}, got {curve.min():g} to {curve.max():g}"
            ]
        return []

    @property
    def frames(self) -> int:
        """Number of frames N, at least 1."""
        return max(1, round(self.duration_s * self.rate_hz))

    @property
    def times_s(self) -> Curve:
        """``[N]`` time of each frame."""
        return np.arange(self.frames) / self.rate_hz


def blink_curve(command: BehaviourCommand) -> Curve:
    """``[N]`` closure of the lids, 1 at the frame nearest to each commanded blink."""
    closure = np.zeros(command.frames)
    for time in command.blinks_s:
        nearest = min(round(time * command.rate_hz), command.frames - 1) / command.rate_hz
        since = command.times_s - nearest
        closing = 1.0 - np.maximum(-since - BLINK_CLOSED_S / 2, 0) / BLINK_CLOSING_S
        opening = 1.0 - np.maximum(since - BLINK_CLOSED_S / 2, 0) / BLINK_OPENING_S
        closure = np.maximum(closure, np.minimum(closing, opening))
    return closure


def parse_curve(text: str, frames: int, rate_hz: float) -> Curve:
    """Curve through ``time:value`` knots, straight between them and level before and after.

    Args:
        text: Knots separated by commas, times in seconds and increasing; or one number.
        frames: Number of frames N.
        rate_hz: Frames per second.

    Returns:
        ``[N]``.

    Raises:
        ValueError: If the text is no such list; the message names the faulty knot.

    >>> parse_curve("0:0, 1:1, 2:0", 9, 4.0).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0]
    >>> parse_curve("0.5", 3, 30.0).tolist()
    [0.5, 0.5, 0.5]
    >>> parse_curve("0:0,1", 3, 30.0)
    Traceback (most recent call last):
    ...
    ValueError: Expected 'seconds:value' as in '0:0,2:1,4:0', got '1' (knot 2 of 2)
    """
    knots = [knot.strip() for knot in text.split(",")]
    if len(knots) == 1 and knots[0] and ":" not in text:
        knots = [f"0:{knots[0]}"]
    pairs = [_parse_knot(knot, f"knot {i} of {len(knots)}") for i, knot in enumerate(knots, 1)]
    times, values = np.array(pairs).T
    if np.any(np.diff(times) <= 0):
        msg = f"Expected increasing times, got {', '.join(f'{time:g}' for time in times)}"
        raise ValueError(msg)
    return np.asarray(np.interp(np.arange(frames) / rate_hz, times, values))


def _parse_knot(knot: str, place: str) -> tuple[float, float]:
    time, colon, value = knot.partition(":")
    try:
        pair = float(time), float(value)
    except ValueError:
        pair = math.nan, math.nan
    if not colon or not all(math.isfinite(number) for number in pair):
        msg = f"Expected 'seconds:value' as in '0:0,2:1,4:0', got {knot!r} ({place})"
        raise ValueError(msg)
    return pair


def parse_times(text: str) -> tuple[float, ...]:
    """Times in seconds, separated by commas.

    Raises:
        ValueError: If one is no number.

    >>> parse_times("1.0, 2.5")
    (1.0, 2.5)
    """
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        msg = f"Expected seconds separated by commas as in '1.0,2.5', got {text!r}"
        raise ValueError(msg) from None


def draw_episodes(
    times_s: Curve, spans: Sequence[tuple[float, float, float]], *, ramp_s: float = 0.4
) -> Curve:
    """Curve that rises to a height and falls again, once for each span.

    Args:
        times_s: ``[N]`` time of each frame.
        spans: Start and end of each episode in seconds, ramps included, and its height.
        ramp_s: Time of rising and of falling, > 0.

    Returns:
        ``[N]``; where episodes overlap, the higher one.

    >>> draw_episodes(np.arange(6.0), [(1, 5, 0.5)], ramp_s=2.0).tolist()
    [0.0, 0.0, 0.25, 0.5, 0.25, 0.0]
    """
    curve = np.zeros(len(times_s))
    for start, end, height in spans:
        ramp = np.minimum(times_s - start, end - times_s) / ramp_s
        curve = np.maximum(curve, height * np.clip(ramp, 0, 1))
    return curve
