"""``treatments.csv``: who was treated with what, from when to when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Literal, TypeVar, get_args

from client.recordings.columns import FIRST_YEAR, LONGEST_TEXT, choice, shorten, suggest
from client.recordings.delimited import read_records
from client.recordings.recording import Fault, ManifestError

Kind = Literal["drug", "psychotherapy", "rtms", "ect", "other"]
KINDS: tuple[str, ...] = get_args(Kind)
COLUMNS = ("subject_id", "kind", "name", "started_at", "ended_at")
TREATMENTS = "treatments.csv"

Value = TypeVar("Value")


@dataclass(frozen=True)
class Treatment:
    """One treatment of one subject.

    Attributes:
        subject_id: The site's pseudonym.
        kind: What sort of treatment.
        name: Which one, such as the drug.
        started_on: First day.
        ended_on: Last day; None while it goes on.
        line: Line in the table.
    """

    subject_id: str
    kind: str
    name: str
    started_on: date
    ended_on: date | None
    line: int = 0

    def covers(self, day: date) -> bool:
        """Whether it was given on that day, first and last day included."""
        return self.started_on <= day and (self.ended_on is None or day <= self.ended_on)

    def changes_between(self, first: date, last: date) -> bool:
        """Whether it began or ended from one day to another, both included.

        Days are all that is known: a treatment begun on the day of a visit may have begun before
        it, so it counts as a change.
        """
        return any(first <= day <= last for day in (self.started_on, self.ended_on) if day)

    def __str__(self) -> str:
        """Kind, name and days."""
        end = self.ended_on.isoformat() if self.ended_on else ""
        return f"{self.kind} {self.name} {self.started_on.isoformat()}..{end}"


def read_treatments(path: Path, *, today: date) -> tuple[Treatment, ...]:
    """All treatments; none if there is no such file.

    Args:
        path: ``treatments.csv``, in the form of the table of recordings.
        today: The present day; a later start is a fault.

    Raises:
        ManifestError: With every fault by line and column.
    """
    if not path.exists():
        return ()
    faults: list[Fault] = []
    header, records = read_records(path, faults)
    missing = [name for name in COLUMNS if header and name not in header]
    faults += [_missing(name, header) for name in missing]
    found = [] if missing or not header else list(_treatments(records, today, faults))
    if faults:
        ordered = sorted(faults, key=lambda fault: fault.line)
        raise ManifestError(path, [replace(fault, file=path.name) for fault in ordered])
    return tuple(found)


def treatment_faults(path: Path, *, today: date) -> tuple[Fault, ...]:
    """Every fault of a table of treatments; none if there is no such file."""
    try:
        read_treatments(path, today=today)
    except ManifestError as error:
        return error.faults
    return ()


def unknown_subjects(treatments: tuple[Treatment, ...], known: tuple[str, ...]) -> Iterator[str]:
    """One sentence for each treated subject that no recording is of."""
    for subject in sorted({treatment.subject_id for treatment in treatments} - set(known)):
        hint = suggest(subject, known)
        yield f"{TREATMENTS} names subject {subject!r}, of whom there is no recording{hint}."


def _missing(name: str, header: list[str]) -> Fault:
    hint = suggest(name, tuple(one for one in header if one not in COLUMNS))
    hint = hint.replace("did you mean", "is it")
    return Fault(1, name, f"Expected a column {name!r}, got none{hint}")


def _treatments(
    records: list[tuple[int, dict[str, str]]], today: date, faults: list[Fault]
) -> Iterator[Treatment]:
    for line, record in records:
        row = _Row(line, record, faults)
        subject, kind, name = (
            row.get("subject_id", _name),
            row.get("kind", _kind),
            row.get("name", _text),
        )
        started = row.get("started_at", lambda text: _day(text, today))
        ended = row.get("ended_at", lambda text: _day(text, None) if text else None)
        if started and ended and ended < started:
            fault = f"Expected an end on {started.isoformat()} or later, got {ended.isoformat()}"
            faults.append(Fault(line, "ended_at", fault))
        elif subject and kind and started and name is not None:
            yield Treatment(subject, kind, name, started, ended, line)


@dataclass(frozen=True)
class _Row:
    """One row; a faulty cell is reported and gives None."""

    line: int
    record: Mapping[str, str]
    faults: list[Fault]

    def get(self, column: str, parse: Callable[[str], Value]) -> Value | None:
        try:
            return parse(self.record[column])
        except ValueError as error:
            self.faults.append(Fault(self.line, column, str(error)))
            return None


def _name(text: str) -> str:
    if not text:
        msg = "Expected a name, got an empty cell"
        raise ValueError(msg)
    return _text(text)


def _text(text: str) -> str:
    if len(text) > LONGEST_TEXT or not text.isprintable():
        msg = f"Expected at most {LONGEST_TEXT} printable characters, got {shorten(text)}"
        raise ValueError(msg)
    return text


def _kind(text: str) -> str:
    return choice(text, KINDS)


def _day(text: str, latest: date | None) -> date:
    """The local day of a date or a moment."""
    try:
        day = datetime.fromisoformat(text).date()
    except ValueError as error:
        msg = f"Expected a date such as 2026-03-02, got {shorten(text)}"
        raise ValueError(msg) from error
    if day.year < FIRST_YEAR or (latest and day > latest):
        limit = f" and {latest.isoformat()}" if latest else " or later"
        between = "between" if latest else "of"
        msg = f"Expected a day {between} {FIRST_YEAR}{limit}, got {shorten(text)}"
        raise ValueError(msg)
    return day
