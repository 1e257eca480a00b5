"""What the commands of ``vultus-simulate`` share: choices by name, a new folder, effects."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared_models.console import InputError

if TYPE_CHECKING:
    from simulation.effect_file import EffectFile


class ModeName(StrEnum):
    """Where noise is added."""

    LOCAL = "local"
    DISTRIBUTED = "distributed"
    OFF = "off"


class EngineName(StrEnum):
    """What carries the messages."""

    LOCAL = "local"
    RAY = "ray"


class TrainableName(StrEnum):
    """How much of the network is trained."""

    HEAD = "head"
    ALL = "all"


EffectsOption = Annotated[
    Path | None,
    typer.Option(
        "--effects",
        metavar="FILE",
        help="What moves behaviour, severity and scores, as in simulation/effects.toml.",
    ),
]
"""Names a file of effects in place of the one that ships."""


def read_effects(path: Path | None) -> EffectFile:
    """The effects of a file, or those that ship.

    Raises:
        ConfigError: With every fault of the file, by key.
    """
    from simulation.effect_file import load_effects, shipped_effects

    return shipped_effects() if path is None else load_effects(path)


def require_new(out: Path) -> None:
    """Refuse a folder that holds something already.

    Raises:
        InputError: If it does.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        msg = f"Expected a new or empty folder for --out, got {out}: remove it or name another."
        raise InputError(msg)
