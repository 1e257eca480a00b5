"""What a check of the doctor comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

Examination = Callable[[], str]
"""Looks at one thing; returns what was found, raises :class:`Ailment` if that is not well."""


class Ailment(Exception):  # noqa: N818 - found by a check, not thrown at a caller
    """What is not well; the message says what to do."""


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: What was checked.
        passed: Whether all is well, or the check does not apply.
        remedy: What to do; empty if it passed.
        detail: What was found; empty if it did not pass.
    """

    name: str
    passed: bool
    remedy: str = ""
    detail: str = ""


def check(name: str, examine_one: Examination) -> Check:
    """The verdict of one examination; one that breaks has failed."""
    try:
        detail = examine_one()
    except Exception as error:  # noqa: BLE001 - the other checks go on
        return Check(name, passed=False, remedy=str(error) or type(error).__name__)
    return Check(name, passed=True, detail=detail)


def check_all(examinations: Iterable[tuple[str, Examination]]) -> Iterator[Check]:
    """Each verdict as soon as it stands."""
    for name, examine_one in examinations:
        yield check(name, examine_one)
