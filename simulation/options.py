"""What the commands of ``vultus-simulate`` share: choices by name, a new folder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from shared_models.console import InputError


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


def require_new(out: Path) -> None:
    """Refuse a folder that holds something already.

    Raises:
        InputError: If it does.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        msg = f"Expected a new or empty folder for --out, got {out}: remove it or name another."
        raise InputError(msg)
