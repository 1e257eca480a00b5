"""Notes on recordings: both forms are read, and each fault has its file, line and column."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.recordings.annotation_files import (
    EVENT_COLUMNS,
    TURN_COLUMNS,
    annotation_faults,
    read_annotations,
)
from client.recordings.annotations import NO_ANNOTATIONS, Stimulus, Turn
from client.recordings.recording import ManifestError, Recording

RECORDING = Recording(
    "r1", "s1", None, datetime(2026, 3, 2, 9, tzinfo=UTC), age_years=40, sex="female", score=None
)


def events(folder: Path, text: str | bytes, name: str = "e.csv") -> Recording:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return replace(RECORDING, events=path)


def turns(folder: Path, text: str) -> Recording:
    return replace(events(folder, text), events=None, turns=folder / "e.csv")


def faults(recording: Recording) -> dict[tuple[int, str], str]:
    return {(one.line, one.column): one.fault for one in annotation_faults(recording)}


def test_a_recording_without_notes_has_none():
    assert read_annotations(RECORDING) == NO_ANNOTATIONS
    assert read_annotations(replace(RECORDING, pupil_mm=3.0)).pupil_mm == 3.0


@pytest.mark.parametrize(
    "text",
    [
        "onset_s,duration_s,label\n20,5,negative\n3.5,0,positive\n",
        "\ufefflabel;onset_s;duration_s;who\r\nnegative;20;5;x\r\n\r\npositive;3.5;0;y\r\n",
        "onset\tduration\ttrial_type\n3.5\tn/a\tpositive\n20\t5\tnegative\n",
    ],
)
def test_events_in_each_form_come_in_order(tmp_path, text):
    found = read_annotations(events(tmp_path, text)).stimuli
    assert found == (Stimulus(3.5, 0.0, "positive"), Stimulus(20.0, 5.0, "negative"))


def test_turns_come_in_order_and_two_may_speak_at_once(tmp_path):
    text = "start_s,end_s,speaker\n4,9,subject\n0,5,other\n5,6,other\n"
    found = read_annotations(turns(tmp_path, text)).turns
    assert found == (Turn(0, 5, "other"), Turn(4, 9, "subject"), Turn(5, 6, "other"))


def test_every_fault_of_events_is_told_at_once(tmp_path):
    text = "onset_s,duration_s,label\n-1,x,\n1,-2,ok\nnan,1e400,a\x07b\n1,2\n"
    found = faults(events(tmp_path, text))
    assert set(found) == {
        (2, "onset_s"),
        (2, "duration_s"),
        (2, "label"),
        (3, "duration_s"),
        (4, "onset_s"),
        (4, "duration_s"),
        (4, "label"),
        (5, ""),
    }
    assert all("'r1'" in fault for fault in found.values())
    with pytest.raises(ManifestError) as caught:
        read_annotations(events(tmp_path, text))
    assert len(caught.value.faults) == 8


def test_an_unknown_length_is_only_for_the_form_that_knows_n_a(tmp_path):
    assert set(faults(events(tmp_path, "onset_s,duration_s,label\n1,n/a,x\n"))) == {
        (2, "duration_s")
    }


@pytest.mark.parametrize(
    ("line", "column", "part"),
    [
        ("1,2,patient", "speaker", "did you mean 'subject'"),
        ("1,2,Interviewer", "speaker", "did you mean 'other'"),
        ("1,2,subjct", "speaker", "did you mean 'subject'"),
        ("1,2,", "speaker", "subject, other"),
        ("2,2,subject", "end_s", "after the start"),
        ("86401,86402,subject", "start_s", "86400"),
    ],
)
def test_a_faulty_turn_is_told(tmp_path, line, column, part):
    found = faults(turns(tmp_path, f"start_s,end_s,speaker\n{line}\n"))
    assert part in found[2, column]


def test_turns_of_one_speaker_do_not_overlap(tmp_path):
    found = faults(turns(tmp_path, "start_s,end_s,speaker\n4,9,subject\n0,5,subject\n"))
    assert set(found) == {(2, "start_s")}
    assert "(line 3)" in found[2, "start_s"]


def test_missing_columns_are_named_with_the_likely_misspelling(tmp_path):
    found = faults(events(tmp_path, "onset_s,duration,lable\n1,2,x\n"))
    assert "is it 'duration'" in found[1, "duration_s"]
    assert "is it 'lable'" in found[1, "label"]


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", b"onset_s\x00", b'onset_s,"'])
def test_files_that_are_no_table_are_told(tmp_path, data):
    assert annotation_faults(events(tmp_path, data))


def test_a_vanished_file_is_told(tmp_path):
    assert "readable" in faults(replace(RECORDING, turns=tmp_path / "none.csv"))[0, ""]


def test_file_names_are_shown_from_the_folder_of_the_videos(tmp_path):
    (tmp_path / "notes").mkdir()
    recording = events(tmp_path, "x\n", "notes/e.csv")
    assert {one.file for one in annotation_faults(recording, root=tmp_path)} == {"notes/e.csv"}


seconds = st.floats(0, 86_000, allow_nan=False).map(lambda value: round(value, 6))
labels = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1)
stimuli = st.builds(Stimulus, seconds, seconds, labels.filter(lambda text: len(text) <= 200))


@settings(max_examples=100, deadline=None)
@given(st.lists(stimuli, max_size=6), st.sampled_from(",;\t"))
def test_events_written_are_the_events_read(tmp_path_factory, written, separator):
    path = tmp_path_factory.getbasetemp() / "round.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(EVENT_COLUMNS)
        writer.writerows([f"{s.onset_s:.6f}", f"{s.duration_s:.6f}", s.label] for s in written)
    found = read_annotations(replace(RECORDING, events=path)).stimuli
    assert found == tuple(sorted(written, key=lambda one: one.onset_s))


cells = st.one_of(
    st.text(max_size=10), st.sampled_from(["1", "2.5", "", '"', "subject", "n/a", "-1"])
)
headers = st.sampled_from([EVENT_COLUMNS, TURN_COLUMNS, ("onset", "duration", "trial_type")])
tables = st.builds(
    lambda header, rows: "\n".join(",".join(r) for r in [header, *rows]).encode(
        "utf-8", "surrogatepass"
    ),
    headers,
    st.lists(st.lists(cells, min_size=2, max_size=4), max_size=5),
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), tables))
def test_no_notes_whatever_their_bytes_raise_anything_else(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "random.csv"
    path.write_bytes(data)
    for recording in (replace(RECORDING, events=path), replace(RECORDING, turns=path)):
        if not annotation_faults(recording):
            read_annotations(recording)
