"""What every import hands over: rows whose cells remember where they were found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from client.recordings.columns import CONSENTS, SEXES, choice, shorten
from client.recordings.recording import Fault

_SEX_WORDS = {"f": "female", "woman": "female", "m": "male", "man": "male", "o": "other"}


@dataclass(frozen=True)
class Cell:
    """One value for the table of recordings.

    Attributes:
        text: The value as the table will hold it.
        file: File in which it was found.
        line: Line in that file.
        column: Column in that file.
    """

    text: str
    file: str
    line: int
    column: str

    def fault(self, text: str) -> Fault:
        """A fault that names where the value came from."""
        return Fault(self.line, self.column, text, self.file)


ImportedRow = Mapping[str, Cell]
"""Cells of one recording by column of the table of recordings."""


@dataclass(frozen=True)
class Imported:
    """What an import found.

    Attributes:
        rows: One a recording.
        faults: What must be corrected before anything is written.
        left_out: One sentence a matter that was left out on purpose.
    """

    rows: tuple[ImportedRow, ...] = ()
    faults: tuple[Fault, ...] = ()
    left_out: tuple[str, ...] = ()


def convert(cell: Cell, to_text: Callable[[str], str], faults: list[Fault]) -> Cell:
    """A cell in the table's own spelling; one that cannot be told is a fault and becomes empty."""
    try:
        return replace(cell, text=to_text(cell.text))
    except ValueError as error:
        faults.append(cell.fault(str(error)))
        return replace(cell, text="")


def load_zone(name: str | None, where: str) -> ZoneInfo | None:
    """The time zone of a name; None without one.

    Raises:
        ValueError: If there is no such zone; the message names ``where`` it stands.
    """
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        msg = f"Expected {where} to be a time zone such as Europe/Berlin, got {shorten(name)}"
        raise ValueError(msg) from error


def moment_text(text: str, zone: ZoneInfo | None, where: str) -> str:
    """A moment as ISO 8601 with offset.

    Args:
        text: ISO 8601, with offset or in the zone.
        zone: Where clocks showed it.
        where: The setting that names the zone, for messages.

    Raises:
        ValueError: If it is no moment, has no offset and no zone, or the zone's clocks skipped or
            repeated it.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        msg = f"Expected date and time such as 2026-03-02 09:30, got {shorten(text)}"
        raise ValueError(msg) from error
    if len(text) <= len("2026-03-02"):
        msg = f"Expected date and time of day, got {shorten(text)}, which has no time of day"
        raise ValueError(msg)
    if moment.utcoffset() is None:
        moment = _in_zone(moment, zone, where)
    return moment.isoformat()


def _in_zone(moment: datetime, zone: ZoneInfo | None, where: str) -> datetime:
    if zone is None:
        msg = f'Expected an offset from UTC, got none: set {where}, such as "Europe/Berlin"'
        raise ValueError(msg)
    first, second = (moment.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() != second.utcoffset():
        msg = (
            f"Expected a moment that {zone.key} has once, got {moment.isoformat()}, when its "
            "clocks were changed: give the offset from UTC"
        )
        raise ValueError(msg)
    # ISO 8601 knows offsets of whole minutes; before clocks were standardised zones had others.
    whole = (first.utcoffset() or timedelta()) % timedelta(minutes=1) == timedelta()
    return first if whole else first.astimezone(UTC)


def age_text(birth: str, recorded_at: str) -> str:
    """Whole years between a date of birth and a moment.

    >>> age_text("1980-03-03", "2026-03-02T09:30:00+01:00")
    '45'

    Raises:
        ValueError: If one of them is no date.
    """
    try:
        born = date.fromisoformat(birth)
    except ValueError as error:
        # The text is not repeated: a date of birth belongs in no message.
        msg = "Expected a date of birth such as 1980-03-02, got something else"
        raise ValueError(msg) from error
    if not recorded_at:
        msg = "Expected a moment of recording to compute the age, got none"
        raise ValueError(msg)
    day = datetime.fromisoformat(recorded_at).date()
    years = day.year - born.year - ((day.month, day.day) < (born.month, born.day))
    return str(years)


def sex_text(text: str, values: Mapping[str, str], labels: Mapping[str, str], where: str) -> str:
    """A coded sex as the table spells it.

    Args:
        text: The code, or its label.
        values: Meaning of codes, from ``site.toml``.
        labels: Label of each code, from the data dictionary.
        where: The setting that could name the code, for messages.

    Raises:
        ValueError: If nothing says what the code means.
    """
    if text in values:
        return values[text]
    word = labels.get(text, text).strip().lower()
    word = _SEX_WORDS.get(word, word)
    return _known(word, text, SEXES, where)


def consent_text(
    text: str, values: Mapping[str, str], labels: Mapping[str, str], where: str
) -> str:
    """A coded consent as the table spells it; an empty one must be mapped too.

    Raises:
        ValueError: If nothing says what the code means.
    """
    if text in values:
        return values[text]
    return _known(labels.get(text, text).strip().lower(), text, CONSENTS, where)


def _known(word: str, text: str, choices: tuple[str, ...], where: str) -> str:
    try:
        return choice(word, choices)
    except ValueError as error:
        msg = (
            f"Expected {', '.join(choices)} or a code of them, got {shorten(text)}: "
            f'say what it means in {where}, such as {{ "{text[:20]}" = "{choices[0]}" }}'
        )
        raise ValueError(msg) from error
