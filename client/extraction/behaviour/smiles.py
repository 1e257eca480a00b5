"""Indicators of smiling: how often, how long, how strong, how fast, and with which eyes."""

from __future__ import annotations

import numpy as np

from client.extraction.behaviour.definition import EPISODE_FPS, RATE_S, indicator
from client.extraction.behaviour.measures import Figure, Session, Unsupported, mean
from client.extraction.behaviour.signals import Episode

_TOP_SHARE = 0.9
_FOOT = 0.3


def _some_smiles(session: Session) -> tuple[Episode, ...]:
    if not session.smiles:
        msg = "No smile was seen"
        raise Unsupported(msg)
    return session.smiles


@indicator("smile_rate_per_min", unit="1/min", action_unit="12", min_fps=EPISODE_FPS, min_s=RATE_S)
def smile_rate(session: Session) -> Figure:
    """Smiles per minute.

    A smile begins when the mean of the activations mouthSmileLeft and mouthSmileRight, ten
    samples a second, rises above 0.5, ends when it falls below 0.3, and lasts 0.3 s or more. The
    count is divided by the minutes in view.

    Evidence:
        Fewer AU 12 within a person when severity was high (Girard 2014); fewer smiles in 100
        patients than in 83 controls, but neither related to severity nor changed by treatment
        (Fiquer 2018); fewer laughs in 25 patients (Mergl 2005). Interviews with a virtual human
        showed shorter and weaker smiles (Scherer 2014).

    Limits:
        A face that leaves the view ends the smile, so gaps add smiles. Smiles of politeness and
        of joy count alike.

    Source:
        Girard et al. 2014, doi:10.1016/j.imavis.2013.12.007; Fiquer et al. 2018,
        doi:10.1016/j.jad.2018.05.071; Mergl et al. 2005, J Neurol Neurosurg Psychiatry 76:138;
        Scherer et al. 2014, doi:10.1016/j.imavis.2014.06.001.
    """
    return session.per_minute(len(session.smiles), session.column("smile"))


@indicator("smile_time_fraction", unit="1", action_unit="12", min_fps=EPISODE_FPS)
def smile_time(session: Session) -> Figure:
    """Share of the time in view that is spent smiling.

    Summed length of the smiles, as defined for smile_rate_per_min, over the time in view.

    Evidence:
        As for smile_rate_per_min: lower with severity within a person (Girard 2014); counts, not
        durations, in Fiquer 2018.

    Limits:
        Needs no minute to be defined, but one smile decides it in a short recording.

    Source:
        Girard et al. 2014, doi:10.1016/j.imavis.2013.12.007; Fiquer et al. 2018,
        doi:10.1016/j.jad.2018.05.071.
    """
    return session.share(session.smiling, session.column("smile"))


@indicator("smile_duration_s", unit="s", action_unit="12", min_fps=EPISODE_FPS)
def smile_duration(session: Session) -> Figure:
    """Mean length of a smile.

    Mean length in seconds of the smiles as defined for smile_rate_per_min; no value without one.

    Evidence:
        Shorter smiles with depression in interviews with a virtual human (Scherer 2014).

    Limits:
        A smile cut by the start or end of the recording, or by a face out of view, counts with
        the length that was seen.

    Source:
        Scherer et al. 2014, doi:10.1016/j.imavis.2014.06.001.
    """
    lengths = np.array([smile.duration_s for smile in _some_smiles(session)])
    return session.figure(mean(lengths), session.column("smile"))


@indicator("smile_peak", unit="1", action_unit="12", min_fps=EPISODE_FPS)
def smile_peak(session: Session) -> Figure:
    """Strongest smile activation of the recording.

    Largest value of the mean of mouthSmileLeft and mouthSmileRight, averaged over 0.1 s.

    Evidence:
        Weaker smiles with distress in interviews with a virtual human (Scherer 2014). The
        activation told smiles from other labelled photographs with an area under the curve of
        0.90 and 0.95 in two sets.

    Limits:
        A maximum grows with the length of the recording: compare recordings of equal length.

    Source:
        Scherer et al. 2014, doi:10.1016/j.imavis.2014.06.001.
    """
    samples = session.column("smile")
    return session.figure(float(np.nanmax(np.append(samples, -np.inf))), samples)


@indicator("smile_onset_per_s", unit="1/s", action_unit="12", min_fps=EPISODE_FPS)
def smile_onset(session: Session) -> Figure:
    """Mean slope of the onset of a smile.

    From the last sample at or below 0.3 before a smile to the first one that reaches 90 percent
    of its peak: gain of activation over the seconds between. Mean over the smiles whose beginning
    was in view; no value without one.

    Evidence:
        Slower onset of laughing in 25 patients than in 25 controls, slower with severity for the
        left corner of the mouth, r = -0.45 (Mergl 2005); velocity of the face follows severity
        (Kacem 2018).

    Limits:
        Ten samples a second: an onset of less than 0.2 s is not resolved, and the tracker smooths
        over about three frames.

    Source:
        Mergl et al. 2005, J Neurol Neurosurg Psychiatry 76:138; Kacem et al. 2018,
        doi:10.1109/FG.2018.00116.
    """
    samples, rate_hz = session.column("smile"), session.series.rate_hz
    slopes = [_onset(samples, smile, rate_hz) for smile in _some_smiles(session)]
    known = [slope for slope in slopes if slope is not None]
    if not known:
        msg = "No smile began in view"
        raise Unsupported(msg)
    return session.figure(float(np.mean(known)), samples)


def _onset(samples: np.ndarray, smile: Episode, rate_hz: float) -> float | None:
    first = round(smile.start_s * rate_hz)
    last = first + round(smile.duration_s * rate_hz)
    foot = first
    while foot > 0 and samples[foot] > _FOOT:
        foot -= 1
    if not samples[foot] <= _FOOT:
        return None
    top = first + int(np.argmax(samples[first:last] >= _TOP_SHARE * smile.peak))
    return float((samples[top] - samples[foot]) * rate_hz / (top - foot))


@indicator("smile_eye_narrowing", unit="1", action_unit="6+12", min_fps=EPISODE_FPS)
def smile_eye_narrowing(session: Session) -> Figure:
    """How much the eyes narrow in smiles.

    One minus the median eye aspect ratio within smiles over the subject's eye aspect ratio at
    rest: the geometric twin of AU 6, because the blendshape cheekSquint stays at zero in real
    footage. No value without a smile.

    Baseline:
        The face at rest: median over samples without smile, talk, closed eyes or head movement.

    Coverage:
        Share of the recording with a face in view.

    Evidence:
        AU 6 beside AU 12 marks the smile of enjoyment (Ekman 1990). No study known to us used
        this measure in depression.

    Limits:
        A lowered gaze and a chin held high narrow the eyes as well.

    Source:
        Ekman, Davidson and Friesen 1990, J Pers Soc Psychol 58:342; Soukupova and Cech 2016,
        Computer Vision Winter Workshop (eye aspect ratio).
    """
    _some_smiles(session)
    opening = session.column("eye_aspect_ratio")
    smiling = float(np.median(opening[session.smiling]))
    rest = session.neutral.level(np.where(session.smiling, np.nan, opening))
    if not np.isfinite(rest):
        msg = "No moment without a smile was seen"
        raise Unsupported(msg)
    return session.figure(1.0 - smiling / rest, session.column("smile"), session.neutral.note)
