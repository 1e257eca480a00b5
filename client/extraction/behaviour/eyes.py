"""Indicators of the eyes: blinks, and a pupil diameter that another instrument measured."""

from __future__ import annotations

import numpy as np

from client.extraction.behaviour.blinks import Blinks
from client.extraction.behaviour.definition import indicator
from client.extraction.behaviour.measures import (
    Figure,
    MissingInput,
    Session,
    Unsupported,
    need,
)

BLINK_FPS = 25.0
BLINK_S = 180.0
_LEAST_INTERVALS = 2


def _enough_blinks(session: Session) -> Blinks:
    need("seconds with open eyes in view", session.blinks.observed_s, BLINK_S)
    return session.blinks


def _seen(session: Session, value: float) -> Figure:
    observed_s = session.blinks.observed_s
    return Figure(value, min(observed_s / session.series.duration_s, 1.0), observed_s)


@indicator("blink_rate_per_min", unit="1/min", action_unit="45", min_fps=BLINK_FPS, min_s=BLINK_S)
def blink_rate(session: Session) -> Figure:
    """Blinks per minute.

    A blink is a dip of the eye aspect ratio below 0.6 of the subject's open eyes that lasts 66 to
    500 ms, read from every frame. The count is divided by the minutes in which one could be seen.

    Baseline:
        Median eye aspect ratio of the open eyes in the five seconds around.

    Coverage:
        Share of the recording in which a blink could be seen: face in view, eyes neither closed
        for more than half a second nor lowered for more than a second.

    Evidence:
        Raised in 23 patients with depression, falling to normal with treatment
        (Mackintosh 1983). Healthy adults blink 17 times a minute at rest, 26 in conversation and
        4.5 while reading (Bentivoglio 1997), so the task moves it more than any illness;
        neuroleptics lower it.

    Limits:
        Tasks must match before rates are compared. Partial blinks do not count.

    Source:
        Mackintosh et al. 1983, doi:10.1192/bjp.143.1.55; Bentivoglio et al. 1997,
        doi:10.1002/mds.870120629; Soukupova and Cech 2016 (eye aspect ratio).
    """
    blinks = _enough_blinks(session)
    return _seen(session, 60.0 * len(blinks.times_s) / blinks.observed_s)


@indicator("blink_interval_s", unit="s", action_unit="45", min_fps=BLINK_FPS, min_s=BLINK_S)
def blink_interval(session: Session) -> Figure:
    """Median time between two blinks.

    Median in seconds over pairs of successive blinks between which the eyes could be watched
    throughout; at least two such pairs.

    Baseline:
        Median eye aspect ratio of the open eyes in the five seconds around.

    Coverage:
        Share of the recording in which a blink could be seen.

    Evidence:
        As for blink_rate_per_min: more blinks in 23 patients (Mackintosh 1983).

    Limits:
        Blinks come in bursts, so the median is not the inverse of the rate. Long intervals are
        the first to be broken by a gap.

    Source:
        Mackintosh et al. 1983, doi:10.1192/bjp.143.1.55.
    """
    intervals = _enough_blinks(session).intervals_s
    if len(intervals) < _LEAST_INTERVALS:
        msg = f"Needs at least {_LEAST_INTERVALS} watched intervals between blinks, got"
        msg = f"{msg} {len(intervals)}"
        raise Unsupported(msg)
    return _seen(session, float(np.median(intervals)))


@indicator(
    "pupil_diameter_mm",
    unit="mm",
    min_fps=0.0,
    min_s=0.0,
)
def pupil_diameter(session: Session) -> Figure:
    """Mean diameter of the pupil, measured by another instrument.

    Copied from the column pupil_mm of the table of recordings. It cannot be taken from the video:
    the mesh marks the iris and not the pupil.

    Needs:
        The column pupil_mm of the table of recordings.

    Coverage:
        Unknown: how much the other instrument saw is not told by the column.

    Evidence:
        Larger pupillary reactions to emotional stimuli with depression or risk of it in a
        meta-analysis of 16 studies (Yang 2023), which is about changes and not about the mean.

    Limits:
        The light in the room moves it more than mood.

    Source:
        Yang et al. 2023, doi:10.1016/j.neubiorev.2023.105125.
    """
    diameter = session.annotations.pupil_mm
    if diameter is None:
        msg = "Unsupported by video, which shows the iris and not the pupil: fill pupil_mm"
        raise MissingInput(msg)
    return Figure(diameter, None, session.series.duration_s, "imported, not taken from the video")
