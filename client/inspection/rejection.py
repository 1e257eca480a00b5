"""How often the quality gate rejects recordings of each group, before anyone trains.

A gate that rejects one group more often than another is a bias of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from statistics import NormalDist

from client.recordings.recording import Recording
from client.storage.stored_recording import StoredRecording
from shared_models.consortium import ConsortiumConfig

Row = tuple[Recording, StoredRecording]

Z95 = NormalDist().inv_cdf(0.975)
UNDECLARED = "undeclared"
"""Age group of a subject younger than the study's youngest band."""


@dataclass(frozen=True)
class GroupRejection:
    """Rejected recordings of one group, with an interval for the rate behind them.

    Attributes:
        attribute: ``age_band``, ``sex`` or ``site``.
        group: Name of the group; ``all`` for the site.
        rejected: Recordings that the gate rejected.
        recordings: Recordings judged, > 0.
        subjects: Subjects that they belong to.
        low: Lower end of Wilson's 95 % interval of the rate, 0..1.
        high: Upper end.
        reasons: Code of a reason and the recordings it was given for, most frequent first; one
            recording can have several.
    """

    attribute: str
    group: str
    rejected: int
    recordings: int
    subjects: int
    low: float
    high: float
    reasons: tuple[tuple[str, int], ...]

    @property
    def rate(self) -> float:
        """Share of the recordings that was rejected, 0..1."""
        return self.rejected / self.recordings

    def to_json(self) -> dict[str, object]:
        """The object for machines."""
        return {
            "attribute": self.attribute,
            "group": self.group,
            "rejected": self.rejected,
            "recordings": self.recordings,
            "subjects": self.subjects,
            "rate": self.rate,
            "low": self.low,
            "high": self.high,
            "reasons": dict(self.reasons),
        }


def rejection_rates(rows: Iterable[Row], study: ConsortiumConfig) -> list[GroupRejection]:
    """Rejections by age band and sex, and of the whole site; empty groups are left out.

    Args:
        rows: Recordings and what is stored of them.
        study: Names the age bands.
    """
    known = list(rows)
    bands = [*study.fairness.age_groups, UNDECLARED]
    groupings: dict[str, tuple[Callable[[Recording], str], Sequence[str]]] = {
        "age_band": (lambda one: study.fairness.age_group(one.age_years) or UNDECLARED, bands),
        "sex": (lambda one: one.sex, ("female", "male", "other")),
        "site": (lambda _: "all", ("all",)),
    }
    return [
        _count(attribute, group, members)
        for attribute, (group_of, groups) in groupings.items()
        for group in groups
        if (members := [row for row in known if group_of(row[0]) == group])
    ]


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    Args:
        count: Occurrences, 0..total.
        total: Trials, > 0.

    Source:
        Wilson 1927, doi:10.1080/01621459.1927.10502953.

    >>> tuple(round(end, 4) for end in wilson_interval(8, 10))
    (0.4902, 0.9433)
    """
    share, extra = count / total, Z95**2 / total
    middle = (share + extra / 2) / (1 + extra)
    half = Z95 / (1 + extra) * math.sqrt((share * (1 - share) + extra / 4) / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def unlike_groups(
    rates: Iterable[GroupRejection],
) -> Iterator[tuple[GroupRejection, GroupRejection]]:
    """Pairs of groups of one attribute whose intervals do not overlap, the more rejected first.

    Intervals that overlap do not show that two groups are treated alike.
    """
    for _, groups in groupby(rates, key=lambda one: one.attribute):
        for pair in combinations(groups, 2):
            lower, upper = sorted(pair, key=lambda one: one.rate)
            if lower.high < upper.low:
                yield upper, lower


def tell_unlike(upper: GroupRejection, lower: GroupRejection) -> str:
    """One sentence on two groups whose intervals do not overlap."""
    attribute = upper.attribute.replace("_", " ")
    return (
        f"Recordings of {attribute} {upper.group} are rejected more often "
        f"({tell_rate(upper)}) than of {lower.group} ({tell_rate(lower)}): the 95 % intervals do "
        "not overlap. Find out why before anyone trains on what is left."
    )


def tell_rate(group: GroupRejection) -> str:
    """Rate and interval in percent, as ``10 %, 2 to 40 %``."""
    low, high = f"{100 * group.low:.0f}", f"{100 * group.high:.0f}"
    return f"{100 * group.rate:.0f} %, {low} to {high} %"


def _count(attribute: str, group: str, rows: Sequence[Row]) -> GroupRejection:
    rejected = [stored for _, stored in rows if stored.verdict == "rejected"]
    low, high = wilson_interval(len(rejected), len(rows))
    codes = Counter(reason.code for stored in rejected for reason in stored.reasons)
    return GroupRejection(
        attribute=attribute,
        group=group,
        rejected=len(rejected),
        recordings=len(rows),
        subjects=len({recording.subject_id for recording, _ in rows}),
        low=low,
        high=high,
        reasons=tuple(codes.most_common()),
    )
