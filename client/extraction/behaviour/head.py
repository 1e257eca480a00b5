"""Indicators of the head: how low it is held, how far and how fast it moves."""

from __future__ import annotations

import numpy as np

from client.extraction.behaviour.definition import EPISODE_FPS, indicator
from client.extraction.behaviour.measures import Figure, Session, mean

DOWN_DEG = -10.0


@indicator("head_down_fraction", unit="1", action_unit="54")
def head_down(session: Session) -> Figure:
    """Share of the time with the head down.

    Share of the time in view with a pitch more than 10 degrees below the median of the recording.

    Baseline:
        Median pitch of the recording, because the tracker reads a camera above the eyes as a
        lowered head.

    Evidence:
        Head down more often in patients than in controls, with no relation to severity
        (Fiquer 2018).

    Limits:
        Whoever looks down for more than half of the time has a lowered head as the median.

    Source:
        Fiquer et al. 2018, doi:10.1016/j.jad.2018.05.071.
    """
    samples = session.column("head_pitch")
    return session.share(samples < DOWN_DEG, samples)


@indicator("head_pitch_deg", unit="deg", action_unit="53, 54")
def head_pitch(session: Session) -> Figure:
    """Mean pitch of the head.

    Mean angle of elevation of the nose, chin up positive, as the tracker gives it.

    Evidence:
        Head down more often in patients than in controls (Fiquer 2018).

    Limits:
        It holds the height and tilt of the camera and an offset of the tracker of about ten
        degrees: compare within a person and a room only.

    Source:
        Fiquer et al. 2018, doi:10.1016/j.jad.2018.05.071.
    """
    samples = session.series.pose_deg[:, 0]
    return session.figure(mean(samples), samples)


@indicator("head_speed_deg_s", unit="deg/s", action_unit="51-56", min_fps=EPISODE_FPS)
def head_speed(session: Session) -> Figure:
    """Mean speed of turning of the head.

    Angle of the rotation from one head pose to the next, whatever its axis, times ten samples a
    second; mean over all samples in view.

    Evidence:
        Lower when severity was high, within a person (Girard 2014); the dynamics of the head
        follow severity (Kacem 2018).

    Limits:
        Noise of the tracker adds about one degree a second to a head at rest. Turns beyond 30
        degrees of yaw are not seen.

    Source:
        Girard et al. 2014, doi:10.1016/j.imavis.2013.12.007; Kacem et al. 2018,
        doi:10.1109/FG.2018.00116.
    """
    samples = session.column("head_speed")
    return session.figure(mean(samples), samples)


def _spread(session: Session, axes: list[int]) -> Figure:
    pose = session.series.pose_deg
    seen = pose[np.isfinite(pose).all(axis=1)]
    value = float(np.sqrt(seen[:, axes].var(axis=0).sum())) if len(seen) else float("nan")
    return session.figure(value, pose[:, 0])


@indicator("head_amplitude_deg", unit="deg", action_unit="51-56")
def head_amplitude(session: Session) -> Figure:
    """Spread of the pose of the head.

    Standard deviation over pitch, yaw and roll together: the root of the sum of the three
    variances.

    Evidence:
        Smaller when severity was high, within a person (Girard 2014).

    Limits:
        One change of the sitting position weighs as much as many nods. Turns beyond 30 degrees of
        yaw are not seen.

    Source:
        Girard et al. 2014, doi:10.1016/j.imavis.2013.12.007.
    """
    return _spread(session, [0, 1, 2])


@indicator("head_pitch_amplitude_deg", unit="deg", action_unit="53, 54")
def head_pitch_amplitude(session: Session) -> Figure:
    """Spread of the pitch of the head.

    Standard deviation of the pitch, that is of nodding.

    Evidence:
        Amplitude of the head was smaller when severity was high (Girard 2014).

    Limits:
        The tracker reads about 0.9 degrees for one commanded.

    Source:
        Girard et al. 2014, doi:10.1016/j.imavis.2013.12.007.
    """
    return _spread(session, [0])


@indicator("head_yaw_amplitude_deg", unit="deg", action_unit="51, 52")
def head_yaw_amplitude(session: Session) -> Figure:
    """Spread of the yaw of the head.

    Standard deviation of the yaw, that is of turning aside.

    Evidence:
        Amplitude of the head was smaller when severity was high (Girard 2014).

    Limits:
        Turns beyond 30 degrees are not seen, and the tracker reads about 0.75 degrees for one
        commanded.

    Source:
        Girard et al. 2014, doi:10.1016/j.imavis.2013.12.007.
    """
    return _spread(session, [1])
