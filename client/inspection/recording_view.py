"""One recording as the page shows it: every number and shape made, nothing left but the markup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from client.extraction.behaviour.catalogue import CATALOGUE
from client.extraction.behaviour.definition import Definition
from client.extraction.quality import QualityThresholds
from client.inspection.coverage import FATES, FrameFates, PoseDensity, frame_fates, pose_density
from client.inspection.drawing import (
    TimeAxis,
    band_path,
    clock,
    grid_path,
    line_path,
    squares,
    stack_paths,
)
from client.inspection.quality_figures import QualityLine, quality_lines
from client.inspection.rejection import Row
from client.inspection.traces import Trace, thin, traces_of_features, traces_of_frames
from client.recordings.annotation_files import read_annotations
from client.recordings.annotations import NO_ANNOTATIONS, Annotations
from client.recordings.recording import ManifestError, Recording
from client.storage.frame_log import FrameLog
from client.storage.store import FeatureStore
from client.storage.stored_recording import StoredIndicator, StoredRecording
from shared_models.features import FeatureSchema

_MOST_LABELLED = 12


@dataclass(frozen=True)
class Panel:
    """One signal over time.

    Attributes:
        title: What it is.
        unit: Its unit.
        low: Value at the bottom, in words.
        high: Value at the top.
        line: Path of the signal.
        marks: Path of what was found in it; empty if nothing was.
        told: The panel in words.
        found: What the marks are and how many; empty if nothing was looked for.
    """

    title: str
    unit: str
    low: str
    high: str
    line: str
    marks: str
    told: str
    found: str


@dataclass(frozen=True)
class Strip:
    """Stretches of time that notes beside the video tell.

    Attributes:
        title: What they are.
        path: Their bands.
        told: The strip in words.
        labels: Percent of the width and text of each; empty if there are too many to print.
    """

    title: str
    path: str
    told: str
    labels: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class FatesView:
    """What became of the frames.

    Attributes:
        told: In words.
        layers: Fate to its path over time.
        legend: Fate, words and share of each that occurs.
        gap: Longest stretch without a used frame, in words.
    """

    told: str
    layers: dict[str, str]
    legend: tuple[tuple[str, str, float], ...]
    gap: str


@dataclass(frozen=True)
class PoseView:
    """Where the head pointed.

    Attributes:
        cells: Column, row and strength of each cell with frames.
        told: In words.
    """

    cells: list[tuple[int, int, float]]
    told: str


@dataclass(frozen=True)
class IndicatorLine:
    """One indicator of one recording.

    Attributes:
        name: Name in exports.
        found: The figure.
        known: Its definition; None for one that this version does not know.
        needs: What it needs, in words.
    """

    name: str
    found: StoredIndicator
    known: Definition | None
    needs: str


@dataclass(frozen=True)
class RecordingView:
    """A recording as the page shows it.

    Attributes:
        number: Place on the page.
        recording: Its row in the table.
        stored: The facts.
        axis: Places and labels of the time axis.
        grid: Path of the lines of the axis.
        fates: What became of the frames; None if no frames are kept.
        pose: Where the head pointed; None if no frames are kept.
        strips: What the notes beside the video tell.
        panels: Signals over time.
        quality: Figures of the quality gate.
        measured: Indicators with a value.
        unmeasured: Indicators without.
    """

    number: int
    recording: Recording
    stored: StoredRecording
    axis: tuple[tuple[float, str], ...]
    grid: str
    fates: FatesView | None
    pose: PoseView | None
    strips: tuple[Strip, ...]
    panels: tuple[Panel, ...]
    quality: tuple[QualityLine, ...]
    measured: tuple[IndicatorLine, ...]
    unmeasured: tuple[IndicatorLine, ...]

    @property
    def recording_id(self) -> str:
        """As in the table of recordings."""
        return self.stored.recording_id

    @property
    def about(self) -> str:
        """Whose and which recording it is, in words."""
        one = self.recording
        parts = [f"subject {one.subject_id}", one.visit, one.task, one.treatment]
        return ", ".join(
            [*(part for part in parts if part), f"{one.recorded_at:%Y-%m-%d %H:%M %z}"]
        )


def view_recording(
    row: Row,
    *,
    number: int,
    store: FeatureStore,
    schema: FeatureSchema,
    thresholds: QualityThresholds,
) -> RecordingView:
    """A recording as the page shows it.

    Args:
        row: Its row in the table and its facts.
        number: Place on the page.
        store: Holds its frames and features.
        schema: Columns of the features.
        thresholds: The site's limits of the quality gate.
    """
    recording, stored = row
    frames = store.frames(stored.subject_id, stored.recording_id)
    traces = _traces(store, stored, frames, schema)
    axis = _axis(frames, traces)
    lines = [_indicator_line(name, one) for name, one in _ordered(stored.indicators)]
    return RecordingView(
        number=number,
        recording=recording,
        stored=stored,
        axis=tuple(axis.ticks()) if axis else (),
        grid=grid_path(axis) if axis else "",
        fates=_fates_view(frame_fates(frames)) if frames is not None and len(frames) else None,
        pose=_pose_view(frames),
        strips=tuple(_strips(_notes(recording), axis)) if axis else (),
        panels=tuple(_panel(trace, axis) for trace in traces) if axis else (),
        quality=tuple(quality_lines(stored, thresholds)),
        measured=tuple(line for line in lines if line.found.value is not None),
        unmeasured=tuple(line for line in lines if line.found.value is None),
    )


def _traces(
    store: FeatureStore, stored: StoredRecording, frames: FrameLog | None, schema: FeatureSchema
) -> list[Trace]:
    if frames is not None:
        return traces_of_frames(frames)
    features = store.features(stored.subject_id, stored.recording_id, schema_digest=schema.digest)
    return traces_of_features(features, schema) if features is not None else []


def _axis(frames: FrameLog | None, traces: Sequence[Trace]) -> TimeAxis | None:
    times = frames.timestamps_s if frames is not None else None
    if times is None and traces:
        times = traces[0].seconds
    if times is None or len(times) < 2:
        return None
    return TimeAxis(float(times[0]), float(times[-1]))


def _panel(trace: Trace, axis: TimeAxis) -> Panel:
    low, high = _range(trace)
    seconds, values = thin(trace.seconds, trace.values)
    marks = trace.marks
    found = f"{marks.what}: {len(marks.stretches)}" if marks else ""
    return Panel(
        title=trace.title,
        unit=trace.unit,
        low=_short(low),
        high=_short(high),
        line=line_path(axis, seconds, values, low, high),
        marks=band_path(axis, marks.stretches) if marks else "",
        told=_tell(trace, found),
        found=found,
    )


def _range(trace: Trace) -> tuple[float, float]:
    """Limits of a plot at least so far apart that jitter does not look like behaviour."""
    known = trace.values[np.isfinite(trace.values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    margin = max(0.05 * (high - low), (trace.least - (high - low)) / 2)
    return max(low - margin, trace.bounds[0]), min(high + margin, trace.bounds[1])


def _tell(trace: Trace, found: str) -> str:
    known = trace.values[np.isfinite(trace.values)]
    if not len(known):
        return f"{trace.title}: not measured."
    low, middle, high = (_short(float(one)) for one in np.percentile(known, (0, 50, 100)))
    marked = f"; {found} marked" if found else ""
    return f"{trace.title} over time: {low} to {high}, median {middle} ({trace.unit}){marked}."


def _fates_view(fates: FrameFates) -> FatesView:
    return FatesView(
        told=fates.tell(),
        layers=stack_paths(fates.over_time),
        legend=tuple(
            (name, words, fates.shares[name]) for name, words in FATES.items() if fates.shares[name]
        ),
        gap=f"{fates.longest_gap_s:.2g} s"
        if fates.longest_gap_s < 60
        else clock(fates.longest_gap_s),
    )


def _pose_view(frames: FrameLog | None) -> PoseView | None:
    density: PoseDensity | None = pose_density(frames) if frames is not None else None
    if density is None:
        return None
    yaw, pitch = density.yaw_deg, density.pitch_deg
    told = (
        f"In 90 % of the frames with a face the yaw is {yaw[0]:.0f} to {yaw[2]:.0f} degrees "
        f"(median {yaw[1]:.0f}) and the pitch {pitch[0]:+.0f} to {pitch[2]:+.0f} degrees from its "
        "median."
    )
    return PoseView(squares(density.share), told)


def _notes(recording: Recording) -> Annotations:
    try:
        return read_annotations(recording)
    except (ManifestError, OSError):
        # 'check' names the faults of notes; a page about videos need not.
        return NO_ANNOTATIONS


def _strips(notes: Annotations, axis: TimeAxis) -> Iterator[Strip]:
    if notes.stimuli:
        stretches = [(one.onset_s, one.onset_s + one.duration_s) for one in notes.stimuli]
        labels = [(_place(axis, one.onset_s), one.label) for one in notes.stimuli]
        told = ", ".join(f"{one.label} at {clock(one.onset_s)}" for one in notes.stimuli)
        shown = tuple(labels) if len(labels) <= _MOST_LABELLED else ()
        yield Strip("Stimuli", band_path(axis, stretches), f"Stimuli: {told}.", shown)
    for speaker, title in (("subject", "Subject talks"), ("other", "Somebody else talks")):
        turns = [(one.start_s, one.end_s) for one in notes.turns if one.speaker == speaker]
        if turns:
            seconds = sum(end - start for start, end in turns)
            yield Strip(title, band_path(axis, turns), f"{title} for {seconds:.0f} s.")


def _place(axis: TimeAxis, seconds: float) -> float:
    share = (seconds - axis.start_s) / (axis.end_s - axis.start_s)
    return round(100 * min(max(share, 0.0), 1.0), 2)


def _ordered(
    indicators: dict[str, StoredIndicator],
) -> Iterator[tuple[str, StoredIndicator]]:
    names = [name for name in CATALOGUE if name in indicators]
    return ((name, indicators[name]) for name in dict.fromkeys([*names, *indicators]))


def _indicator_line(name: str, found: StoredIndicator) -> IndicatorLine:
    known = CATALOGUE.get(name)
    return IndicatorLine(name, found, known, tell_needs(known) if known else "")


def tell_needs(known: Definition) -> str:
    """What an indicator needs, in words."""
    parts = [
        f"{known.min_fps:g} frames/s" if known.min_fps else "",
        f"{known.min_s:g} s" if known.min_s else "",
        known.needs or "",
    ]
    return ", ".join(part for part in parts if part) or "nothing"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2f}"
