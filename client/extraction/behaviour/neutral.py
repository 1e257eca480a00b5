"""The subject's own face at rest, against which changes of brows and mouth are measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from client.extraction.behaviour.features import BehaviourSeries

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

LEAST_CALM_S = 5.0
_TALK_REACH_S = 0.5


@dataclass(frozen=True)
class Neutral:
    """The samples of a recording in which the face rests.

    Attributes:
        calm: ``[M]`` bool, True where the subject neither smiles nor talks nor moves the head.
        note: Why it is not a face at rest; None if it is.
    """

    calm: BoolArray
    note: str | None

    def level(self, samples: FloatArray) -> float:
        """Median of a signal over the face at rest.

        Args:
            samples: ``[M]``, NaN where not measured.

        Returns:
            The level; over all samples if none of the calm ones was measured, NaN without any.
        """
        for chosen in (samples[self.calm], samples):
            known = chosen[np.isfinite(chosen)]
            if len(known):
                return float(np.median(known))
        return float("nan")

    def rise(self, samples: FloatArray) -> FloatArray:
        """How far a signal stands above its level at rest; 0 where it is below.

        Args:
            samples: ``[M]``, NaN where not measured.

        Returns:
            ``[M]``, >= 0, NaN where not measured.
        """
        return np.maximum(samples - self.level(samples), 0.0)


def find_neutral(series: BehaviourSeries, *, talking: BoolArray) -> Neutral:
    """The face at rest: no smile, no talk, eyes open, head still and near its usual pose.

    A median over the whole recording would be the talking or smiling face of somebody who does
    so most of the time. An expression that is held throughout is part of the face at rest.

    Args:
        series: Behaviour at a fixed rate.
        talking: ``[M]`` True where the talk turns let the subject speak.

    Returns:
        The calm samples; all of them, with a note, if there are fewer than 5 seconds.
    """
    column = series.columns
    conditions = (
        column["smile"] < 0.3,
        _talk(series) < 0.1,
        column["jaw_open"] < 0.1,
        column["eye_aspect_ratio"] >= 0.12,
        column["head_speed"] < 20.0,
        np.abs(column["head_pitch"]) < 10.0,
        np.abs(column["head_yaw"]) < 15.0,
        ~talking,
    )
    calm = np.logical_and.reduce(conditions)
    if calm.sum() / series.rate_hz >= LEAST_CALM_S:
        return Neutral(calm, None)
    note = f"fewer than {LEAST_CALM_S:g} calm seconds: neutral is the median of the whole recording"
    return Neutral(np.isfinite(column["smile"]), note)


def _talk(series: BehaviourSeries) -> FloatArray:
    # Between two syllables the mouth stands still for a sample or two.
    speed = np.nan_to_num(series.columns["mouth_speed"])
    reach = 2 * round(_TALK_REACH_S * series.rate_hz) + 1
    return np.asarray(maximum_filter1d(speed, size=max(reach, 1)))
