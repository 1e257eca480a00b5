"""The visits of each subject in order: when, under which treatment, with which figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from itertools import pairwise
from statistics import fmean

from client.recordings.recording import Recording
from client.recordings.treatments import Treatment
from client.storage.stored_recording import StoredRecording

_DAY_S = 86_400.0
_HOUR_S = 3_600.0


@dataclass(frozen=True)
class Visit:
    """The recordings of one subject that share task, day and visit label.

    Attributes:
        number: 1 for the subject's first visit with this task.
        recordings: In order of time.
        stored: What was extracted of them.
        days_since_first: Days since the subject's first visit with this task.
    """

    number: int
    recordings: tuple[Recording, ...]
    stored: tuple[StoredRecording, ...]
    days_since_first: float

    @property
    def recorded_at(self) -> datetime:
        """The moment of the first recording."""
        return self.recordings[0].recorded_at

    @property
    def day(self) -> date:
        """The local day."""
        return self.recorded_at.date()

    @property
    def label(self) -> str:
        """What the table calls the visit."""
        return self.recordings[0].visit

    @property
    def local_hour(self) -> float:
        """Time of day in hours by the clocks of the place, 0..24."""
        moment = self.recorded_at
        return moment.hour + moment.minute / 60 + moment.second / 3600

    @property
    def hours_since_waking(self) -> float | None:
        """Hours from waking to the first recording; None if waking is unknown."""
        woke = self.recordings[0].woke_at
        return None if woke is None else (self.recorded_at - woke).total_seconds() / _HOUR_S

    @property
    def treatment(self) -> str:
        """The table's words on treatment."""
        return self.recordings[0].treatment

    @property
    def score(self) -> float | None:
        """The clinical score; None if no recording has one."""
        return next((r.score for r in self.recordings if r.score is not None), None)

    @property
    def verdict(self) -> str:
        """``accepted`` if any recording is, else ``rejected`` or ``not_extracted``."""
        verdicts = {one.verdict for one in self.stored}
        if "accepted" in verdicts:
            return "accepted"
        return "rejected" if verdicts else "not_extracted"

    @property
    def accepted(self) -> tuple[StoredRecording, ...]:
        """Its accepted recordings."""
        return tuple(one for one in self.stored if one.verdict == "accepted")

    @cached_property
    def values(self) -> dict[str, float | None]:
        """Mean of each indicator over the accepted recordings that have it."""
        found: dict[str, list[float]] = {}
        for record in self.accepted:
            for name, one in record.indicators.items():
                known = found.setdefault(name, [])
                if one.value is not None:
                    known.append(one.value)
        return {name: fmean(values) if values else None for name, values in found.items()}

    def why_missing(self, name: str) -> str:
        """Why there is no value of an indicator."""
        if self.verdict != "accepted":
            return f"This visit is {self.verdict.replace('_', ' ')}"
        reasons = (one.indicators[name].reason for one in self.accepted if name in one.indicators)
        return next((reason for reason in reasons if reason), "Not measured")


@dataclass(frozen=True)
class VisitSeries:
    """All visits of one subject with one task; another task is another behaviour.

    Attributes:
        subject_id: The site's pseudonym.
        task: What the subject did; empty if the table does not say.
        visits: In order of time.
        treatments: Those of the subject.
    """

    subject_id: str
    task: str
    visits: tuple[Visit, ...]
    treatments: tuple[Treatment, ...] = ()

    @property
    def baseline(self) -> Visit | None:
        """The first accepted visit, from which changes are counted."""
        return next((visit for visit in self.visits if visit.verdict == "accepted"), None)

    def events(self, visit: Visit) -> Iterator[str]:
        """Treatments under way at a visit, and those that ended since the visit before."""
        before = next((one.day for one in reversed(self.visits) if one.number < visit.number), None)
        for treatment in self.treatments:
            if treatment.covers(visit.day):
                yield f"{treatment.kind} {treatment.name} since {treatment.started_on.isoformat()}"
            elif treatment.ended_on and before and before <= treatment.ended_on < visit.day:
                yield f"{treatment.kind} {treatment.name} ended {treatment.ended_on.isoformat()}"

    def stable_pairs(self, *, within_days: float) -> Iterator[tuple[Visit, Visit]]:
        """Accepted visits next to each other, close in time, without a change of treatment."""
        accepted = [visit for visit in self.visits if visit.verdict == "accepted"]
        for first, second in pairwise(accepted):
            close = second.days_since_first - first.days_since_first < within_days
            if close and not self.treatment_changed(first, second):
                yield first, second

    def treatment_changed(self, first: Visit, second: Visit) -> bool:
        """Whether the table's words differ, or a treatment began or ended in between."""
        return first.treatment != second.treatment or any(
            one.changes_between(first.day, second.day) for one in self.treatments
        )


def arrange_visits(
    recordings: Iterable[Recording],
    stored: Mapping[tuple[str, str], StoredRecording],
    treatments: Sequence[Treatment] = (),
) -> tuple[VisitSeries, ...]:
    """Every subject's visits, by subject and task.

    Args:
        recordings: Those with consent.
        stored: What was extracted, by subject and recording id.
        treatments: All treatments of the site.
    """
    by_series: dict[tuple[str, str], list[Recording]] = defaultdict(list)
    for recording in recordings:
        by_series[recording.subject_id, recording.task].append(recording)
    return tuple(
        VisitSeries(
            subject,
            task,
            tuple(_visits(own, stored)),
            tuple(one for one in treatments if one.subject_id == subject),
        )
        for (subject, task), own in sorted(by_series.items())
    )


def _visits(
    recordings: Iterable[Recording], stored: Mapping[tuple[str, str], StoredRecording]
) -> Iterator[Visit]:
    by_visit: dict[tuple[date, str], list[Recording]] = defaultdict(list)
    for recording in sorted(recordings, key=lambda one: (one.recorded_at, one.recording_id)):
        # One label on two days is two visits: a mean over weeks would hide what changed.
        by_visit[recording.recorded_at.date(), recording.visit].append(recording)
    groups = sorted(by_visit.values(), key=lambda group: group[0].recorded_at)
    for number, group in enumerate(groups, start=1):
        since = group[0].recorded_at - groups[0][0].recorded_at
        found = (stored.get((one.subject_id, one.recording_id)) for one in group)
        known = tuple(one for one in found if one is not None)
        yield Visit(number, tuple(group), known, since.total_seconds() / _DAY_S)
