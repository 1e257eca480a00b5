"""Visits of a subject: order, change, how sure a change is, and what makes visits unlike."""

from __future__ import annotations

import csv
import json
import math
import stat
from dataclasses import replace
from datetime import date, datetime, timedelta

import numpy as np
import pyarrow.parquet
import pytest
from agreed_study import STUDY
from scipy import stats
from typer.testing import CliRunner

from client.cli import app
from client.recordings.recording import Recording
from client.recordings.treatments import Treatment
from client.site import Site, init_site
from client.site_template import REQUIRED_COLUMNS
from client.storage.store import open_store
from client.storage.stored_recording import StoredIndicator, StoredReason, StoredRecording
from client.visits.reliability import consistency_icc, measure_reliability, reliable_change
from client.visits.series import arrange_visits
from client.visits.table import VisitTable, build_table
from client.visits.warnings import hours_apart
from shared_models.toml import ConfigError

NAME = "smile_rate_per_min"
START = datetime.fromisoformat("2026-03-02T09:30:00+01:00")


def recording(subject="s1", days=0.0, **changes) -> Recording:
    name = changes.pop("recording_id", f"{subject}-{days:g}")
    when = START + timedelta(days=days)
    return Recording(
        name, subject, None, when, 40.0, "female", changes.pop("score", None), **changes
    )


def stored(one: Recording, value: float | None = 1.0, **changes) -> StoredRecording:
    indicators = {
        NAME: StoredIndicator(value, "1/min", reason=None if value is not None else "why")
    }
    changes.setdefault("quality", {"fps": 30.0})
    return StoredRecording(
        one.recording_id, one.subject_id, "accepted", indicators=indicators, **changes
    )


def rejected(one: Recording) -> StoredRecording:
    reasons = (StoredReason("too_dark", "The face is dark"),)
    return StoredRecording(one.recording_id, one.subject_id, "rejected", reasons=reasons)


def table(*pairs: tuple[Recording, StoredRecording | None], **options) -> VisitTable:
    known = {(r.subject_id, r.recording_id): s for r, s in pairs if s is not None}
    return build_table([r for r, _ in pairs], known, **options)


def pair(subject="s1", days=0.0, value: float | None = 1.0, **changes):
    one = recording(subject, days, **changes)
    return one, stored(one, value)


def retest_cohort(values, *, days=14.0, **changes) -> list:
    return [
        made
        for number, (first, second) in enumerate(values)
        for made in (
            pair(f"t{number:02}", 0, float(first)),
            pair(f"t{number:02}", days, float(second), **changes),
        )
    ]


def codes(found: VisitTable) -> list[str]:
    return [warning.code for warning in found.warnings]


def test_visits_come_in_order_with_days_and_change_from_the_first():
    found = table(pair(days=28, value=5.0), pair(days=0, value=2.0), pair(days=7.25, value=None))
    (series,) = found.series
    assert [visit.number for visit in series.visits] == [1, 2, 3]
    assert [visit.days_since_first for visit in series.visits] == [0, 7.25, 28]
    changes = [found.changes(series, visit)[NAME] for visit in series.visits]
    assert [one.value for one in changes] == [2.0, None, 5.0]
    assert [one.change for one in changes] == [None, None, 3.0]
    assert changes[1].reason == "why"
    assert "20 subjects" in changes[2].reason


def test_recordings_of_one_visit_are_averaged_and_tasks_kept_apart():
    found = table(
        pair(value=2.0, recording_id="a", visit="base", task="interview"),
        pair(days=0.05, value=4.0, recording_id="b", visit="base", task="interview"),
        pair(days=0.06, value=9.0, recording_id="c", visit="base", task="reading"),
        pair(days=7, value=1.0, recording_id="d", visit="base", task="interview"),
    )
    interview, reading = found.series
    assert (interview.task, reading.task) == ("interview", "reading")
    assert [visit.values[NAME] for visit in interview.visits] == [3.0, 1.0]
    assert reading.visits[0].values[NAME] == 9.0


def test_a_rejected_visit_is_left_out_of_change_and_named():
    dark = recording(days=0)
    found = table((dark, rejected(dark)), pair(days=7, value=2.0), pair(days=14, value=5.0))
    (series,) = found.series
    assert series.baseline is series.visits[1]
    assert [found.changes(series, v)[NAME].change for v in series.visits] == [None, None, 3.0]
    assert codes(found) == ["rejected"]
    assert "too_dark" in found.warnings[0].text


def test_a_recording_that_was_not_extracted_has_its_visit():
    found = table((recording(), None), pair(days=1))
    assert [visit.verdict for visit in found.series[0].visits] == ["not_extracted", "accepted"]


def test_the_example_of_the_source_comes_out():
    assert reliable_change(-15.0, sd=7.5, reliability=0.8) == pytest.approx(-3.162, abs=5e-4)


def test_the_index_follows_from_spread_and_reliability_by_hand():
    rng = np.random.default_rng(1)
    values = rng.normal(5, 2, (24, 2))
    found = table(*retest_cohort(values), reliability={NAME: 0.8})
    sd = math.sqrt(sum((v - values[:, 0].mean()) ** 2 for v in values[:, 0]) / 23)
    series = found.series[3]
    one = found.changes(series, series.visits[1])[NAME]
    expected = (values[3, 1] - values[3, 0]) / (sd * math.sqrt(2) * math.sqrt(0.2))
    assert one.index == pytest.approx(expected)
    assert one.beyond_error == (abs(expected) > 1.96)
    reliability = found.reliabilities["", NAME]
    assert (reliability.method, reliability.subjects) == ("site.toml", 0)
    assert reliability.low is None


def anova_icc(pairs) -> tuple[float, float, float]:
    """ICC(3,1) by the sums of squares of a two-way table, as pingouin computes it."""
    n, k = pairs.shape
    grand = pairs.mean()
    rows = k * ((pairs.mean(axis=1) - grand) ** 2).sum()
    columns = n * ((pairs.mean(axis=0) - grand) ** 2).sum()
    error = ((pairs - grand) ** 2).sum() - rows - columns
    msb, mse = rows / (n - 1), error / ((n - 1) * (k - 1))
    f = msb / mse
    low = f / stats.f.ppf(0.975, n - 1, (n - 1) * (k - 1))
    high = f * stats.f.ppf(0.975, (n - 1) * (k - 1), n - 1)
    icc = (msb - mse) / (msb + (k - 1) * mse)
    return icc, (low - 1) / (low + k - 1), (high - 1) / (high + k - 1)


def test_the_intraclass_correlation_equals_the_analysis_of_variance():
    rng = np.random.default_rng(2)
    trait = rng.normal(0, 1, (30, 1))
    pairs = trait + 0.5 * rng.normal(0, 1, (30, 2)) + np.array([0.0, 3.0])
    assert consistency_icc(pairs) == pytest.approx(anova_icc(pairs))


def test_the_intraclass_correlation_of_a_published_table():
    # Shrout and Fleiss 1979, table 2: six targets, four judges; ICC(3,1) = .71.
    ratings = np.array(
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
    )
    value, low, high = consistency_icc(ratings)
    assert value == pytest.approx(0.71, abs=0.005)
    assert (low, high) == pytest.approx((0.342, 0.946), abs=0.002)


def test_the_reliability_is_estimated_with_n_and_interval():
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1, (25, 1)) + 0.4 * rng.normal(0, 1, (25, 2))
    found = table(*retest_cohort(values)).reliabilities["", NAME]
    assert (found.value, found.low, found.high) == pytest.approx(anova_icc(values))
    assert (found.method, found.subjects, found.sd_subjects) == ("ICC(3,1)", 25, 25)
    assert found.reason is None


@pytest.mark.parametrize(
    ("changes", "treatments"),
    [
        ({"days": 30.0}, ()),
        ({"treatment": "sertraline"}, ()),
        ({}, ("start",)),
        ({}, ("end",)),
    ],
)
def test_pairs_that_are_not_stable_do_not_count(changes, treatments):
    values = np.random.default_rng(4).normal(0, 1, (20, 2))
    day = START.date() + timedelta(days=5)
    known = {
        "start": Treatment("t07", "drug", "x", day, None),
        "end": Treatment("t07", "ect", "y", date(2020, 1, 1), day),
    }
    cohort = retest_cohort(values)
    if changes:
        at = 2 * 7 + 1
        cohort[at] = pair("t07", **{"days": 14.0, "value": 0.3, **changes})
    found = table(*cohort, treatments=[known[one] for one in treatments])
    assert found.reliabilities["", NAME].subjects == 19
    assert "has 19" in found.reliabilities["", NAME].reason
    assert table(*retest_cohort(values)).reliabilities["", NAME].subjects == 20


def test_a_subject_counts_once_however_many_visits_there_are():
    series = arrange_visits(*_arranged([pair("a", days, float(days)) for days in (0, 5, 10, 15)]))
    assert measure_reliability(NAME, "", series, {}).subjects == 1


def _arranged(pairs):
    return [r for r, _ in pairs], {(r.subject_id, r.recording_id): s for r, s in pairs}


def test_no_index_without_enough_first_visits_whatever_is_given():
    found = table(*retest_cohort(np.ones((19, 2))), reliability={NAME: 0.9})
    assert "has 19" in found.reliabilities["", NAME].reason


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (np.ones((20, 2)), "same value"),
        (np.column_stack([np.arange(20.0), -np.arange(20.0)]), "no error of measurement"),
        (np.column_stack([np.arange(20.0), np.arange(20.0)]), "no error of measurement"),
    ],
)
def test_a_reliability_outside_its_range_gives_no_index(values, part):
    found = table(*retest_cohort(values))
    assert part in found.reliabilities["", NAME].reason
    series = found.series[1]
    assert found.changes(series, series.visits[1])[NAME].index is None


def test_a_reliability_of_no_indicator_is_refused():
    with pytest.raises(ConfigError, match="did you mean smile_rate_per_min"):
        table(pair(), reliability={"smile_rate_per_mn": 0.5})


@pytest.mark.parametrize(
    ("clock", "hours"), [("23:00", 2.0), ("04:00", 3.0), ("13:00", 12.0), ("20:59", 4 + 1 / 60)]
)
def test_time_of_day_is_compared_around_midnight(clock, hours):
    other = recording(days=7)
    hour, minute = map(int, clock.split(":"))
    moved = replace(other, recorded_at=other.recorded_at.replace(hour=hour, minute=minute))
    first = recording()
    first = replace(first, recorded_at=first.recorded_at.replace(hour=1, minute=0))
    found = table((first, stored(first)), (moved, stored(moved)))
    one, two = found.series[0].visits
    assert hours_apart(one, two)[0] == pytest.approx(hours)
    assert ("time_of_day" in codes(found)) == (hours > 3)


def test_hours_since_waking_replace_the_clock_where_both_have_them():
    woke = START - timedelta(hours=2)
    first = recording(woke_at=woke)
    late = recording(days=7 + 5 / 24, woke_at=woke + timedelta(days=7, hours=5))
    assert codes(table((first, stored(first)), (late, stored(late)))) == []
    early = replace(late, woke_at=woke + timedelta(days=7))
    found = table((first, stored(first)), (early, stored(early)))
    assert "5.0 hours since waking" in found.warnings[0].text
    unknown = replace(late, woke_at=None)
    found = table((first, stored(first)), (unknown, stored(unknown)))
    assert "5.0 hours of the day" in found.warnings[0].text


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"quality": {"fps": 25.0}}, "frame rate 30, then 25"),
        ({"provenance": {"analysis_hz": 12.0}}, "analysis rate full, then 12"),
        ({"provenance": {"width_px": 640}}, "picture width None, then 640"),
        ({"provenance": {"packages": {"mediapipe": "2"}}}, "another software"),
        ({"provenance": {"face_model_sha256": "b"}}, "another face model"),
    ],
)
def test_a_changed_setup_is_named(change, part):
    first, second = recording(), recording(days=7)
    found = table((first, stored(first)), (second, stored(second, **change)))
    assert codes(found) == ["setup"]
    assert part in found.warnings[0].text


def test_rates_that_only_tremble_are_no_change():
    first, second = recording(), recording(days=7)
    found = table((first, stored(first)), (second, stored(second, quality={"fps": 29.97})))
    assert codes(found) == []


def test_another_camera_in_the_table_is_named():
    first, second = recording(extra=(("camera", "A"),)), recording(days=7, extra=(("camera", "B"),))
    found = table((first, stored(first)), (second, stored(second)))
    assert "camera A, then B" in found.warnings[0].text


def test_treatment_events_stand_beside_the_visits():
    day = START.date()
    known = [
        Treatment("s1", "drug", "sertraline", day + timedelta(days=3), None),
        Treatment("s1", "rtms", "left", day - timedelta(days=9), day + timedelta(days=2)),
        Treatment("s2", "ect", "other", day, None),
    ]
    found = table(pair(), pair(days=7), pair(days=9), treatments=known)
    (series,) = found.series
    assert [list(series.events(visit)) for visit in series.visits] == [
        ["rtms left since 2026-02-21"],
        ["drug sertraline since 2026-03-05", "rtms left ended 2026-03-04"],
        ["drug sertraline since 2026-03-05"],
    ]
    assert "'s2'" in found.notes[0]


@pytest.fixture
def site(tmp_path) -> Site:
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    site = init_site(tmp_path / "site", site_id="north", consortium_file=study)
    store = open_store(site)
    rows = []
    for number, moment in enumerate([START, START + timedelta(days=7, hours=6)]):
        one = replace(recording(days=number), recorded_at=moment)
        video = site.folder / "videos" / f"{number}.mp4"
        video.write_bytes(b"x")
        rows.append([one.recording_id, "s1", f"videos/{number}.mp4", moment.isoformat(), 40])
        rows[-1] += ["female", 10 + number]
        if number:
            store.put(rejected(one), features=None)
    with site.paths.recordings.open("w", newline="") as file:
        csv.writer(file).writerows([REQUIRED_COLUMNS, *rows])
    return site


def run(site: Site, *words: object):
    return CliRunner().invoke(app, ["visits", str(site.folder), *map(str, words)])


def test_the_command_answers_as_table_file_and_page(site, tmp_path):
    target, page = tmp_path / "visits.parquet", tmp_path / "page.html"
    words = ("--json", "--export", "parquet", "--out", target, "--page", page)
    result = run(site, *words)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout.strip().splitlines()[-1])
    first, second = answer["subjects"][0]["visits"]
    assert (first["verdict"], second["verdict"]) == ("not_extracted", "rejected")
    assert (second["local_time"], second["days_since_first"], second["score"]) == (
        "15:30",
        7.25,
        11,
    )
    assert [one["code"] for one in answer["warnings"]] == ["rejected"]
    assert "no diagnosis" in answer["caveat"]
    columns = pyarrow.parquet.read_table(target)
    assert columns.num_rows == 2
    assert columns["days_since_first"].to_pylist() == [0.0, 7.25]
    html = page.read_text()
    assert "diagnosis" in html
    assert "s1" in html
    assert 'href="http' not in html
    assert stat.S_IMODE(page.stat().st_mode) == stat.S_IMODE(target.stat().st_mode) == 0o600


def test_faulty_treatments_are_wrong_input_with_their_lines(site):
    (site.folder / "treatments.csv").write_text(
        "subject_id,kind,name,started_at,ended_at\ns1,Drug,x,yesterday,\n"
    )
    result = run(site)
    assert result.exit_code == 2
    assert "treatments.csv, line 2, kind" in result.stderr
    assert "treatments.csv, line 2, started_at" in result.stderr
    checked = CliRunner().invoke(app, ["check", str(site.folder), "--json"])
    assert checked.exit_code == 2
    told = json.loads(checked.stdout.strip().splitlines()[-1])["faults"]
    assert [(one["file"], one["line"], one["column"]) for one in told] == [
        ("treatments.csv", 2, "kind"),
        ("treatments.csv", 2, "started_at"),
    ]


@pytest.mark.parametrize("words", [["--export", "xlsx"], ["--out", "x.csv"]])
def test_wrong_options_answer_2(site, words):
    assert run(site, *words).exit_code == 2


def test_an_export_holds_change_and_index_beside_each_value(tmp_path):
    from client.visits.output import write_visits, write_visits_page

    values = np.random.default_rng(5).normal(5, 2, (20, 2))
    found = table(*retest_cohort(values), reliability={NAME: 0.8})
    path = tmp_path / "visits.csv"
    write_visits(found, path, file_format="csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert float(rows[1][f"{NAME}_change"]) == pytest.approx(values[0, 1] - values[0, 0])
    series = found.series[0]
    index = found.changes(series, series.visits[1])[NAME].index
    assert float(rows[1][f"{NAME}_reliable_change"]) == pytest.approx(index)
    assert rows[0][f"{NAME}_change"] == ""
    write_visits_page(found, tmp_path / "page.html", study="a<b")
    html = (tmp_path / "page.html").read_text()
    assert f"index {index:+.2f}" in html
    assert "a&lt;b" in html
    assert "Girard" in html


def test_a_day_of_treatment_is_covered_to_its_end():
    one = Treatment("s", "ect", "", date(2026, 1, 1), date(2026, 1, 3))
    assert [one.covers(date(2026, 1, day)) for day in (1, 3, 4)] == [True, True, False]
