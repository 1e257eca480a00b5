"""A REDCap export as rows of the table of recordings, by the mapping in ``site.toml``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

from client.importing.imported import (
    Cell,
    Imported,
    ImportedRow,
    age_text,
    consent_text,
    convert,
    load_zone,
    moment_text,
    sex_text,
)
from client.importing.redcap_export import (
    EVENT,
    INSTANCE,
    ExportRow,
    RedcapExport,
    columns_found,
    columns_of,
    fill_pattern,
    read_choices,
    read_export,
    suggest_section,
)
from client.recordings.columns import suggest
from client.recordings.recording import Fault
from client.site_config import RedcapSection
from shared_models.console import InputError

_CELLS = (
    "subject_id", "file", "sex", "score", "age_years", "birth_date", "visit", "task", "treatment",
    "consent", "events", "turns", "woke_at", "pupil_mm",
)  # fmt: skip
_OF_RECORD = ("subject_id", "sex", "age_years", "birth_date", "consent")
_ZONE = "redcap.timezone in site.toml"


def import_redcap(
    path: Path, mapping: RedcapSection | None, *, dictionary: Path | None = None
) -> Imported:
    """The recordings of a REDCap export.

    A row that says when a video was recorded is a recording. What it leaves empty is looked up on
    the other rows of its record: of the same event, and for age, sex and consent of any event.

    Args:
        path: The export, CSV with the fields' names as header.
        mapping: ``[redcap]`` of the site.
        dictionary: REDCap's data dictionary, for the labels of codes.

    Raises:
        InputError: If there is no mapping; with the columns found and a section to paste.
    """
    faults: list[Fault] = []
    export = read_export(path, faults)
    if mapping is None and not faults:
        raise InputError(_without_mapping(export))
    choices = read_choices(dictionary, faults) if dictionary else {}
    if mapping is not None:
        faults += _unmapped(export, mapping)
    zone = _zone(mapping, faults)
    if faults or mapping is None:
        return Imported(faults=tuple(faults))
    rows = _Rows(export, mapping, zone=zone, choices=choices, faults=faults)
    found = [rows.read(row) for row in export.rows if rows.is_recording(row)]
    left_out = len(export.rows) - len(found)
    note = f"{left_out} rows of {path.name} without a moment of recording are left out."
    return Imported(tuple(found), tuple(faults), (note,) if left_out else ())


def _without_mapping(export: RedcapExport) -> str:
    return (
        f"Expected a section [redcap] in site.toml that says which column is what.\n"
        f"Columns found in {export.file}: {columns_found(export.header)}.\n"
        f"Add this to site.toml, correct it, and run the command again:\n\n"
        f"{suggest_section(export.header)}"
    )


def _zone(mapping: RedcapSection | None, faults: list[Fault]) -> ZoneInfo | None:
    try:
        return load_zone(mapping.timezone if mapping else None, _ZONE)
    except ValueError as error:
        faults.append(Fault(0, "redcap.timezone", str(error), "site.toml"))
        return None


def _unmapped(export: RedcapExport, mapping: RedcapSection) -> Iterator[Fault]:
    """Columns that the mapping names and the export lacks."""
    for key in (*_CELLS, "recorded_at", "recording_id"):
        value = getattr(mapping, key)
        for column in columns_of(value, export.header) if value and export.header else ():
            if column not in export.header:
                hint = suggest(column, tuple(export.header))
                fault = f"Expected a column of {export.file}, got {column!r}{hint}"
                yield Fault(0, f"redcap.{key}", fault, "site.toml")


@dataclass(frozen=True)
class _Rows:
    """Makes rows of the table of recordings; every fault is collected."""

    export: RedcapExport
    mapping: RedcapSection
    zone: ZoneInfo | None
    choices: Mapping[str, Mapping[str, str]]
    faults: list[Fault] = field(default_factory=list)

    def is_recording(self, row: ExportRow) -> bool:
        """Whether the row itself says when a video was recorded."""
        columns = columns_of(self.mapping.recorded_at, self.export.header)
        return all(row.cells[column] for column in columns)

    def read(self, row: ExportRow) -> ImportedRow:
        """The cells of one recording."""
        cells = {key: self._cell(row, key) for key in _CELLS if getattr(self.mapping, key)}
        cells["recorded_at"] = convert(
            self._cell(row, "recorded_at"),
            lambda text: moment_text(text, self.zone, _ZONE),
            self.faults,
        )
        cells["recording_id"] = self._name(row, "recording_id", with_record=True)
        if "visit" not in cells and EVENT in self.export.header:
            cells["visit"] = self._name(row, "visit", with_record=False)
        self._decode(cells)
        return cells

    def _cell(self, row: ExportRow, key: str) -> Cell:
        """The text of a mapping on a row or on the rows that belong to it."""
        mapping = getattr(self.mapping, key)
        columns = columns_of(mapping, self.export.header)
        cell = Cell("", self.export.file, row.line, ", ".join(columns))
        whole = key in _OF_RECORD
        try:
            found = {name: self.export.find(row, name, whole_record=whole) for name in columns}
            texts = {name: text for name, (text, _) in found.items()}
            text = fill_pattern(mapping, self.export.header, texts)
        except ValueError as error:
            self.faults.append(cell.fault(str(error)))
            return cell
        line = found[columns[0]][1] if len(columns) == 1 else row.line
        return Cell(text, self.export.file, line, cell.column)

    def _name(self, row: ExportRow, key: str, *, with_record: bool) -> Cell:
        """The mapped cell, or else record, event and instance joined."""
        if getattr(self.mapping, key):
            return self._cell(row, key)
        columns = [self.export.record_column] if with_record else []
        columns += [name for name in (EVENT, INSTANCE) if name in self.export.header]
        text = "_".join(row.cells[name] for name in columns if row.cells[name])
        return Cell(text, self.export.file, row.line, ", ".join(columns))

    def _decode(self, cells: dict[str, Cell]) -> None:
        """Codes and dates as the table spells them."""
        labels = {
            key: self.choices.get(getattr(self.mapping, key), {}) for key in ("sex", "consent")
        }
        sexes, consents = self.mapping.sex_values, self.mapping.consent_values
        if cells["sex"].text:
            where = "redcap.sex_values in site.toml"
            cells["sex"] = convert(
                cells["sex"], lambda text: sex_text(text, sexes, labels["sex"], where), self.faults
            )
        if "consent" in cells:
            where = "redcap.consent_values in site.toml"
            cells["consent"] = convert(
                cells["consent"],
                lambda text: consent_text(text, consents, labels["consent"], where),
                self.faults,
            )
        if birth := cells.pop("birth_date", None):
            moment = cells["recorded_at"].text
            cells["age_years"] = convert(birth, lambda text: age_text(text, moment), self.faults)
