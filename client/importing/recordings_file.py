"""Takes an import over into ``recordings.csv``: all of it, or nothing and every fault."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from client.importing.imported import Imported, ImportedRow
from client.importing.merge import Merged, MergedRow, Record, merge_rows
from client.recordings.columns import ColumnRules
from client.recordings.delimited import (
    Row,
    even_rows,
    read_rows,
    read_text,
    separator_of,
    write_rows,
)
from client.recordings.manifest import check_rows
from client.recordings.recording import Fault, ManifestError
from client.site import Site
from privacy.vault import write_atomic


@dataclass(frozen=True)
class ImportOutcome:
    """What an import did.

    Attributes:
        added: Recordings that are new in the table.
        updated: Recordings that it changed.
        unchanged: Recordings that were there already.
        kept: Number of rows that the import does not speak of.
        left_out: What the import left out on purpose.
        faults: Why nothing was written; empty if all went well.
        backup: The table as it was before; None if nothing was written over.
    """

    added: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    kept: int = 0
    left_out: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    backup: Path | None = None

    def to_json(self) -> dict[str, object]:
        """The object for machines."""
        return {
            "added": list(self.added),
            "updated": list(self.updated),
            "unchanged": list(self.unchanged),
            "kept": self.kept,
            "left_out": list(self.left_out),
            "faults": [asdict(fault) for fault in self.faults],
            "backup": str(self.backup) if self.backup else None,
        }


def take_over(
    site: Site, imported: Imported, *, update: bool = False, skip_missing: bool = False
) -> ImportOutcome:
    """Merge imported rows into the site's table of recordings.

    Nothing is written if there is any fault. The table before is kept beside it, and the new one
    replaces it whole, readable for its owner alone.

    Args:
        site: The site.
        imported: What the import found.
        update: Whether imported cells may replace others in the table.
        skip_missing: Leave out recordings whose video is not there, instead of refusing.
    """
    imported = _with_videos(imported, site.paths.videos) if skip_missing else imported
    present = _present(site.paths.recordings)
    merged = merge_rows(present.header, present.records, imported.rows, update=update)
    faults = [*imported.faults, *present.faults, *merged.faults]
    if imported.rows:
        faults += _faults_of_whole(site, merged, faults)
    elif not faults:
        faults.append(Fault(0, "", "Expected at least one recording, got none", "import"))
    if faults:
        # A cell that several rows look up is one fault.
        return ImportOutcome(faults=tuple(dict.fromkeys(faults)), left_out=imported.left_out)
    backup = None
    if merged.added or merged.updated:
        backup = _write(site.paths.recordings, merged, separator=present.separator)
    return ImportOutcome(
        added=tuple(merged.added),
        updated=tuple(merged.updated),
        unchanged=tuple(merged.unchanged),
        kept=sum(not row.imported for row in merged.rows),
        left_out=imported.left_out,
        backup=backup,
    )


@dataclass(frozen=True)
class _Present:
    """The table as it is: rows by column, and what makes it unreadable."""

    header: Sequence[str]
    records: Sequence[Record]
    separator: str
    faults: Sequence[Fault]


def _present(path: Path) -> _Present:
    if not path.exists():
        return _Present([], [], ",", [])
    faults: list[Fault] = []
    rows: list[Row] = list(read_rows(path, faults))
    if not rows:
        return _Present([], [], ",", faults)
    header = rows[0][1]
    records = [
        (line, dict(zip(header, row, strict=True)))
        for line, row in even_rows(rows[1:], header, faults)
    ]
    return _Present(header, records, separator_of(read_text(path, [])), faults)


def _with_videos(imported: Imported, root: Path) -> Imported:
    """The import without the recordings whose video is not there."""
    rows = [row for row in imported.rows if _is_there(row, root)]
    missing = len(imported.rows) - len(rows)
    note = f"{missing} recordings whose video is not there are left out."
    left_out = (*imported.left_out, *((note,) if missing else ()))
    return replace(imported, rows=tuple(rows), left_out=left_out)


def _is_there(row: ImportedRow, root: Path) -> bool:
    try:
        return (root / row["file"].text).is_file()
    except (OSError, ValueError):
        return False


class _Line(int):
    """A line number that knows its row, and says which file it belongs to."""

    row: MergedRow

    @classmethod
    def of(cls, row: MergedRow) -> _Line:
        """The line by which messages name a row: that of its source."""
        source = row.imported.get("recording_id")
        line = cls(source.line if source else row.line)
        line.row = row
        return line

    def __format__(self, form: str) -> str:
        """The number, and the file where other rows come from elsewhere."""
        source = self.row.imported.get("recording_id")
        return f"{int(self)} of {source.file if source else 'recordings.csv'}"


def _faults_of_whole(site: Site, merged: Merged, known: Iterable[Fault]) -> list[Fault]:
    """What is wrong with the new table, told where its cells came from."""
    rules = ColumnRules(
        site.consortium.config,
        site.paths.videos,
        datetime.now(UTC),
        require_files=site.simulation_seed is None,
    )
    rows: list[Row] = [(1, list(merged.header))]
    rows += [(_Line.of(row), _in_order(row, merged.header)) for row in merged.rows]
    try:
        check_rows(rows, rules, path=site.paths.recordings)
    except ManifestError as error:
        told = {(fault.file, fault.line, fault.column) for fault in known}
        found = [_at_source(fault) for fault in error.faults]
        # A cell that could not be converted is empty, which is no second fault.
        return [
            replace(fault, column=_both(fault, column))
            for fault, column in found
            if (fault.file, fault.line, fault.column) not in told
        ]
    return []


def _in_order(row: MergedRow, header: Sequence[str]) -> list[str]:
    return [row.cells.get(column, "") for column in header]


def _at_source(fault: Fault) -> tuple[Fault, str]:
    """A fault with the place its cell was imported from, and the column of the table."""
    if not isinstance(fault.line, _Line):
        return fault, fault.column
    row = fault.line.row
    cell = row.imported.get(fault.column)
    if cell is None and row.line:
        return replace(fault, line=row.line), fault.column
    cell = cell or row.imported["recording_id"]
    return Fault(cell.line, cell.column, fault.fault, cell.file), fault.column


def _both(fault: Fault, column: str) -> str:
    """The source's column, and the table's where it is called something else."""
    if not fault.column or fault.column == column:
        return column
    return f"{fault.column} ({column})" if column else fault.column


def _write(path: Path, merged: Merged, *, separator: str) -> Path | None:
    """Replace the table; the place of the old one, if it held anything."""
    backup = None
    if path.exists():
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        backup = path.with_name(f"{path.name}.bak-{moment}")
        write_atomic(backup, path.read_bytes())
    rows = [list(merged.header), *(_in_order(row, merged.header) for row in merged.rows)]
    write_atomic(path, write_rows(rows, separator=separator))
    return backup
