"""Indicators of the brows: frown and raised inner brows, by blendshape and by geometry."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.definition import indicator
from client.extraction.behaviour.measures import Figure, Session, mean

# Half a millimetre in an adult face; below it the mesh of a brow at rest trembles.
_LEAST_RISE_IOD = 0.005


def _mean_rise(session: Session, samples: NDArray[np.float64]) -> Figure:
    return session.figure(mean(session.neutral.rise(samples)), samples, session.neutral.note)


@indicator("brow_lowering", unit="1", action_unit="4")
def brow_lowering(session: Session) -> Figure:
    """Mean frown activation above the subject's own rest.

    The mean of browDownLeft and browDownRight minus its level at rest, negative differences set
    to zero, averaged over all samples in view. A plain mean of the difference would be close to
    zero by construction, since rest is a median.

    Baseline:
        The face at rest: median over samples without smile, talk, closed eyes or head movement.

    Evidence:
        More frowning in patients than in controls (Fiquer 2018). The direction flips by sex in
        one corpus: more in depressed men, less in depressed women (Stratou 2015).

    Limits:
        A frown held from the first to the last minute is part of the rest and not seen. The
        blendshape reached only 0.14 in a full frown of a rendered face, so read it beside its
        geometric twins. Noise adds about 0.4 of its own standard deviation.

    Source:
        Fiquer et al. 2018, doi:10.1016/j.jad.2018.05.071; Stratou et al. 2015,
        doi:10.1007/s12193-014-0161-4.
    """
    return _mean_rise(session, session.column("brow_lowering"))


@indicator("brow_gap_narrowing", unit="IOD", action_unit="4")
def brow_gap_narrowing(session: Session) -> Figure:
    """Mean narrowing of the gap between the brows.

    How far the distance of the inner ends of the brows (mesh points 107 and 336) is below its
    level at rest, averaged over all samples in view; 0 where it is above.

    Baseline:
        The face at rest: median over samples without smile, talk, closed eyes or head movement.

    Evidence:
        As for brow_lowering, of which it is a geometric twin: more frowning in patients
        (Fiquer 2018), with a direction that flips by sex in one corpus (Stratou 2015). Inner
        brows raised and drawn together followed depressive symptoms in 59 older adults
        (Kim 2023).

    Limits:
        The distance shortens by about 0.01 IOD when the head turns aside by ten degrees.

    Source:
        Fiquer et al. 2018, doi:10.1016/j.jad.2018.05.071; Stratou et al. 2015,
        doi:10.1007/s12193-014-0161-4; Kim et al. 2023, doi:10.3390/s23167080.
    """
    return _mean_rise(session, -session.column("brow_gap"))


@indicator("brow_height_lowering", unit="IOD", action_unit="4")
def brow_height_lowering(session: Session) -> Figure:
    """Mean lowering of the brows.

    How far the brows (mesh points 105 and 334) stand below their level at rest, measured from
    the four eye corners with the turn of the head taken back, averaged over all samples in view;
    0 where they stand above. The eye corners and not the lids are the reference, because lids
    that follow a lowered gaze moved the distance to the lid by more than a full frown did.

    Baseline:
        The face at rest: median over samples without smile, talk, closed eyes or head movement.

    Evidence:
        As for brow_lowering, of which it is a geometric twin: more frowning in patients
        (Fiquer 2018), with a direction that flips by sex in one corpus (Stratou 2015).

    Limits:
        The depth of the mesh is an estimate: of 0.03 IOD in ten degrees of nodding about 0.004
        remain on real footage.

    Source:
        Fiquer et al. 2018, doi:10.1016/j.jad.2018.05.071; Stratou et al. 2015,
        doi:10.1007/s12193-014-0161-4.
    """
    return _mean_rise(session, -session.column("brow_rise"))


@indicator("inner_brow_raise", unit="1", action_unit="1, 1+4")
def inner_brow_raise(session: Session) -> Figure:
    """Mean activation of raised inner brows that geometry confirms.

    The blendshape browInnerUp minus its level at rest, negative differences set to zero, counted
    as zero as well where the inner ends of the brows (mesh points 55 and 285, turn of the head
    taken back) stand less than 0.005 IOD above their own level at rest; averaged over all samples
    in view.

    Baseline:
        The face at rest: median over samples without smile, talk, closed eyes or head movement.

    Evidence:
        Raised and narrowed inner brows in spontaneous faces followed depressive symptoms in 59
        older adults (Kim 2023). Brows also rise in talk, to stress a word or to ask.

    Limits:
        Sadness, surprise and emphasis are not told apart.

    Source:
        Kim et al. 2023, doi:10.3390/s23167080.
    """
    samples = session.column("inner_brow_raise")
    confirmed = session.neutral.rise(session.column("inner_brow_rise")) >= _LEAST_RISE_IOD
    risen = np.where(np.isfinite(samples), session.neutral.rise(samples) * confirmed, np.nan)
    return session.figure(mean(risen), samples, session.neutral.note)


@indicator("inner_brow_height_raise", unit="IOD", action_unit="1, 1+4")
def inner_brow_height_raise(session: Session) -> Figure:
    """Mean raise of the inner ends of the brows.

    How far the inner ends of the brows (mesh points 55 and 285) stand above their level at rest,
    measured from the four eye corners with the turn of the head taken back, averaged over all
    samples in view; 0 where they stand below.

    Baseline:
        The face at rest: median over samples without smile, talk, closed eyes or head movement.

    Evidence:
        The geometric twin of inner_brow_raise: higher with depressive symptoms in 59 older adults
        (Kim 2023).

    Limits:
        Of 0.045 IOD in ten degrees of nodding about 0.005 remain on real footage.

    Source:
        Kim et al. 2023, doi:10.3390/s23167080.
    """
    return _mean_rise(session, session.column("inner_brow_rise"))
