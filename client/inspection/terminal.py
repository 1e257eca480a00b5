"""What an inspection shows on a terminal of 80 columns."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from client.inspection.recordings import Inspection
from client.inspection.rejection import tell_rate, tell_unlike, unlike_groups
from client.storage.stored_recording import StoredRecording
from shared_models.console import Screen

SHOWN = {
    "smile_rate_per_min": "smiles\n/min",
    "gaze_down_fraction": "gaze\ndown",
    "head_speed_deg_s": "head\ndeg/s",
    "blink_rate_per_min": "blinks\n/min",
}
"""Indicators with a column on the terminal, and its heading; the exports have all of them."""

MOST_LINES = 50


def show_inspection(inspection: Inspection, screen: Screen) -> None:
    """Print verdicts, a few indicators and the rejections by group."""
    if inspection.rows:
        screen.show(_indicator_table(inspection))
        _tell_rest(inspection, screen)
        for stored in inspection.rejected[:MOST_LINES]:
            for reason in stored.reasons:
                screen.say(f"{stored.recording_id} is rejected: {reason.text}", style="red")
        screen.show(_rejection_table(inspection))
        for pair in unlike_groups(inspection.rejections):
            screen.warn(tell_unlike(*pair))
    for name in inspection.missing[:MOST_LINES]:
        screen.warn(f"{name} was not extracted yet.")
    if len(inspection.missing) > MOST_LINES:
        screen.warn(f"and {len(inspection.missing) - MOST_LINES} more were not extracted yet.")


def next_steps(inspection: Inspection, folder: Path) -> list[str]:
    """What to do after looking at it."""
    if inspection.missing:
        return [f"run 'vultus-site extract {folder}'."]
    return [
        f"run 'vultus-site inspect {folder} --page FILE' for traces, definitions and evidence.",
        f"run 'vultus-site join {folder} KIT', then 'vultus-site start {folder}'.",
    ]


def _indicator_table(inspection: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    # A long name wraps; figures must not be cut on a narrow terminal.
    table.add_column("recording", overflow="fold", min_width=10)
    table.add_column("verdict", no_wrap=True, min_width=8)
    for name in ("face\nseen", "frames\n/s", *SHOWN.values()):
        table.add_column(name, justify="right", no_wrap=True, min_width=6)
    for _, stored in inspection.rows[:MOST_LINES]:
        table.add_row(*_cells(stored), style="red" if stored.reasons else None)
    return table


def _cells(stored: StoredRecording) -> list[str]:
    indicators = stored.indicators
    return [
        stored.recording_id,
        stored.verdict,
        _cell(stored.quality.get("detection_rate")),
        _cell(stored.quality.get("fps")),
        *(_cell(indicators[name].value if name in indicators else None) for name in SHOWN),
    ]


def _tell_rest(inspection: Inspection, screen: Screen) -> None:
    """What the table leaves out, so that nobody takes it for all."""
    rest = len(inspection.rows) - MOST_LINES
    if rest > 0:
        screen.warn(f"{rest} more recordings are not shown: use --page or --export.")
    found = [stored.indicators.values() for _, stored in inspection.rows]
    kinds = {name for _, stored in inspection.rows for name in stored.indicators}
    notes = sum(one.note is not None for indicators in found for one in indicators)
    screen.say(
        f"{len(SHOWN)} of {len(kinds)} indicators are shown, - where a recording cannot support "
        f"one; {notes} values bear a note. --page and --export have all of them, with reasons.",
    )


def _rejection_table(inspection: Inspection) -> Table:
    table = Table(title="Rejected by the quality gate, with 95 % intervals", title_justify="left")
    for name in ("group", "rejected", "rate, interval"):
        table.add_column(name, no_wrap=True)
    table.add_column("reasons")
    for group in inspection.rejections:
        name = "all" if group.attribute == "site" else f"{group.attribute} {group.group}"
        table.add_row(
            name.replace("_", " "),
            f"{group.rejected} of {group.recordings}",
            tell_rate(group),
            ", ".join(f"{code} {count}" for code, count in group.reasons),
        )
    return table


def _cell(value: object) -> str:
    if not isinstance(value, int | float):
        return "-"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"
