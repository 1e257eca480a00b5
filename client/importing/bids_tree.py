"""What a BIDS tree says beside its videos: participants, sessions, scans, phenotype.

Source: Brain Imaging Data Structure specification 1.10, "Modality agnostic files".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.importing.imported import Cell
from client.recordings.annotation_files import NOT_AVAILABLE
from client.recordings.delimited import read_records
from client.recordings.recording import Fault

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".mov", ".mkv", ".avi", ".webm", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".m4v")
)


@dataclass(frozen=True)
class Table:
    """One TSV file of a tree.

    Attributes:
        file: Its place in the tree, for messages.
        header: Column names.
        rows: Line and cells of each row.
    """

    file: str
    header: Sequence[str]
    rows: Sequence[tuple[int, Mapping[str, str]]]

    def cells(self, column: str, wanted: Mapping[str, str]) -> Iterator[Cell]:
        """The cells of a column on the rows where each key that the table has is as wanted."""
        keys = {key: value for key, value in wanted.items() if key in self.header}
        for line, row in self.rows if column in self.header else ():
            if all(_bare(row[key]) == _bare(value) for key, value in keys.items()):
                text = "" if row[column] == NOT_AVAILABLE else row[column]
                yield Cell(text, self.file, line, column)


@dataclass(frozen=True)
class Video:
    """One video of a tree.

    Attributes:
        path: The file.
        name: Its entities as they stand in the file name, without suffix and extension.
        entities: Value by key, such as ``sub`` to ``01``.
    """

    path: Path
    name: str
    entities: Mapping[str, str]

    @property
    def subject(self) -> str:
        """``participant_id`` of the subject."""
        return f"sub-{self.entities.get('sub', '')}"

    @property
    def session(self) -> str:
        """``session_id``; empty without sessions."""
        return f"ses-{self.entities['ses']}" if "ses" in self.entities else ""


class BidsTree:
    """The tables of a tree, each read once; what makes one no table is a fault.

    Args:
        folder: The tree's root.
        faults: Gets every fault of form.
    """

    def __init__(self, folder: Path, faults: list[Fault]) -> None:
        self.folder = folder
        self.faults = faults
        self.participants = self._read(folder / "participants.tsv")
        self.phenotype = [self._read(path) for path in sorted((folder / "phenotype").glob("*.tsv"))]
        self._sessions: dict[Path, Table] = {}

    def videos(self) -> list[Video]:
        """Every video below a subject's folder, in order of path."""
        subjects = (path for path in sorted(self.folder.glob("sub-*")) if path.is_dir())
        files = (path for subject in subjects for path in sorted(subject.rglob("*")))
        return [_video(p) for p in files if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()]

    def sessions(self, video: Video) -> Table:
        """``sub-*_sessions.tsv`` of a video's subject; empty if there is none."""
        return self._optional(self.folder / video.subject / f"{video.subject}_sessions.tsv")

    def scans(self, video: Video) -> Table:
        """``*_scans.tsv`` of a video's session, or of its subject; empty if there is none."""
        parts = [video.subject, *([video.session] if video.session else [])]
        folder = self.folder.joinpath(*parts)
        return self._optional(folder / f"{'_'.join(parts)}_scans.tsv")

    def scanned(self, video: Video) -> str:
        """The video's ``filename`` in its scans table."""
        table = self.folder / self.scans(video).file
        inside = video.path.is_relative_to(table.parent)
        return video.path.relative_to(table.parent).as_posix() if inside else ""

    def levels(self, column: str) -> dict[str, str]:
        """Meaning of the codes of a column of participants, from ``participants.json``."""
        path = self.folder / "participants.json"
        if not path.is_file():
            return {}
        try:
            described = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            fault = f"Expected a JSON object, got a fault: {error}"
            self.faults.append(Fault(0, "", fault, self._shown(path)))
            return {}
        return _levels(described, column)

    def _optional(self, path: Path) -> Table:
        if path not in self._sessions:
            empty = Table(self._shown(path), [], [])
            self._sessions[path] = self._read(path) if path.is_file() else empty
        return self._sessions[path]

    def _read(self, path: Path) -> Table:
        found: list[Fault] = []
        header, rows = read_records(path, found)
        file = self._shown(path)
        self.faults += [Fault(one.line, one.column, one.fault, file) for one in found]
        return Table(file, header, rows)

    def _shown(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _video(path: Path) -> Video:
    parts = path.stem.split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    # The last part without a hyphen is the suffix, such as "beh": it is no entity.
    named = parts[:-1] if len(parts) > 1 and "-" not in parts[-1] else parts
    return Video(path, "_".join(named), entities)


def _levels(described: object, column: str) -> dict[str, str]:
    """Labels of ``Levels``, which holds plain texts or objects with a description."""
    entry = described.get(column) if isinstance(described, dict) else None
    levels = entry.get("Levels") if isinstance(entry, dict) else None
    if not isinstance(levels, dict):
        return {}
    labels = {
        code: level.get("Description") if isinstance(level, dict) else level
        for code, level in levels.items()
    }
    return {code: label for code, label in labels.items() if isinstance(label, str)}


def _bare(text: str) -> str:
    """An id without its prefix, which some tables leave out."""
    return text.removeprefix("sub-").removeprefix("ses-")
