"""Indicators of the mouth: its corners, one-sided pulls, and how fast it moves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.definition import EPISODE_FPS, RATE_S, indicator
from client.extraction.behaviour.measures import Figure, Session, mean
from client.extraction.behaviour.signals import episodes, speed

FloatArray = NDArray[np.float64]

MOUTH_FPS = 15.0
_OPEN_JAW = 0.1
_NO_SMILE = 0.3
_AHEAD_DEG = 6.0


@indicator("corner_elevation", unit="IOD", action_unit="12, 15")
def corner_elevation(session: Session) -> Figure:
    """Mean height of the mouth corners.

    Height of the mouth corners (mesh points 61 and 291) above the middle of the inner lips (13
    and 14), perpendicular to the line of the eye corners; mean over all samples in view. Positive
    when the corners are up.

    Evidence:
        The blendshape mouthFrown stays at zero even for a commanded drop of the corners, which
        this measure followed with r = -0.97. AU 15 was rarer, not more frequent, when severity
        was high (Girard 2014); in posed sadness of older adults with more symptoms the corners
        were lower (Kim 2023). Smiles raise it.

    Limits:
        The shape of a mouth at rest differs between people: compare within a person, or use
        corner_raising and corner_lowering. An open jaw lowers the lower lip and so raises the
        measure; a nod of ten degrees shifts it by about 0.03 IOD.

    Source:
        Girard et al. 2014, doi:10.1016/j.imavis.2013.12.007; Kim et al. 2023,
        doi:10.3390/s23167080.
    """
    samples = session.column("corner_elevation")
    return session.figure(mean(samples), samples)


def _corners(session: Session) -> FloatArray:
    closed = session.column("jaw_open") <= _OPEN_JAW
    return np.where(closed, session.column("corner_height"), np.nan)


@indicator("corner_raising", unit="IOD", action_unit="12")
def corner_raising(session: Session) -> Figure:
    """Mean raise of the mouth corners above the subject's own rest.

    Height of the mouth corners above the middle of the lips with the turn of the head taken back,
    minus its level at rest, negative differences set to zero; mean over samples with a closed jaw
    (jawOpen up to 0.1). The geometric twin of the smile activation.

    Baseline:
        The face at rest: median over samples without smile, talk, closed eyes or head movement.

    Coverage:
        Share of the recording with a face in view and a closed jaw.

    Evidence:
        As for smile_time_fraction: less AU 12 with severity within a person (Girard 2014).

    Limits:
        Lips parted by a smile add to it.

    Source:
        Girard et al. 2014, doi:10.1016/j.imavis.2013.12.007.
    """
    samples = _corners(session)
    return session.figure(mean(session.neutral.rise(samples)), samples, session.neutral.note)


@indicator("corner_lowering", unit="IOD", action_unit="15")
def corner_lowering(session: Session) -> Figure:
    """Mean drop of the mouth corners below the subject's own rest.

    As corner_raising with the sign turned: how far the corners stand below their level at rest,
    0 where they stand above.

    Baseline:
        The face at rest: median over samples without smile, talk, closed eyes or head movement.

    Coverage:
        Share of the recording with a face in view and a closed jaw.

    Evidence:
        Directions conflict: AU 15 was rarer when severity was high within a person (Girard 2014);
        lips turned down were more frequent in patients than in controls (Fiquer 2018); in posed
        sadness the corners were lower with more symptoms (Kim 2023).

    Limits:
        Corners that hang throughout are part of the rest and not seen.

    Source:
        Girard et al. 2014, doi:10.1016/j.imavis.2013.12.007; Fiquer et al. 2018,
        doi:10.1016/j.jad.2018.05.071; Kim et al. 2023, doi:10.3390/s23167080.
    """
    samples = _corners(session)
    return session.figure(mean(session.neutral.rise(-samples)), samples, session.neutral.note)


def _outside_smiles(session: Session, name: str) -> FloatArray:
    return np.where(session.column("smile") < _NO_SMILE, session.column(name), np.nan)


@indicator(
    "contempt_rate_per_min", unit="1/min", action_unit="14", min_fps=EPISODE_FPS, min_s=RATE_S
)
def contempt_rate(session: Session) -> Figure:
    """One-sided dimples outside smiles, per minute.

    The difference mouthDimpleLeft minus mouthDimpleRight leaves its level at rest by more than
    0.2, to either side, until it is back within 0.1, for 0.3 s or more, while the smile
    activation is below 0.3 and the head within 6 degrees of its usual yaw. A broad smile deepens
    the dimples unevenly and is no contempt, and a head turned aside shows more of one cheek.

    Baseline:
        The face at rest: median over samples without smile, talk, closed eyes or head movement.

    Coverage:
        Share of the recording with a face in view that does not smile and is not turned aside.

    Evidence:
        More AU 14 within a person when severity was high (Girard 2014).

    Limits:
        The name is that of the expression; that contempt is felt is not shown. Speech pulls
        single corners as well.

    Source:
        Girard et al. 2014, doi:10.1016/j.imavis.2013.12.007.
    """
    samples = _outside_smiles(session, "dimple_asymmetry")
    # A turn by 16 degrees counted as a dimple each time, on a rendered face without any.
    samples[np.abs(session.column("head_yaw")) > _AHEAD_DEG] = np.nan
    uneven = np.abs(samples - session.neutral.level(samples))
    found = episodes(uneven, rate_hz=session.series.rate_hz, on=0.2, off=0.1)
    return session.per_minute(len(found), uneven, session.neutral.note)


@indicator(
    "corner_pull_rate_per_min", unit="1/min", action_unit="14", min_fps=EPISODE_FPS, min_s=RATE_S
)
def corner_pull_rate(session: Session) -> Figure:
    """One-sided pulls of a mouth corner outside smiles, per minute.

    The difference in height of the two mouth corners, turn of the head taken back, leaves its
    level at rest by more than 0.03 IOD, to either side, until it is back within 0.015, for 0.3 s
    or more, while the smile activation is below 0.3. The geometric twin of contempt_rate_per_min.

    Baseline:
        The face at rest: median over samples without smile, talk, closed eyes or head movement.

    Coverage:
        Share of the recording with a face in view that does not smile.

    Evidence:
        As for contempt_rate_per_min: more AU 14 when severity was high (Girard 2014). No study
        known to us used this measure.

    Limits:
        Speech moves the corners unevenly; turning the head by ten degrees shifted the difference
        by up to 0.02 IOD on real footage.

    Source:
        Girard et al. 2014, doi:10.1016/j.imavis.2013.12.007.
    """
    samples = _outside_smiles(session, "corner_tilt")
    uneven = np.abs(samples - session.neutral.level(samples))
    found = episodes(uneven, rate_hz=session.series.rate_hz, on=0.03, off=0.015)
    return session.per_minute(len(found), uneven, session.neutral.note)


def root_mean_square(samples: FloatArray) -> float:
    """Root of the mean square of the samples that were measured."""
    return float(np.sqrt(mean(samples**2)))


@indicator("mouth_speed_per_s", unit="1/s", action_unit="25, 26", min_fps=MOUTH_FPS)
def mouth_speed(session: Session) -> Figure:
    """Root mean square speed of the opening of the mouth.

    Change per second of the distance between the inner lips (mesh points 13 and 14) in IOD, taken
    from ten samples a second, so that it does not grow with the frame rate of the camera.

    Evidence:
        Mouth movements were weaker in 66 women with depression than in 46 without, and weaker
        with more symptoms (NeuroImage: Clinical 2023).

    Limits:
        Talk dominates it: who talks more moves the mouth more. Give talk turns to have talking
        and listening apart.

    Source:
        NeuroImage: Clinical 2023, 38:103380, doi:10.1016/j.nicl.2023.103380.
    """
    samples = session.column("mouth_speed")
    return session.figure(root_mean_square(samples), samples)


@indicator("jaw_speed_per_s", unit="1/s", action_unit="26", min_fps=MOUTH_FPS)
def jaw_speed(session: Session) -> Figure:
    """Root mean square speed of the jaw activation.

    Change per second of the blendshape jawOpen, taken from ten samples a second: the twin of
    mouth_speed_per_s that does not move with the lips alone.

    Evidence:
        As for mouth_speed_per_s: weaker mouth movements in 66 women with depression than in 46
        without (NeuroImage: Clinical 2023).

    Limits:
        Talk dominates it.

    Source:
        NeuroImage: Clinical 2023, 38:103380, doi:10.1016/j.nicl.2023.103380.
    """
    samples = speed(session.column("jaw_open"), rate_hz=session.series.rate_hz)
    return session.figure(root_mean_square(samples), samples)
