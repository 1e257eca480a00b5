"""The catalogue says of every indicator what the code does, and the page says it too."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from extraction_tracks import frame_times, make_track

from client.extraction.behaviour.catalogue import CATALOGUE, MEASURES
from client.extraction.behaviour.catalogue_page import render_catalogue
from client.extraction.behaviour.definition import indicator
from client.extraction.behaviour.indicators import measure_indicators
from client.recordings.annotations import Annotations, Stimulus, Turn

PAGE = Path(__file__).parents[2] / "docs" / "indicators.md"
UNIT_OF_SUFFIX = {
    "_rate_per_min": "1/min",
    "_per_min": "1/min",
    "_fraction": "1",
    "_duration_s": "s",
    "_interval_s": "s",
    "_latency_s": "s",
    "_bout_s": "s",
    "_deg": "deg",
    "_deg_s": "deg/s",
    "_ms": "ms",
    "_mm": "mm",
    "_per_s": "1/s",
}


def annotated(duration_s: float) -> Annotations:
    """Notes that give every indicator what it needs beside the video."""
    half = duration_s / 2.0
    return Annotations(
        stimuli=tuple(
            Stimulus(onset, 1.0, label)
            for onset, label in ((20.0, "positive"), (60.0, "negative"))
            if onset + 10.0 < duration_s
        ),
        turns=(Turn(0.0, half, "subject"), Turn(half, duration_s, "other")),
        pupil_mm=3.5,
    )


def measured(duration_s: float, fps: float):
    return measure_indicators(
        make_track(frame_times(duration_s, fps)), annotations=annotated(duration_s)
    )


def test_the_page_is_the_one_that_the_code_writes():
    assert PAGE.read_text(encoding="utf-8") == render_catalogue(), (
        "run: python -m client.extraction.behaviour.catalogue_page > docs/indicators.md"
    )


def test_every_indicator_is_measured_in_the_unit_that_is_documented():
    found = measured(20.0, 30.0)
    assert {name: one.unit for name, one in found.items()} == {
        name: one.unit for name, one in CATALOGUE.items()
    }


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_indicator_is_documented_in_full(name):
    one = CATALOGUE[name]
    assert one.title
    assert not one.title.endswith(".")
    assert all(
        text.endswith(".") for text in (one.definition, one.coverage, one.evidence, one.notes)
    )
    assert re.search(r"\b(19|20)\d\d\b", one.source)
    dois = re.findall(r"doi:(\S+?)[.;,]?(?:\s|$)", one.source)
    assert all(re.fullmatch(r"10\.\d{4,5}/\S+\w", doi) for doi in dois)
    for cited in re.findall(r"\(([A-Z][a-z]+) (\d{4})", one.evidence):
        assert cited[0] in one.source
        assert cited[1] in one.source
    assert f"### {name}\n" in render_catalogue()


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_docstring_tells_unit_action_unit_and_least_sampling(name):
    one, text = CATALOGUE[name], MEASURES[name].compute.__doc__ or ""
    assert f"Unit: {one.unit}" in text
    assert f"AU: {one.action_unit or 'none'}" in text
    assert one.min_fps == 0.0 or f"at least {one.min_fps:g} frames per second" in text
    assert "Source:" in text


@pytest.mark.parametrize("name", CATALOGUE)
def test_names_carry_their_units(name):
    known = [unit for suffix, unit in UNIT_OF_SUFFIX.items() if name.endswith(suffix)]
    expected = known[-1] if known else CATALOGUE[name].unit
    assert CATALOGUE[name].unit == expected


@pytest.mark.parametrize("least", sorted({one.min_fps for one in CATALOGUE.values()} - {0.0}))
def test_the_documented_frame_rate_is_the_one_that_is_asked_for(least):
    slow = measured(200.0, 0.9 * least)
    fast = measured(200.0, least)
    for name, one in CATALOGUE.items():
        asked = f"Needs at least {one.min_fps:g} frames per second"
        too_slow = one.min_fps > 0.9 * least * 1.02
        assert (slow[name].reason or "").startswith(asked) == too_slow
        if too_slow:
            assert slow[name].value is None
            assert slow[name].coverage is not None
        assert not (fast[name].reason or "").startswith(asked) or one.min_fps > least


@pytest.mark.parametrize("least", sorted({one.min_s for one in CATALOGUE.values()} - {0.0}))
def test_the_documented_seconds_are_those_that_are_asked_for(least):
    short = measured(0.9 * least, 30.0)
    for name, one in CATALOGUE.items():
        if one.min_s >= least and not name.startswith(("reactivity", "smile_reactivity")):
            assert short[name].value is None
            assert short[name].reason
    enough = measured(2.2 * least, 30.0)
    for name, one in CATALOGUE.items():
        if one.min_s <= least:
            assert "seconds" not in (enough[name].reason or "")


def test_the_pupil_alone_needs_no_face():
    track = make_track(frame_times(20.0, 30.0), detected=np.zeros(600, dtype=bool))
    found = measure_indicators(track, annotations=annotated(20.0))
    assert [name for name, one in found.items() if one.value is not None] == ["pupil_diameter_mm"]


def test_a_docstring_becomes_a_definition():
    @indicator("example", unit="s", min_fps=5.0)
    def compute(session):
        """Length of an example.

        First line
        goes on.

        Needs:
            A thing.

        Source:
            Somebody 1999.
        """
        raise NotImplementedError

    found = compute.definition
    assert (found.title, found.definition) == ("Length of an example", "First line goes on.")
    assert (found.needs, found.source, found.baseline) == ("A thing.", "Somebody 1999.", None)
    assert found.min_s == 2.0
