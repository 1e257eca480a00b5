"""The longitudinal table of a site: visits by indicators, change, and how sure a change is."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from client.preparation.steps import load_manifest
from client.recordings.recording import Recording
from client.recordings.treatments import TREATMENTS, Treatment, read_treatments, unknown_subjects
from client.site import SITE_FILE, Site
from client.storage.store import open_store
from client.storage.stored_recording import StoredRecording
from client.visits.reliability import BEYOND_ERROR, Reliability, measure_reliability
from client.visits.series import Visit, VisitSeries, arrange_visits
from client.visits.warnings import VisitWarning, find_visit_warnings
from shared_models.toml import ConfigError

CAVEAT = (
    "A reliable-change index beyond 1.96 in size says that error of measurement alone rarely makes "
    "such a change. It says neither better nor worse, and it is no diagnosis. Of many indicators, "
    "one in twenty passes that mark by chance."
)


@dataclass(frozen=True)
class Change:
    """One indicator at one visit.

    Attributes:
        value: The figure; None if there is none.
        change: Value minus that of the first accepted visit; None if it cannot be told.
        index: Reliable-change index; None if it cannot be told.
        reason: Why something is None; None if nothing is.
    """

    value: float | None
    change: float | None = None
    index: float | None = None
    reason: str | None = None

    @property
    def beyond_error(self) -> bool | None:
        """Whether the change is larger than error of measurement explains; None if unknown."""
        return None if self.index is None else abs(self.index) > BEYOND_ERROR


@dataclass(frozen=True)
class VisitTable:
    """The visits of a site.

    Attributes:
        series: Visits by subject and task.
        units: Unit of each indicator, in the order of the columns.
        reliabilities: By task and indicator.
        warnings: What makes visits hard to compare.
        notes: What concerns no single subject.
    """

    series: tuple[VisitSeries, ...]
    units: Mapping[str, str]
    reliabilities: Mapping[tuple[str, str], Reliability]
    warnings: tuple[VisitWarning, ...] = ()
    notes: tuple[str, ...] = ()

    def changes(self, series: VisitSeries, visit: Visit) -> dict[str, Change]:
        """Every indicator at a visit, set beside the first accepted visit."""
        return {name: self._change(series, visit, name) for name in self.units}

    def _change(self, series: VisitSeries, visit: Visit, name: str) -> Change:
        value = visit.values.get(name)
        baseline = series.baseline
        if value is None or baseline is None:
            return Change(None, reason=visit.why_missing(name))
        if baseline is visit:
            return Change(value, reason="The first accepted visit, from which change is counted")
        first = baseline.values.get(name)
        if first is None:
            return Change(value, reason=f"Visit {baseline.number} has no value to compare with")
        change = value - first
        reliability = self.reliabilities[series.task, name]
        return Change(value, change, reliability.index(change), reliability.reason)

    def to_json(self) -> dict[str, object]:
        """The object for machines."""
        return {
            "subjects": [self._series_json(one) for one in self.series],
            "reliability": [asdict(one) for one in self.reliabilities.values()],
            "warnings": [asdict(one) for one in self.warnings],
            "notes": list(self.notes),
            "caveat": CAVEAT,
        }

    def _series_json(self, series: VisitSeries) -> dict[str, object]:
        return {
            "subject_id": series.subject_id,
            "task": series.task,
            "change_from": series.baseline.number if series.baseline else None,
            "visits": [self._visit_json(series, visit) for visit in series.visits],
        }

    def _visit_json(self, series: VisitSeries, visit: Visit) -> dict[str, object]:
        return {
            **visit_facts(series, visit),
            "indicators": {
                name: {
                    "value": one.value,
                    "change": one.change,
                    "reliable_change_index": one.index,
                    "beyond_error": one.beyond_error,
                    "reason": one.reason,
                }
                for name, one in self.changes(series, visit).items()
            },
        }


def visit_facts(series: VisitSeries, visit: Visit) -> dict[str, object]:
    """All of a visit but its indicators, by column."""
    waking = visit.hours_since_waking
    return {
        "visit_number": visit.number,
        "visit": visit.label,
        "recordings": [recording.recording_id for recording in visit.recordings],
        "date": visit.day.isoformat(),
        "days_since_first": round(visit.days_since_first, 3),
        "local_time": f"{visit.recorded_at:%H:%M}",
        "hours_since_waking": None if waking is None else round(waking, 3),
        "treatment": visit.treatment,
        "treatment_events": list(series.events(visit)),
        "score": visit.score,
        "verdict": visit.verdict,
    }


def build_table(
    recordings: Sequence[Recording],
    stored: Mapping[tuple[str, str], StoredRecording],
    *,
    treatments: Sequence[Treatment] = (),
    reliability: Mapping[str, float] | None = None,
) -> VisitTable:
    """The longitudinal table of some recordings.

    Args:
        recordings: Those with consent.
        stored: What was extracted, by subject and recording id.
        treatments: All treatments of the site.
        reliability: ``[reliability]`` of ``site.toml``.

    Raises:
        ConfigError: If ``[reliability]`` names what is no indicator.
    """
    series = arrange_visits(recordings, stored, treatments)
    records = [one for each in series for visit in each.visits for one in visit.stored]
    units = {name: one.unit for record in records for name, one in record.indicators.items()}
    given = reliability or {}
    _refuse_unknown(given, units)
    tasks = sorted({one.task for one in series})
    return VisitTable(
        series=series,
        units=units,
        reliabilities={
            (task, name): measure_reliability(name, task, series, given)
            for task in tasks
            for name in units
        },
        warnings=tuple(found for one in series for found in find_visit_warnings(one)),
        notes=tuple(unknown_subjects(tuple(treatments), tuple(one.subject_id for one in series))),
    )


def read_visits(site: Site) -> VisitTable:
    """The longitudinal table of a site.

    Raises:
        ConfigError: If ``[reliability]`` names what is no indicator.
        ManifestError: If the table of recordings or of treatments is faulty.
        StoreError: If a stored recording cannot be opened.
    """
    manifest = load_manifest(site, require_files=False)
    today = datetime.now(UTC).astimezone().date()
    gone = {recording.subject_id for recording in manifest.withdrawn}
    treatments = read_treatments(site.folder / TREATMENTS, today=today)
    return build_table(
        manifest.recordings,
        {(one.subject_id, one.recording_id): one for one in open_store(site).records()},
        treatments=[one for one in treatments if one.subject_id not in gone],
        reliability=site.config.reliability,
    )


def _refuse_unknown(given: Mapping[str, float], units: Mapping[str, str]) -> None:
    faults = list(_unknown(given, units)) if units else []
    if faults:
        raise ConfigError(faults)


def _unknown(given: Mapping[str, float], units: Mapping[str, str]) -> Iterator[str]:
    for name in given:
        if name not in units:
            close = difflib.get_close_matches(name, units, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(units)}."
            yield f"Unknown key reliability.{name} ({SITE_FILE}): {hint}"
