"""The moments of a recording: when which behaviour moved the score, as strips and as a list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from client.explanation.subject import ExplainedBehaviour, ExplainedRecording, Explanation
from client.inspection.drawing import TimeAxis, band_path, clock, grid_path, line_path
from client.inspection.traces import thin
from shared_models.behaviour_groups import BEHAVIOUR_GROUPS
from shared_models.features import FeatureSchema
from shared_models.tallies import Float64Array

LEVELS = 6
"""Shades of each sign in a strip; what is fainter than half a shade stays blank."""

MOST_BINS = 150
MOST_MOMENTS = 6

_LEAST_BIN_S = 1.0
_TRACK_REACH = 3.0
"""Height of a track around the schema's centre, in the schema's scales."""


@dataclass(frozen=True)
class Shade:
    """All moments of one colour.

    Attributes:
        name: Class of the drawing: ``up3`` raised the score in the third shade of six.
        path: Bands over the height.
    """

    name: str
    path: str


@dataclass(frozen=True)
class Strip:
    """One behaviour over the time of a recording.

    Attributes:
        title: The behaviour.
        points: What it added to the score in this recording.
        shades: Moments by colour.
        track: Line of the behaviour's first column; empty for all behaviours together.
        about: What the line shows.
    """

    title: str
    points: float
    shades: tuple[Shade, ...]
    track: str = ""
    about: str = ""


@dataclass(frozen=True)
class Moment:
    """A stretch in which one behaviour moved the score much.

    Attributes:
        start: Of the stretch, as on a clock.
        end: The same.
        title: The behaviour.
        points: What it added to the score.
    """

    start: str
    end: str
    title: str
    points: float


@dataclass(frozen=True)
class RecordingView:
    """One recording as the page shows it.

    Attributes:
        recording_id: As in the table.
        about: When it was made, visit and task.
        points: What all its behaviours added to the score.
        bin_s: Length of the moments that are told apart.
        strips: All behaviours together, then each, as on the rest of the page.
        moments: The strongest, in order of time.
        ticks: Percent of the width, and label.
        grid: Lines at the ticks.
    """

    recording_id: str
    about: str
    points: float
    bin_s: float
    strips: tuple[Strip, ...]
    moments: tuple[Moment, ...]
    ticks: list[tuple[float, str]]
    grid: str


@dataclass(frozen=True)
class _Timeline:
    """Points by bin and behaviour, ``[B, K]``, on a time axis."""

    axis: TimeAxis
    bin_s: float
    points: Float64Array

    def stretch(self, place: int) -> tuple[float, float]:
        start = self.axis.start_s + place * self.bin_s
        return start, min(start + self.bin_s, self.axis.end_s)


def view_recordings(explanation: Explanation) -> list[RecordingView]:
    """Each recording with its strips; one scale of colour for all of them."""
    schema = explanation.study.features.schema
    lines = [_timeline(one, schema) for one in explanation.recordings]
    brightest = max(_brightness(line.points) for line in lines) or 1.0
    return [
        _view(one, line, explanation.behaviours, schema, brightest=brightest)
        for one, line in zip(explanation.recordings, lines, strict=True)
    ]


def _brightness(points: Float64Array) -> float:
    """Size that gets the strongest shade: few single moments may exceed it."""
    sizes = np.abs(points)[np.abs(points) > 0]
    return float(np.quantile(sizes, 0.99)) if len(sizes) else 0.0


def _timeline(one: ExplainedRecording, schema: FeatureSchema) -> _Timeline:
    starts = one.features.clip_start_s
    span = float(starts[-1] - starts[0]) + schema.clip_s
    bin_s = max(_LEAST_BIN_S, float(np.ceil(span / MOST_BINS)))
    seconds = (starts[:, None] - starts[0] + np.arange(schema.steps) / schema.rate_hz).ravel()
    # A moment at the edge belongs to the bin that begins there.
    place = np.floor(seconds / bin_s + 1e-9).astype(np.int64)
    flat = one.points.reshape(len(seconds), -1)
    binned = np.zeros((int(place.max()) + 1, flat.shape[1]))
    np.add.at(binned, place, flat)
    axis = TimeAxis(float(starts[0]), float(starts[0]) + span)
    return _Timeline(axis, bin_s, binned)


def _view(
    one: ExplainedRecording,
    line: _Timeline,
    behaviours: Sequence[ExplainedBehaviour],
    schema: FeatureSchema,
    *,
    brightest: float,
) -> RecordingView:
    row = one.recording
    together = line.points.sum(axis=1)
    strips = [Strip("All together", float(together.sum()), _shades(line, together, brightest))]
    strips += [_strip(one, line, behaviour, schema, brightest) for behaviour in behaviours]
    said = (f"{row.recorded_at:%Y-%m-%d %H:%M}", row.visit and f"visit {row.visit}", row.task)
    return RecordingView(
        recording_id=row.recording_id,
        about=" · ".join(filter(None, said)),
        points=float(together.sum()),
        bin_s=line.bin_s,
        strips=tuple(strips),
        moments=tuple(_strongest(line)),
        ticks=line.axis.ticks(),
        grid=grid_path(line.axis),
    )


def _strip(
    one: ExplainedRecording,
    line: _Timeline,
    behaviour: ExplainedBehaviour,
    schema: FeatureSchema,
    brightest: float,
) -> Strip:
    own = line.points[:, BEHAVIOUR_GROUPS.index(behaviour.group)]
    column = schema.names.index(behaviour.group.columns[0])
    feature = schema.features[column]
    values = np.where(one.features.mask, one.features.values, np.nan)[..., column]
    steps = np.arange(schema.steps) / schema.rate_hz
    seconds = (one.features.clip_start_s[:, None] + steps).ravel()
    low = max(feature.low, feature.center - _TRACK_REACH * feature.scale)
    high = min(feature.high, feature.center + _TRACK_REACH * feature.scale)
    shown = thin(seconds, values.ravel().astype(np.float64))
    return Strip(
        behaviour.group.title,
        float(own.sum()),
        _shades(line, own, brightest),
        track=line_path(line.axis, *shown, low, high),
        about=f"line: {feature.name.replace('_', ' ')}, {low:.3g} to {high:.3g} {behaviour.unit}",
    )


def _shades(line: _Timeline, points: Float64Array, brightest: float) -> tuple[Shade, ...]:
    levels = np.rint(np.clip(points / brightest, -1, 1) * LEVELS).astype(np.int64)
    found = []
    for level in sorted(set(levels.tolist()) - {0}):
        stretches = [line.stretch(int(place)) for place in np.flatnonzero(levels == level)]
        name = f"{'up' if level > 0 else 'down'}{abs(level)}"
        found.append(Shade(name, band_path(line.axis, stretches)))
    return tuple(found)


def _strongest(line: _Timeline) -> Iterable[Moment]:
    """The moments with the largest size, no two of one behaviour side by side."""
    order = np.argsort(-np.abs(line.points), axis=None)
    picked: list[tuple[int, int]] = []
    for flat in order.tolist():
        place, behaviour = divmod(flat, line.points.shape[1])
        beside = any(b == behaviour and abs(p - place) <= 1 for p, b in picked)
        if line.points[place, behaviour] and not beside:
            picked.append((place, behaviour))
        if len(picked) == MOST_MOMENTS:
            break
    for place, behaviour in sorted(picked):
        start, end = line.stretch(place)
        points = float(line.points[place, behaviour])
        yield Moment(clock(start), clock(end), BEHAVIOUR_GROUPS[behaviour].title, points)
