"""What makes two visits of a subject hard to compare: time of day, camera, software, rejection."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from client.storage.stored_recording import StoredRecording
from client.visits.series import Visit, VisitSeries

MOST_HOURS = 3.0
RATE_TOLERANCE = 0.05
_RATES = {"fps": "frame rate", "analysis_hz": "analysis rate"}
_SIZES = {"width_px": "picture width", "height_px": "picture height"}
_SOFTWARE = {"face_model_sha256": "face model", "packages": "software"}
CAMERA = "camera"


@dataclass(frozen=True)
class VisitWarning:
    """One thing that a reader of a subject's visits must know.

    Attributes:
        subject_id: Of whom.
        task: With which task.
        code: Stable name for machines.
        text: Sentence for people.
    """

    subject_id: str
    task: str
    code: str
    text: str


def find_visit_warnings(series: VisitSeries) -> Iterator[VisitWarning]:
    """All warnings on one series; rejected visits count for nothing but their own warning."""
    usable = [visit for visit in series.visits if visit.verdict != "rejected"]

    def warning(code: str, text: str) -> VisitWarning:
        return VisitWarning(series.subject_id, series.task, code, text)

    if text := _apart_in_day(usable):
        yield warning("time_of_day", text)
    for text in _changed_setup(usable):
        yield warning("setup", text)
    for visit in series.visits:
        if visit.verdict == "rejected":
            codes = sorted({reason.code for one in visit.stored for reason in one.reasons})
            text = f"{_named(visit)} is rejected ({', '.join(codes)}) and left out of change."
            yield warning("rejected", text)


def hours_apart(one: Visit, other: Visit) -> tuple[float, str]:
    """How far two visits differ in time of day, and what that time counts from.

    Hours since waking where both are known; else the clock, on which 23:00 and 01:00 are two hours
    apart.
    """
    if one.hours_since_waking is not None and other.hours_since_waking is not None:
        return abs(one.hours_since_waking - other.hours_since_waking), "since waking"
    apart = abs(one.local_hour - other.local_hour)
    return min(apart, 24.0 - apart), "of the day"


def _apart_in_day(visits: list[Visit]) -> str | None:
    """A sentence on the two visits that differ most, if it is by more than three hours."""
    pairs = list(itertools.combinations(visits, 2))
    if not pairs:
        return None
    one, other = max(pairs, key=lambda pair: hours_apart(*pair)[0])
    apart, what = hours_apart(one, other)
    if apart <= MOST_HOURS:
        return None
    return (
        f"{_named(one)} and {_named(other)} differ by {apart:.1f} hours {what}: mood and movement "
        "change over the day."
    )


def _changed_setup(visits: list[Visit]) -> Iterator[str]:
    """A sentence for each thing about the measuring that differs from the first visit."""
    extracted = [visit for visit in visits if visit.accepted]
    for visit in extracted[1:]:
        first, other = extracted[0].accepted[0], visit.accepted[0]
        changes = [*_rates(first, other), *_others(first, other), *_cameras(extracted[0], visit)]
        if changes:
            yield (
                f"{_named(visit)} was measured otherwise than {_named(extracted[0])}: "
                f"{', '.join(changes)}."
            )


def _rates(first: StoredRecording, other: StoredRecording) -> Iterator[str]:
    for key, name in _RATES.items():
        before, after = _fact(first, key), _fact(other, key)
        if not isinstance(before, int | float) or not isinstance(after, int | float):
            if before != after:
                yield f"{name} {before or 'full'}, then {after or 'full'}"
        elif abs(after - before) > RATE_TOLERANCE * max(abs(before), abs(after)):
            yield f"{name} {before:.4g}, then {after:.4g}"


def _others(first: StoredRecording, other: StoredRecording) -> Iterator[str]:
    for key, name in _SIZES.items():
        if _fact(first, key) != _fact(other, key):
            yield f"{name} {_fact(first, key)}, then {_fact(other, key)}"
    for key, name in _SOFTWARE.items():
        if _fact(first, key) != _fact(other, key):
            yield f"another {name}"


def _cameras(first: Visit, other: Visit) -> Iterator[str]:
    before, after = (dict(one.recordings[0].extra).get(CAMERA, "") for one in (first, other))
    if before != after:
        yield f"camera {before or 'unknown'}, then {after or 'unknown'}"


def _fact(record: StoredRecording, key: str) -> object:
    return record.quality.get(key, record.provenance.get(key))


def _named(visit: Visit) -> str:
    label = f" '{visit.label}'" if visit.label else ""
    return f"Visit {visit.number}{label} ({visit.recorded_at:%Y-%m-%d %H:%M})"
