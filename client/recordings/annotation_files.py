"""Notes on a recording: tables of what was shown to the subject and of who spoke when.

Faults name the file of the notes and the line in it, all at once. Times count from the first frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypeVar, cast

from client.recordings.annotations import NO_ANNOTATIONS, Annotations, Speaker, Stimulus, Turn
from client.recordings.columns import LONGEST_TEXT, choice, number, shorten, suggest
from client.recordings.delimited import read_records
from client.recordings.recording import Fault, ManifestError, Recording

EVENT_COLUMNS = ("onset_s", "duration_s", "label")
BIDS_EVENT_COLUMNS = ("onset", "duration", "trial_type")
TURN_COLUMNS = ("start_s", "end_s", "speaker")
SPEAKERS = ("subject", "other")
LATEST_S = 86_400.0
NOT_AVAILABLE = "n/a"

_MEANT = {
    **dict.fromkeys(("patient", "participant", "proband", "interviewee", "s", "p"), "subject"),
    **dict.fromkeys(("interviewer", "clinician", "doctor", "therapist", "i", "o"), "other"),
}

Note = TypeVar("Note")
Numbered = tuple[int, Note]


class NotesCheck(Protocol):
    """What finds the faults of one kind of notes."""

    def __call__(self, path: Path, *, root: Path | None, recording_id: str) -> list[Fault]:
        """Every fault of the file."""
        ...


def read_annotations(recording: Recording) -> Annotations:
    """All notes on a recording.

    Args:
        recording: Names the files, if there are any.

    Raises:
        ManifestError: With every fault of both files.
    """
    faults = annotation_faults(recording)
    if faults:
        raise ManifestError(recording.events or recording.turns or Path(), faults)
    if recording.events is None and recording.turns is None and recording.pupil_mm is None:
        return NO_ANNOTATIONS
    stimuli = _read(recording.events, _stimuli) if recording.events else []
    turns = _read(recording.turns, _turns) if recording.turns else []
    return Annotations(
        stimuli=tuple(sorted(stimuli, key=lambda one: one.onset_s)),
        turns=tuple(sorted(turns, key=lambda one: one.start_s)),
        pupil_mm=recording.pupil_mm,
    )


def annotation_faults(recording: Recording, *, root: Path | None = None) -> list[Fault]:
    """Every fault of a recording's notes; each names the file, the line and the recording.

    Args:
        recording: Names the files.
        root: Folder that shown file names start from; None shows them whole.
    """
    named = {"events": recording.events, "turns": recording.turns}
    return [
        fault
        for column, path in named.items()
        if path is not None
        for fault in NOTES[column](path, root=root, recording_id=recording.recording_id)
    ]


def event_faults(path: Path, *, root: Path | None, recording_id: str) -> list[Fault]:
    """Every fault of a table of events."""
    return _located(path, _stimuli, root=root, recording_id=recording_id)


def turn_faults(path: Path, *, root: Path | None, recording_id: str) -> list[Fault]:
    """Every fault of a table of talk turns."""
    return _located(path, _turns, root=root, recording_id=recording_id)


NOTES: Mapping[str, NotesCheck] = {"events": event_faults, "turns": turn_faults}
"""Columns of ``recordings.csv`` that name notes, and what finds the faults of such a file."""


def _read(path: Path, parse: Callable[[Path, list[Fault]], list[Numbered[Note]]]) -> list[Note]:
    return [note for _, note in parse(path, [])]


def _located(
    path: Path,
    parse: Callable[[Path, list[Fault]], list[Numbered[Note]]],
    *,
    root: Path | None,
    recording_id: str,
) -> list[Fault]:
    faults: list[Fault] = []
    parse(path, faults)
    shown = path.relative_to(root.resolve()) if root and _inside(path, root) else path
    return [
        replace(fault, file=str(shown), fault=f"{fault.fault} (recording {recording_id!r})")
        for fault in sorted(faults, key=lambda fault: fault.line)
    ]


def _inside(path: Path, root: Path) -> bool:
    return path.is_relative_to(root.resolve())


def _stimuli(path: Path, faults: list[Fault]) -> list[Numbered[Stimulus]]:
    """The events of a file; faulty rows are left out and reported."""
    header, records = read_records(path, faults)
    bids = "onset" in header and "onset_s" not in header
    columns = BIDS_EVENT_COLUMNS if bids else EVENT_COLUMNS
    if _lacks_columns(header, columns, faults):
        return []
    onset, duration, label = columns
    found = []
    for line, record in records:
        row = _Row(line, record, faults)
        # BIDS writes n/a for what is not known; an event of unknown length still has its onset.
        known = bids and record[duration] == NOT_AVAILABLE
        start, length = row.seconds(onset), 0.0 if known else row.seconds(duration)
        text = row.text(label)
        if start is not None and length is not None and text is not None:
            found.append((line, Stimulus(start, length, text)))
    return found


def _turns(path: Path, faults: list[Fault]) -> list[Numbered[Turn]]:
    """The talk turns of a file; faulty rows are left out and reported."""
    header, records = read_records(path, faults)
    if _lacks_columns(header, TURN_COLUMNS, faults):
        return []
    found = []
    for line, record in records:
        row = _Row(line, record, faults)
        start, end, speaker = row.seconds("start_s"), row.seconds("end_s"), row.speaker("speaker")
        if start is None or end is None or speaker is None:
            continue
        if end <= start:
            fault = f"Expected an end after the start at {start:g} s, got {end:g} s"
            faults.append(Fault(line, "end_s", fault))
        else:
            found.append((line, Turn(start, end, speaker)))
    faults += _overlaps(found)
    return found


def _overlaps(turns: Sequence[Numbered[Turn]]) -> Iterator[Fault]:
    """Turns of one speaker that begin before the one before has ended; two may speak at once."""
    for speaker in SPEAKERS:
        own = sorted(
            ((turn.start_s, turn.end_s, line) for line, turn in turns if turn.speaker == speaker),
        )
        for (_, end, earlier), (start, _, line) in pairwise(own):
            if start < end:
                fault = f"Expected a turn of {speaker} after {end:g} s (line {earlier}), got"
                yield Fault(line, "start_s", f"{fault} one that starts at {start:g} s")


def _lacks_columns(header: list[str], columns: Sequence[str], faults: list[Fault]) -> bool:
    missing = [name for name in columns if name not in header]
    for name in missing if header else ():
        unknown = tuple(found for found in header if found not in columns)
        hint = suggest(name, unknown).replace("did you mean", "is it")
        faults.append(Fault(1, name, f"Expected a column {name!r}, got none{hint}"))
    return bool(missing)


class _Row:
    """One row of notes; each method gives a cell's value, or None and reports the fault."""

    def __init__(self, line: int, record: Mapping[str, str], faults: list[Fault]) -> None:
        self._line = line
        self._record = record
        self._faults = faults

    def seconds(self, column: str) -> float | None:
        """Seconds from the first frame."""
        what = "seconds from the first frame" if column != "duration_s" else "seconds"
        return self._checked(column, lambda text: number(text, low=0.0, high=LATEST_S, what=what))

    def text(self, column: str) -> str | None:
        """A label that is not empty."""
        return self._checked(column, _label)

    def speaker(self, column: str) -> Speaker | None:
        """Who speaks."""
        return self._checked(column, _speaker)

    def _checked(self, column: str, parse: Callable[[str], Note]) -> Note | None:
        try:
            return parse(self._record[column])
        except ValueError as error:
            self._faults.append(Fault(self._line, column, str(error)))
            return None


def _label(text: str) -> str:
    if not text or len(text) > LONGEST_TEXT or not text.isprintable():
        msg = f"Expected a label of 1 to {LONGEST_TEXT} printable characters, got {shorten(text)}"
        raise ValueError(msg)
    return text


def _speaker(text: str) -> Speaker:
    meant = _MEANT.get(text.lower())
    if meant:
        msg = f"Expected subject or other, got {shorten(text)} (did you mean {meant!r}?)"
        raise ValueError(msg)
    return cast("Speaker", choice(text, SPEAKERS))
