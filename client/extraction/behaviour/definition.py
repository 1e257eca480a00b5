"""What an indicator is: its name, unit, needs, definition and evidence, kept with its computation.

The texts are the docstring of the function that computes the figure, so that whoever changes one
has the other before their eyes.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from client.extraction.behaviour.measures import Figure, Session

LEVEL_FPS = 4.0
"""Frames more than 0.3 s apart are not connected, so fewer a second leave nothing but gaps."""
EPISODE_FPS = 10.0
"""Movements and episodes are read from ten samples a second."""
LEVEL_S = 2.0
RATE_S = 15.0

IN_VIEW = "Share of the recording with a face in view that is turned aside by at most 30 degrees."
_HEADING = re.compile(r"^(Needs|Baseline|Coverage|Evidence|Limits|Source):$", re.MULTILINE)


@dataclass(frozen=True)
class Definition:
    """What one indicator means and needs.

    Attributes:
        name: Name in exports and in the store.
        title: The quantity in words.
        unit: Unit; ``"1"`` for a share or an activation, ``"IOD"`` for the distance between the
            outer eye corners.
        action_unit: Action units of the Facial Action Coding System that it stands for; None if
            none.
        min_fps: Frames per second that it needs; 0 if it is not taken from the video.
        min_s: Seconds that must have been measured.
        needs: What it needs beside the video; None if nothing.
        definition: How it is computed.
        coverage: What its coverage is a share of.
        baseline: What it is compared with within the recording; None if with nothing.
        evidence: What is published on it in depression, conflicting directions included.
        notes: What it cannot tell.
        source: Author, year, DOI where it is known.
    """

    name: str
    title: str
    unit: str
    action_unit: str | None
    min_fps: float
    min_s: float
    needs: str | None
    definition: str
    coverage: str
    baseline: str | None
    evidence: str
    notes: str
    source: str


@dataclass(frozen=True)
class Measure:
    """An indicator: what it means and how it is computed.

    Attributes:
        definition: What it means and needs.
        compute: The figure of a recording; raises ``Unsupported`` where there is none.
    """

    definition: Definition
    compute: Callable[[Session], Figure]


def indicator(
    name: str,
    *,
    unit: str,
    action_unit: str | None = None,
    min_fps: float = LEVEL_FPS,
    min_s: float = LEVEL_S,
) -> Callable[[Callable[[Session], Figure]], Measure]:
    """Decorator that makes an indicator of a function and of its docstring.

    The first line of the docstring becomes the title, the text below it the definition; the
    sections Needs, Baseline, Coverage, Evidence, Limits and Source follow.

    Args:
        name: Name in exports and in the store.
        unit: Unit of the figure.
        action_unit: Action units that it stands for.
        min_fps: Frames per second that it needs.
        min_s: Seconds that must have been measured.

    Returns:
        The decorator.
    """

    def decorate(compute: Callable[[Session], Figure]) -> Measure:
        title, definition, sections = _read(inspect.getdoc(compute) or name)
        measure = Measure(
            Definition(
                name=name,
                title=title,
                unit=unit,
                action_unit=action_unit,
                min_fps=min_fps,
                min_s=min_s,
                needs=sections.get("Needs"),
                definition=definition,
                coverage=sections.get("Coverage", IN_VIEW),
                baseline=sections.get("Baseline"),
                evidence=sections.get("Evidence", ""),
                notes=sections.get("Limits", ""),
                source=sections.get("Source", ""),
            ),
            compute,
        )
        compute.__doc__ = f"{inspect.getdoc(compute)}\n\n{facts(measure.definition)}"
        return measure

    return decorate


def facts(definition: Definition) -> str:
    """What an indicator needs and stands for, in one line.

    Args:
        definition: The indicator.

    Returns:
        Unit, action units, least frames per second and least seconds.
    """
    stated = [f"Unit: {definition.unit}", f"AU: {definition.action_unit or 'none'}"]
    if definition.min_fps > 0.0:
        stated += [
            f"at least {definition.min_fps:g} frames per second",
            f"at least {definition.min_s:g} s measured",
        ]
    return "; ".join(stated)


def _read(text: str) -> tuple[str, str, dict[str, str]]:
    title, _, rest = text.partition("\n")
    definition, *parts = _HEADING.split(rest)
    sections = {heading: _flow(body) for heading, body in zip(parts[::2], parts[1::2], strict=True)}
    return title.rstrip("."), _flow(definition), sections


def _flow(text: str) -> str:
    paragraphs = textwrap.dedent(text).strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
