"""The table of recordings: sound tables are read whole, faulty ones name every fault at once."""

from __future__ import annotations

import contextlib
import csv
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.recordings.manifest import ManifestError, RecordingManifest, read_manifest
from client.recordings.warnings import find_warnings
from client.site_template import EXAMPLE_ROW, OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from shared_models.consortium import ConsortiumConfig, FairnessConfig, StudyConfig

NOW = datetime(2026, 6, 1, tzinfo=UTC)
CONSORTIUM = ConsortiumConfig(study=StudyConfig(name="study", instrument="phq9"))
WHEN = "2026-03-02T09:30:00+01:00"


def row(recording="r1", subject="s1", **cells):
    defaults = {"file": "", "recorded_at": WHEN, "age_years": "40", "sex": "female", "score": "12"}
    return [recording, subject, *(defaults | cells).values()]


def write(folder: Path, rows, header=REQUIRED_COLUMNS) -> Path:
    path = folder / "recordings.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def read(path: Path, *, consortium=CONSORTIUM, require_files=False) -> RecordingManifest:
    return read_manifest(
        path, consortium=consortium, root=path.parent, now=NOW, require_files=require_files
    )


def faults(path: Path, **options) -> dict[tuple[int, str], str]:
    with pytest.raises(ManifestError) as caught:
        read(path, **options)
    return {(fault.line, fault.column): fault.fault for fault in caught.value.faults}


def test_a_sound_table_is_read_with_all_its_columns(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"video")
    (tmp_path / "e.csv").write_text("onset_s,duration_s,label\n1,2,positive\n")
    (tmp_path / "t.csv").write_text("start_s,end_s,speaker\n1,2,other\n")
    header = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS, "ward")
    optional = ["baseline", "interview", "none", "granted", "e.csv", "t.csv", "06:45", "3.2"]
    cells = [*row(file="a.mp4"), *optional, "7b"]
    (recording,) = read(write(tmp_path, [cells], header), require_files=True).recordings
    assert recording.file == tmp_path / "a.mp4"
    assert recording.recorded_at == datetime.fromisoformat(WHEN)
    assert (recording.age_years, recording.sex, recording.score) == (40.0, "female", 12.0)
    assert (recording.visit, recording.task, recording.treatment) == (
        "baseline",
        "interview",
        "none",
    )
    assert (recording.events, recording.turns) == (tmp_path / "e.csv", tmp_path / "t.csv")
    assert recording.woke_at == datetime.fromisoformat("2026-03-02T06:45:00+01:00")
    assert recording.pupil_mm == 3.2
    assert recording.extra == (("ward", "7b"),)


def test_the_documented_example_is_accepted(tmp_path):
    path = tmp_path / "recordings.csv"
    path.write_text(",".join(REQUIRED_COLUMNS) + "\n" + EXAMPLE_ROW + "\n")
    assert read(path).subjects == ("s001",)


OPTIONAL_ROWS = [
    ("woke_at", "10:00", "before the recording"),
    ("woke_at", "25:00", "HH:MM"),
    ("woke_at", "2026-03-01T09:29:00+01:00", "24 h"),
    ("woke_at", "2026-03-02T06:45:00", "HH:MM or ISO"),
    ("pupil_mm", "0.4", "0.5 and 10"),
    ("pupil_mm", "12", "0.5 and 10"),
    ("events", "none.csv", "existing file"),
    ("turns", "../t.csv", "outside"),
]


@pytest.mark.parametrize(("column", "value", "part"), OPTIONAL_ROWS)
def test_an_optional_cell_outside_its_rule_is_a_fault(tmp_path, column, value, part):
    (tmp_path / "a.mp4").write_bytes(b"x")
    # The column stands before recorded_at, on which its check depends.
    path = write(tmp_path, [[value, *row(file="a.mp4")]], (column, *REQUIRED_COLUMNS))
    found = faults(path, require_files=True)
    assert list(found) == [(2, column)]
    assert part in found[2, column]


@pytest.mark.parametrize(
    ("text", "hours"), [("06:30", 3), ("9:30", 0), ("2026-03-01T23:30:00+00:00", 9), ("", None)]
)
def test_waking_is_a_clock_time_of_that_day_or_a_moment(tmp_path, text, hours):
    path = write(tmp_path, [[*row(), text]], (*REQUIRED_COLUMNS, "woke_at"))
    (recording,) = read(path).recordings
    woke = recording.woke_at
    assert (woke and (recording.recorded_at - woke).total_seconds() / 3600) == hours


def test_empty_optional_cells_say_nothing(tmp_path):
    cells = [*row(), *[""] * len(OPTIONAL_COLUMNS)]
    (recording,) = read(write(tmp_path, [cells], (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS))).recordings
    assert recording.events is recording.turns is recording.woke_at is recording.pupil_mm is None


def test_faulty_notes_are_told_with_their_own_file_after_the_table(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "e.tsv").write_text("onset\tduration\ttrial_type\n-1\t2\tpositive\n")
    rows = [[*row(file="a.mp4", sex="F"), "e.tsv"]]
    path = write(tmp_path, rows, (*REQUIRED_COLUMNS, "events"))
    with pytest.raises(ManifestError) as caught:
        read(path, require_files=True)
    table, notes = caught.value.faults
    assert (table.file, table.line, table.column) == ("", 2, "sex")
    assert (notes.file, notes.line, notes.column) == ("e.tsv", 2, "onset")
    assert "'r1'" in notes.fault
    assert "  e.tsv, line 2, onset: Expected" in str(caught.value)
    with pytest.raises(ManifestError) as caught:
        read(path)
    assert [fault.file for fault in caught.value.faults] == [""]


def test_a_table_larger_than_any_table_is_not_read(tmp_path):
    path = tmp_path / "recordings.csv"
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    assert "64 MiB" in faults(path)[0, ""]


def test_an_empty_score_means_unlabelled(tmp_path):
    assert read(write(tmp_path, [row(score="")])).recordings[0].score is None


@pytest.mark.parametrize("text", ["\ufeff{}", "{}\r\n\r\n", "{};"])
def test_tables_saved_by_spreadsheets_are_read(tmp_path, text):
    table = "\r\n".join([",".join(REQUIRED_COLUMNS), ",".join(row())])
    text = text.format(table)
    if text.endswith(";"):
        text = text.removesuffix(";").replace(",", ";")
    path = tmp_path / "recordings.csv"
    path.write_bytes(text.encode())
    assert read(path).recordings[0].recording_id == "r1"


def test_every_fault_is_reported_at_once_with_line_and_column(tmp_path):
    rows = [
        row(
            file="videos/none.mp4", recorded_at="yesterday", age_years="forty", sex="F", score="99"
        ),
        row(
            subject="s2",
            file="../../etc/passwd",
            recorded_at="2036-01-01T00:00:00+00:00",
            age_years="-1",
        ),
    ]
    found = faults(write(tmp_path, rows), require_files=True)
    assert set(found) == {
        (2, "file"),
        (2, "recorded_at"),
        (2, "age_years"),
        (2, "sex"),
        (2, "score"),
        (3, "recording_id"),
        (3, "file"),
        (3, "recorded_at"),
        (3, "age_years"),
    }
    assert "did you mean 'female'?" in found[2, "sex"]
    assert "outside" in found[3, "file"]


@pytest.mark.parametrize(
    ("column", "value", "part"),
    [
        ("recording_id", "", "empty"),
        ("subject_id", "a\x07b", "printable"),
        ("recorded_at", "2026-03-02T09:30:00", "offset"),
        ("recorded_at", "2026-06-02T00:00:00+00:00", "now"),
        ("recorded_at", "0026-03-02T09:30:00+01:00", "1950"),
        ("age_years", "17.9", "youngest"),
        ("age_years", "121", "120"),
        ("age_years", "nan", "nan"),
        ("sex", "FEMALE", "did you mean 'female'?"),
        ("score", "27.5", "phq9"),
        ("score", "-0.1", "phq9"),
        ("score", "1_0", "1_0"),
        ("score", "1e1", "1e1"),
        ("score", "٣", "phq9"),
    ],
)
def test_a_cell_outside_its_rule_is_a_fault(tmp_path, column, value, part):
    cells = dict(zip(REQUIRED_COLUMNS, row(), strict=True)) | {column: value}
    found = faults(write(tmp_path, [list(cells.values())]))
    assert list(found) == [(2, column)]
    assert part in found[2, column]


@pytest.mark.parametrize("value", ["0", "27", "12.5"])
def test_scores_at_the_ends_of_the_instrument_are_sound(tmp_path, value):
    assert read(write(tmp_path, [row(score=value)])).recordings[0].score == float(value)


def test_a_link_that_leaves_the_folder_is_a_fault(tmp_path):
    inside = tmp_path / "site"
    inside.mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (inside / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    found = faults(write(inside, [row(file="link.mp4")]), require_files=True)
    assert "outside" in found[2, "file"]


def test_a_folder_is_no_video(tmp_path):
    (tmp_path / "videos").mkdir()
    assert (2, "file") in faults(write(tmp_path, [row(file="videos")]), require_files=True)


def test_a_subject_keeps_its_sex_and_grows_older(tmp_path):
    rows = [
        row("r1", recorded_at="2026-03-02T09:30:00+01:00", age_years="41"),
        row("r2", recorded_at="2025-03-02T09:30:00+01:00", age_years="42"),
        row("r3", sex="male", age_years="42", recorded_at="2026-04-02T09:30:00+01:00"),
    ]
    found = faults(write(tmp_path, rows))
    assert set(found) == {(2, "age_years"), (4, "sex")}
    assert "(line 3" in found[2, "age_years"]


def test_ages_of_different_subjects_are_independent(tmp_path):
    rows = [row("r1", "s1", age_years="60"), row("r2", "s2", age_years="20", sex="male")]
    assert read(write(tmp_path, rows)).subjects == ("s1", "s2")


def test_missing_columns_are_named_with_the_likely_misspelling(tmp_path):
    header = ["recording_id", "subjct_id", "file", "recorded_at", "age_years", "sex", "score"]
    found = faults(write(tmp_path, [row()], header))
    assert "is it 'subjct_id'?" in found[1, "subject_id"]
    assert set(faults(write(tmp_path, [["r1"]], ["recording_id"]))) == {
        (1, name) for name in REQUIRED_COLUMNS[1:]
    }


def test_a_misspelt_consent_column_is_a_fault_because_it_would_be_ignored(tmp_path):
    found = faults(write(tmp_path, [[*row(), "withdrawn"]], (*REQUIRED_COLUMNS, "consnt")))
    assert "did you mean 'consent'?" in found[1, "consnt"]


def test_withdrawn_recordings_are_left_out_and_need_no_file(tmp_path):
    (tmp_path / "b.mp4").write_bytes(b"x")
    rows = [[*row("r1", file="gone.mp4"), "withdrawn"], [*row("r2", file="b.mp4"), ""]]
    path = write(tmp_path, rows, (*REQUIRED_COLUMNS, "consent"))
    manifest = read(path, require_files=True)
    assert [r.recording_id for r in manifest.recordings] == ["r2"]
    assert [r.recording_id for r in manifest.withdrawn] == ["r1"]


def test_recordings_of_other_tasks_are_left_out_and_counted(tmp_path):
    study = StudyConfig(name="study", instrument="phq9", tasks=("interview",))
    consortium = ConsortiumConfig(study=study)
    rows = [[*row("r1"), "interview"], [*row("r2"), "reading"]]
    manifest = read(write(tmp_path, rows, (*REQUIRED_COLUMNS, "task")), consortium=consortium)
    assert [r.recording_id for r in manifest.recordings] == ["r1"]
    assert manifest.other_tasks == 1
    assert (1, "task") in faults(write(tmp_path, [row()]), consortium=consortium)


def test_the_youngest_band_comes_from_the_study(tmp_path):
    fairness = FairnessConfig(age_bands=(12, 18))
    consortium = ConsortiumConfig(study=CONSORTIUM.study, fairness=fairness)
    assert read(write(tmp_path, [row(age_years="13")]), consortium=consortium).recordings
    assert (2, "age_years") in faults(write(tmp_path, [row(age_years="11")]), consortium=consortium)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", 1),
        (b"\xff\xfe", 1),
        (b"recording_id\n\xff", 2),
        (b"recording_id\nr\x001", 2),
        (",".join(REQUIRED_COLUMNS).encode(), 1),
        (b'recording_id,"', 1),
    ],
)
def test_files_that_are_no_table_are_refused_with_the_line(tmp_path, data, line):
    path = tmp_path / "recordings.csv"
    path.write_bytes(data)
    assert line in {number for number, _ in faults(path)}


def test_a_nul_byte_is_a_fault_even_where_nothing_is_checked(tmp_path):
    header = (*REQUIRED_COLUMNS, "note")
    found = faults(write(tmp_path, [[*row(), "a\0b"]], header))
    assert "NUL" in found[2, ""]


def test_ragged_rows_are_faults(tmp_path):
    path = tmp_path / "recordings.csv"
    path.write_text("\n".join([",".join(REQUIRED_COLUMNS), "r1,s1", ",".join([*row("r2"), "x"])]))
    assert set(faults(path)) == {(2, ""), (3, "")}


def test_a_quoted_line_break_does_not_shift_line_numbers(tmp_path):
    path = tmp_path / "recordings.csv"
    header = ",".join((*REQUIRED_COLUMNS, "note"))
    path.write_text(
        "\n".join([header, ",".join(row("r1")) + ',"a\nb"', ",".join(row("r2", sex="x")) + ",c"])
    )
    assert set(faults(path)) == {(4, "sex")}


def test_a_missing_table_is_a_fault(tmp_path):
    assert (0, "") in faults(tmp_path / "recordings.csv")


def test_warnings_name_what_would_surprise_later(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"same")
    (tmp_path / "c.mp4").write_bytes(b"else")
    rows = [row(f"r{i}", f"s{i}", file=f"{name}.mp4", score="3") for i, name in enumerate("abc")]
    manifest = read(write(tmp_path, rows), require_files=True)
    few, one_class, twins = find_warnings(manifest.recordings, CONSORTIUM, 10)
    assert "3 subjects" in few
    assert "one class" in one_class
    assert "r0, r1" in twins
    unlabelled = read(write(tmp_path, [row(score="")])).recordings
    assert ["No recording has a score" in w for w in find_warnings(unlabelled, CONSORTIUM, 1)] == [
        True
    ]


cells = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["r1", "", "1", "40", "female", WHEN, "../x", '"', "a\nb", "9999-12-31T23:59:59-14:00"]
    ),
)
tables = st.builds(
    lambda rows: "\n".join([",".join(REQUIRED_COLUMNS), *(",".join(r) for r in rows)]).encode(
        "utf-8", "surrogatepass"
    ),
    st.lists(st.lists(cells, min_size=6, max_size=8), max_size=4),
)


@settings(max_examples=300, deadline=None)
@given(data=st.one_of(st.binary(max_size=300), tables), require_files=st.booleans())
def test_no_table_whatever_its_bytes_raises_anything_else(tmp_path_factory, data, require_files):
    path = tmp_path_factory.getbasetemp() / "random.csv"
    path.write_bytes(data)
    with contextlib.suppress(ManifestError):
        assert isinstance(read(path, require_files=require_files), RecordingManifest)
