"""The table of treatments: sound rows are read, faulty ones told with line and column."""

from __future__ import annotations

import csv
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.recordings.recording import ManifestError
from client.recordings.treatments import (
    COLUMNS,
    KINDS,
    Treatment,
    read_treatments,
    treatment_faults,
    unknown_subjects,
)

TODAY = date(2026, 6, 1)
HEADER = ",".join(COLUMNS)


def write(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "treatments.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def faults(path: Path) -> dict[tuple[int, str], str]:
    return {(one.line, one.column): one.fault for one in treatment_faults(path, today=TODAY)}


def test_treatments_are_read_from_dates_and_moments(tmp_path):
    lines = ("s1,drug,sertraline,2026-03-02,", "s1,ect,,2026-01-02T10:00:00+01:00,2026-02-03")
    assert read_treatments(write(tmp_path, *lines), today=TODAY) == (
        Treatment("s1", "drug", "sertraline", date(2026, 3, 2), None, 2),
        Treatment("s1", "ect", "", date(2026, 1, 2), date(2026, 2, 3), 3),
    )


def test_no_table_means_no_treatments(tmp_path):
    assert read_treatments(tmp_path / "treatments.csv", today=TODAY) == ()


def test_every_fault_is_told_at_once(tmp_path):
    lines = (
        ",Drug,a\x07b,2026-13-01,soon",
        "s1,ect,x,2026-03-02,2026-03-01",
        "s1,ect,x,2026-06-02,",
        "s1,ect,x,1900-01-01,",
        "s1,ect",
    )
    found = faults(write(tmp_path, *lines))
    assert set(found) == {
        (2, "subject_id"),
        (2, "kind"),
        (2, "name"),
        (2, "started_at"),
        (2, "ended_at"),
        (3, "ended_at"),
        (4, "started_at"),
        (5, "started_at"),
        (6, ""),
    }
    assert "did you mean 'drug'" in found[2, "kind"]
    with pytest.raises(ManifestError) as caught:
        read_treatments(write(tmp_path, *lines), today=TODAY)
    assert {one.file for one in caught.value.faults} == {"treatments.csv"}


def test_missing_columns_are_named(tmp_path):
    found = faults(write(tmp_path, "s1,drug", header="subject_id,kinds"))
    assert set(found) == {(1, name) for name in COLUMNS[1:]}
    assert "is it 'kinds'" in found[1, "kind"]


def test_a_subject_without_recording_is_told_with_a_near_name():
    known = [Treatment("s01", "ect", "", TODAY, None), Treatment("s1", "ect", "", TODAY, None)]
    (sentence,) = unknown_subjects(tuple(known), ("s1", "s2"))
    assert "'s01'" in sentence
    assert "did you mean 's1'" in sentence


words = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=9)
days = st.dates(date(1950, 1, 1), TODAY)
treatments = st.builds(
    lambda subject, kind, name, ends: (subject, kind, name, *sorted(ends)),
    words,
    st.sampled_from(KINDS),
    words,
    st.tuples(days, days),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(treatments, max_size=5))
def test_treatments_written_are_the_treatments_read(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "treatments.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    found = read_treatments(path, today=TODAY)
    assert [(t.subject_id, t.kind, t.name, t.started_on, t.ended_on) for t in found] == rows


cells = st.one_of(st.text(max_size=10), st.sampled_from(["s1", "drug", "2026-01-01", "", '"']))


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.lists(cells, min_size=4, max_size=6), max_size=4).map(
            lambda rows: "\n".join([HEADER, *(",".join(r) for r in rows)]).encode(
                "utf-8", "surrogatepass"
            )
        ),
    )
)
def test_no_table_whatever_its_bytes_raises_anything_else(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "random-treatments.csv"
    path.write_bytes(data)
    if not treatment_faults(path, today=TODAY):
        read_treatments(path, today=TODAY)
