"""How far an indicator differs between two visits though nothing has changed.

The reliable-change index sets a change against that error of measurement. It tells neither better
from worse nor a diagnosis: no direction is assumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from client.visits.series import VisitSeries

FEWEST_SUBJECTS = 20
RETEST_DAYS = 30.0
BEYOND_ERROR = 1.96
"""An index further from zero than this is left to chance in one of twenty unchanged pairs."""

ICC = "ICC(3,1)"
GIVEN = "site.toml"


@dataclass(frozen=True)
class Reliability:
    """Spread and reliability of one indicator with one task at this site.

    Attributes:
        indicator: Its name.
        task: What the subjects did.
        sd: Standard deviation over the subjects' first accepted visits; None if too few.
        sd_subjects: Subjects that it rests on.
        value: Reliability; None if unknown.
        low: Lower end of its 95 % interval; None if it was given.
        high: Upper end.
        subjects: Subjects with two visits that it rests on.
        method: ``ICC(3,1)``, or ``site.toml`` where the site names it.
        reason: Why no index can be computed; None if one can.
    """

    indicator: str
    task: str
    sd: float | None
    sd_subjects: int
    value: float | None
    low: float | None
    high: float | None
    subjects: int
    method: str
    reason: str | None

    def index(self, change: float) -> float | None:
        """The reliable-change index of a change; None where none can be computed."""
        if self.reason is not None or self.sd is None or self.value is None:
            return None
        return reliable_change(change, sd=self.sd, reliability=self.value)


def reliable_change(change: float, *, sd: float, reliability: float) -> float:
    """The reliable-change index: a change over the standard error of a difference.

    Args:
        change: Later value minus earlier value.
        sd: Standard deviation among subjects before any change, > 0.
        reliability: Retest reliability, in (0, 1).

    Returns:
        ``change / (sd * sqrt(2 * (1 - reliability)))``. The example of the source, 47.5 to 32.5
        with a standard deviation of 7.5 and a reliability of 0.80:

        >>> round(reliable_change(32.5 - 47.5, sd=7.5, reliability=0.80), 2)
        -3.16

    Source: Jacobson and Truax 1991, doi:10.1037/0022-006X.59.1.12
    """
    return change / (sd * math.sqrt(2.0 * (1.0 - reliability)))


def consistency_icc(pairs: NDArray[np.floating]) -> tuple[float, float, float]:
    """Intraclass correlation ICC(3,1) of two visits, with its 95 % interval.

    Two-way mixed model, single measures, consistency: a shift that all subjects share does not
    count as error, as it does not in the index.

    Args:
        pairs: ``[subjects, 2]``, at least two subjects.

    Returns:
        Estimate, lower and upper end; NaN if the subjects do not differ at all.

    Source: Shrout and Fleiss 1979, doi:10.1037/0033-2909.86.2.420; interval: McGraw and Wong 1996,
        doi:10.1037/1082-989X.1.1.30
    """
    subjects, visits = pairs.shape
    freedom = (subjects - 1, (subjects - 1) * (visits - 1))
    between = visits * float(pairs.mean(axis=1).var(ddof=1))
    residuals = pairs - pairs.mean(axis=1, keepdims=True) - pairs.mean(axis=0) + pairs.mean()
    within = float((residuals**2).sum()) / freedom[1]
    if between <= 0.0 and within <= 0.0:
        return math.nan, math.nan, math.nan
    if within <= 0.0:
        return 1.0, 1.0, 1.0
    ratio = between / within
    low = ratio / float(stats.f.ppf(0.975, *freedom))
    high = ratio * float(stats.f.ppf(0.975, *reversed(freedom)))

    estimate, lower, upper = ((f - 1.0) / (f + visits - 1.0) for f in (ratio, low, high))
    return estimate, lower, upper


def measure_reliability(
    name: str, task: str, series: Iterable[VisitSeries], given: Mapping[str, float]
) -> Reliability:
    """Spread and reliability of an indicator, from the site's own visits.

    The spread comes from each subject's first accepted visit. The reliability comes from
    ``[reliability]`` in ``site.toml``, or else from one pair of visits a subject: less than 30 days
    apart, no change of treatment in between.

    Args:
        name: The indicator.
        task: Only series with this task count.
        series: All series of the site.
        given: ``[reliability]``.
    """
    own = [one for one in series if one.task == task]
    firsts = _known(one.baseline.values.get(name) if one.baseline else None for one in own)
    sd = float(np.std(firsts, ddof=1)) if len(firsts) >= FEWEST_SUBJECTS else None
    pairs = _pairs(name, own)
    if name in given:
        value, low, high = given[name], math.nan, math.nan
    elif len(pairs) >= FEWEST_SUBJECTS:
        value, low, high = consistency_icc(pairs)
    else:
        value, low, high = math.nan, math.nan, math.nan
    return Reliability(
        indicator=name,
        task=task,
        sd=sd,
        sd_subjects=len(firsts),
        value=_finite(value),
        low=_finite(low),
        high=_finite(high),
        subjects=0 if name in given else len(pairs),
        method=GIVEN if name in given else ICC,
        reason=_why_no_index(sd, len(firsts), value, len(pairs)),
    )


def _why_no_index(sd: float | None, firsts: int, value: float, pairs: int) -> str | None:
    if sd is None:
        return f"Needs first visits of {FEWEST_SUBJECTS} subjects, has {firsts}"
    if sd <= 0.0:
        return "All first visits have the same value"
    if math.isnan(value):
        return (
            f"Needs {FEWEST_SUBJECTS} subjects with two visits less than {RETEST_DAYS:g} days "
            f"apart under one treatment, has {pairs}; or a figure in [reliability] of site.toml"
        )
    if not 0.0 < value < 1.0:
        return f"The reliability is estimated as {value:.2f}: no error of measurement follows"
    return None


def _pairs(name: str, series: Sequence[VisitSeries]) -> NDArray[np.floating]:
    """``[subjects, 2]``: the first stable pair of visits of each subject that has both values."""
    pairs = []
    for one in series:
        for first, second in one.stable_pairs(within_days=RETEST_DAYS):
            values = _known([first.values.get(name), second.values.get(name)])
            if len(values) == 2:
                pairs.append(values)
                break
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
