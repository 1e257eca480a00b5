"""One recording of one subject, and all recordings of a site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

from client.recordings.columns import Consent
from client.site_template import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from shared_models.consortium import Sex


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with the table, or with a file beside it.

    Attributes:
        line: Line of the file, the header being 1; 0 for the file as a whole.
        column: Column name; empty for the row as a whole.
        fault: What was expected and what came.
        file: The file; empty for the table of recordings itself.
    """

    line: int
    column: str
    fault: str
    file: str = ""

    def __str__(self) -> str:
        """Place and fault as one line.

        >>> str(Fault(3, "sex", "Expected female, male, other, got 'F'"))
        "line 3, sex: Expected female, male, other, got 'F'"
        """
        place = (self.file, f"line {self.line}", self.column)
        return f"{', '.join(part for part in place if part)}: {self.fault}"


class ManifestError(Exception):
    """A table of recordings that cannot be used.

    Attributes:
        faults: All of them, by line; those of files beside the table last.
        recordings: Rows found below the header.
        subjects: Distinct pseudonyms among them.
    """

    exit_code = 2

    def __init__(
        self, path: Path, faults: list[Fault], *, recordings: int = 0, subjects: int = 0
    ) -> None:
        self.faults = tuple(faults)
        self.recordings = recordings
        self.subjects = subjects
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__("\n".join([f"{count} in {path}:", *(f"  {fault}" for fault in faults)]))


@dataclass(frozen=True)
class Recording:
    """One video of one subject.

    Attributes:
        recording_id: Unique at the site.
        subject_id: The site's pseudonym of the subject.
        file: The video, absolute; None for a simulated or withdrawn recording.
        recorded_at: Moment of recording, with offset.
        age_years: Age at the recording.
        sex: As the subject's record states it.
        score: Clinical score at that visit; None if unlabelled.
        visit: Free text, such as ``baseline``.
        task: Free text, such as ``interview``.
        treatment: Free text.
        consent: ``granted`` or ``withdrawn``.
        events: Table of what was shown or said to the subject, absolute; None if there is none.
        turns: Table of who spoke when, absolute; None if there is none.
        woke_at: When the subject woke before the recording, with offset; None if unknown.
        pupil_mm: Mean pupil diameter by another instrument, in millimetres; None if unknown.
        line: Line in the table.
        extra: Unknown columns, by name.
    """

    recording_id: str
    subject_id: str
    file: Path | None
    recorded_at: datetime
    age_years: float
    sex: Sex
    score: float | None
    visit: str = ""
    task: str = ""
    treatment: str = ""
    consent: Consent = "granted"
    events: Path | None = None
    turns: Path | None = None
    woke_at: datetime | None = None
    pupil_mm: float | None = None
    line: int = 0
    extra: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_cells(cls, line: int, cells: Mapping[str, object]) -> Recording:
        """The recording that the checked cells of one row describe."""
        known = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
        return cls(
            recording_id=str(cells["recording_id"]),
            subject_id=str(cells["subject_id"]),
            file=_path(cells["file"]),
            recorded_at=cast("datetime", cells["recorded_at"]),
            age_years=cast("float", cells["age_years"]),
            sex=cast("Sex", cells["sex"]),
            score=cast("float | None", cells["score"]),
            visit=str(cells.get("visit", "")),
            task=str(cells.get("task", "")),
            treatment=str(cells.get("treatment", "")),
            consent=cast("Consent", cells.get("consent", "granted")),
            events=_path(cells.get("events")),
            turns=_path(cells.get("turns")),
            woke_at=cast("datetime | None", cells.get("woke_at")),
            pupil_mm=cast("float | None", cells.get("pupil_mm")),
            line=line,
            extra=tuple((name, str(cells[name])) for name in cells if name not in known),
        )


def _path(value: object) -> Path | None:
    return value if isinstance(value, Path) else None


@dataclass(frozen=True)
class RecordingManifest:
    """The recordings of a site.

    Attributes:
        recordings: Those with consent whose task belongs to the study.
        withdrawn: Those whose consent was withdrawn; never extracted, trained on or counted.
        other_tasks: Number of recordings left out because the study uses other tasks.
    """

    recordings: tuple[Recording, ...]
    withdrawn: tuple[Recording, ...]
    other_tasks: int

    @property
    def subjects(self) -> tuple[str, ...]:
        """The pseudonyms of all subjects with a recording, sorted."""
        return tuple(sorted({recording.subject_id for recording in self.recordings}))
