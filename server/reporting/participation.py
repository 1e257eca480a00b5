"""Who took part in which round, drawn small enough for a hundred sites and a thousand rounds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from server.history import RoundReport, RunReport, SitePrivacy

MOST_COLUMNS = 120
"""More rounds than this share columns."""

_WORST_FIRST = ("refused", "missing", "took-part", "absent")


@dataclass(frozen=True)
class Stretch:
    """Rounds in a row in which a site did the same.

    Attributes:
        state: ``took-part``, ``missing``, ``refused`` or ``absent`` (was not asked).
        begin: Where it begins, 0 to 1 of the run.
        width: How long it is, 0 to 1 of the run.
    """

    state: str
    begin: float
    width: float


@dataclass(frozen=True)
class Attendance:
    """What one site did in a run.

    Attributes:
        site: Name of the site.
        took_part: Rounds it is in the sum of.
        missing: Rounds in which it did not answer in time.
        refusals: How often it refused, by code.
        stretches: The same along the run.
        spent: What its subjects have spent; None where it reported nothing.
    """

    site: str
    took_part: int
    missing: int
    refusals: dict[str, int]
    stretches: tuple[Stretch, ...]
    spent: SitePrivacy | None


def rounds_per_column(rounds: int) -> int:
    """Rounds that share a column of the drawing."""
    return max(1, math.ceil(rounds / MOST_COLUMNS))


def attendance(report: RunReport) -> list[Attendance]:
    """What each site did, in the order of the study."""
    spent = {site.site_id: site for site in report.sites}
    states = [_states(entry) for entry in report.rounds]
    codes = _refusal_codes(report.rounds)
    found = []
    for site in dict.fromkeys([*spent, *(name for states_ in states for name in states_)]):
        did = [entry.get(site, "absent") for entry in states]
        found.append(
            Attendance(
                site=site,
                took_part=did.count("took-part"),
                missing=did.count("missing"),
                refusals=codes.get(site, {}),
                stretches=_stretches(did),
                spent=spent.get(site),
            )
        )
    return found


def _states(entry: RoundReport) -> dict[str, str]:
    """Each site's part in a round; one that refused and was made up for took part."""
    return {
        **dict.fromkeys((site for site, _, _ in entry.refusals), "refused"),
        **dict.fromkeys(entry.missing, "missing"),
        **dict.fromkeys(entry.participants, "took-part"),
    }


def _refusal_codes(rounds: Iterable[RoundReport]) -> dict[str, dict[str, int]]:
    codes: dict[str, dict[str, int]] = {}
    for entry in rounds:
        for site, code, _ in entry.refusals:
            own = codes.setdefault(site, {})
            own[code] = own.get(code, 0) + 1
    return codes


def _stretches(did: Sequence[str]) -> tuple[Stretch, ...]:
    step = rounds_per_column(len(did))
    columns = [
        min(did[start : start + step], key=_WORST_FIRST.index) for start in range(0, len(did), step)
    ]
    found, begin = [], 0
    for state, run in groupby(columns):
        width = len(list(run))
        found.append(Stretch(state, begin / len(columns), width / len(columns)))
        begin += width
    return tuple(found)
