"""What ``vultus-site inspect`` writes, and what it says of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast, get_args

from client.inspection.indicator_table import FileFormat, write_table
from client.inspection.openface import stale_files, write_openface
from client.inspection.page import PageSource, write_page
from client.inspection.recordings import Inspection
from client.preparation.batch import read_thresholds
from client.site import Site
from client.storage.store import open_store
from shared_models.console import InputError, Screen

ExportFormat = Literal["csv", "parquet", "openface"]


def check_words(export: str | None, out: Path | None) -> ExportFormat | None:
    """The format that was asked for, if any.

    Raises:
        InputError: If it is unknown, or a place is named for nothing.
    """
    formats = get_args(ExportFormat)
    if export is not None and export not in formats:
        msg = f"Expected --export {', '.join(formats[:-1])} or {formats[-1]}, got {export!r}."
        raise InputError(msg)
    if out is not None and export is None:
        msg = "Expected --export csv, parquet or openface together with --out."
        raise InputError(msg)
    return cast("ExportFormat | None", export)


def export_inspection(
    inspection: Inspection,
    site: Site,
    screen: Screen,
    *,
    file_format: ExportFormat,
    out: Path | None,
) -> None:
    """Write an export and say where it is.

    Raises:
        InputError: If nothing was extracted yet, or another file would be lost.
    """
    if file_format == "openface":
        _export_frames(inspection, site, screen, folder=out or site.folder / "openface")
        return
    table = out or site.folder / f"indicators.{file_format}"
    known: FileFormat = file_format
    dictionary = write_table(inspection, table, file_format=known)
    screen.say(f"Table: {table}")
    screen.say(f"What its columns mean: {dictionary}")


def export_page(inspection: Inspection, site: Site, screen: Screen, *, page: Path) -> None:
    """Write the page and say where it is.

    Raises:
        InputError: If another file would be lost.
    """
    source = PageSource(
        inspection, open_store(site), read_thresholds(site), datetime.now(UTC).astimezone()
    )
    folder = write_page(source, page)
    screen.say(f"Page: {page}")
    if folder is not None:
        screen.say(f"One page a recording: {folder}")


def _export_frames(inspection: Inspection, site: Site, screen: Screen, *, folder: Path) -> None:
    written, without = write_openface(inspection, folder, store=open_store(site))
    screen.say(f"Frames of {len(written)} recordings: {folder} (README.txt says what is in them)")
    for recording_id in without:
        screen.warn(f"{recording_id} has no file: no frame of it was decoded or kept.")
    for path in stale_files(folder, written):
        screen.warn(f"{path} is of no recording that is exported now: delete it.")
