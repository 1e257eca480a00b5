"""What is shown of a site: rejections, quality, traces, the page, the terminal, the Python API."""

from __future__ import annotations

import doctest
import json
import re
import stat
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from extraction_tracks import frame_times, make_track
from inspected_site import Sample, extract, faceless_track, make_site, smiling_track
from scipy.stats import binomtest
from typer.testing import CliRunner

from client.cli import app
from client.extraction.behaviour.catalogue import CATALOGUE
from client.extraction.behaviour.frames import frame_log
from client.extraction.quality import QualityThresholds
from client.inspection import drawing, files, inspect_site, openface, page, rejection, traces
from client.inspection.coverage import frame_fates, pose_density
from client.inspection.drawing import HEIGHT, WIDTH, TimeAxis, line_path, stack_paths
from client.inspection.page import PageSource, show_number, write_page
from client.inspection.quality_figures import judged_by_other_limits, quality_lines
from client.inspection.rejection import tell_unlike, unlike_groups, wilson_interval
from client.inspection.traces import MOST_POINTS, thin, traces_of_features, traces_of_frames
from client.preparation.batch import read_thresholds, to_stored
from client.site import Site, open_site
from client.storage.store import open_store
from shared_models.console import InputError
from shared_models.features import BEHAVIOUR

API = Path(__file__).parents[2] / "docs" / "python_api.md"


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "80"})


def told(result) -> dict:
    return json.loads(result.stdout.strip().splitlines()[-1])


@pytest.fixture
def site(tmp_path) -> Site:
    events, turns = (
        "onset_s,duration_s,label\n10,2,positive\n",
        "start_s,end_s,speaker\n0,9,subject\n",
    )
    samples = [
        Sample("r1", smiling_track(), events="videos/ev.csv", turns="videos/tt.csv"),
        Sample("r2", faceless_track(), subject_id="s2", age_years=70, sex="male"),
        Sample("r<3>&", smiling_track(fps=12.0), subject_id="s3"),
        Sample("later", subject_id="s4"),
    ]
    made = make_site(tmp_path / "site", samples)
    (made.folder / "videos" / "ev.csv").write_text(events)
    (made.folder / "videos" / "tt.csv").write_text(turns)
    return made


def page_source(site: Site) -> PageSource:
    now = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
    return PageSource(inspect_site(site), open_store(site), read_thresholds(site), now)


@pytest.mark.parametrize("module", [drawing, files, openface, page, rejection, traces])
def test_the_examples_in_the_code_hold(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


# Rejections


def test_wilson_intervals_are_those_of_scipy():
    for count, total in ((0, 10), (8, 10), (10, 10), (3, 40), (1, 1)):
        expected = binomtest(count, total).proportion_ci(method="wilson")
        assert wilson_interval(count, total) == pytest.approx(expected, abs=1e-12)


def test_rejections_are_counted_by_age_sex_and_site_with_their_reasons(site):
    found = {(one.attribute, one.group): one for one in inspect_site(site).rejections}
    assert list(found) == [
        ("age_band", "40-59"),
        ("age_band", "60+"),
        ("sex", "female"),
        ("sex", "male"),
        ("site", "all"),
    ]
    everyone = found["site", "all"]
    assert (everyone.rejected, everyone.recordings, everyone.subjects) == (1, 3, 3)
    assert everyone.reasons == (("no_face", 1),)
    assert found["sex", "female"].rejected == 0
    assert (everyone.low, everyone.high) == wilson_interval(1, 3)


def test_only_groups_whose_intervals_lie_apart_are_named(tmp_path):
    bad, good = faceless_track(2.5), smiling_track(seconds=2.5, smiles=())
    samples = [
        Sample(
            f"r{n}", bad if n % 2 else good, f"s{n}", 30 + n % 2 * 20, "male" if n < 6 else "female"
        )
        for n in range(12)
    ]
    rates = inspect_site(make_site(tmp_path / "site", samples)).rejections
    pairs = list(unlike_groups(rates))
    assert [(upper.group, lower.group) for upper, lower in pairs] == [("40-59", "18-39")]
    sentence = tell_unlike(*pairs[0])
    assert "age band 40-59" in sentence
    assert "100 %, 61 to 100 %" in sentence
    assert "0 %, 0 to 39 %" in sentence


def test_groups_whose_intervals_overlap_are_not_named(tmp_path):
    bad, good = faceless_track(2.5), smiling_track(seconds=2.5, smiles=())
    rejected = {0, 6, 7, 8, 9}
    samples = [
        Sample(f"r{n}", bad if n in rejected else good, f"s{n}", sex="male" if n < 6 else "female")
        for n in range(12)
    ]
    rates = inspect_site(make_site(tmp_path / "site", samples)).rejections
    female, male = (one for one in rates if one.attribute == "sex")
    assert (male.rate, female.rate) == (1 / 6, 4 / 6)
    assert male.rate < female.low < male.high
    assert not list(unlike_groups(rates))


# Quality


def stored_of(track, name="r1"):
    return to_stored(name, extract(track), subject_id="s1")


def test_each_figure_stands_beside_its_limit_and_says_whether_it_passed():
    lines = {
        one.name: one for one in quality_lines(stored_of(faceless_track()), QualityThresholds())
    }
    assert (lines["detection_rate"].limit, lines["detection_rate"].passed) == ("at least 0.8", "no")
    assert lines["duration_s"].passed == "yes"
    assert lines["face_size_px"].passed == "unknown"
    assert lines["yaw_range_deg"].limit == ""
    assert lines["brightness"].limit == "at least 30, at most 235"


def test_limits_that_changed_after_the_verdict_are_noticed():
    stored, limits = stored_of(smiling_track()), QualityThresholds()
    assert not judged_by_other_limits(stored, limits)
    assert judged_by_other_limits(stored, replace(limits, min_duration_s=3600.0))
    rejected = stored_of(faceless_track())
    assert not judged_by_other_limits(rejected, limits)
    assert judged_by_other_limits(rejected, replace(limits, min_detection_rate=0.0))


# What became of the frames


def test_the_fates_of_frames_are_shares_of_all_decoded_frames():
    times = frame_times(10.0, 10.0)
    seen = np.arange(100) >= 20
    pose = np.zeros((100, 3))
    pose[70:, 1] = 40.0
    fates = frame_fates(frame_log(make_track(times, detected=seen, pose_deg=pose)))
    assert fates.shares == {"used": 0.5, "two": 0.0, "away": 0.3, "none": 0.2, "idle": 0.0}
    assert fates.tell() == "50 % used, 30 % turned away, 20 % no face"
    assert fates.longest_gap_s == pytest.approx(3.0)
    total = sum(fates.over_time.values())
    np.testing.assert_allclose(total, 1.0)
    assert fates.over_time["none"][:10].min() == 1.0
    assert fates.over_time["away"][-15:].min() == 1.0


def test_a_second_face_and_frames_left_out_on_purpose_are_told_apart():
    times = frame_times(10.0, 10.0)
    log = frame_log(make_track(times[::2], faces=2), times)
    fates = frame_fates(log)
    assert fates.tell() == "50 % used, a second face in view, 50 % not analysed"
    assert fates.over_time["two"].min() == 1.0


def test_poses_are_counted_in_cells_with_the_extremes_at_the_edges():
    pose = np.zeros((100, 3))
    pose[:10, 1] = 80.0
    density = pose_density(frame_log(make_track(frame_times(10.0, 10.0), pose_deg=pose)))
    assert density is not None
    assert density.share.sum() == pytest.approx(1.0)
    assert density.share[:, -1].sum() == pytest.approx(0.1)
    assert density.yaw_deg[1] == 0.0
    assert pose_density(frame_log(faceless_track())) is None


# Traces


def test_marked_smiles_are_those_that_the_indicator_counts():
    track = smiling_track(seconds=60.0, smiles=((5, 7), (20, 21), (40, 40.1)))
    marks = traces_of_frames(frame_log(track))[0].marks
    rate = extract(track).indicators["smile_rate_per_min"].value
    assert marks is not None
    assert len(marks.stretches) == rate == 2
    np.testing.assert_allclose(np.array(marks.stretches), [(5, 7), (20, 21)], atol=0.15)


def blinking_log(fps: float):
    from extraction_tracks import move, resting_landmarks

    times = frame_times(30.0, fps)
    points = resting_landmarks(len(times))
    shut = np.isin(np.arange(len(times)), [int(s * fps) + k for s in (5, 12, 20) for k in range(5)])
    for upper in (160, 158, 387, 385):
        move(points, upper, y=7.0 * shut)
    for lower in (153, 144, 380, 373):
        move(points, lower, y=-6.0 * shut)
    return frame_log(make_track(times, landmarks=points))


def test_blinks_are_marked_only_where_there_are_frames_enough_to_count_them():
    eyes = next(one for one in traces_of_frames(blinking_log(30.0)) if one.title == "Eye opening")
    assert eyes.marks is not None
    assert [round(start) for start, _ in eyes.marks.stretches] == [5, 12, 20]
    eyes = next(one for one in traces_of_frames(blinking_log(20.0)) if one.title == "Eye opening")
    assert eyes.marks is None


def test_frames_that_were_not_analysed_do_not_break_the_lines():
    times = frame_times(10.0, 30.0)
    traces = traces_of_frames(frame_log(make_track(times[::3]), times))
    assert all(np.isfinite(one.values).all() for one in traces)
    assert len(traces[0].values) == 100


def test_without_frames_the_features_are_drawn():
    features = extract(smiling_track()).features
    traces = traces_of_features(features, BEHAVIOUR)
    assert traces[0].title == "Smile"
    assert np.nanmax(traces[0].values) == pytest.approx(0.9, abs=1e-3)


def test_thinning_keeps_peaks_gaps_and_order():
    values = np.zeros(100_000)
    values[54_321] = 1.0
    values[70_000:75_000] = np.nan
    seconds, kept = thin(np.arange(100_000.0), values)
    assert len(kept) <= MOST_POINTS
    assert np.nanmax(kept) == 1.0
    assert seconds[np.nanargmax(kept)] == 54_321
    assert np.isnan(kept).any()
    assert (np.diff(seconds) > 0).all()


def test_a_line_breaks_where_nothing_was_measured():
    axis = TimeAxis(0.0, 4.0)
    path = line_path(axis, np.arange(5.0), np.array([0.0, 1.0, np.nan, 1.0, 0.5]), 0.0, 1.0)
    x = [WIDTH * n // 4 for n in range(5)]
    half = HEIGHT // 2
    step = x[1]
    assert path == f"M0 {HEIGHT}h0l{step} -{HEIGHT}M{x[3]} 0h0l{step} {half}"


def test_stacked_bars_fill_the_height_once():
    paths = stack_paths({"a": np.array([1.0, 0.5]), "b": np.array([0.0, 0.5])})
    half = WIDTH // 2
    assert paths["a"] == f"M0 {HEIGHT}V0H{half}V{HEIGHT}zM{half} {HEIGHT}V300H{WIDTH}V{HEIGHT}z"
    assert paths["b"] == f"M{half} 300V0H{WIDTH}V300z"


# The page


class Outline(HTMLParser):
    """Tags that were opened, those left open, and images without words."""

    VOID = ("meta", "col", "path", "rect")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def outline(text: str) -> Outline:
    parser = Outline()
    parser.feed(text)
    assert parser.open == []
    return parser


@pytest.fixture(name="page")
def written_page(site) -> str:
    path = site.folder / "page.html"
    assert write_page(page_source(site), path) is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path.read_text()


def test_the_page_needs_nothing_from_outside_and_holds_no_picture(page):
    tags = outline(page).seen
    assert not {tag for tag, _ in tags} & {"script", "img", "image", "link", "iframe", "object"}
    assert not [at for _, at in tags if "src" in at or at.get("href", "#")[0] != "#"]
    assert "url(" not in page
    assert "@import" not in page


def test_the_page_can_be_heard(page):
    tags = outline(page).seen
    drawings = [at for tag, at in tags if tag == "svg"]
    assert drawings
    assert all(at.get("aria-label") or at.get("aria-hidden") for at in drawings)
    assert [tag for tag, _ in tags if re.fullmatch("h[1-6]", tag)][:2] == ["h1", "h2"]
    assert page.count("<table") == page.count("<caption")
    ids = [at["id"] for _, at in tags if "id" in at]
    assert len(ids) == len(set(ids))
    links = {at["href"][1:] for tag, at in tags if tag == "a"}
    assert links <= set(ids)


def test_the_page_says_what_it_is_and_what_is_missing(page):
    assert "no output is a diagnosis" in page
    assert "this page stays at the site" in page
    assert "Not extracted yet: later" in page
    assert "No face in any frame" in page
    assert "2026-03-02 09:30 UTC" in page
    assert "100 % used" in page
    assert "Stimuli: positive at 0:10." in page
    assert "Subject talks for 9 s." in page


def test_what_people_typed_cannot_become_markup(page):
    assert "r&lt;3&gt;&amp;" in page
    assert "r<3>" not in page


def test_every_indicator_on_the_page_has_its_definition_and_evidence_at_hand(page):
    for known in CATALOGUE.values():
        assert f'id="def-{known.name}"' in page
    first = CATALOGUE["smile_rate_per_min"]
    row = page[page.index(f"<summary>{first.title}") :]
    assert row.index("Evidence in depression") < row.index("<data")


def test_of_a_faceless_recording_every_indicator_says_why_it_has_no_value(page):
    section = page[page.index('id="recording-2"') : page.index('id="recording-3"')]
    assert f"{len(CATALOGUE)} without a value" in section
    assert section.count("No face was in view") > 30


def test_with_many_recordings_the_page_is_an_index_with_a_page_each(site):
    path = site.folder / "many.html"
    folder = write_page(page_source(site), path, most=2)
    assert folder == site.folder / "many_recordings"
    pages = sorted(one.name for one in folder.glob("*.html"))
    assert pages == ["r%3C3%3E%26.html", "r1.html", "r2.html"]
    index = path.read_text()
    assert 'href="many_recordings/r1.html"' in index
    assert 'id="recording-1"' not in index
    one = (folder / "r1.html").read_text()
    outline(one)
    assert "Behaviour over time" in one
    assert stat.S_IMODE((folder / "r1.html").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_file_of_somebody_else_is_never_replaced_by_a_page(site):
    path = site.folder / "page.html"
    path.write_text("<html>my thesis</html>")
    with pytest.raises(InputError, match="earlier export"):
        write_page(page_source(site), path)
    assert path.read_text() == "<html>my thesis</html>"
    path.unlink()
    write_page(page_source(site), path)
    write_page(page_source(site), path)


def test_a_page_before_any_extraction_says_so(tmp_path):
    site = make_site(tmp_path / "site", [Sample("r1")])
    path = tmp_path / "page.html"
    write_page(page_source(site), path)
    assert "Nothing was extracted yet" in path.read_text()


def test_other_versions_and_other_limits_are_named(site):
    store = open_store(site)
    record = store.get("s1", "r1")
    changed = replace(record, provenance={"packages": {"mediapipe": "1.1.0"}})
    store.put(changed, features=store.features("s1", "r1"), frames=store.frames("s1", "r1"))
    site.config_file.write_text(site.config_file.read_text() + "\n[quality]\nmin_duration_s = 99\n")
    path = site.folder / "page.html"
    write_page(page_source(open_site(site.folder)), path)
    page = path.read_text()
    assert "different versions of mediapipe (1.1.0, 1.2.0)" in page
    assert "have changed since r1" in page


def test_faulty_notes_do_not_keep_the_page_from_being_written(site):
    (site.folder / "videos" / "tt.csv").write_text("start_s,end_s,speaker\n9,1,patient\n")
    path = site.folder / "page.html"
    now = datetime(2026, 3, 2, tzinfo=UTC)
    rows = inspect_site(site)
    write_page(PageSource(rows, open_store(site), QualityThresholds(), now), path)
    assert "Subject talks" not in path.read_text()


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.123456, "0.1235"), (12.0, "12"), (1234.56, "1235"), (1.234e-5, "1.23e-05"), (None, "-")],
)
def test_figures_are_shown_with_four_digits(value, shown):
    assert show_number(value) == shown


# The same numbers everywhere


def page_values(page: str) -> list[tuple[float, str]]:
    found = re.findall(r'<data value="([^"]+)">([^<]+)</data>', page)
    return [(float(exact), shown) for exact, shown in found]


def test_command_line_tables_page_and_api_tell_the_same_numbers(site, tmp_path):
    page, table = tmp_path / "p.html", tmp_path / "t.csv"
    parquet = tmp_path / "t.parquet"
    line = told(
        run("inspect", site.folder, "--json", "--page", page, "--export", "csv", "--out", table)
    )
    run("inspect", site.folder, "--export", "parquet", "--out", parquet)
    rows = pyarrow.csv.read_csv(table).to_pylist()
    same = pyarrow.parquet.read_table(parquet).to_pylist()
    api = {stored.recording_id: stored for _, stored in inspect_site(site).rows}
    shown = page_values(page.read_text())
    assert len(line["recordings"]) == len(rows) == len(same) == len(api) == 3
    compared = 0
    for one, row, other in zip(line["recordings"], rows, same, strict=True):
        stored = api[one["recording_id"]]
        assert list(one["indicators"]) == list(stored.indicators)
        for name, value in one["indicators"].items():
            assert stored.indicators[name].value == value == row[name] == other[name]
            assert one["coverage"][name] == row[f"coverage_{name}"] == other[f"coverage_{name}"]
            if value is not None:
                assert (value, show_number(value)) in shown
                compared += 1
        for name in ("fps", "detection_rate", "duration_s"):
            assert stored.quality[name] == one["quality"][name] == row[f"quality_{name}"]
    assert compared > 40


# The terminal


def test_the_terminal_shows_verdicts_and_rates_within_80_columns(site):
    result = run("inspect", site.folder)
    assert result.exit_code == 0
    tables = [text for text in result.stdout.splitlines() if re.search("[│━┃]|^ |^r", text)]
    assert max(len(text) for text in tables) <= 80
    assert "smiles" in result.stdout
    assert "33 %, 6 to 79 %" in result.stdout
    assert "no_face 1" in result.stdout
    assert "later was not extracted yet" in result.stdout
    assert result.stdout.strip().splitlines()[-1].startswith("Next: run 'vultus-site extract")


def test_long_lists_are_cut_and_say_so(tmp_path):
    track = smiling_track(seconds=2.5, smiles=())
    first = make_site(
        tmp_path / "site", [Sample(f"r{n:03}", track if n < 1 else None) for n in range(60)]
    )
    result = run("inspect", first.folder)
    assert "and 9 more were not extracted yet" in result.stdout


@pytest.mark.parametrize(
    "words",
    [["--export", "xls"], ["--out", "x.csv"], ["--export", "csv", "--out", "no/such/folder.csv"]],
)
def test_wrong_words_are_wrong_usage(site, words):
    assert run("inspect", site.folder, *words).exit_code == 2


# The documentation


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", API.read_text(), re.DOTALL)


def test_the_documented_calls_on_a_site_run(site, capsys):
    space: dict[str, object] = {"DIR": site.folder}
    for code in snippets()[:-1]:
        exec(compile(code, str(API), "exec"), space)
    out = capsys.readouterr().out
    assert "r2 has no value: No face was in view" in out
    assert "not extracted yet: ('later',)" in out
    assert "site all 1 3" in out
    assert "r1 1200 ['frame', 'face_id', 'timestamp', 'confidence', 'success']" in out


@pytest.mark.needs_model
def test_the_documented_call_on_a_video_gives_the_numbers_that_a_site_stores(
    assets, face_model, capsys
):
    video = assets / "videos" / "single_face_30fps.mp4"
    space: dict = {"VIDEO": video, "MODEL": face_model}
    exec(compile(snippets()[-1], str(API), "exec"), space)
    extraction = space["extraction"]
    stored = to_stored("r1", extraction, subject_id="s1")
    assert "head_speed_deg_s" in capsys.readouterr().out
    assert {n: i.value for n, i in stored.indicators.items()} == {
        n: i.value for n, i in extraction.indicators.items()
    }
