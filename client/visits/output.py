"""The longitudinal table on the terminal, as a file and as a page; for the site alone."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from client.extraction.behaviour.catalogue import CATALOGUE
from client.visits.reliability import Reliability
from client.visits.series import Visit, VisitSeries
from client.visits.table import CAVEAT, Change, VisitTable, visit_facts
from privacy.vault import write_atomic
from shared_models.console import InputError, Screen

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN = {
    "smile_rate_per_min": "smiles\n/min",
    "gaze_down_fraction": "gaze\ndown",
    "head_speed_deg_s": "head\ndeg/s",
    "mouth_speed_per_s": "mouth\n/s",
}
"""Indicators with a column on the terminal, and its heading; the exports have all of them."""

_NUMBERS = ("visit_number", "days_since_first", "hours_since_waking", "score")

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { text-align: right; padding: .15rem .8rem; font-variant-numeric: tabular-nums; }
th[scope=row], thead th:first-child { text-align: left; }
tbody tr:nth-child(odd) { background: #8881; }
small { opacity: .75; }
section { border-top: 1px solid #8888; margin-top: 2rem; }
"""


def show_visits(table: VisitTable, screen: Screen) -> None:
    """Print the visits of each subject, then what makes them hard to compare."""
    for series in table.series:
        screen.show(_series_table(table, series))
        for line in _treatments(series):
            screen.say(f"  {line}")
    for note in table.notes:
        screen.warn(note)
    for warning in table.warnings:
        task = f", {warning.task}" if warning.task else ""
        screen.warn(f"{warning.subject_id}{task}: {warning.text}")
    screen.say(f"An asterisk marks a change beyond error of measurement. {CAVEAT}")


def write_visits(table: VisitTable, path: Path, *, file_format: str) -> None:
    """Write one row a visit, mode 0600; the units stand in the columns' metadata.

    Beside each indicator stand its change from the first accepted visit and the reliable-change
    index of that change.

    Args:
        table: What to write.
        path: The file.
        file_format: ``csv`` or ``parquet``.

    Raises:
        InputError: If there is no visit.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    if not table.series:
        msg = "Expected at least one recording with consent: fill in recordings.csv first."
        raise InputError(msg)
    rows = [_flat(table, one, visit) for one in table.series for visit in one.visits]
    written = pa.Table.from_pylist(rows, schema=_schema(table))
    buffer = pa.BufferOutputStream()
    if file_format == "csv":
        csv.write_csv(written, buffer)
    else:
        parquet.write_table(written, buffer)
    write_atomic(path, buffer.getvalue().to_pybytes())


def write_visits_page(table: VisitTable, path: Path, *, study: str) -> None:
    """Write one self-contained HTML page with a table a subject, mode 0600."""
    title = f"Visits of study {escape(study)}"
    body = "".join(_section(table, series) for series in table.series)
    warnings = "".join(
        f"<li>{escape(one.subject_id)}: {escape(one.text)}</li>" for one in table.warnings
    )
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
        "<p>Figures of single subjects: this page stays at the site. "
        f"Research software: no output is a diagnosis.</p><p>{escape(CAVEAT)}</p>"
        f"{f'<h2>To be read with care</h2><ul>{warnings}</ul>' if warnings else ''}"
        f"{body or '<p>There is no visit yet.</p>'}{_reliability_section(table)}"
        f"{_definitions(table)}</body></html>"
    )
    write_atomic(path, page.encode())


def _flat(table: VisitTable, series: VisitSeries, visit: Visit) -> dict[str, object]:
    facts = visit_facts(series, visit)
    row: dict[str, object] = {"subject_id": series.subject_id, "task": series.task, **facts}
    for name in ("recordings", "treatment_events"):
        values = facts[name]
        row[name] = "; ".join(values) if isinstance(values, list) else ""
    for name, one in table.changes(series, visit).items():
        row[name] = one.value
        row[f"{name}_change"] = one.change
        row[f"{name}_reliable_change"] = one.index
    return row


def _schema(table: VisitTable) -> pa.Schema:
    import pyarrow as pa

    series = table.series[0]
    facts = ("subject_id", "task", *visit_facts(series, series.visits[0]))
    columns = [pa.field(n, pa.float64() if n in _NUMBERS else pa.string()) for n in facts]
    for name, unit in table.units.items():
        own = {"unit": unit}
        columns.append(pa.field(name, pa.float64(), metadata=own))
        columns.append(pa.field(f"{name}_change", pa.float64(), metadata=own))
        index = pa.field(f"{name}_reliable_change", pa.float64(), metadata={"unit": "1"})
        columns.append(index)
    return pa.schema(columns)


def _series_table(table: VisitTable, series: VisitSeries) -> Table:
    shown = Table(title=_title(series), box=None, pad_edge=False, title_justify="left")
    shown.add_column("visit", no_wrap=True, max_width=14)
    for name in ("date", "days", "time", "hours\nawake", "score", *SHOWN.values()):
        shown.add_column(name, no_wrap=True, justify="right")
    for visit in series.visits:
        changes = table.changes(series, visit)
        shown.add_row(
            visit.label or str(visit.number),
            visit.day.isoformat(),
            f"{visit.days_since_first:.0f}",
            f"{visit.recorded_at:%H:%M}",
            _cell(visit.hours_since_waking),
            "-" if visit.score is None else f"{visit.score:g}",
            *(_marked(changes.get(name)) for name in SHOWN),
            style="red" if visit.verdict == "rejected" else None,
        )
    return shown


def _title(series: VisitSeries) -> str:
    return series.subject_id + (f", {series.task}" if series.task else "")


def _treatments(series: VisitSeries) -> Iterator[str]:
    """A line for each visit under treatment."""
    for visit in series.visits:
        events = [event for event in (visit.treatment, *series.events(visit)) if event]
        if events:
            yield f"{visit.label or visit.number}: {'; '.join(events)}"


def _marked(one: Change | None) -> str:
    return _cell(one.value if one else None) + ("*" if one and one.beyond_error else "")


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def _section(table: VisitTable, series: VisitSeries) -> str:
    """One subject: visits as columns, because indicators are many and visits are few."""
    facts = [visit_facts(series, visit) for visit in series.visits]
    heads = "".join(f"<th scope='col'>{fact['visit_number']}</th>" for fact in facts)
    rows = "".join(
        f"<tr><th scope='row'>{escape(name.replace('_', ' '))}</th>"
        + "".join(f"<td>{escape(_text(fact[name]))}</td>" for fact in facts)
        + "</tr>"
        for name in list(facts[0])[1:]
    )
    changes = [table.changes(series, visit) for visit in series.visits]
    rows += "".join(
        f"<tr><th scope='row'>{escape(name)} <small>{escape(unit)}</small></th>"
        + "".join(_change_cell(one[name]) for one in changes)
        + "</tr>"
        for name, unit in table.units.items()
    )
    return (
        f"<section><h2>{escape(_title(series))}</h2><table><thead><tr><th>visit</th>"
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></section>"
    )


def _change_cell(one: Change) -> str:
    """Value, change and index; why something is missing shows on hovering."""
    title = f" title='{escape(one.reason, quote=True)}'" if one.reason else ""
    text = "not measured" if one.value is None else f"{one.value:.4g}"
    if one.change is not None:
        text += f" <small>({one.change:+.3g}"
        text += f", index {one.index:+.2f}" if one.index is not None else ""
        text += ")</small>"
    return f"<td{title}>{f'<strong>{text}</strong>' if one.beyond_error else text}</td>"


def _text(value: object) -> str:
    if value is None or value in ("", []):
        return "-"
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _reliability_section(table: VisitTable) -> str:
    rows = "".join(_reliability_row(one) for one in table.reliabilities.values())
    head = "".join(
        f"<th scope='col'>{name}</th>"
        for name in (
            "indicator",
            "task",
            "reliability",
            "from",
            "SD of first visits",
            "why no index",
        )
    )
    return (
        "<section><h2>Error of measurement</h2><p>Index = change / (SD &radic;(2 (1 - r))), after "
        "Jacobson and Truax 1991. SD: over the subjects' first accepted visits at this site. r: "
        "from site.toml, or ICC(3,1) of pairs of visits less than 30 days apart without a change "
        f"of treatment.</p><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        "</section>"
    )


def _reliability_row(one: Reliability) -> str:
    return (
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in _reliability_texts(one)) + "</tr>"
    )


def _reliability_texts(one: Reliability) -> Iterator[str]:
    yield one.indicator
    yield one.task
    interval = (
        f" [{one.low:.2f}, {one.high:.2f}]" if one.low is not None and one.high is not None else ""
    )
    yield "-" if one.value is None else f"{one.value:.2f}{interval}"
    yield (
        one.method
        if one.value is not None and not one.subjects
        else f"{one.method}, n = {one.subjects}"
    )
    yield "-" if one.sd is None else f"{one.sd:.4g} (n = {one.sd_subjects})"
    yield one.reason or ""


def _definitions(table: VisitTable) -> str:
    """What each indicator is and what is published on it, for who reads the page alone."""
    known = [CATALOGUE[name] for name in table.units if name in CATALOGUE]
    texts = "".join(
        f"<dt>{escape(one.name)}: {escape(one.title)} [{escape(one.unit)}]</dt>"
        f"<dd>{escape(one.definition)} "
        f"<small>{escape(one.evidence)} {escape(one.source)}</small></dd>"
        for one in known
    )
    return f"<section><h2>Definitions</h2><dl>{texts}</dl></section>" if texts else ""
