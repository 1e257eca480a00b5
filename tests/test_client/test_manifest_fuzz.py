"""Damaged tables of recordings: read, or refused with every fault, and nothing else ever."""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.recordings import columns as manifest_columns
from client.recordings import delimited
from client.recordings.manifest import ManifestError, read_manifest
from client.site_template import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from shared_models.consortium import ConsortiumConfig, StudyConfig

TABLES = 600
NOW = datetime(2026, 6, 1, tzinfo=UTC)
CONSORTIUM = ConsortiumConfig(study=StudyConfig(name="study", instrument="phq9"))
HEADER = [*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS, "ward"]
WHEN = "2026-03-02T09:30:00+01:00"
NASTY_CELLS = [
    "", '"', '""', "\n", "\r", "\0", "\ufeff", "=1+1", "nan", "inf", "-0", "1e999", "\uff19",
    "\u0663", "x" * 200_000, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-23:59", "24:00",
    "2026-03-02T09:30:00+99:99", "../../../etc/passwd", "/", "~", "a/" * 3000, "\u202e", "\ud7ff",
    "videos", "con", "r1\u2028", "2026-W10-1T09:30:00+01:00", "99999999999999999999",
    "female\u00a0",
]  # fmt: skip

Rows = list[list[str]]


def sound_rows() -> Rows:
    rows = [HEADER]
    for number in range(6):
        cells = [f"r{number}", f"s{number // 2}", "a.mp4", WHEN, "40", "female", str(number)]
        rows.append([*cells, f"visit {number}", "interview", 'a "drug", Ä', "granted"])
        rows[-1] += ["e.csv", "t.csv", "06:45", "3.5", "7b"]
    return rows


def text_of(rows: Rows, separator: str = ",", end: str = "\r\n") -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=separator, lineterminator=end).writerows(rows)
    return buffer.getvalue().encode("utf-8", "surrogatepass")


def flip_bytes(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged)


def cut(data: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[:start] + data[end:]


def repeat(data: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[:end] + data[start:end] * rng.randint(1, 4) + data[end:]


def insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    piece = rng.choice(
        [b'"', b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b",", b"\r", b";"]
    )
    return data[:at] + piece * rng.randint(1, 3) + data[at:]


def another_encoding(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    code = rng.choice(["utf-16", "utf-16-le", "latin-1", "cp1252", "utf-8-sig", "utf-7", "utf-32"])
    return text.encode(code, "replace")


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    flip_bytes,
    cut,
    repeat,
    insert,
    another_encoding,
]


def mutate_cells(rng: random.Random) -> bytes:
    rows = [list(row) for row in sound_rows()]
    for _ in range(rng.randint(1, 3)):
        row = rng.choice(rows)
        action = rng.randrange(6)
        if action == 0:
            row[rng.randrange(len(row))] = rng.choice(NASTY_CELLS)
        elif action in {4, 5}:
            # The last column is unknown to the program, so that most texts are sound there.
            row[-1] = rng.choice(NASTY_CELLS)
        elif action == 1:
            one, other = rng.randrange(len(row)), rng.randrange(len(row))
            row[one], row[other] = row[other], row[one]
        elif action == 2:
            row.insert(rng.randrange(len(row)), rng.choice(NASTY_CELLS))
        elif len(row) > 2:
            row.pop(rng.randrange(len(row)))
    return text_of(
        rows, rng.choice([",", ";", "\t", "|"]), rng.choice(["\n", "\r\n", "\r", "\n\n"])
    )


def mutated(seed: int) -> bytes:
    rng = random.Random(seed)
    if seed % 2:
        return mutate_cells(rng)
    data = text_of(sound_rows())
    return rng.choice(MUTATIONS)(data, rng) or b"x"


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "e.csv").write_text("onset_s,duration_s,label\n1,2,positive\n")
    (tmp_path / "t.csv").write_text("start_s,end_s,speaker\n1,2,other\n")
    return tmp_path


def outcome(folder: Path, data: bytes) -> str:
    """``read``, ``refused``, or the name of any other exception."""
    path = folder / "recordings.csv"
    path.write_bytes(data)
    try:
        found = read_manifest(path, consortium=CONSORTIUM, root=folder, now=NOW)
    except ManifestError as error:
        told = [fault.fault for fault in error.faults]
        return "refused" if told and all(0 < len(one) < 2000 for one in told) else "silent"
    except Exception as error:  # noqa: BLE001 - this is what must not happen
        return type(error).__name__
    assert found.recordings or found.withdrawn or found.other_tasks
    return "read"


def fuzz(folder: Path, *, tables: int = TABLES) -> Counter[str]:
    return Counter(outcome(folder, mutated(seed)) for seed in range(tables))


def test_the_sound_table_is_read(folder):
    assert outcome(folder, text_of(sound_rows())) == "read"


@pytest.mark.timeout(60)
def test_a_damaged_table_is_read_or_refused(folder):
    found = fuzz(folder)
    assert set(found) == {"read", "refused"}
    assert found.total() == TABLES
    # Damage that never or always shows would test nothing.
    assert min(found.values()) > TABLES / 20


def test_the_fuzz_notices_a_reader_that_lets_an_error_through(folder, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(delimited, "_decode", lambda data, faults: data.decode("utf-8-sig"))
        assert "UnicodeDecodeError" in fuzz(folder, tables=100)
    monkeypatch.setattr(manifest_columns, "_is_file", lambda path: bool(path.stat()))
    assert {"FileNotFoundError", "OSError"} & set(fuzz(folder, tables=200))
