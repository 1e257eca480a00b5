"""Indicators of talking and of listening apart, where a file of talk turns is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.definition import EPISODE_FPS, RATE_S, indicator
from client.extraction.behaviour.eyes import BLINK_FPS, BLINK_S
from client.extraction.behaviour.gaze import facing
from client.extraction.behaviour.measures import (
    Figure,
    MissingInput,
    Session,
    Unsupported,
    mean,
    need,
)
from client.extraction.behaviour.mouth import MOUTH_FPS, root_mean_square

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Floor = Literal["talking", "listening"]


def _floor(session: Session, floor: Floor) -> BoolArray:
    if not session.annotations.turns:
        msg = "Needs a talk-turn file"
        raise MissingInput(msg)
    subject, other = session.spoken_by("subject"), session.spoken_by("other")
    held = subject & ~other if floor == "talking" else other & ~subject
    if not held.any():
        msg = f"The talk turns hold no {floor}"
        raise Unsupported(msg)
    return held


def _figure(
    session: Session,
    floor: Floor,
    samples: FloatArray,
    *,
    value: Callable[[FloatArray], float] = mean,
    note: str | None = None,
) -> Figure:
    held = samples[_floor(session, floor)]
    measured = np.isfinite(held)
    observed_s = float(measured.sum()) / session.series.rate_hz
    need(f"seconds of {floor} in view", observed_s, RATE_S)
    return Figure(value(held), float(measured.mean()), observed_s, note)


def _smiling(session: Session) -> FloatArray:
    return np.where(np.isfinite(session.column("smile")), session.smiling, np.nan)


def _facing(session: Session) -> tuple[FloatArray, str]:
    towards, distance, note = facing(session)
    return np.where(np.isfinite(distance), towards, np.nan), note


def _blink_rate(session: Session, floor: Floor) -> Figure:
    held = _floor(session, floor)
    blinks, rate_hz = session.blinks, session.series.rate_hz
    start_s = session.track.timestamps_s[0]

    def inside(times_s: FloatArray) -> BoolArray:
        rows = ((times_s - start_s) * rate_hz).astype(np.int64)
        return np.asarray(held[np.clip(rows, 0, len(held) - 1)])

    observed_s = float(blinks.watched_s[inside(session.track.timestamps_s)].sum())
    need(f"seconds of {floor} with open eyes in view", observed_s, BLINK_S)
    count = int(inside(blinks.times_s).sum())
    coverage = min(observed_s * rate_hz / held.sum(), 1.0)
    return Figure(60.0 * count / observed_s, coverage, observed_s)


@indicator(
    "mouth_speed_talking_per_s",
    unit="1/s",
    action_unit="25, 26",
    min_fps=MOUTH_FPS,
    min_s=RATE_S,
)
def mouth_speed_talking(session: Session) -> Figure:
    """Root mean square speed of the opening of the mouth while talking.

    As mouth_speed_per_s, over the turns in which the subject speaks and nobody else.

    Needs:
        A file of talk turns.

    Coverage:
        Share of the talking time with a face in view.

    Evidence:
        Weaker mouth movements in 66 women with depression than in 46 without, who watched films
        and did not talk (NeuroImage: Clinical 2023).

    Limits:
        Pauses within a turn are in it.

    Source:
        NeuroImage: Clinical 2023, 38:103380, doi:10.1016/j.nicl.2023.103380.
    """
    return _figure(session, "talking", session.column("mouth_speed"), value=root_mean_square)


@indicator(
    "mouth_speed_listening_per_s",
    unit="1/s",
    action_unit="25, 26",
    min_fps=MOUTH_FPS,
    min_s=RATE_S,
)
def mouth_speed_listening(session: Session) -> Figure:
    """Root mean square speed of the opening of the mouth while listening.

    As mouth_speed_per_s, over the turns in which somebody else speaks and not the subject: what
    is left is expression and not speech.

    Needs:
        A file of talk turns.

    Coverage:
        Share of the listening time with a face in view.

    Evidence:
        Weaker mouth movements in 66 women with depression than in 46 without, who watched films
        and did not talk (NeuroImage: Clinical 2023).

    Limits:
        Words of assent that the turns leave out are in it.

    Source:
        NeuroImage: Clinical 2023, 38:103380, doi:10.1016/j.nicl.2023.103380.
    """
    return _figure(session, "listening", session.column("mouth_speed"), value=root_mean_square)


@indicator(
    "smile_time_fraction_talking",
    unit="1",
    action_unit="12",
    min_fps=EPISODE_FPS,
    min_s=RATE_S,
)
def smile_time_talking(session: Session) -> Figure:
    """Share of the talking time that is spent smiling.

    As smile_time_fraction, over the turns in which the subject speaks and nobody else.

    Needs:
        A file of talk turns.

    Coverage:
        Share of the talking time with a face in view.

    Evidence:
        As for smile_time_fraction: lower with severity within a person (Girard 2014).

    Limits:
        Vowels such as in "cheese" spread the lips.

    Source:
        Girard et al. 2014, doi:10.1016/j.imavis.2013.12.007.
    """
    return _figure(session, "talking", _smiling(session))


@indicator(
    "smile_time_fraction_listening",
    unit="1",
    action_unit="12",
    min_fps=EPISODE_FPS,
    min_s=RATE_S,
)
def smile_time_listening(session: Session) -> Figure:
    """Share of the listening time that is spent smiling.

    As smile_time_fraction, over the turns in which somebody else speaks and not the subject.

    Needs:
        A file of talk turns.

    Coverage:
        Share of the listening time with a face in view.

    Evidence:
        As for smile_time_fraction: lower with severity within a person (Girard 2014).

    Limits:
        It answers what the other person says.

    Source:
        Girard et al. 2014, doi:10.1016/j.imavis.2013.12.007.
    """
    return _figure(session, "listening", _smiling(session))


@indicator(
    "gaze_to_camera_fraction_talking",
    unit="1",
    action_unit="51-54",
    min_s=RATE_S,
)
def gaze_to_camera_talking(session: Session) -> Figure:
    """Share of the talking time with the head turned to its target.

    As gaze_to_camera_fraction, over the turns in which the subject speaks and nobody else.

    Needs:
        A file of talk turns.

    Baseline:
        As for gaze_to_camera_fraction.

    Coverage:
        Share of the talking time with a face in view.

    Evidence:
        Less eye contact in patients than in controls (Fiquer 2018). Healthy speakers look away
        more than listeners do (Kendon 1967), so the two must be read apart.

    Limits:
        It is the head and not the eyes.

    Source:
        Fiquer et al. 2018, doi:10.1016/j.jad.2018.05.071; Kendon 1967, Acta Psychologica 26:22.
    """
    towards, note = _facing(session)
    return _figure(session, "talking", towards, note=note)


@indicator(
    "gaze_to_camera_fraction_listening",
    unit="1",
    action_unit="51-54",
    min_s=RATE_S,
)
def gaze_to_camera_listening(session: Session) -> Figure:
    """Share of the listening time with the head turned to its target.

    As gaze_to_camera_fraction, over the turns in which somebody else speaks and not the subject.

    Needs:
        A file of talk turns.

    Baseline:
        As for gaze_to_camera_fraction.

    Coverage:
        Share of the listening time with a face in view.

    Evidence:
        Less eye contact in patients than in controls (Fiquer 2018). Healthy listeners look at the
        speaker more than speakers do (Kendon 1967).

    Limits:
        It is the head and not the eyes.

    Source:
        Fiquer et al. 2018, doi:10.1016/j.jad.2018.05.071; Kendon 1967, Acta Psychologica 26:22.
    """
    towards, note = _facing(session)
    return _figure(session, "listening", towards, note=note)


@indicator(
    "blink_rate_talking_per_min",
    unit="1/min",
    action_unit="45",
    min_fps=BLINK_FPS,
    min_s=BLINK_S,
)
def blink_rate_talking(session: Session) -> Figure:
    """Blinks per minute while talking.

    As blink_rate_per_min, over the turns in which the subject speaks and nobody else.

    Needs:
        A file of talk turns.

    Baseline:
        As for blink_rate_per_min.

    Coverage:
        Share of the talking time in which a blink could be seen.

    Evidence:
        Raised in 23 patients with depression (Mackintosh 1983). Healthy adults blink 26 times a
        minute in conversation and 17 at rest (Bentivoglio 1997).

    Limits:
        Needs three minutes of talking.

    Source:
        Mackintosh et al. 1983, doi:10.1192/bjp.143.1.55; Bentivoglio et al. 1997,
        doi:10.1002/mds.870120629.
    """
    return _blink_rate(session, "talking")


@indicator(
    "blink_rate_listening_per_min",
    unit="1/min",
    action_unit="45",
    min_fps=BLINK_FPS,
    min_s=BLINK_S,
)
def blink_rate_listening(session: Session) -> Figure:
    """Blinks per minute while listening.

    As blink_rate_per_min, over the turns in which somebody else speaks and not the subject.

    Needs:
        A file of talk turns.

    Baseline:
        As for blink_rate_per_min.

    Coverage:
        Share of the listening time in which a blink could be seen.

    Evidence:
        Raised in 23 patients with depression (Mackintosh 1983). Healthy adults blink 17 times a
        minute at rest and 26 in conversation (Bentivoglio 1997).

    Limits:
        Needs three minutes of listening.

    Source:
        Mackintosh et al. 1983, doi:10.1192/bjp.143.1.55; Bentivoglio et al. 1997,
        doi:10.1002/mds.870120629.
    """
    return _blink_rate(session, "listening")
