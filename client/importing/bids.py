"""A BIDS tree as rows of the table of recordings: one a video below a subject's folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from zoneinfo import ZoneInfo

from client.importing.bids_tree import BidsTree, Table, Video
from client.importing.imported import (
    Cell,
    Imported,
    ImportedRow,
    consent_text,
    convert,
    load_zone,
    moment_text,
    sex_text,
)
from client.recordings.columns import suggest
from client.recordings.recording import Fault
from client.site_config import BidsSection

_ZONE = "bids.timezone in site.toml (or --timezone)"
_IDS = ("participant_id", "session_id")


def import_bids(folder: Path, mapping: BidsSection, *, root: Path) -> Imported:
    """The recordings of a BIDS tree.

    Age and sex come from ``participants.tsv`` (age first from sessions), the moment from
    ``acq_time`` of scans or sessions, visit and task from the file name, events from
    ``*_events.tsv`` beside the video, and what the mapping names from ``phenotype/``, sessions or
    participants.

    Args:
        folder: The tree.
        mapping: ``[bids]`` of the site.
        root: Folder that the column ``file`` starts from; the tree must lie inside.
    """
    folder, root = folder.resolve(), root.resolve()
    if fault := _no_tree(folder, root):
        return Imported(faults=(Fault(0, "", fault, folder.name),))
    faults: list[Fault] = []
    zone = None
    try:
        zone = load_zone(mapping.timezone, _ZONE)
    except ValueError as error:
        faults.append(Fault(0, "bids.timezone", str(error), "site.toml"))
    rows = _Rows(BidsTree(folder, faults), mapping, root=root, zone=zone)
    faults += rows.unmapped()
    videos = rows.tree.videos()
    if not videos:
        faults.append(Fault(0, "", "Expected videos below sub-*, got none", folder.name))
    found = tuple(rows.read(video) for video in videos)
    return Imported(found, tuple(faults), tuple(rows.notes()))


def _no_tree(folder: Path, root: Path) -> str | None:
    if not (folder / "participants.tsv").is_file():
        return "Expected a BIDS tree with participants.tsv, got none"
    if not folder.is_relative_to(root):
        return (
            f"Expected a tree inside {root}, got {folder}: move it there, or set paths.videos in "
            "site.toml to a folder that holds it"
        )
    return None


@dataclass(frozen=True)
class _Rows:
    """Makes rows of the table of recordings; every fault is collected in the tree."""

    tree: BidsTree
    mapping: BidsSection
    root: Path
    zone: ZoneInfo | None

    def read(self, video: Video) -> ImportedRow:
        """The cells of one video."""
        own = self._own(video)
        cells = {
            "recording_id": replace(own, text=video.name),
            "subject_id": replace(own, text=video.subject),
            "file": replace(own, text=self._relative(video.path)),
            "recorded_at": self._recorded_at(video),
            "age_years": self._find(video, "age", (self.tree.sessions(video), self._people)),
            "sex": self._sex(video),
            "score": self._mapped(video, self.mapping.score),
            "visit": replace(own, text=video.session),
            "task": replace(own, text=video.entities.get("task", "")),
        }
        if self.mapping.treatment:
            cells["treatment"] = self._mapped(video, self.mapping.treatment)
        if self.mapping.consent:
            cells["consent"] = self._consent(video)
        events = video.path.with_name(f"{video.name}_events.tsv")
        if events.is_file():
            cells["events"] = replace(own, text=self._relative(events))
        return cells

    def unmapped(self) -> Iterator[Fault]:
        """Columns that the mapping names and no table has."""
        known = tuple(self._columns)
        for key in ("score", "treatment", "consent"):
            name = getattr(self.mapping, key)
            if name and name not in known:
                fault = f"Expected a column of the tree, got {name!r}{suggest(name, known)}"
                yield Fault(0, f"bids.{key}", f"{fault}; found {', '.join(known)}", "site.toml")

    def notes(self) -> Iterator[str]:
        """What was left out on purpose."""
        if not self.mapping.score:
            columns = ", ".join(self._columns)
            yield f"No column is named for the score (--score-column, or bids.score): {columns}."

    @property
    def _people(self) -> Table:
        return self.tree.participants

    @cached_property
    def _columns(self) -> list[str]:
        """Columns that could hold a score."""
        sessions = (self.tree.sessions(video) for video in self.tree.videos())
        tables = (*self.tree.phenotype, *sessions, self._people)
        return list(dict.fromkeys(c for t in tables for c in t.header if c not in _IDS))

    def _own(self, video: Video) -> Cell:
        return Cell("", video.path.relative_to(self.tree.folder).as_posix(), 0, "")

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _recorded_at(self, video: Video) -> Cell:
        scanned = {"filename": self.tree.scanned(video)}
        cell = next(self.tree.scans(video).cells("acq_time", scanned), None)
        cell = cell or self._find(video, "acq_time", (self.tree.sessions(video),))
        if not cell.text:
            files = f"{self.tree.scans(video).file} or {self.tree.sessions(video).file}"
            self.tree.faults.append(cell.fault(f"Expected acq_time in {files}, got none"))
            return cell
        return convert(cell, lambda text: moment_text(text, self.zone, _ZONE), self.tree.faults)

    def _sex(self, video: Video) -> Cell:
        cell = self._find(video, "sex", (self._people,))
        if not cell.text:
            return cell
        values = self.mapping.sex_values
        where = "bids.sex_values in site.toml"
        return convert(
            cell, lambda text: sex_text(text, values, self._levels, where), self.tree.faults
        )

    @cached_property
    def _levels(self) -> dict[str, str]:
        return self.tree.levels("sex")

    def _consent(self, video: Video) -> Cell:
        values = self.mapping.consent_values
        where = "bids.consent_values in site.toml"
        return convert(
            self._mapped(video, self.mapping.consent),
            lambda text: consent_text(text, values, {}, where),
            self.tree.faults,
        )

    def _mapped(self, video: Video, column: str | None) -> Cell:
        """A named column of phenotype, sessions or participants, in this order."""
        tables = (*self.tree.phenotype, self.tree.sessions(video), self._people)
        return self._find(video, column, tables) if column else self._own(video)

    def _find(self, video: Video, column: str, tables: Iterable[Table]) -> Cell:
        """The first cell of the column for this subject and session; rows must not differ."""
        ids = zip(_IDS, (video.subject, video.session), strict=True)
        wanted = {key: value for key, value in ids if value}
        for table in tables:
            cells = list(table.cells(column, wanted))
            if len({cell.text for cell in cells}) > 1:
                lines = ", ".join(str(cell.line) for cell in cells)
                fault = f"Expected one value for {video.name}, got different ones on lines {lines}"
                self.tree.faults.append(cells[0].fault(fault))
            if cells:
                return cells[0]
        return self._own(video)
