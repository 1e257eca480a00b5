"""The page that explains one subject's score: self-contained, closed to others, never sent."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from client.explanation.moments import view_recordings
from client.explanation.place import page_file
from client.explanation.subject import TOLERANCE, Explanation
from client.explanation.words import (
    LIMITS,
    PARTS,
    show_measured,
    show_points,
    show_signed,
    tell,
)
from client.inspection.drawing import HEIGHT, WIDTH
from client.site import Site
from privacy.vault import write_atomic

if TYPE_CHECKING:
    from jinja2 import Environment


def write_explanation(explanation: Explanation, site: Site, *, now: datetime) -> Path:
    """Write the page in place of an earlier one of the same subject."""
    path = page_file(site, explanation.subject_id)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_atomic(path, render_page(explanation, now=now).encode())
    return path


def render_page(explanation: Explanation, *, now: datetime) -> str:
    """HTML of the page, the same bytes for the same explanation and time."""
    study = explanation.study
    widest = max((abs(one.points) for one in explanation.behaviours), default=0.0) or 1.0
    return (
        _environment()
        .get_template("explanation.html.j2")
        .render(
            explanation=explanation,
            recordings=view_recordings(explanation),
            sentences=tell(explanation),
            part=PARTS[explanation.part],
            limits=LIMITS,
            widest=widest,
            scale=_scale(explanation),
            tolerance=TOLERANCE,
            study=study.study,
            version=version("vultus"),
            made_at=f"{now:%Y-%m-%d %H:%M %Z}",
            width=WIDTH,
            height=HEIGHT,
        )
    )


def _scale(explanation: Explanation) -> dict[str, float]:
    """Places on the instrument's scale in percent."""
    low, high, threshold = explanation.study.study.score_range
    marks = {
        "score": explanation.score,
        "typical": explanation.typical_score,
        "threshold": threshold,
    }
    return {
        name: round(100 * min(max((value - low) / (high - low), 0.0), 1.0), 2)
        for name, value in marks.items()
    }


@cache
def _environment() -> Environment:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("client.explanation"), PackageLoader("client.inspection")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"points": show_points, "signed": show_signed, "measured": show_measured}
    return environment
