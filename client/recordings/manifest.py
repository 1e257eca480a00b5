"""``recordings.csv``: which recordings a site has, of whom, with which score and consent.

Labels and demographics live here alone. A faulty table gives one error with every fault by line
and column, because whoever mends it should need one pass.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from client.recordings.annotation_files import NOTES
from client.recordings.columns import ColumnRules, nobody, suggest
from client.recordings.delimited import Row, even_rows, once, read_rows
from client.recordings.recording import Fault, ManifestError, Recording, RecordingManifest
from client.site_template import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from shared_models.consortium import ConsortiumConfig

__all__ = ["Fault", "ManifestError", "Recording", "RecordingManifest", "read_manifest"]


def read_manifest(  # noqa: PLR0913 - what a table is checked against has this many sides
    path: Path,
    *,
    consortium: ConsortiumConfig,
    root: Path,
    now: datetime | None = None,
    require_files: bool = True,
    is_forgotten: Callable[[str], bool] = nobody,
) -> RecordingManifest:
    """The recordings of a site, checked against the study.

    Args:
        path: ``recordings.csv``, UTF-8 with or without byte order mark, separated by commas,
            semicolons or tabulators.
        consortium: The study.
        root: Folder that the column ``file`` starts from and may not leave.
        now: The present, with offset; later recordings are faults. None: the clock's.
        require_files: Whether each recording must name an existing video, and its notes must be
            sound; simulated cohorts and the training process, which cannot see videos, say False.
        is_forgotten: Whether a subject was forgotten: the rows count as withdrawn, whatever the
            table says of consent.

    Raises:
        ManifestError: With every fault of the table and of the notes beside the videos.
    """
    faults: list[Fault] = []
    rows = list(read_rows(path, faults))
    moment = now or datetime.now(UTC)
    rules = ColumnRules(consortium, root, moment, require_files, is_forgotten)
    return check_rows(rows, rules, path=path, faults=faults)


def check_rows(
    rows: Sequence[Row], rules: ColumnRules, *, path: Path, faults: Sequence[Fault] = ()
) -> RecordingManifest:
    """The recordings of a table that was read already.

    Args:
        rows: Line and stripped cells of each row, the header first.
        rules: What each cell may hold.
        path: The table, for messages.
        faults: What was wrong when it was read.

    Raises:
        ManifestError: With every fault, those given included.
    """
    faults = list(faults)
    consortium = rules.consortium
    header = _header(rows, consortium, faults)
    checked = [
        (line, _cells(line, dict(zip(header, row, strict=True)), rules, faults))
        for line, row in even_rows(rows[1:], header, faults)
    ]
    if not checked and not faults:
        faults.append(Fault(1, "", "Expected at least one recording below the header, got none"))
    faults += _duplicate_ids(checked)
    faults += _inconsistent_subjects(checked)
    faults.sort(key=lambda fault: fault.line)
    if rules.require_files:
        faults += _faulty_notes(checked, rules.root)
    if faults:
        raise ManifestError(
            path,
            faults,
            recordings=max(0, len(rows) - 1),
            subjects=len({cells["subject_id"] for _, cells in checked if "subject_id" in cells}),
        )
    return _manifest(checked, consortium)


def _header(rows: Sequence[Row], consortium: ConsortiumConfig, faults: list[Fault]) -> list[str]:
    """Column names; missing, unnamed and doubled ones are faults."""
    if not rows:
        if not faults:
            columns = ",".join(REQUIRED_COLUMNS)
            faults.append(Fault(1, "", f"Expected the header {columns}, got an empty file"))
        return []
    line, header = rows[0]
    required = (*REQUIRED_COLUMNS, *(("task",) if consortium.study.tasks else ()))
    faults += [Fault(line, name, fault) for name, fault in _header_faults(header, required)]
    return header


def _header_faults(header: list[str], required: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Column and fault of each missing, misspelt or doubled column."""
    unknown = tuple(name for name in header if name not in (*required, *OPTIONAL_COLUMNS))
    for name in required:
        if name not in header:
            hint = suggest(name, unknown).replace("did you mean", "is it")
            yield name, f"Expected a column {name!r}, got none{hint}"
    for found in unknown:
        if hint := suggest(found, tuple(n for n in OPTIONAL_COLUMNS if n not in header)):
            yield found, f"Unknown column {found!r}{hint}"
    for name in sorted({name for name in header if header.count(name) > 1}):
        yield name, once(name, header.count(name))


def _cells(
    line: int, row: Mapping[str, str], rules: ColumnRules, faults: list[Fault]
) -> dict[str, object]:
    """The checked values of one row, by column; faulty cells are left out and reported."""
    # A withdrawn recording may be gone already, and must be allowed to be.
    forgotten = rules.is_forgotten(row.get("subject_id", ""))
    withdrawn = forgotten or row.get("consent") == "withdrawn"
    cells: dict[str, object] = {}
    parsers: dict[str, Callable[[str], object]] = {
        "recording_id": rules.identifier,
        "subject_id": rules.identifier,
        "file": rules.text if withdrawn else rules.file,
        "recorded_at": rules.recorded_at,
        "age_years": rules.age_years,
        "sex": rules.sex,
        "score": rules.score,
        "consent": rules.consent,
        "visit": rules.text,
        "task": rules.text,
        "treatment": rules.text,
        "events": rules.text if withdrawn else rules.notes,
        "turns": rules.text if withdrawn else rules.notes,
        "woke_at": lambda text: rules.woke_at(
            text, cast("datetime | None", cells.get("recorded_at"))
        ),
        "pupil_mm": rules.pupil_mm,
    }
    for column in sorted(row, key=lambda name: name == "woke_at"):
        try:
            cells[column] = parsers.get(column, str)(row[column])
        except ValueError as error:
            faults.append(Fault(line, column, str(error)))
    if forgotten:
        cells["consent"] = "withdrawn"
    return cells


def _faulty_notes(rows: list[tuple[int, dict[str, object]]], root: Path) -> Iterator[Fault]:
    """What is wrong with the notes of recordings, as far as their files are known."""
    for _, cells in rows:
        for column, check in NOTES.items():
            path = cells.get(column)
            if isinstance(path, Path):
                yield from check(path, root=root, recording_id=str(cells.get("recording_id", "")))


def _duplicate_ids(rows: list[tuple[int, dict[str, object]]]) -> Iterator[Fault]:
    first: dict[object, int] = {}
    for line, cells in rows:
        name = cells.get("recording_id")
        if name is not None and first.setdefault(name, line) != line:
            fault = f"Expected each recording_id once, got {name!r} again (line {first[name]})"
            yield Fault(line, "recording_id", fault)


def _inconsistent_subjects(rows: list[tuple[int, dict[str, object]]]) -> Iterator[Fault]:
    """Subjects whose sex changes, or who are younger at a later recording."""
    by_subject: dict[object, list[tuple[int, dict[str, object]]]] = defaultdict(list)
    for line, cells in rows:
        if "subject_id" in cells:
            by_subject[cells["subject_id"]].append((line, cells))
    for subject, own in by_subject.items():
        yield from _changed_sex(subject, own)
        yield from _shrinking_age(subject, own)


def _changed_sex(subject: object, own: list[tuple[int, dict[str, object]]]) -> Iterator[Fault]:
    known = [(line, cells["sex"]) for line, cells in own if "sex" in cells]
    for line, sex in known[1:]:
        if sex != known[0][1]:
            fault = f"Expected one sex for {subject!r}, got {sex} after {known[0][1]}"
            yield Fault(line, "sex", f"{fault} (line {known[0][0]})")


def _shrinking_age(subject: object, own: list[tuple[int, dict[str, object]]]) -> Iterator[Fault]:
    aged = sorted(
        (cast("datetime", cells["recorded_at"]), cast("float", cells["age_years"]), line)
        for line, cells in own
        if "recorded_at" in cells and "age_years" in cells
    )
    for (_, before, earlier), (_, age, line) in itertools.pairwise(aged):
        if age < before:
            fault = f"Expected {subject!r} to grow older, got {age:g} years after {before:g}"
            yield Fault(line, "age_years", f"{fault} (line {earlier}, recorded before)")


def _manifest(
    rows: list[tuple[int, dict[str, object]]], consortium: ConsortiumConfig
) -> RecordingManifest:
    every = [Recording.from_cells(line, cells) for line, cells in rows]
    granted = [recording for recording in every if recording.consent == "granted"]
    tasks = consortium.study.tasks
    of_study = [r for r in granted if not tasks or r.task in tasks]
    return RecordingManifest(
        recordings=tuple(of_study),
        withdrawn=tuple(r for r in every if r.consent == "withdrawn"),
        other_tasks=len(granted) - len(of_study),
    )
