"""Indicators of brief movements, among which micro-expressions would be."""

from __future__ import annotations

import numpy as np

from client.extraction.behaviour.bursts import Bursts
from client.extraction.behaviour.definition import RATE_S, indicator
from client.extraction.behaviour.measures import Figure, Session, Unsupported

BRIEF_FPS = 25.0
CANDIDATE_FPS = 50.0
_BRIEF = "below 50 frames/s: brief movements, of which the shortest are missed"
_CANDIDATE = "candidates for micro-expressions: brief by duration, no emotion was coded"


def _note(session: Session) -> str:
    return _CANDIDATE if session.track.fps >= 0.99 * CANDIDATE_FPS else _BRIEF


def _figure(session: Session, bursts: Bursts, value: float) -> Figure:
    coverage = float(np.isfinite(bursts.activity).mean())
    return Figure(value, coverage, coverage * session.series.duration_s, _note(session))


def _rate(session: Session, bursts: Bursts) -> Figure:
    minutes = np.isfinite(bursts.activity).mean() * session.series.duration_s / 60.0
    count = len(bursts.durations_s)
    return _figure(session, bursts, count / minutes if minutes > 0 else np.nan)


def _some(bursts: Bursts) -> Bursts:
    if len(bursts.durations_s) == 0:
        msg = "No brief movement was seen"
        raise Unsupported(msg)
    return bursts


@indicator("brief_movement_rate_per_min", unit="1/min", min_fps=BRIEF_FPS, min_s=RATE_S)
def brief_movement_rate(session: Session) -> Figure:
    """Brief movements of the face per minute.

    Frame by frame, the mean distance of the 37 blendshapes of brows, cheeks, nose, jaw and mouth
    from their running medians over two seconds. A brief movement leaves the usual distance by
    more than one robust standard deviation, passes three of them and 0.005, and is back after
    1/25 to 1/2 s. Blinks and glances are left out.

    Baseline:
        Running median over two seconds; robust spread of the whole recording.

    Evidence:
        Asked for by a review of facial markers of depression; no direction is established.
        Micro-expressions last from 1/25 to 1/5 s, at most 1/2 s (Yan 2013).

    Limits:
        Below 50 frames a second the shortest are missed; the note says so. From 50 on they are
        candidates only: whether one shows a hidden emotion takes a coder. The tracker smooths
        over about three frames. Syllables are brief movements too: compare
        brief_brow_movement_rate_per_min.

    Source:
        Yan et al. 2013, doi:10.1007/s10919-013-0159-8.
    """
    return _rate(session, session.bursts)


@indicator("brief_movement_duration_ms", unit="ms", min_fps=BRIEF_FPS, min_s=RATE_S)
def brief_movement_duration(session: Session) -> Figure:
    """Median length of a brief movement.

    Median over the brief movements of brief_movement_rate_per_min, in milliseconds; no value
    without one.

    Baseline:
        Running median over two seconds; robust spread of the whole recording.

    Evidence:
        No direction is established in depression; leaked expressions lasted below 1/2 s
        (Yan 2013).

    Limits:
        Steps of one frame: 40 ms at 25 frames a second.

    Source:
        Yan et al. 2013, doi:10.1007/s10919-013-0159-8.
    """
    bursts = _some(session.bursts)
    return _figure(session, bursts, 1000.0 * float(np.median(bursts.durations_s)))


@indicator("brief_movement_peak", unit="1", min_fps=BRIEF_FPS, min_s=RATE_S)
def brief_movement_peak(session: Session) -> Figure:
    """Median height of a brief movement.

    Median over the brief movements of brief_movement_rate_per_min of their largest mean distance
    from rest; no value without one.

    Baseline:
        Running median over two seconds; robust spread of the whole recording.

    Evidence:
        Intensity is asked for beside frequency and duration; no direction is established in
        depression.

    Limits:
        A mean over 37 blendshapes: a movement of one alone is a thirty-seventh of its activation.

    Source:
        Yan et al. 2013, doi:10.1007/s10919-013-0159-8.
    """
    bursts = _some(session.bursts)
    return _figure(session, bursts, float(np.median(bursts.peaks)))


@indicator(
    "brief_brow_movement_rate_per_min",
    unit="1/min",
    action_unit="1, 2, 4",
    min_fps=BRIEF_FPS,
    min_s=RATE_S,
)
def brief_brow_movement_rate(session: Session) -> Figure:
    """Brief movements of the brows per minute.

    As brief_movement_rate_per_min, of the gap and height of the brows in IOD (mesh points 107,
    336, 105, 334, 55 and 285) with a least height of 0.005 IOD: the geometric twin, and the one
    that talk does not drive.

    Baseline:
        Running median over two seconds; robust spread of the whole recording.

    Evidence:
        No direction is established in depression.

    Limits:
        As for brief_movement_rate_per_min; brows also stress words.

    Source:
        Yan et al. 2013, doi:10.1007/s10919-013-0159-8.
    """
    return _rate(session, session.brow_bursts)
