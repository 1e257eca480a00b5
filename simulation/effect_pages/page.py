"""The page of a file of effects: text from the file alone, pictures from a simulation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from simulation.effect_file import (
    PARAMETERS,
    PROCESSES,
    EffectFile,
    Process,
    Quantity,
    quantities,
)
from simulation.effect_pages import cohort_pictures
from simulation.effect_pages.drawing import STYLE, save
from simulation.effect_pages.measured import claimed, observe
from simulation.effect_pages.parameter_pictures import draw_parameter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Drawing = Callable[[], Figure]

PAGE, PICTURES = "cohort.md", "cohort"
PERSONS, SUBJECTS = 20_000, 250

WORDS = {
    "severity": "severity",
    "age": "age",
    "female": "sex, women minus men",
    "morning": "time of day, morning minus evening",
    "medication": "drug",
    "severity_female": "severity, women minus men",
    "severity_age": "severity, per 20 years of age",
}


NUMBERS = {
    "per_min": "per minute",
    "duration_s": "at its height",
    "size": "height",
    "ramp_s": "rise",
}


def write_effects(
    effects: EffectFile, folder: Path, *, file: str, on_progress: Callable[[int, int], None]
) -> Path:
    """Path of the page; its pictures lie in a folder beside it.

    Args:
        effects: What is told.
        folder: Made if missing; files of the same names are replaced.
        file: Where the numbers lie, as the page says it.
        on_progress: Told how many pictures are done.
    """
    import matplotlib as mpl

    pictures = folder / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        draw = _drawings(effects)
        for done, (name, picture) in enumerate(draw.items(), start=1):
            save(picture(), pictures / f"{name}.svg")
            on_progress(done, len(draw))
    page = folder / PAGE
    page.write_text(render_page(effects, file=file), encoding="utf-8")
    return page


def _drawings(effects: EffectFile) -> dict[str, Drawing]:
    population = observe(effects, persons=PERSONS)
    sites = cohort_pictures.simulated(effects, subjects=SUBJECTS)
    drawings: dict[str, Drawing] = {
        "events": partial(cohort_pictures.draw_events_of_a_minute, effects),
        "waiting": partial(cohort_pictures.draw_waiting_times, effects),
        "persons": partial(cohort_pictures.draw_persons, sites),
        "hours": partial(cohort_pictures.draw_hours, effects),
        "course": partial(cohort_pictures.draw_course, sites),
        "rating": partial(cohort_pictures.draw_rating, sites),
        "sites": partial(cohort_pictures.draw_sites, sites),
        "failures": partial(cohort_pictures.draw_failures, sites, effects),
    }
    for name in PARAMETERS:
        drawings[name] = partial(draw_parameter, population, effects, name)
    return drawings


def render_page(effects: EffectFile, *, file: str) -> str:
    """Markdown of the page; equal files give equal text."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("simulation.effect_pages"),
        autoescape=False,  # noqa: S701 - Markdown, from a file that the reader wrote
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    numbers = [quantity for _, quantity in quantities(effects)]
    basis = Counter(quantity.basis for quantity in numbers)
    return environment.get_template("cohort.md.j2").render(
        effects=effects,
        file=file,
        persons=f"{PERSONS:,}".replace(",", " "),
        counts={"total": len(numbers), **{b: basis[b] for b in ("size", "direction", "chosen")}},
        parameters=[(name, getattr(effects.parameters, name)) for name in PARAMETERS],
        processes=[(name, getattr(effects.processes, name)) for name in PROCESSES],
        claimed=lambda name: claimed(effects, name).items(),
        rows=lambda section: list(quantities(getattr(effects, section))),
        sources=sorted(effects.sources.items(), key=lambda item: item[1].text),
        words=WORDS,
        told=lambda quantity: _told(effects, quantity),
        number=_number,
        bases=lambda process: _bases(effects, process),
    )


def _told(effects: EffectFile, quantity: Quantity) -> str:
    if quantity.basis == "chosen":
        return "invented"
    source = effects.sources[quantity.source]
    mark = "**size**" if quantity.basis == "size" else "*direction*"
    return f"{mark}: [{source.text}](https://doi.org/{source.doi})"


def _number(quantity: Quantity) -> str:
    return f"{quantity.value:g} ± {quantity.sd:g}"


def _bases(effects: EffectFile, process: Process) -> str:
    """The bases of a process' numbers: one word if none was published."""
    parts = {part.name: getattr(process, part.name) for part in fields(process)}
    published = [
        f"{NUMBERS[name]} {_told(effects, quantity)}"
        for name, quantity in parts.items()
        if quantity.basis != "chosen"
    ]
    return "; ".join(published) or "invented"
