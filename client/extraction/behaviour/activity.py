"""Indicators of the face as a whole: how much, how fast and how evenly it moves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.definition import EPISODE_FPS, indicator
from client.extraction.behaviour.measures import FACE, Figure, Session, mean
from client.extraction.track import BLENDSHAPES

_LEFT = [name for name in FACE if f"{name.removesuffix('Left')}Right" in FACE]
_SHAPES = ("corner_height", "mouth_aspect_ratio", "brow_gap", "brow_rise", "inner_brow_rise")


@indicator("change_rate_per_s", unit="1/s", min_fps=EPISODE_FPS)
def change_rate(session: Session) -> Figure:
    """Mean speed of change of the face.

    Absolute change of each of the 52 blendshapes from one sample to the next, times ten samples a
    second; mean over blendshapes and over all samples in view.

    Evidence:
        Velocity and acceleration of the face follow severity (Kacem 2018); slower onset of
        voluntary and of felt movements in 25 patients (Mergl 2005).

    Limits:
        Talk, blinks and glances are in it. Noise of the tracker adds about 0.02 to a still face.

    Source:
        Kacem et al. 2018, doi:10.1109/FG.2018.00116; Mergl et al. 2005,
        J Neurol Neurosurg Psychiatry 76:138.
    """
    samples = session.column("change_rate")
    return session.figure(mean(samples), samples)


@indicator("expressivity", unit="1")
def expressivity(session: Session) -> Figure:
    """Mean activity of the face.

    Mean distance of the 37 blendshapes of brows, cheeks, nose, jaw and mouth from their own
    medians over the recording.

    Baseline:
        Median of each blendshape over the recording.

    Evidence:
        Less facial activity in 23 acutely depressed patients than in 21 controls, most of all in
        the upper face, and as little in schizophrenia (Gaebel 2004): not specific.

    Limits:
        An expression held for more than half of the recording becomes the median. Talk is in it.

    Source:
        Gaebel and Wölwer 2004, doi:10.1007/s00406-004-0510-5.
    """
    return session.figure(mean(session.activity), session.activity)


@indicator("shape_expressivity", unit="IOD")
def shape_expressivity(session: Session) -> Figure:
    """Mean activity of the face by geometry.

    Mean distance of five measures in IOD (height of the mouth corners, opening of the lips, gap,
    height and inner height of the brows, turn of the head taken back) from their levels at rest:
    the geometric twin of expressivity.

    Baseline:
        The face at rest: median over samples without smile, talk, closed eyes or head movement.

    Evidence:
        As for expressivity: less in acute depression and not specific to it (Gaebel 2004).

    Limits:
        Talk is in it, and weighs more than in expressivity.

    Source:
        Gaebel and Wölwer 2004, doi:10.1007/s00406-004-0510-5.
    """
    distances = [
        np.abs(session.column(name) - session.neutral.level(session.column(name)))
        for name in _SHAPES
    ]
    samples = np.mean(distances, axis=0)
    return session.figure(mean(samples), samples, session.neutral.note)


def _columns(names: list[str]) -> list[int]:
    return [BLENDSHAPES.index(name) for name in names]


def unevenness(blendshapes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean absolute difference of left and right over the paired blendshapes of the face.

    Args:
        blendshapes: ``[M, 52]``.

    Returns:
        ``[M]``, 0..1.
    """
    right = _columns([f"{name.removesuffix('Left')}Right" for name in _LEFT])
    gap = np.abs(blendshapes[:, _columns(_LEFT)] - blendshapes[:, right])
    return np.asarray(gap.mean(axis=1))


@indicator("asymmetry", unit="1")
def asymmetry(session: Session) -> Figure:
    """Mean difference between the two sides of the face.

    Absolute difference between the left and the right activation, mean over the paired
    blendshapes of brows, cheeks, nose and mouth and over all samples in view.

    Evidence:
        No direction is established in depression. Half or more of the asymmetry at the peak of an
        expression is that of the face at rest (Schmidt 2006).

    Limits:
        Light from one side and a turned head make an even face uneven to the tracker.

    Source:
        Schmidt, Liu and Cohn 2006, Laterality 11:540.
    """
    samples = unevenness(session.series.blendshapes)
    return session.figure(mean(samples), samples)


@indicator("corner_asymmetry", unit="IOD")
def corner_asymmetry(session: Session) -> Figure:
    """Mean departure of the mouth corners from their usual slant.

    Absolute difference in height between the two mouth corners, turn of the head taken back,
    minus its level at rest; mean over all samples in view: the geometric twin of asymmetry, of
    movement only.

    Baseline:
        The face at rest: median over samples without smile, talk, closed eyes or head movement.

    Evidence:
        No direction is established in depression; asymmetry of movement is unrelated to that of
        the resting face (Schmidt 2006).

    Limits:
        Turning the head by ten degrees shifted it by up to 0.02 IOD on real footage.

    Source:
        Schmidt, Liu and Cohn 2006, Laterality 11:540.
    """
    samples = session.column("corner_tilt")
    uneven = np.abs(samples - session.neutral.level(samples))
    return session.figure(mean(uneven), uneven, session.neutral.note)
