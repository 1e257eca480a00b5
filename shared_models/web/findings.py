"""One part of a page: what was found, or the sentence that says why it could not be read."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

LONGEST = 1000


@dataclass(frozen=True)
class Finding(Generic[T]):
    """What could be read.

    Attributes:
        value: What was found; None where there is a fault.
        fault: Why it could not be read; empty if it could.
    """

    value: T | None
    fault: str = ""


def look_at(
    what: str, read: Callable[[], T], *, known: tuple[type[Exception], ...] = ()
) -> Finding[T]:
    """Read one part; a broken file takes nothing else from the page.

    Args:
        what: Name of the part, for the sentence.
        read: Reads it.
        known: Exceptions whose message is meant for people, beside those that say so themselves.
    """
    try:
        return Finding(read())
    except Exception as error:
        fault = _tell(what, error, known)
        if fault is None:
            raise
        return Finding(None, fault)


def _tell(what: str, error: Exception, known: tuple[type[Exception], ...]) -> str | None:
    """A sentence for people; None for what no file can be the cause of."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return f"Expected {what} to be readable, got a file with {error.error_count()} faults."
    if isinstance(error, known) or isinstance(getattr(error, "exit_code", None), int):
        return str(error)[:LONGEST]
    if isinstance(error, OSError | ValueError | LookupError | RuntimeError | sqlite3.Error):
        return f"Expected {what} to be readable, got {type(error).__name__}: {error}"[:LONGEST]
    return None
