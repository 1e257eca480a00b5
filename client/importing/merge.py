"""Imported rows and the table of recordings that is there: nothing of it is lost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from client.importing.imported import Cell, ImportedRow
from client.recordings.columns import shorten
from client.recordings.recording import Fault
from client.site_template import OPTIONAL_COLUMNS, REQUIRED_COLUMNS

Record = tuple[int, Mapping[str, str]]
"""Line and cells of a row of the present table."""


@dataclass(frozen=True)
class MergedRow:
    """One row of the new table.

    Attributes:
        cells: Its texts by column.
        line: Its line in the present table; 0 if it is new.
        imported: What the import says about it; empty if nothing.
    """

    cells: Mapping[str, str]
    line: int
    imported: ImportedRow


@dataclass(frozen=True)
class Merged:
    """The new table.

    Attributes:
        header: The present columns, then those that the import adds.
        rows: The present rows in their order, then the new ones.
        added: Recordings that are new.
        updated: Recordings that the import changed.
        unchanged: Recordings of the import that were there already.
        faults: Differences that may not be taken over, recordings imported twice.
    """

    header: Sequence[str]
    rows: Sequence[MergedRow]
    added: Sequence[str]
    updated: Sequence[str]
    unchanged: Sequence[str]
    faults: Sequence[Fault]


def merge_rows(
    header: Sequence[str],
    present: Sequence[Record],
    imported: Sequence[ImportedRow],
    *,
    update: bool,
) -> Merged:
    """The present table with the imported rows taken over by ``recording_id``.

    An empty imported cell says nothing, so it never replaces a text. Consent that the table calls
    withdrawn stays withdrawn, whatever the import says.

    Args:
        header: Columns of the present table.
        present: Its rows.
        imported: The import's rows.
        update: Whether imported cells may replace others.
    """
    faults = list(_twice(imported))
    by_id = {row["recording_id"].text: row for row in imported}
    rows = [_merged_row(record, by_id.pop(_id_of(record), {})) for record in present]
    known = [row for row in rows if row.imported]
    changed = [row for row in known if any(_differences(row))]
    faults += [fault for row in changed for fault in _refused(row, update=update)]
    new = [MergedRow(_texts(row), 0, row) for row in by_id.values()]
    return Merged(
        header=_header(header, imported),
        rows=[*(_updated(row) for row in rows), *new],
        added=[row.cells["recording_id"] for row in new],
        updated=[row.cells["recording_id"] for row in changed],
        unchanged=[row.cells["recording_id"] for row in known if not any(_differences(row))],
        faults=faults,
    )


def _id_of(record: Record) -> str:
    return record[1].get("recording_id", "")


def _merged_row(record: Record, imported: ImportedRow) -> MergedRow:
    line, cells = record
    return MergedRow(cells, line, imported)


def _texts(row: ImportedRow) -> dict[str, str]:
    return {column: cell.text for column, cell in row.items()}


def _updated(row: MergedRow) -> MergedRow:
    replaced = {column: cell.text for column, cell in _differences(row)}
    return MergedRow({**row.cells, **replaced}, row.line, row.imported)


def _differences(row: MergedRow) -> Iterator[tuple[str, Cell]]:
    """Imported cells that say something else than the table."""
    for column, cell in row.imported.items():
        if cell.text and not _same(cell.text, row.cells.get(column, "")):
            yield column, cell


def _refused(row: MergedRow, *, update: bool) -> Iterator[Fault]:
    for column, cell in _differences(row):
        there = row.cells.get(column, "")
        if column == "consent" and there == "withdrawn":
            yield cell.fault(
                f"Expected consent to stay withdrawn, as recordings.csv has it (line {row.line}), "
                f"got {cell.text}: correct the source; consent given anew is entered by hand"
            )
        elif there and not update:
            yield cell.fault(
                f"Expected {column} {shorten(there)}, as recordings.csv has it (line {row.line}), "
                f"got {shorten(cell.text)}: take it over with --update, or correct the source"
            )


def _same(one: str, other: str) -> bool:
    """Whether two texts name the same value: 12 and 12.0, one moment in two spellings."""
    return one == other or (_value(one) is not None and _value(one) == _value(other))


def _value(text: str) -> float | datetime | None:
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        return number if math.isfinite(number) else None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.utcoffset() is not None else None


def _twice(imported: Iterable[ImportedRow]) -> Iterator[Fault]:
    first: dict[str, Cell] = {}
    for row in imported:
        cell = row["recording_id"]
        if first.setdefault(cell.text, cell) is not cell:
            before = first[cell.text]
            place = before.file + (f", line {before.line}" if before.line else "")
            fault = f"Expected each recording_id once, got {shorten(cell.text)} again ({place})"
            yield cell.fault(f"{fault}: name it by more columns in redcap.recording_id")


def _header(header: Sequence[str], imported: Sequence[ImportedRow]) -> list[str]:
    """The present columns, the required ones, and optional ones that hold anything."""
    filled = {column for row in imported for column, cell in row.items() if cell.text}
    wanted = [*REQUIRED_COLUMNS, *(name for name in OPTIONAL_COLUMNS if name in filled)]
    return list(dict.fromkeys([*header, *wanted]))
