"""What was measured at a site: verdicts, quality and indicators, as a table, a file or a page.

Everything here describes single subjects and is written for the site alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from client.inspection_page import render_page
from client.preparation import load_manifest
from client.recording import Recording
from client.site import Site
from client.store import open_store
from client.stored_recording import StoredRecording
from privacy.vault import write_atomic
from shared_models.console import InputError, Screen
from shared_models.consortium import ConsortiumConfig

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN = {
    "smile_rate_per_min": "smiles\n/min",
    "corner_elevation": "mouth\ncorner",
    "gaze_down_fraction": "gaze\ndown",
    "head_speed_deg_s": "head\ndeg/s",
    "mouth_speed_per_s": "mouth\n/s",
    "blink_rate_per_min": "blinks\n/min",
}
"""Indicators with a column on the terminal, and its heading; the exports have all of them."""


@dataclass(frozen=True)
class Inspection:
    """The extracted recordings of a site beside their rows in the table.

    Attributes:
        study: The study.
        rows: Recording and the stored facts of it, in the order of the table.
        missing: Recordings that were not extracted yet.
    """

    study: ConsortiumConfig
    rows: tuple[tuple[Recording, StoredRecording], ...]
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The object for machines."""
        return {
            "recordings": [_as_json(stored) for _, stored in self.rows],
            "not_extracted": list(self.missing),
            "rejection_rates": [
                {"attribute": attribute, "group": group, "rejected": rejected, "recordings": total}
                for attribute, group, rejected, total in self.rejection_rates()
            ],
        }

    def rejection_rates(self) -> Iterator[tuple[str, str, int, int]]:
        """Attribute, group, rejected recordings, all recordings, by age band and sex.

        A gate that rejects one group more often than another is a bias before any training.
        """
        groups: dict[str, Callable[[Recording], str]] = {
            "age_band": lambda r: self.study.fairness.age_group(r.age_years) or "undeclared",
            "sex": lambda r: r.sex,
        }
        for attribute, group_of in groups.items():
            total = Counter(group_of(recording) for recording, _ in self.rows)
            rejected = Counter(
                group_of(recording)
                for recording, stored in self.rows
                if stored.verdict == "rejected"
            )
            for group in sorted(total):
                yield attribute, group, rejected[group], total[group]

    def show(self, screen: Screen) -> None:
        """Print it for people."""
        if self.rows:
            screen.show(_indicator_table(self))
            for _, stored in self.rows:
                for reason in stored.reasons:
                    screen.say(f"{stored.recording_id} is rejected: {reason.text}", style="red")
            screen.show(_rejection_table(self))
        for name in self.missing:
            screen.warn(f"{name} was not extracted yet.")

    def next_steps(self, folder: Path) -> list[str]:
        """What to do after looking at it."""
        if self.missing:
            return [f"run 'vultus-site extract {folder}'."]
        return [
            f"run 'vultus-site inspect {folder} --page FILE' to see the traces over time.",
            f"run 'vultus-site join {folder} KIT', then 'vultus-site start {folder}'.",
        ]


def inspect_site(site: Site) -> Inspection:
    """What is stored of the site's recordings.

    Raises:
        ManifestError: If the table of recordings is faulty.
        StoreError: If a stored recording cannot be opened.
    """
    manifest = load_manifest(site, require_files=False)
    stored = {(one.subject_id, one.recording_id): one for one in open_store(site).records()}
    found = [(r, stored.get((r.subject_id, r.recording_id))) for r in manifest.recordings]
    return Inspection(
        study=site.consortium.config,
        rows=tuple((recording, one) for recording, one in found if one is not None),
        missing=tuple(recording.recording_id for recording, one in found if one is None),
    )


def write_table(inspection: Inspection, path: Path, *, file_format: str) -> None:
    """Write one row a recording, mode 0600; the units stand in the columns' metadata.

    Args:
        inspection: What to write.
        path: The file.
        file_format: ``csv`` or ``parquet``.

    Raises:
        InputError: If nothing was extracted yet.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    if not inspection.rows:
        msg = "Expected at least one extracted recording: run 'vultus-site extract' first."
        raise InputError(msg)
    rows = [_flat(recording, stored) for recording, stored in inspection.rows]
    table = pa.Table.from_pylist(rows, schema=_arrow_schema(inspection))
    buffer = pa.BufferOutputStream()
    if file_format == "csv":
        csv.write_csv(table, buffer)
    else:
        parquet.write_table(table, buffer)
    write_atomic(path, buffer.getvalue().to_pybytes())


def write_page(inspection: Inspection, path: Path, *, site: Site) -> None:
    """Write one HTML page with a trace over time for each recording, mode 0600."""
    store = open_store(site)
    # Hours of features would not fit in memory: the page takes them one recording at a time.
    records = (
        (stored, store.features(stored.subject_id, stored.recording_id))
        for _, stored in inspection.rows
    )
    write_atomic(path, render_page(records, inspection.study).encode())


def _as_json(stored: StoredRecording) -> dict[str, object]:
    return {
        "recording_id": stored.recording_id,
        "verdict": stored.verdict,
        "reasons": [{"code": reason.code, "text": reason.text} for reason in stored.reasons],
        "quality": stored.quality,
        "indicators": {name: one.value for name, one in stored.indicators.items()},
        "why_missing": {
            name: one.reason for name, one in stored.indicators.items() if one.value is None
        },
    }


def _flat(recording: Recording, stored: StoredRecording) -> dict[str, object]:
    """One row of the exported table; the clinical score stays where it is."""
    return {
        "recording_id": recording.recording_id,
        "subject_id": recording.subject_id,
        "recorded_at": recording.recorded_at.isoformat(),
        "visit": recording.visit,
        "task": recording.task,
        "verdict": stored.verdict,
        "reasons": ";".join(reason.code for reason in stored.reasons),
        **{f"quality_{name}": value for name, value in stored.quality.items()},
        **{name: one.value for name, one in stored.indicators.items()},
    }


def _arrow_schema(inspection: Inspection) -> pa.Schema:
    import pyarrow as pa

    texts = ("recording_id", "subject_id", "recorded_at", "visit", "task", "verdict", "reasons")
    columns = [pa.field(name, pa.string()) for name in texts]
    records = [stored for _, stored in inspection.rows]
    measures = dict.fromkeys(name for one in records for name in one.quality)
    columns += [pa.field(f"quality_{name}", pa.float64()) for name in measures]
    units = {name: found.unit for one in records for name, found in one.indicators.items()}
    columns += [pa.field(name, pa.float64(), metadata={"unit": units[name]}) for name in units]
    return pa.schema(columns)


def _indicator_table(inspection: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("recording", "verdict"):
        # Figures may wrap on a narrow terminal; whose they are must stay readable.
        table.add_column(name, no_wrap=True, min_width=10)
    for name in ("face\nseen", "frames\n/s", *SHOWN.values()):
        table.add_column(name, justify="right")
    for _, stored in inspection.rows:
        indicators = stored.indicators
        table.add_row(
            stored.recording_id,
            stored.verdict,
            _cell(stored.quality.get("detection_rate")),
            _cell(stored.quality.get("fps")),
            *(_cell(indicators[name].value if name in indicators else None) for name in SHOWN),
            style="red" if stored.reasons else None,
        )
    return table


def _rejection_table(inspection: Inspection) -> Table:
    table = Table("group", "rejected", "of", title="Rejected by the quality gate")
    for attribute, group, rejected, total in inspection.rejection_rates():
        table.add_row(f"{attribute.replace('_', ' ')} {group}", str(rejected), str(total))
    return table


def _cell(value: object) -> str:
    if not isinstance(value, int | float):
        return "-"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"
