"""One page on what was measured at a site: curves, tables, and never a picture of a face."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.extraction.behaviour.catalogue import CATALOGUE
from client.inspection.files import claim_file, claim_folder, safe_names
from client.inspection.indicator_table import GENERATOR
from client.inspection.overview import Overview, overview_of
from client.inspection.recording_view import RecordingView, tell_needs, view_recording
from client.inspection.recordings import Inspection
from client.inspection.rejection import Row
from privacy.vault import write_atomic, write_chunks

if TYPE_CHECKING:
    from jinja2 import Environment

    from client.extraction.quality import QualityThresholds
    from client.storage.store import FeatureStore

MOST_ON_ONE_PAGE = 200
"""With more recordings the page is an index, and each has a page in a folder beside it."""

_MARK = f'name="generator" content="{GENERATOR}"'.encode()
_INDEX = "index.txt"


@dataclass(frozen=True)
class PageSource:
    """What a page is made from.

    Attributes:
        inspection: The recordings.
        store: Holds their frames and features.
        thresholds: The site's limits of the quality gate.
        now: Date of the page.
    """

    inspection: Inspection
    store: FeatureStore
    thresholds: QualityThresholds
    now: datetime

    def views(self) -> Iterator[RecordingView]:
        """Each recording as the page shows it; one at a time, because frames are large."""
        return (self.view(row, number) for number, row in enumerate(self.inspection.rows, 1))

    def view(self, row: Row, number: int) -> RecordingView:
        """One recording as the page shows it."""
        return view_recording(
            row,
            number=number,
            store=self.store,
            schema=self.inspection.study.features.schema,
            thresholds=self.thresholds,
        )


def write_page(source: PageSource, path: Path, *, most: int = MOST_ON_ONE_PAGE) -> Path | None:
    """Write the page, mode 0600; with many recordings, an index and a folder of pages.

    Args:
        source: What it is made from.
        path: The page.
        most: Recordings that still go on one page.

    Returns:
        The folder of pages; None if everything stands on the one.

    Raises:
        InputError: If another file would be lost.
    """
    claim_file(path, _MARK)
    overview = overview_of(source.inspection, source.thresholds, now=source.now)
    if len(source.inspection.rows) <= most:
        _write(path, "page.html.j2", overview=overview, recordings=source.views(), links={})
        return None
    folder = path.with_name(f"{path.stem}_recordings")
    names = safe_names(recording.recording_id for recording, _ in source.inspection.rows)
    links = {key: f"{folder.name}/{name}.html" for key, name in names.items()}
    _write(path, "page.html.j2", overview=overview, recordings=(), links=links)
    claim_folder(folder, _INDEX, GENERATOR.encode())
    write_atomic(folder / _INDEX, f"Pages of recordings, written by '{GENERATOR}'.\n".encode())
    for view in source.views():
        page = folder / f"{names[view.recording_id]}.html"
        claim_file(page, _MARK)
        _write(page, "one.html.j2", overview=overview, one=view, back=f"../{path.name}")
    return folder


def _write(path: Path, template: str, *, overview: Overview, **context: Any) -> None:  # noqa: ANN401
    pieces = _environment().get_template(template)
    text = pieces.generate(
        overview=overview, generator=GENERATOR, definitions=CATALOGUE.values(), **context
    )
    write_chunks(path, (chunk.encode() for chunk in text))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("client.inspection"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": show_number, "percent": show_percent, "needs": tell_needs}
    return environment


def show_number(value: float | None) -> str:
    """A figure with four digits, without an exponent where it can be read without.

    >>> [show_number(value) for value in (0.123456, 12.0, 1234.56, 0.0000123, None)]
    ['0.1235', '12', '1235', '1.23e-05', '-']
    """
    if value is None:
        return "-"
    if value and (abs(value) < 0.0001 or abs(value) >= 1e6):
        return f"{value:.2e}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def show_percent(share: float | None) -> str:
    """A share in percent.

    >>> [show_percent(share) for share in (0.5, 0.0049, 0.0, None)]
    ['50 %', '< 1 %', '0 %', '-']
    """
    if share is None:
        return "-"
    return "< 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"
