"""Strict TOML: a file becomes a frozen dataclass, or one error with all faults by file and key."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Pydantic configuration of every section: unknown keys and silent conversions are faults."""


class ConfigError(ValueError):
    """A configuration file that cannot be used.

    Attributes:
        faults: One sentence a fault, each naming the key and the file.
    """

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


def parse_toml(text: str, cls: type[T], *, name: str) -> T:
    """The dataclass that a TOML text describes.

    Args:
        text: The TOML document.
        cls: A frozen pydantic dataclass whose sections use :data:`STRICT`.
        name: File name for messages.

    Raises:
        ConfigError: With every unknown key, missing key, wrong type and value out of range.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"Expected a TOML file, got {error} ({name})."]) from error
    try:
        # JSON has lists and tables but neither tuples nor classes, so strictness means the same
        # here as in the file; anything JSON lacks, such as a date, becomes a wrong type.
        return TypeAdapter(cls).validate_json(json.dumps(tables, default=str))
    except ValidationError as error:
        raise ConfigError([_describe(fault, name) for fault in error.errors()]) from None


def load_toml(path: Path, cls: type[T]) -> T:
    """The dataclass that a TOML file describes; see :func:`parse_toml`.

    Raises:
        ConfigError: If the file is missing, unreadable or faulty.
    """
    return parse_toml(read_text(path), cls, name=path.name)


def read_text(path: Path) -> str:
    """The file as it is, line ends too: encoded again it has the same digest.

    Raises:
        ConfigError: If the file is missing or no UTF-8 text.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError([f"Expected a readable file at {path}, got: {reason}."]) from error


def _describe(fault: object, name: str) -> str:
    """One fault as a sentence: what was expected, what came, where."""
    assert isinstance(fault, dict)  # noqa: S101 - narrows pydantic's TypedDict for mypy
    key = _dotted(fault["loc"])
    kind, got = fault["type"], fault.get("input")
    if kind in {"unexpected_keyword_argument", "extra_forbidden"}:
        return f"Unknown key {key}: remove it or correct its spelling ({name})."
    if kind in {"missing", "missing_argument"}:
        return f"Missing key {key} ({name})."
    expected = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if kind == "value_error":
        return f"{expected} ({key or 'whole file'}, {name})."
    return f"Expected {key} to be {expected}, got {got!r} ({name})."


def _dotted(location: tuple[str | int, ...]) -> str:
    """``("sites", 0, "id")`` as ``sites[0].id``."""
    dotted = ""
    for part in location:
        dotted += f"[{part}]" if isinstance(part, int) else f".{part}"
    return dotted.lstrip(".")
