"""A page with the behaviour of each recording over time: curves, never a picture of a face."""

from __future__ import annotations

import io
from collections.abc import Iterable
from html import escape

import numpy as np
from numpy.typing import NDArray

from client.stored_recording import StoredRecording
from shared_models.consortium import ConsortiumConfig
from shared_models.features import BehaviourFeatures, FeatureSchema

TRACES = ("smile", "corner_elevation", "gaze_down", "eye_blink", "head_pitch", "mouth_aspect_ratio")
"""Columns that are drawn: one a behaviour that a reader recognises."""

MOST_POINTS = 1500

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
figure { margin: 0; background: #fff; border-radius: 6px; }
figcaption { color: #333; font-size: .85rem; padding: 0 .8rem .5rem; }
figure svg { width: 100%; height: auto; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .15rem 1rem .15rem 0; font-variant-numeric: tabular-nums; }
section { border-top: 1px solid #8888; margin-top: 2rem; }
@media print { section { break-inside: avoid; } }
"""


def render_page(
    records: Iterable[tuple[StoredRecording, BehaviourFeatures | None]], study: ConsortiumConfig
) -> str:
    """One self-contained HTML page.

    Args:
        records: Facts and features of each recording; taken one at a time.
        study: The study, for its name and feature schema.
    """
    title = f"Recordings of study {escape(study.study.name)}"
    sections = "".join(
        _section(stored, features, study.features.schema) for stored, features in records
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
        "<p>Figures of single subjects: this page stays at the site. "
        "Research software: no output is a diagnosis.</p>"
        f"{sections or '<p>Nothing was extracted yet.</p>'}</body></html>"
    )


def _section(
    stored: StoredRecording, features: BehaviourFeatures | None, schema: FeatureSchema
) -> str:
    reasons = "".join(f"<li>{escape(reason.text)}</li>" for reason in stored.reasons)
    figure = ""
    if features is not None:
        plot = _plot(stored.recording_id, features, schema)
        caption = "<figcaption>Behaviour over time; gaps where nothing was measured.</figcaption>"
        figure = f"<figure>{plot}{caption}</figure>"
    return (
        f"<section><h2>{escape(stored.recording_id)}: {stored.verdict}</h2>"
        f"{f'<ul>{reasons}</ul>' if reasons else ''}{figure}"
        f"<details><summary>Indicators</summary>{_indicators(stored)}</details></section>"
    )


def _indicators(stored: StoredRecording) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th>"
        f"<td>{'not measured' if one.value is None else f'{one.value:.4g}'}</td>"
        f"<td>{escape(one.unit)}</td><td>{escape(one.reason or '')}</td></tr>"
        for name, one in stored.indicators.items()
    )
    head = "<tr><th>indicator</th><th>value</th><th>unit</th><th>why not</th></tr>"
    return f"<table>{head}{rows}</table>"


def _plot(name: str, features: BehaviourFeatures, schema: FeatureSchema) -> str:
    """The traces as an SVG element; its inner ids follow the name, so that two never clash."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    seconds, values = _series(features, schema)
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 1.1 * len(TRACES)), layout="constrained")
        panels = figure.subplots(len(TRACES), 1, sharex=True)
        for panel, trace in zip(panels, TRACES, strict=True):
            feature = schema.features[schema.names.index(trace)]
            drawn = values[:, schema.names.index(trace)]
            panel.plot(seconds, drawn, linewidth=0.8, color="#0b6e99")
            panel.set_ylim(*_limits(drawn, least=2 * feature.scale))
            label = trace.replace("_", "\n") + ("" if feature.unit == "1" else f"\n{feature.unit}")
            panel.set_ylabel(label, rotation=0, ha="right", va="center")
            panel.spines[["top", "right"]].set_visible(False)
        panels[-1].set_xlabel("seconds")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _limits(values: NDArray[np.floating], *, least: float) -> tuple[float, float]:
    """Axis limits at least so far apart: jitter must not look like behaviour."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    margin = max(0.05 * (high - low), (least - (high - low)) / 2)
    return low - margin, high + margin


def _series(
    features: BehaviourFeatures, schema: FeatureSchema
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Seconds and values of all clips in a row, thinned; NaN where nothing was measured."""
    steps = np.arange(features.values.shape[1]) / schema.rate_hz
    seconds = (features.clip_start_s[:, None] + steps).ravel()
    values = np.where(features.mask, features.values, np.nan).reshape(len(seconds), -1)
    every = max(1, len(seconds) // MOST_POINTS)
    return seconds[::every], values[::every]
