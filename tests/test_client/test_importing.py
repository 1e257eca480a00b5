"""REDCap exports become the table of recordings, whole or not at all."""

from __future__ import annotations

import csv
import stat
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from importing_site import make_site, places, run, table

from client.importing.imported import Imported, age_text, moment_text
from client.importing.recordings_file import take_over
from client.importing.redcap import import_redcap
from client.importing.redcap_export import suggest_section
from client.preparation.steps import load_manifest
from client.site import Site, open_site
from client.site_config import RedcapSection
from shared_models.toml import parse_toml

MAPPING = """
[redcap]
subject_id = "record_id"
file = "videos/{record_id}_{event}{instance}.mp4"
recorded_at = "interview_time"
timezone = "Europe/Berlin"
birth_date = "dob"
sex = "sex"
score = "phq_total"
consent = "consent_video"
consent_values = { "1" = "granted", "0" = "withdrawn" }
"""
EXPORT = """record_id,redcap_event_name,redcap_repeat_instance,dob,sex,\
interview_time,phq_total,consent_video
1,base_arm_1,,1980-03-03,1,2026-03-02 09:30,12,1
1,week4_arm_1,,,,2026-03-30 09:30,,
1,week4_arm_1,1,,,,7,
2,base_arm_1,,1990-01-01,2,2026-03-03 10:00:00,20,0
2,week4_arm_1,,,,,,
"""
DICTIONARY = """Variable / Field Name,Form Name,"Choices, Calculations, OR Slider Labels"
sex,demo,"1, Female | 2, Male"
"""
VIDEOS = ("1_base_arm_1.mp4", "1_week4_arm_1.mp4", "2_base_arm_1.mp4")


@pytest.fixture
def site(tmp_path) -> Site:
    return make_site(tmp_path, settings=MAPPING, videos=VIDEOS)


@pytest.fixture
def export(tmp_path) -> Path:
    path = tmp_path / "export.csv"
    path.write_text(EXPORT)
    (tmp_path / "dictionary.csv").write_text(DICTIONARY)
    return path


def redcap(site: Site, export: Path, *words: object) -> tuple[Result, dict]:
    return run(site, "--redcap", export, "--dictionary", export.parent / "dictionary.csv", *words)


def test_a_redcap_export_becomes_a_table_that_is_read(site, export):
    result, answer = redcap(site, export)
    assert result.exit_code == 0, result.output
    assert answer["added"] == ["1_base_arm_1", "1_week4_arm_1", "2_base_arm_1"]
    first, second, third = table(site).values()
    assert first["recorded_at"] == "2026-03-02T09:30:00+01:00"
    assert second["recorded_at"] == "2026-03-30T09:30:00+02:00"
    # A birthday lies between the two; the score of week 4 stands on the row of a repeated form.
    assert (first["age_years"], second["age_years"]) == ("45", "46")
    assert (first["score"], second["score"]) == ("12", "7")
    assert (first["sex"], second["sex"], third["sex"]) == ("female", "female", "male")
    assert (first["visit"], third["consent"]) == ("base_arm_1", "withdrawn")
    assert "1980" not in site.paths.recordings.read_text()
    manifest = load_manifest(site)
    assert [r.recording_id for r in manifest.recordings] == ["1_base_arm_1", "1_week4_arm_1"]
    assert len(manifest.withdrawn) == 1
    assert "2 rows" in answer["left_out"][0]
    assert stat.S_IMODE(site.paths.recordings.stat().st_mode) == 0o600


def test_importing_again_changes_nothing(site, export):
    redcap(site, export)
    before = site.paths.recordings.read_bytes()
    result, answer = redcap(site, export)
    assert (result.exit_code, answer["added"], len(answer["unchanged"])) == (0, [], 3)
    assert site.paths.recordings.read_bytes() == before
    assert answer["backup"] is None


def test_a_table_with_rows_is_merged_and_kept_as_it_was(site, export):
    old = (
        "recording_id;subject_id;file;recorded_at;age_years;sex;score;ward\n"
        "own;9;videos/1_base_arm_1.mp4;2026-01-01T10:00:00+01:00;50;male;3;7b\n"
        "1_base_arm_1;1;videos/1_base_arm_1.mp4;2026-03-02 09:30+01:00;45.0;female;12;7c\n"
    )
    site.paths.recordings.write_text(old)
    result, answer = redcap(site, export)
    assert result.exit_code == 0, result.output
    assert (answer["kept"], len(answer["added"]), answer["updated"]) == (1, 2, ["1_base_arm_1"])
    assert Path(answer["backup"]).read_text() == old
    assert stat.S_IMODE(Path(answer["backup"]).stat().st_mode) == 0o600
    rows = load_manifest(site).recordings
    assert [r.recording_id for r in rows] == ["own", "1_base_arm_1", "1_week4_arm_1"]
    assert rows[1].extra == (("ward", "7c"),)


def test_a_differing_row_is_refused_until_update_is_given(site, export):
    redcap(site, export)
    before = site.paths.recordings.read_bytes()
    export.write_text(EXPORT.replace("09:30,12,1", "09:30,13,1"))
    result, answer = redcap(site, export)
    assert result.exit_code == 2
    assert places(answer) == {("export.csv", 2, "phq_total")}
    assert "line 2" in answer["faults"][0]["fault"]
    assert site.paths.recordings.read_bytes() == before
    result, answer = redcap(site, export, "--update")
    assert (result.exit_code, answer["updated"]) == (0, ["1_base_arm_1"])
    assert table(site)["1_base_arm_1"]["score"] == "13"


def test_an_empty_import_erases_no_score(site, export):
    redcap(site, export)
    export.write_text(EXPORT.replace("09:30,12,1", "09:30,,1"))
    assert redcap(site, export, "--update")[0].exit_code == 0
    assert table(site)["1_base_arm_1"]["score"] == "12"


def test_no_import_takes_a_withdrawal_back(site, export):
    redcap(site, export)
    export.write_text(EXPORT.replace("20,0", "20,1"))
    result, answer = redcap(site, export, "--update")
    assert result.exit_code == 2
    assert "withdrawn" in answer["faults"][0]["fault"]
    assert table(site)["2_base_arm_1"]["consent"] == "withdrawn"


def test_every_fault_of_an_export_is_told_at_once_and_nothing_is_written(site, export):
    text = EXPORT.replace("1980-03-03,1,2026-03-02 09:30,12,1", "3.3.80,9,2026-03-29 02:30,99,")
    export.write_text(text)
    before = site.paths.recordings.read_bytes()
    result, answer = redcap(site, export)
    assert result.exit_code == 2
    assert places(answer) >= {
        ("export.csv", 2, "dob"),
        ("export.csv", 2, "sex"),
        ("export.csv", 2, "interview_time"),
        ("export.csv", 2, "phq_total (score)"),
        ("export.csv", 2, "consent_video"),
    }
    faults = {one["column"]: one["fault"] for one in answer["faults"] if one["line"] == 2}
    assert "clocks were changed" in faults["interview_time"]
    assert "redcap.sex_values" in faults["sex"]
    assert "80" not in faults["dob"].replace("1980-03-02", "")
    assert site.paths.recordings.read_bytes() == before
    assert not list(site.folder.glob("*.bak-*"))


def test_a_missing_video_is_a_fault_unless_it_may_be_skipped(site, export):
    (site.folder / "videos" / VIDEOS[1]).unlink()
    result, answer = redcap(site, export)
    assert places(answer) == {
        ("export.csv", 3, "record_id, redcap_event_name, redcap_repeat_instance (file)")
    }
    result, answer = redcap(site, export, "--skip-missing")
    assert (result.exit_code, len(answer["added"])) == (0, 2)
    assert "1 recordings" in answer["left_out"][1]


def test_faults_across_both_tables_name_the_other_file(site, export):
    site.paths.recordings.write_text(
        "recording_id,subject_id,file,recorded_at,age_years,sex,score\n"
        "own,1,videos/1_base_arm_1.mp4,2026-01-01T10:00:00+01:00,44,male,3\n"
    )
    _, answer = redcap(site, export)
    faults = [one["fault"] for one in answer["faults"]]
    assert places(answer) == {("export.csv", 2, "sex")}
    assert "(line 2 of recordings.csv)" in faults[0]


def test_two_rows_of_one_name_are_a_fault(site, export):
    export.write_text(EXPORT + EXPORT.splitlines()[1] + "\n")
    _, answer = redcap(site, export)
    assert ("export.csv", 7, "record_id, redcap_event_name, redcap_repeat_instance") in places(
        answer
    )


def test_a_value_that_differs_between_rows_of_a_record_is_a_fault(site, export):
    export.write_text(EXPORT.replace("2,week4_arm_1,,,,,,", "1,other,,,2,,,"))
    _, answer = redcap(site, export)
    assert ("export.csv", 3, "sex") in places(answer)
    assert "lines 2 and 6" in " ".join(one["fault"] for one in answer["faults"])


def test_a_mapping_that_names_no_column_is_told_with_a_near_one(site, export):
    text = site.config_file.read_text().replace('"phq_total"', '"phq_totl"')
    site.config_file.write_text(text.replace("Europe/Berlin", "Europe/Berln"))
    result, answer = redcap(open_site(site.folder), export)
    assert result.exit_code == 2
    assert places(answer) == {
        ("site.toml", 0, "redcap.score"),
        ("site.toml", 0, "redcap.timezone"),
    }
    assert "did you mean 'phq_total'" in answer["faults"][0]["fault"]


def test_without_a_mapping_a_section_to_paste_is_shown(site, export):
    site.config_file.write_text(site.config_file.read_text().split("[redcap]")[0])
    result, _ = redcap(open_site(site.folder), export)
    assert result.exit_code == 2
    assert "interview_time" in result.stderr
    section = result.stderr[result.stderr.index("[redcap]\n") :]
    site.config_file.write_text(site.config_file.read_text() + section)
    mapping = open_site(site.folder).config.redcap
    assert mapping.subject_id == "record_id"
    assert (mapping.score, mapping.recorded_at) == ("phq_total", "interview_time")
    assert (mapping.sex, mapping.birth_date) == ("sex", "dob")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=6))
@settings(max_examples=100, deadline=None)
def test_a_suggested_section_is_sound_whatever_the_columns_are_called(header):
    section = suggest_section(header).removeprefix("[redcap]\n")
    parse_toml(section, RedcapSection, name="site.toml")


def test_moments_get_the_offset_of_the_zone():
    berlin = ZoneInfo("Europe/Berlin")
    assert moment_text("2026-07-01 10:00", berlin, "z") == "2026-07-01T10:00:00+02:00"
    assert moment_text("2026-07-01T10:00:00Z", berlin, "z") == "2026-07-01T10:00:00+00:00"
    for text in ("2026-10-25 02:30", "2026-07-01", "noon", "20260701"):
        with pytest.raises(ValueError, match="Expected"):
            moment_text(text, berlin, "z")
    with pytest.raises(ValueError, match=r"redcap\.timezone"):
        moment_text("2026-07-01 10:00", None, "redcap.timezone")


@pytest.mark.parametrize(
    ("day", "years"), [("2026-03-01", "45"), ("2026-03-02", "46"), ("2026-03-03", "46")]
)
def test_age_turns_on_the_birthday(day, years):
    assert age_text("1980-03-02", f"{day}T00:10:00+01:00") == years


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
cells = st.one_of(
    texts, st.sampled_from(["1", "2026-03-02 09:30", "1980-01-01", '"', "a\nb", "0001-01-01 00:00"])
)
mapping = RedcapSection(
    subject_id="record_id",
    file="{record_id}.mp4",
    recorded_at="t",
    sex="s",
    score="p",
    birth_date="b",
    timezone="America/New_York",
    consent="c",
)


@settings(max_examples=200, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.lists(st.lists(cells, min_size=6, max_size=6), max_size=4).map(
            lambda rows: "\n".join(
                ["record_id,t,s,p,b,c", *(",".join(row) for row in rows)]
            ).encode()
        ),
    )
)
def test_no_export_whatever_its_bytes_raises(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "random-export.csv"
    path.write_bytes(data)
    for section in (mapping, replace(mapping, birth_date=None, age_years="b", timezone=None)):
        assert isinstance(import_redcap(path, section, dictionary=path), Imported)


named = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=9)


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory) -> Site:
    return make_site(tmp_path_factory.mktemp("round"), videos=("v.mp4",))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(named, st.sampled_from(["F", "M", "O"]), st.integers(0, 27), named),
        min_size=1,
        max_size=5,
        unique_by=lambda row: row[0],
    ),
    st.sampled_from(",;\t"),
)
def test_what_an_export_says_is_what_the_table_says(shared_site, rows, separator):
    site, export = shared_site, shared_site.folder / "export.csv"
    site.paths.recordings.unlink(missing_ok=True)
    with export.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(["record_id", "at", "age", "sex", "phq", "drug", "video"])
        for name, sex, score, drug in rows:
            moment = "2026-03-02 09:30+01:00"
            writer.writerow([name, moment, 40, sex, score, drug, "videos/v.mp4"])
    section = RedcapSection(
        subject_id="record_id",
        file="video",
        recorded_at="at",
        age_years="age",
        sex="sex",
        score="phq",
        treatment="drug",
    )
    outcome = take_over(site, import_redcap(export, section))
    assert outcome.faults == ()
    found = load_manifest(site).recordings
    words = {"F": "female", "M": "male", "O": "other"}
    assert [(r.subject_id, r.sex, r.score, r.treatment) for r in found] == [
        (name, words[sex], score, drug) for name, sex, score, drug in rows
    ]
