"""The indicators of all recordings as one table, with a dictionary that explains each column."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from client.extraction.behaviour.catalogue import CATALOGUE
from client.extraction.behaviour.definition import Definition
from client.inspection.files import claim_file
from client.inspection.quality_figures import describe_figure
from client.inspection.recordings import Inspection
from client.recordings.recording import Recording
from client.storage.stored_recording import Scalar, StoredIndicator, StoredRecording
from privacy.vault import write_atomic

if TYPE_CHECKING:
    import pyarrow as pa

FileFormat = Literal["csv", "parquet"]

GENERATOR = "vultus-site inspect"
NOTICE = "Research software: no output is a diagnosis."
MISSING = "An empty cell in CSV, null in Parquet and JSON"

_CSV_MARK = b'"recording_id","subject_id","recorded_at"'
_TEXTS: Mapping[str, tuple[str, str]] = {
    "recording_id": ("Recording", "Name of the recording, unique at the site."),
    "subject_id": ("Subject", "The site's pseudonym of the subject."),
    "recorded_at": ("Moment of recording", "ISO 8601 with offset."),
    "visit": ("Visit", "As in the table of recordings."),
    "task": ("Task", "As in the table of recordings."),
    "verdict": ("Verdict of the quality gate", "Only accepted recordings are trained on."),
    "reasons": ("Reasons for a rejection", "Codes, separated by semicolons."),
}
_LEVELS = {
    "verdict": {
        "accepted": "Nothing speaks against the recording.",
        "rejected": "A figure of the quality gate is past its limit; indicators are kept as far "
        "as the face was tracked.",
    }
}


def write_table(inspection: Inspection, path: Path, *, file_format: FileFormat) -> Path:
    """Write the table and, beside it, the dictionary of its columns; both mode 0600.

    Args:
        inspection: What to write.
        path: The table.
        file_format: ``csv`` or ``parquet``.

    Returns:
        The dictionary: the same name, ending in ``.json``.

    Raises:
        InputError: If nothing was extracted yet, or another file would be lost.
    """
    table = indicator_table(inspection)
    dictionary = path.with_suffix(".json")
    if dictionary == path:
        dictionary = path.with_name(f"{path.name}.json")
    claim_file(path, _CSV_MARK if file_format == "csv" else GENERATOR.encode())
    claim_file(dictionary, GENERATOR.encode())
    text = json.dumps(describe_columns(inspection), indent=2, ensure_ascii=False)
    write_atomic(path, _encode(table, file_format))
    write_atomic(dictionary, f"{text}\n".encode())
    return dictionary


def indicator_table(inspection: Inspection) -> pa.Table:
    """One row a recording: who and when, verdict, quality, indicators, their coverage and notes.

    The clinical score stays in the table of recordings. Units stand in the metadata of the columns.

    Raises:
        InputError: If nothing was extracted yet.
    """
    import pyarrow as pa

    inspection.need_rows()
    indicators = _indicator_units(inspection)
    quality = _quality_types(inspection)
    fields = [pa.field(name, pa.string()) for name in _TEXTS]
    fields += [pa.field(f"quality_{name}", kind) for name, kind in quality.items()]
    fields += [_number_field(name, unit) for name, unit in indicators.items()]
    fields += [_number_field(f"coverage_{name}", "1") for name in indicators]
    fields += [pa.field(f"note_{name}", pa.string()) for name in indicators]
    rows = [_row(recording, stored) for recording, stored in inspection.rows]
    schema = pa.schema(fields, metadata={"generator": GENERATOR, "notice": NOTICE})
    return pa.Table.from_pylist(rows, schema=schema)


def describe_columns(inspection: Inspection) -> dict[str, dict[str, object]]:
    """What each column of :func:`indicator_table` holds, in the manner of a BIDS sidecar."""
    return {
        "MeasurementToolMetadata": {
            "Description": f"Facial behaviour of recordings at one site. {NOTICE}",
            "GeneratedBy": GENERATOR,
            "Version": version("vultus"),
            "MissingValues": f"{MISSING}; the reason stands in the column note_* of the indicator.",
        },
        **{name: _text_entry(name) for name in _TEXTS},
        **{f"quality_{name}": _quality_entry(name) for name in _quality_names(inspection)},
        **{
            column: entry
            for name, unit in _indicator_units(inspection).items()
            for column, entry in _indicator_entries(name, unit)
        },
    }


def _row(recording: Recording, stored: StoredRecording) -> dict[str, object]:
    found = stored.indicators
    return {
        "recording_id": recording.recording_id,
        "subject_id": recording.subject_id,
        "recorded_at": recording.recorded_at.isoformat(),
        "visit": recording.visit,
        "task": recording.task,
        "verdict": stored.verdict,
        "reasons": ";".join(reason.code for reason in stored.reasons),
        **{f"quality_{name}": value for name, value in stored.quality.items()},
        **{name: one.value for name, one in found.items()},
        **{f"coverage_{name}": one.coverage for name, one in found.items()},
        **{f"note_{name}": _remark(one) for name, one in found.items()},
    }


def _remark(one: StoredIndicator) -> str | None:
    """The caveat of a value, or why there is none."""
    return one.note if one.value is not None else f"no value: {one.reason}"


def _text_entry(name: str) -> dict[str, object]:
    title, definition = _TEXTS[name]
    levels = {"Levels": _LEVELS[name]} if name in _LEVELS else {}
    return {"LongName": title, "Description": definition, **levels}


def _quality_entry(name: str) -> dict[str, object]:
    figure = describe_figure(name)
    return {
        "LongName": figure.title,
        "Description": figure.definition or "A figure of the quality gate.",
        "Units": figure.unit,
        "MissingValues": f"{MISSING}: it cannot be told, as the size of a face that was not found.",
    }


def _indicator_entries(name: str, unit: str) -> Iterable[tuple[str, dict[str, object]]]:
    known = CATALOGUE.get(name)
    title = known.title if known else name.replace("_", " ")
    yield name, _definition_entry(known) if known else {"LongName": title, "Units": unit}
    yield (
        f"coverage_{name}",
        {
            "LongName": f"Coverage of: {title}",
            "Description": known.coverage if known else "Share of the recording that was measured.",
            "Units": "1",
            "MissingValues": f"{MISSING}: how much was measured is not known.",
        },
    )
    yield (
        f"note_{name}",
        {
            "LongName": f"Note on: {title}",
            "Description": "Why there is no value (begins with 'no value: '), else a caveat that "
            "goes with it.",
            "MissingValues": f"{MISSING}: there is nothing to note.",
        },
    )


def _definition_entry(known: Definition) -> dict[str, object]:
    entry = {
        "LongName": known.title,
        "Description": known.definition,
        "Units": known.unit,
        "ActionUnits": known.action_unit,
        "MinimumFramesPerSecond": known.min_fps,
        "MinimumSeconds": known.min_s,
        "Needs": known.needs,
        "Baseline": known.baseline,
        "Coverage": known.coverage,
        "Evidence": known.evidence,
        "Limits": known.notes,
        "Source": known.source,
        "MissingValues": f"{MISSING}: the recording cannot support a value; see note_{known.name}.",
    }
    return {key: value for key, value in entry.items() if value not in {None, ""}}


def _number_field(name: str, unit: str) -> pa.Field:
    import pyarrow as pa

    return pa.field(name, pa.float64(), metadata={"unit": unit})


def _indicator_units(inspection: Inspection) -> dict[str, str]:
    """Every indicator that any recording has, in the order of the catalogue, and its unit."""
    units = {
        name: one.unit for _, stored in inspection.rows for name, one in stored.indicators.items()
    }
    names = [name for name in CATALOGUE if name in units]
    return {name: units[name] for name in dict.fromkeys([*names, *units])}


def _quality_names(inspection: Inspection) -> list[str]:
    return list(dict.fromkeys(name for _, stored in inspection.rows for name in stored.quality))


def _quality_types(inspection: Inspection) -> dict[str, pa.DataType]:
    return {
        name: _arrow_type([stored.quality.get(name) for _, stored in inspection.rows])
        for name in _quality_names(inspection)
    }


def _arrow_type(values: Iterable[Scalar]) -> pa.DataType:
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if str in kinds:
        return pa.string()
    return pa.bool_() if kinds == {bool} else pa.float64()


def _encode(table: pa.Table, file_format: FileFormat) -> bytes:
    import pyarrow as pa
    from pyarrow import csv, parquet

    buffer = pa.BufferOutputStream()
    if file_format == "csv":
        csv.write_csv(table, buffer)
    else:
        parquet.write_table(table, buffer)
    return bytes(buffer.getvalue().to_pybytes())
