"""The file of effects: what moves behaviour, severity, scores and recordings, with its sources.

Strict: an unknown key, a missing one, a value without its basis or a source that is nowhere is told
by key, all faults at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, field, fields, is_dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from shared_models.toml import STRICT, ConfigError, load_toml, parse_toml

SHIPPED = "effects.toml"

Basis = Literal["size", "direction", "chosen"]
Text = Annotated[str, Field(min_length=1)]
_DOI = re.compile(r"10\.\d{4,9}/\S+")


@dataclass(frozen=True, config=STRICT)
class Quantity:
    """A number of the file.

    Attributes:
        value: The number itself.
        sd: SD of what is not known about it, >= 0.
        basis: Whether its size, only its direction, or nothing of it was published.
        source: Key in ``[sources]``; empty exactly for what was chosen.
    """

    value: float
    sd: Annotated[float, Field(ge=0)]
    basis: Basis
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse a claim without a source, and a source behind an invention.

        Raises:
            ValueError: If so.
        """
        if self.basis == "chosen" and self.source:
            msg = f"Expected no source for basis 'chosen', got {self.source!r}"
            raise ValueError(msg)
        if self.basis != "chosen" and not self.source:
            msg = f"Expected a source for basis {self.basis!r}, got none"
            raise ValueError(msg)


@dataclass(frozen=True, config=STRICT)
class Positive(Quantity):
    """A number that cannot be negative or zero."""

    value: Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=STRICT)
class Spread(Quantity):
    """A number that cannot be negative."""

    value: Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class Share(Quantity):
    """A number from 0 to 1."""

    value: Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=STRICT)
class Source:
    """A publication."""

    text: Text
    doi: Text

    def __post_init__(self) -> None:
        """Refuse what is no DOI.

        Raises:
            ValueError: If so.
        """
        if not _DOI.fullmatch(self.doi):
            msg = f"Expected a DOI such as 10.1016/j.imavis.2013.12.007, got {self.doi!r}"
            raise ValueError(msg)


@dataclass(frozen=True, config=STRICT)
class Parameter:
    """One parameter of behaviour and what it depends on, in SDs between persons.

    Attributes:
        about: What it is, with its unit.
        spread: One SD between persons in that unit.
        expressivity: Loading on the personal expressivity that parameters share, -1 to 1.
        severity: At or above the clinical threshold minus below it.
        age: Change per 20 years.
        female: Women minus men.
        morning: At 8:00 minus 18:00.
        medication: With a drug minus without.
        severity_female: Effect of severity on women minus that on men.
        severity_age: Change of the effect of severity per 20 years.
    """

    about: Text
    spread: Spread
    expressivity: Annotated[float, Field(ge=-1, le=1)] = 0.0
    severity: Quantity | None = None
    age: Quantity | None = None
    female: Quantity | None = None
    morning: Quantity | None = None
    medication: Quantity | None = None
    severity_female: Quantity | None = None
    severity_age: Quantity | None = None


DEPENDENCES = (
    "severity", "age", "female", "morning", "medication", "severity_female", "severity_age",
)  # fmt: skip
"""What a parameter can depend on: the columns of the design matrix."""


@dataclass(frozen=True, config=STRICT)
class Parameters:
    """``[parameters]``: every parameter of behaviour."""

    smile_rate: Parameter
    smile_duration: Parameter
    smile_amplitude: Parameter
    gaze_down: Parameter
    turn_away: Parameter
    head_down: Parameter
    head_motion: Parameter
    mouth_motion: Parameter
    brow_lowering: Parameter
    inner_brow: Parameter
    blink_rate: Parameter
    tempo: Parameter
    contempt: Parameter
    brief_rate: Parameter


PARAMETERS: tuple[str, ...] = tuple(one.name for one in fields(Parameters))


@dataclass(frozen=True, config=STRICT)
class Hazard(Quantity):
    """Events per minute; what comes more often than this is no episode of an interview."""

    value: Annotated[float, Field(ge=0, le=12)]


@dataclass(frozen=True, config=STRICT)
class Process:
    """One kind of event in a person whom nothing moves.

    Attributes:
        per_min: Events per minute of rest.
        duration_s: Median time at the height of the event.
        size: Median height.
        ramp_s: Time of rising and of falling.
    """

    per_min: Hazard
    duration_s: Positive
    size: Positive
    ramp_s: Positive


@dataclass(frozen=True, config=STRICT)
class Processes:
    """``[processes]``: every kind of event."""

    smile: Process
    gaze: Process
    turn: Process
    head_down: Process
    nod: Process
    talk: Process
    frown: Process
    brow_raise: Process
    dimple: Process
    brief: Process


PROCESSES: tuple[str, ...] = tuple(one.name for one in fields(Processes))


@dataclass(frozen=True, config=STRICT)
class Blinks:
    """``[blinks]``: per minute of silence, and how many times that in talk."""

    per_min: Spread
    in_talk: Positive


@dataclass(frozen=True, config=STRICT)
class Persons:
    """``[persons]``: part of the personal variance that changes from visit to visit."""

    visit_share: Share


@dataclass(frozen=True, config=STRICT)
class Severity:
    """``[severity]``: its distribution, and how the time of day shifts what the body shows."""

    spread: Positive
    below_threshold: Quantity
    morning: Quantity
    morning_spread: Spread


@dataclass(frozen=True, config=STRICT)
class Course:
    """``[course]``: what happens from visit to visit."""

    natural: Share
    medication: Quantity
    psychotherapy: Quantity
    rtms: Quantity
    response_spread: Spread
    step_spread: Spread
    treated_slope: Quantity


@dataclass(frozen=True, config=STRICT)
class Rating:
    """``[rating]``: SDs of error and of a site's bias, as shares of the instrument's range."""

    error: Spread
    site_bias: Spread


@dataclass(frozen=True, config=STRICT)
class Sites:
    """``[sites]``: how much sites differ."""

    severity_shift: Spread
    age_shift_years: Spread
    camera_noise: Spread
    camera_pitch_deg: Spread
    failure_shift: Spread
    max_gaps_per_min: Spread


@dataclass(frozen=True, config=STRICT)
class Gaps:
    """``[quality.gaps]``: logarithm of the rate of stretches without a tracked face."""

    severity: Quantity
    age: Quantity
    female: Quantity
    spread: Spread


@dataclass(frozen=True, config=STRICT)
class Failure:
    """``[quality.failure]``: log odds that a recording fails the quality gate."""

    base: Quantity
    severity: Quantity
    age: Quantity
    female: Quantity


@dataclass(frozen=True, config=STRICT)
class Quality:
    """``[quality]``: what goes wrong with recordings, and for whom."""

    gaps: Gaps
    failure: Failure


@dataclass(frozen=True, config=STRICT)
class EffectFile:
    """The whole file, as written."""

    version: Literal[1]
    sources: dict[str, Source] = field(hash=False)
    parameters: Parameters
    processes: Processes
    blinks: Blinks
    persons: Persons
    severity: Severity
    course: Course
    rating: Rating
    sites: Sites
    quality: Quality

    @property
    def digest(self) -> str:
        """SHA-256 over every key and value: equal digests mean equal effects."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@cache
def shipped_effects() -> EffectFile:
    """The effects that a study has unless it names others."""
    text = files(__package__).joinpath(SHIPPED).read_text(encoding="utf-8")
    return _checked(parse_toml(text, EffectFile, name=SHIPPED), SHIPPED)


def load_effects(path: Path) -> EffectFile:
    """The effects of a file.

    Raises:
        ConfigError: With every fault, by key.
    """
    return _checked(load_toml(path, EffectFile), path.name)


def quantities(section: object, key: str = "") -> Iterator[tuple[str, Quantity]]:
    """Every number of a section with its dotted key, in the order of the file."""
    if isinstance(section, Quantity):
        yield key, section
    elif is_dataclass(section) and not isinstance(section, type):
        for part in fields(section):
            below = f"{key}.{part.name}" if key else part.name
            yield from quantities(getattr(section, part.name), below)


def _checked(effects: EffectFile, name: str) -> EffectFile:
    cited = {quantity.source for _, quantity in quantities(effects)} - {""}
    faults = [
        f"Expected {key}.source to be one of [sources], got {quantity.source!r} ({name})."
        for key, quantity in quantities(effects)
        if quantity.source and quantity.source not in effects.sources
    ]
    faults += [
        f"Unused source sources.{source}: cite it or remove it ({name})."
        for source in effects.sources
        if source not in cited
    ]
    if faults:
        raise ConfigError(faults)
    return effects
