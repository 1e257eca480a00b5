"""A REDCap export: rows of one record spread over events, forms and repeated instances."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from client.recordings.columns import shorten
from client.recordings.delimited import read_records
from client.recordings.recording import Fault

EVENT = "redcap_event_name"
INSTANCE = "redcap_repeat_instance"
CHOICES = "Choices, Calculations, OR Slider Labels"
FIELD = "Variable / Field Name"
_SHORT_NAMES = {"event": EVENT, "instance": INSTANCE}
_BRACED = re.compile(r"\{([^{}]*)\}")
_BRACED_AFTER = re.compile(r"([_-]?)\{([^{}]*)\}")


@dataclass(frozen=True)
class ExportRow:
    """One row of an export.

    Attributes:
        line: Its line.
        cells: Its text by column.
    """

    line: int
    cells: Mapping[str, str]


class AmbiguousError(ValueError):
    """Rows of one record that say different things."""


@dataclass(frozen=True)
class RedcapExport:
    """All of an export.

    Attributes:
        file: Name for messages.
        header: Column names; the first holds the record.
        rows: In the order of the file.
    """

    file: str
    header: Sequence[str]
    rows: Sequence[ExportRow]

    @property
    def record_column(self) -> str:
        """The column of the record's id: REDCap always writes it first."""
        return self.header[0]

    def find(self, row: ExportRow, column: str, *, whole_record: bool) -> tuple[str, int]:
        """The text of a column and its line, also where another row of the record has it.

        REDCap writes repeated forms, and forms of other events, on rows of their own.

        Args:
            row: The row of the recording, which comes first.
            column: The column.
            whole_record: Whether other events count; a score belongs to its event, a sex does not.

        Raises:
            AmbiguousError: If other rows differ.
        """
        if (own := row.cells[column]) or column in (EVENT, INSTANCE):
            return own, row.line
        record = row.cells[self.record_column]
        event = row.cells.get(EVENT, "")
        found: dict[str, int] = {}
        for other in self._by_record[record]:
            if whole_record or other.cells.get(EVENT, "") == event:
                found.setdefault(other.cells[column], other.line)
        found.pop("", None)
        if len(found) > 1:
            lines = " and ".join(str(line) for line in list(found.values())[:2])
            msg = f"Expected one {column} for this recording, got different ones on lines {lines}"
            raise AmbiguousError(msg)
        return next(iter(found.items()), ("", row.line))

    @cached_property
    def _by_record(self) -> dict[str, list[ExportRow]]:
        by_record: dict[str, list[ExportRow]] = defaultdict(list)
        for row in self.rows:
            by_record[row.cells[self.record_column]].append(row)
        return by_record


def read_export(path: Path, faults: list[Fault]) -> RedcapExport:
    """The export in a file; what makes it no table is a fault."""
    found: list[Fault] = []
    header, records = read_records(path, found)
    faults += [Fault(one.line, one.column, one.fault, path.name) for one in found]
    return RedcapExport(path.name, header, [ExportRow(line, cells) for line, cells in records])


def read_choices(path: Path, faults: list[Fault]) -> dict[str, dict[str, str]]:
    """Labels of the codes of each field, from REDCap's data dictionary.

    Raises nothing: a file that is no data dictionary is a fault.
    """
    found: list[Fault] = []
    header, records = read_records(path, found)
    missing = [name for name in (FIELD, CHOICES) if name not in header]
    found += [Fault(1, name, f"Expected a column {name!r}, got none") for name in missing if header]
    faults += [Fault(one.line, one.column, one.fault, path.name) for one in found]
    if missing:
        return {}
    return {cells[FIELD]: parse_choices(cells[CHOICES]) for _, cells in records}


def parse_choices(text: str) -> dict[str, str]:
    """Code to label of one field.

    >>> parse_choices("1, Female | 2, Male")
    {'1': 'Female', '2': 'Male'}
    """
    pairs = (choice.partition(",") for choice in text.split("|"))
    return {code.strip(): label.strip() for code, comma, label in pairs if comma}


def columns_of(mapping: str, header: Sequence[str]) -> list[str]:
    """The columns that a value of ``[redcap]`` names: one, or those in braces.

    >>> columns_of("videos/{record_id}_{event}.mp4", ["record_id", "redcap_event_name"])
    ['record_id', 'redcap_event_name']
    """
    names = _BRACED.findall(mapping) if "{" in mapping else [mapping]
    return [_column(name, header) for name in names]


def fill_pattern(mapping: str, header: Sequence[str], texts: Mapping[str, str]) -> str:
    """The text of a mapping with each column's text in its place.

    An empty instance, which rows without repetition have, takes the separator before it along.

    Args:
        mapping: A column, or a pattern.
        header: Columns of the export.
        texts: Text by column.

    Raises:
        ValueError: If another column of a pattern is empty.
    """
    if "{" not in mapping:
        return texts[_column(mapping, header)]

    def text_of(found: re.Match[str]) -> str:
        column = _column(found[2], header)
        if texts[column]:
            return found[1] + texts[column]
        if column == INSTANCE:
            return ""
        msg = f"Expected a text for {mapping!r}, got an empty {column}"
        raise ValueError(msg)

    return _BRACED_AFTER.sub(text_of, mapping)


def _column(name: str, header: Sequence[str]) -> str:
    return name if name in header else _SHORT_NAMES.get(name, name)


def suggest_section(header: Sequence[str]) -> str:
    """A ``[redcap]`` section to paste, with the columns that look right."""
    lines = [f"{key} = {_quoted(value)}" for key, value in _guesses(header)]
    lines.append('# sex_values = { "1" = "female", "2" = "male" }    # or pass --dictionary')
    if consent := _likely(header, ("consent",)):
        lines.append(f"consent = {_quoted(consent)}")
        lines.append('consent_values = { "1" = "granted", "0" = "withdrawn" }')
    return "\n".join(["[redcap]", *lines])


_LIKELY = {
    "recorded_at": ("record.*time", "video.*(time|date)", "interview.*(time|date)", "time", "date"),
    "sex": ("^sex", "sex$", "gender"),
    "score": ("(phq|bdi|ham|madrs).*(total|sum|score)", "total", "score", "phq|bdi|ham|madrs"),
}


def _guesses(header: Sequence[str]) -> Iterator[tuple[str, str]]:
    record = header[0] if header else "record_id"
    event = "_{event}" if EVENT in header else ""
    instance = "_{instance}" if INSTANCE in header else ""
    yield "subject_id", record
    yield "file", f"videos/{{{record}}}{event}{instance}.mp4"
    for key, patterns in _LIKELY.items():
        yield key, _likely(header, patterns) or "COLUMN"
    yield "timezone", "Europe/Berlin"
    birth = _likely(header, ("birth", "^dob"))
    age = _likely(header, ("^age", "_age$"))
    if birth and not age:
        yield "birth_date", birth
    else:
        yield "age_years", age or "COLUMN"


def _quoted(text: str) -> str:
    """A TOML string: TOML takes every escape that JSON writes, but wants one more."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _likely(header: Sequence[str], patterns: Sequence[str]) -> str | None:
    own = [name for name in header[1:] if not name.startswith("redcap_")]
    matches = (name for p in patterns for name in own if re.search(p, name, re.IGNORECASE))
    return next(matches, None)


def columns_found(header: Sequence[str]) -> str:
    """The columns of an export as a sentence can show them."""
    shown = ", ".join(shorten(name)[1:-1] for name in header[:60])
    return shown + (f" and {len(header) - 60} more" if len(header) > 60 else "")
