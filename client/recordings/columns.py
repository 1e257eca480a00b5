"""What each column of ``recordings.csv`` may hold: text of one cell to a checked value."""

from __future__ import annotations

import difflib
import math
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from shared_models.consortium import ConsortiumConfig, Sex

Consent = Literal["granted", "withdrawn"]
SEXES: tuple[str, ...] = get_args(Sex)
CONSENTS: tuple[str, ...] = get_args(Consent)
OLDEST_YEARS = 120.0
FIRST_YEAR = 1950
LONGEST_TEXT = 200
LONGEST_AWAKE = timedelta(hours=24)
PUPIL_MM = (0.5, 10.0)

_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(\.[0-9]{0,20})?")
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", re.ASCII)
_EXAMPLE_MOMENT = "2026-03-02T09:30:00+01:00"


def nobody(_subject_id: str) -> bool:
    """No subject is forgotten."""
    return False


@dataclass(frozen=True)
class ColumnRules:
    """Checks of single cells. Each method returns the value or raises ValueError with the fault.

    Attributes:
        consortium: The study: instrument range and youngest age band.
        root: Folder that ``file`` starts from and may not leave.
        now: The present, with offset.
        require_files: Whether ``file`` must name an existing file.
        is_forgotten: Whether a subject withdrew for good, whatever the table says.
    """

    consortium: ConsortiumConfig
    root: Path
    now: datetime
    require_files: bool
    is_forgotten: Callable[[str], bool] = nobody

    def identifier(self, text: str) -> str:
        """A non-empty printable name."""
        if not text:
            msg = "Expected a name, got an empty cell"
            raise ValueError(msg)
        return self.text(text)

    def text(self, text: str) -> str:
        """Printable text of sensible length."""
        if len(text) > LONGEST_TEXT or not text.isprintable():
            msg = f"Expected at most {LONGEST_TEXT} printable characters, got {shorten(text)}"
            raise ValueError(msg)
        return text

    def file(self, text: str) -> Path | None:
        """A file inside the videos folder; None if empty and files are not required."""
        if not text:
            if self.require_files:
                msg = "Expected the path of a video, got an empty cell"
                raise ValueError(msg)
            return None
        path = self._inside(text)
        if self.require_files and not _is_file(path):
            msg = f"Expected an existing file, found none at {shorten(text)} in {self.root}"
            raise ValueError(msg)
        return path

    def notes(self, text: str) -> Path | None:
        """A file of notes inside the videos folder; None if empty."""
        return self.file(text) if text else None

    def recorded_at(self, text: str) -> datetime:
        """A moment with offset, not in the future."""
        moment = _moment(text)
        if moment is None:
            msg = f"Expected ISO 8601 with offset, such as {_EXAMPLE_MOMENT}, got {shorten(text)}"
            raise ValueError(msg)
        if moment.year < FIRST_YEAR or moment > self.now:
            msg = f"Expected a moment between {FIRST_YEAR} and now, got {text}"
            raise ValueError(msg)
        return moment

    def woke_at(self, text: str, recorded_at: datetime | None) -> datetime | None:
        """When the subject woke, at most a day before the recording; None if empty.

        Args:
            text: ISO 8601 with offset, or ``HH:MM`` on the day and in the offset of the recording.
            recorded_at: The recording; None if that cell is faulty.
        """
        if not text:
            return None
        clock = _CLOCK.fullmatch(text)
        woke = None if clock else _moment(text)
        if clock and recorded_at:
            woke = recorded_at.replace(
                hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0
            )
        if woke is None and not clock:
            msg = f"Expected HH:MM or ISO 8601 with offset, got {shorten(text)}"
            raise ValueError(msg)
        if woke and recorded_at and not timedelta() <= recorded_at - woke <= LONGEST_AWAKE:
            msg = (
                f"Expected waking at most 24 h before the recording at {recorded_at.isoformat()}, "
                f"got {shorten(text)}: for waking on the day before, give date, time and offset"
            )
            raise ValueError(msg)
        return woke

    def pupil_mm(self, text: str) -> float | None:
        """A pupil diameter in millimetres; None if empty."""
        low, high = PUPIL_MM
        return number(text, low=low, high=high, what="a pupil diameter in mm") if text else None

    def age_years(self, text: str) -> float:
        """An age between 0 and 120 years that belongs to a band of the study."""
        age = number(text, low=0.0, high=OLDEST_YEARS, what="an age in years")
        if self.consortium.fairness.age_group(age) is None:
            youngest = self.consortium.fairness.age_bands[0]
            msg = f"Expected at least {youngest} years (the study's youngest age band), got {text}"
            raise ValueError(msg)
        return age

    def sex(self, text: str) -> str:
        """``female``, ``male`` or ``other``."""
        return choice(text, SEXES)

    def score(self, text: str) -> float | None:
        """A score of the study's instrument; None if empty."""
        low, high, _ = self.consortium.study.score_range
        name = self.consortium.study.instrument
        return number(text, low=low, high=high, what=f"a score of {name}") if text else None

    def consent(self, text: str) -> str:
        """``granted`` (also if empty) or ``withdrawn``."""
        return choice(text or "granted", CONSENTS)

    def _inside(self, text: str) -> Path:
        try:
            root = self.root.resolve()
            path = (root / self.text(text)).resolve()
        except (OSError, RuntimeError) as error:
            msg = f"Expected the path of a file, got {shorten(text)}"
            raise ValueError(msg) from error
        if not path.is_relative_to(root):
            msg = f"Expected a file inside {root}, got {shorten(text)}, which lies outside"
            raise ValueError(msg)
        return path


def suggest(name: str, known: tuple[str, ...]) -> str:
    """A did-you-mean clause, or nothing.

    >>> suggest("subjct_id", ("subject_id", "score"))
    " (did you mean 'subject_id'?)"
    >>> suggest("F", ("female", "male"))
    " (did you mean 'female'?)"
    """
    lowered = name.strip().lower()
    close = difflib.get_close_matches(lowered, known, n=1, cutoff=0.6)
    close = close or [one for one in known if lowered and one.startswith(lowered)]
    return f" (did you mean {close[0]!r}?)" if close else ""


def choice(text: str, choices: tuple[str, ...]) -> str:
    """The text itself if it is one of the choices.

    Raises:
        ValueError: With the choices and a near one.
    """
    if text not in choices:
        msg = f"Expected {', '.join(choices)}, got {shorten(text)}{suggest(text, choices)}"
        raise ValueError(msg)
    return text


def number(text: str, *, low: float, high: float, what: str) -> float:
    """A decimal number between two limits, both included.

    Raises:
        ValueError: With the limits.
    """
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not low <= value <= high:
        msg = f"Expected {what} between {low:g} and {high:g}, got {shorten(text)}"
        raise ValueError(msg)
    return value


def _moment(text: str) -> datetime | None:
    """The moment that ISO 8601 with offset names; None for any other text."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.utcoffset() is not None else None


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def shorten(text: str) -> str:
    """A cell as it may be shown: quoted, without control characters, not too long."""
    return repr(text if len(text) <= 80 else text[:80] + "...")
