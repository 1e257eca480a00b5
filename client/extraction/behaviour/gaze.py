"""Indicators of the gaze: down, and towards the camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.definition import EPISODE_FPS, indicator
from client.extraction.behaviour.head import DOWN_DEG
from client.extraction.behaviour.measures import (
    OPEN_EYES,
    Figure,
    Session,
    Unsupported,
    mean,
)
from client.extraction.behaviour.signals import episodes

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

YAW_DEG = 10.0
PITCH_DEG = 8.0
CAMERA = "camera"
_EYES_UP = 0.1
_IRIS_IOD = 0.02


def _with_open_eyes(session: Session, samples: FloatArray) -> FloatArray:
    # Closed lids look like a lowered gaze to the model.
    return np.where(session.column("eye_aspect_ratio") >= OPEN_EYES, samples, np.nan)


def _usual(samples: FloatArray) -> float:
    known = samples[np.isfinite(samples)]
    return float(np.percentile(known, 25)) if len(known) else 0.0


def _eyes_down(session: Session) -> tuple[BoolArray, FloatArray]:
    samples = _with_open_eyes(session, session.column("gaze_down"))
    return samples > min(0.5, _usual(samples) + 0.1), samples


@indicator("gaze_down_fraction", unit="1", action_unit="64")
def gaze_down(session: Session) -> Figure:
    """Share of the time with open eyes in which the eyes look down.

    Down is a mean of eyeLookDownLeft and eyeLookDownRight above 0.5, or 0.1 above the subject's
    usual gaze, whichever is lower: deep-set eyes never reach 0.5.

    Baseline:
        The lower quartile of the recording, taken as the gaze straight ahead: it must fill a
        quarter of the time.

    Coverage:
        Share of the recording with a face in view and open eyes.

    Evidence:
        More gaze downwards with depression in interviews with a virtual human (Scherer 2014).

    Limits:
        Eyes within the head: who lowers the head and looks up at the partner does not look down.
        Reading and using a telephone count.

    Source:
        Scherer et al. 2014, doi:10.1016/j.imavis.2014.06.001.
    """
    down, samples = _eyes_down(session)
    return session.share(down, samples)


@indicator("gaze_down_iris_fraction", unit="1", action_unit="64")
def gaze_down_iris(session: Session) -> Figure:
    """Share of the time with open eyes in which the irises stand low.

    Low is 0.02 IOD or more below the subject's usual place of the irises between the eye corners:
    about nine degrees for an eyeball of 12 mm radius and eye corners 90 mm apart. The geometric
    twin of gaze_down_fraction.

    Baseline:
        The lower quartile of the recording, taken as the gaze straight ahead.

    Coverage:
        Share of the recording with a face in view and open eyes.

    Evidence:
        As for gaze_down_fraction: more with depression (Scherer 2014).

    Limits:
        Lids cover the iris as the eye goes down, so the mesh follows it only in part.

    Source:
        Scherer et al. 2014, doi:10.1016/j.imavis.2014.06.001.
    """
    samples = _with_open_eyes(session, session.column("iris_drop"))
    return session.share(samples >= _usual(samples) + _IRIS_IOD, samples)


@indicator("gaze_head_down_fraction", unit="1", action_unit="64, 54")
def gaze_head_down(session: Session) -> Figure:
    """Share of the time with open eyes in which eyes or head are down.

    The eyes look down as in gaze_down_fraction, or the head is more than 10 degrees below its
    median pitch while the eyes are not raised against it (eyeLookUp less than 0.1 above its
    median).

    Baseline:
        Lower quartile of the gaze, medians of pitch and of eyeLookUp.

    Coverage:
        Share of the recording with a face in view and open eyes.

    Evidence:
        More gaze downwards with depression (Scherer 2014), head down more often in patients
        (Fiquer 2018).

    Limits:
        No angle of the line of sight is claimed: neither the camera nor the eyes are calibrated.

    Source:
        Scherer et al. 2014, doi:10.1016/j.imavis.2014.06.001; Fiquer et al. 2018,
        doi:10.1016/j.jad.2018.05.071.
    """
    down, samples = _eyes_down(session)
    raised = (session.blendshape("eyeLookUpLeft") + session.blendshape("eyeLookUpRight")) / 2.0
    known = raised[np.isfinite(raised)]
    usual = float(np.median(known)) if len(known) else 0.0
    lowered = (session.column("head_pitch") < DOWN_DEG) & (raised < usual + _EYES_UP)
    return session.share(down | lowered, samples)


def facing(session: Session) -> tuple[BoolArray, FloatArray, str]:
    """Where the head points at its target, the samples it was judged on, and what the target is.

    Args:
        session: The recording.

    Returns:
        ``[M]`` True where it does, ``[M]`` distance from the target in units of the limits, and
        a note.
    """
    target, note = _target(session)
    pitch, yaw = (session.series.pose_deg[:, :2] - target).T
    distance = np.maximum(np.abs(yaw) / YAW_DEG, np.abs(pitch) / PITCH_DEG)
    return distance < 1.0, distance, note


def _target(session: Session) -> tuple[FloatArray, str]:
    pose = session.series.pose_deg[:, :2]
    shown = [one for one in session.annotations.stimuli if one.label == CAMERA]
    marked = session.within((one.onset_s, one.onset_s + one.duration_s) for one in shown)
    calibrated = pose[marked & np.isfinite(pose).all(axis=1)]
    if len(calibrated):
        return np.median(calibrated, axis=0), "target: median pose while asked to face the camera"
    seen = pose[np.isfinite(pose).all(axis=1)]
    target = np.median(seen, axis=0) if len(seen) else np.full(2, np.nan)
    return target, "target: the recording's median pose, for want of a stretch labelled camera"


@indicator("gaze_to_camera_fraction", unit="1", action_unit="51-54")
def gaze_to_camera(session: Session) -> Figure:
    """Share of the time with the head turned to its target.

    Share of the time in view with a yaw within 10 degrees and a pitch within 8 degrees of the
    target.

    Baseline:
        Median pose in the stretches of the events file labelled camera; without one the median
        pose of the recording, and then the figure tells how steadily the head is held.

    Evidence:
        Less eye contact in patients than in controls, unrelated to severity (Fiquer 2018).

    Limits:
        It is the head and not the eyes; it is eye contact only where the camera stands at the
        partner's eyes.

    Source:
        Fiquer et al. 2018, doi:10.1016/j.jad.2018.05.071.
    """
    towards, samples, note = facing(session)
    return session.share(towards, samples, note)


@indicator("gaze_to_camera_bout_s", unit="s", action_unit="51-54", min_fps=EPISODE_FPS)
def gaze_to_camera_bout(session: Session) -> Figure:
    """Mean length of a bout with the head turned to its target.

    Mean length in seconds of the stretches within the limits of gaze_to_camera_fraction that last
    0.3 s or more; a bout ends when the head is a fifth beyond a limit. No value without a bout.

    Baseline:
        As for gaze_to_camera_fraction.

    Evidence:
        Less frequent eye contact in patients than in controls (Fiquer 2018); durations were not
        measured there.

    Limits:
        A bout cut by the end of the recording or by a face out of view counts with the length
        that was seen.

    Source:
        Fiquer et al. 2018, doi:10.1016/j.jad.2018.05.071.
    """
    _, samples, note = facing(session)
    bouts = episodes(-samples, rate_hz=session.series.rate_hz, on=-1.0, off=-1.2)
    if not bouts:
        msg = "The head never stayed turned to its target"
        raise Unsupported(msg)
    return session.figure(mean(np.array([bout.duration_s for bout in bouts])), samples, note)
