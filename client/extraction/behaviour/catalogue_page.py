"""The catalogue of indicators as a page for whoever has to trust them."""

from __future__ import annotations

from client.extraction.behaviour.catalogue import CATALOGUE
from client.extraction.behaviour.definition import Definition

_INTRODUCTION = """\
# Indicators

<!-- Written by `python -m client.extraction.behaviour.catalogue_page > docs/indicators.md`. -->

Vultus is research software: no figure on this page is a diagnosis, and none was validated as one.
This page says of each figure what it is, what it needs, what share of a recording it rests on,
what is published on it, and what it cannot tell. It is generated from the code that computes the
figures.

## How to read a figure

- **No direction is assumed.** Studies disagree on several markers, by sex among other things. The
  evidence names the conflicts; report effect sizes with intervals.
- **The evidence is thin.** Most of the studies are small and of one clinic, most coded faces by
  hand or with other software, and none used this one. A source supports the marker, not the
  measure.
- **A figure is null, with its reason, where a recording cannot support it.** Null is not zero: a
  recording without a smile has a rate of 0 and no duration.
- **Coverage** is the share of what an indicator looks at that was measured, from 0 to 1. It is
  told for nulls too, so that a recording that was too slow can be told from one that saw no face;
  it is empty where nothing can be said, as for notes that were not given.
- **A note** goes with a value that must not be read without it.
- **Signals.** Activations are the blendshapes of MediaPipe's face landmarker, 0 to 1. They are
  the output of a network, not intensities coded by a person, and several are nearly dead:
  mouthFrown, cheekSquint and noseSneer stay at zero, browDown is weak. Each such marker has a
  geometric twin from mesh points, in units of the distance between the outer eye corners (IOD).
  Read the two together: agreement is worth more than either.
- **Sampling.** Frames without a face or with the head turned aside by more than 30 degrees are
  left out. What remains is averaged to ten samples a second before any speed is taken, so that
  speeds do not grow with the frame rate; gaps of more than 0.3 s are not bridged. Blinks and brief
  movements are read from every frame. A camera within one percent of a minimum passes.
- **The turn of the head** foreshortens a face and moves brows and mouth in the picture. Where a
  definition says that it is taken back, the mesh was turned upright by the head pose first.
- **The face at rest** is the subject's own: the median over samples in which there is no smile
  (activation below 0.3), no talk (lips slower than 0.1 IOD/s within half a second, jawOpen below
  0.1, no talk turn of the subject), no closed eye, and a head slower than 20 degrees a second
  within 10 degrees of its usual pitch and 15 of its usual yaw. With less than 5 s of it the median
  of the whole recording takes its place and the note says so.
- **Left and right** are the subject's.
- **AU** names the action units of the Facial Action Coding System that a figure stands for. No
  figure here is an AU code.

## Overview
"""


def render_catalogue() -> str:
    """The page ``docs/indicators.md``.

    Returns:
        Markdown: how to read a figure, a table of all indicators, one section for each.
    """
    table = [
        "| indicator | what | unit | AU | frames/s | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(one) for one in CATALOGUE.values()),
    ]
    sections = [_section(one) for one in CATALOGUE.values()]
    return "\n".join([_INTRODUCTION, *table, "", "## Definitions", "", *sections])


def _row(one: Definition) -> str:
    link = f"[`{one.name}`](#{one.name})"
    needs = (f"{one.min_fps:g}", f"{one.min_s:g}") if one.min_fps > 0.0 else ("", "")
    return " | ".join([f"| {link}", one.title, one.unit, one.action_unit or "", *needs]) + " |"


def _section(one: Definition) -> str:
    facts = {
        "Unit": _UNITS.get(one.unit, one.unit),
        "AU": one.action_unit or "none",
        "Needs": _needs(one),
        "Compared with": one.baseline or "nothing within the recording",
        "Coverage": one.coverage,
        "Evidence in depression": one.evidence,
        "Limits": one.notes,
        "Source": one.source,
    }
    lines = [f"- **{name}:** {_sentence(text)}" for name, text in facts.items()]
    return "\n".join([f"### {one.name}", "", f"{one.title}. {one.definition}", "", *lines, ""])


_UNITS = {
    "1": "none (a share, an activation or a ratio)",
    "IOD": "distance of the outer eye corners",
}


def _needs(one: Definition) -> str:
    video = f"{one.min_fps:g} frames per second and {one.min_s:g} s measured"
    parts = [video] if one.min_fps > 0.0 else []
    return ". ".join([*parts, *([one.needs] if one.needs else [])])


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


if __name__ == "__main__":
    import sys

    sys.stdout.write(render_catalogue())
