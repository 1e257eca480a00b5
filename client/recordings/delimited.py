"""Text tables as spreadsheets and databases write them: rows with their lines, faults by line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from client.recordings.recording import Fault

SEPARATORS = ",;\t"
MOST_BYTES = 64 * 2**20

Row = tuple[int, list[str]]
"""Line of a row in its file, and its stripped cells."""


def read_rows(path: Path, faults: list[Fault]) -> Iterator[Row]:
    """Line and stripped cells of each row that is not empty, the header first.

    Args:
        path: UTF-8 with or without byte order mark; separated by what the first line has most of:
            commas, semicolons or tabulators.
        faults: Gets what makes the file no table.
    """
    text = read_text(path, faults)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator_of(text), strict=True)
    line = 1
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        faults.append(Fault(line, "", f"Expected a CSV row, got one with a fault: {error}"))


def separator_of(text: str) -> str:
    """What separates the cells of a table: the first line tells.

    >>> separator_of("a;b,c;d")
    ';'
    """
    first = text.partition("\n")[0]
    return max(SEPARATORS, key=first.count)


def read_text(path: Path, faults: list[Fault]) -> str:
    """The file's text; empty, with a fault, if it has none."""
    try:
        if path.stat().st_size > MOST_BYTES:
            fault = f"Expected a table of at most {MOST_BYTES >> 20} MiB, got a larger file"
            faults.append(Fault(0, "", fault))
            return ""
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        faults.append(Fault(0, "", f"Expected a readable table: {reason}"))
        return ""
    return _decode(data, faults)


def _decode(data: bytes, faults: list[Fault]) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        fault = "Expected UTF-8, got other bytes: save the table as 'CSV UTF-8'"
        faults.append(Fault(line, "", fault))
        return ""
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        faults.append(Fault(line, "", "Expected text, got a NUL byte: the file is damaged"))
        return ""
    return text


def even_rows(rows: Sequence[Row], header: list[str], faults: list[Fault]) -> Iterator[Row]:
    """Rows with one cell a column; the others are faults."""
    for line, row in rows:
        if len(row) == len(header):
            yield line, row
        else:
            fault = f"Expected {len(header)} cells, as in the header, got {len(row)}"
            faults.append(Fault(line, "", fault))


def read_records(
    path: Path, faults: list[Fault]
) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The column names of a table and its rows by column; doubled columns are faults.

    Args:
        path: The table.
        faults: Gets every fault of its form.
    """
    rows = list(read_rows(path, faults))
    if not rows:
        if not faults:
            faults.append(Fault(1, "", "Expected a header, got an empty file"))
        return [], []
    line, header = rows[0]
    doubled = sorted({name for name in header if header.count(name) > 1})
    faults.extend(Fault(line, name, once(name, header.count(name))) for name in doubled)
    even = even_rows(rows[1:], header, faults)
    return header, [(number, dict(zip(header, row, strict=True))) for number, row in even]


def once(column: str, times: int) -> str:
    """The fault of a column that stands more than once."""
    return f"Expected each column once, got {column!r} {times} times"


def write_rows(rows: Sequence[Sequence[str]], *, separator: str = ",") -> bytes:
    """A table as UTF-8 text that :func:`read_rows` reads back."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=separator, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode("utf-8")
