"""BIDS trees become the table of recordings, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from importing_site import make_site, places, run, table

from client.importing.bids import import_bids
from client.importing.imported import Imported
from client.preparation.steps import load_manifest
from client.site import Site
from client.site_config import BidsSection


@pytest.fixture
def site(tmp_path) -> Site:
    return make_site(tmp_path)


def bids_tree(site: Site) -> Path:
    tree = site.folder / "videos" / "bids"
    beh = tree / "sub-01" / "ses-2" / "beh"
    beh.mkdir(parents=True)
    (tree / "sub-02").mkdir()
    (tree / "phenotype").mkdir()
    (beh / "sub-01_ses-2_task-interview_beh.mp4").write_bytes(b"one")
    (beh / "sub-01_ses-2_task-interview_events.tsv").write_text(
        "onset\tduration\ttrial_type\n1.5\tn/a\tpositive\n"
    )
    (tree / "sub-02" / "sub-02_task-reading_run-1_video.MKV").write_bytes(b"two")
    (tree / "participants.tsv").write_text(
        "participant_id\tage\tsex\nsub-01\t40\t1\nsub-02\t51\tM\n"
    )
    (tree / "participants.json").write_text('{"sex": {"Levels": {"1": "Female"}}}')
    (beh.parent / "sub-01_ses-2_scans.tsv").write_text(
        "filename\tacq_time\nbeh/sub-01_ses-2_task-interview_beh.mp4\t2026-03-02T09:30:00\n"
    )
    (tree / "sub-02" / "sub-02_scans.tsv").write_text(
        "filename\tacq_time\nsub-02_task-reading_run-1_video.MKV\t2026-03-02T09:30:00Z\n"
    )
    (tree / "phenotype" / "phq9.tsv").write_text(
        "participant_id\tsession_id\tphq9_total\nsub-01\tses-1\t20\nsub-01\tses-2\t11\n"
        "sub-02\tses-1\tn/a\n"
    )
    return tree


def bids(site: Site, tree: Path, *words: object) -> tuple[Result, dict]:
    options = ("--score-column", "phq9_total", "--timezone", "Europe/Berlin")
    return run(site, "--bids", tree, *options, *words)


def test_a_bids_tree_becomes_a_table_that_is_read(site):
    result, _ = bids(site, bids_tree(site))
    assert result.exit_code == 0, result.output
    one, two = load_manifest(site).recordings
    assert one.recording_id == "sub-01_ses-2_task-interview"
    assert (one.subject_id, one.visit, one.task) == ("sub-01", "ses-2", "interview")
    assert (one.age_years, one.sex, one.score) == (40, "female", 11)
    assert one.recorded_at.isoformat() == "2026-03-02T09:30:00+01:00"
    assert one.events.name == "sub-01_ses-2_task-interview_events.tsv"
    assert (two.sex, two.score, two.visit) == ("male", None, "")
    assert two.recorded_at.isoformat() == "2026-03-02T09:30:00+00:00"


def test_sessions_give_moment_and_age_where_scans_do_not(site):
    tree = bids_tree(site)
    (tree / "sub-01" / "ses-2" / "sub-01_ses-2_scans.tsv").unlink()
    (tree / "sub-01" / "sub-01_sessions.tsv").write_text(
        "session_id\tacq_time\tage\nses-1\t2026-01-02T09:30:00\t40\nses-2\t2026-03-03T08:00:00\t41\n"
    )
    assert bids(site, tree)[0].exit_code == 0
    (one, _) = load_manifest(site).recordings
    assert (one.age_years, one.recorded_at.day, one.recorded_at.hour) == (41, 3, 8)


def test_every_fault_of_a_tree_is_told_at_once_and_nothing_is_written(site):
    tree = bids_tree(site)
    (tree / "participants.tsv").write_text(
        "participant_id\tage\tsex\nsub-01\t89+\tn/a\nsub-02\t51\tX\n"
    )
    (tree / "sub-02" / "sub-02_scans.tsv").unlink()
    events = "sub-01/ses-2/beh/sub-01_ses-2_task-interview_events.tsv"
    (tree / events).write_text("onset\tduration\ttrial_type\n-1\t1\tpositive\n")
    result, answer = bids(site, tree)
    assert result.exit_code == 2
    assert places(answer) == {
        ("participants.tsv", 2, "age (age_years)"),
        ("participants.tsv", 2, "sex"),
        ("participants.tsv", 3, "sex"),
        ("sub-02/sub-02_task-reading_run-1_video.MKV", 0, ""),
        (f"videos/bids/{events}", 2, "onset"),
    }
    assert len(table(site)) == 0


def test_a_subject_without_a_line_of_its_own_is_a_fault(site):
    tree = bids_tree(site)
    (tree / "participants.tsv").write_text("participant_id\tage\tsex\nsub-01\t40\tF\n")
    _, answer = bids(site, tree)
    assert ("sub-02/sub-02_task-reading_run-1_video.MKV", 0, "age_years") in places(answer)


def test_a_score_that_is_not_named_is_empty_and_told(site):
    tree = bids_tree(site)
    _, answer = run(site, "--bids", tree, "--timezone", "Europe/Berlin")
    assert "phq9_total" in answer["left_out"][0]
    assert {row["score"] for row in table(site).values()} == {""}
    _, answer = run(site, "--bids", tree, "--score-column", "phq9_totl")
    assert "did you mean 'phq9_total'" in answer["faults"][0]["fault"]


def test_a_tree_outside_the_videos_is_refused(site, tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "participants.tsv").write_text("participant_id\n")
    result, answer = run(site, "--bids", tmp_path / "tree")
    assert result.exit_code == 2
    assert "paths.videos" in answer["faults"][0]["fault"]
    assert "participants.tsv" in run(site, "--bids", tmp_path)[1]["faults"][0]["fault"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--redcap", "a", "--bids", "b"],
        ["--redcap", "a", "--score-column", "x"],
        ["--bids", "b", "--dictionary", "x"],
    ],
)
def test_one_source_with_its_own_options_is_asked_for(site, words):
    assert run(site, *words)[0].exit_code == 2


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(
        ["participants.tsv", "participants.json", "phenotype/p.tsv", "sub-1/sub-1_scans.tsv"]
    ),
    data=st.one_of(
        st.binary(max_size=200),
        texts.map(lambda text: f"participant_id\tacq_time\tsex\n1\t{text}\t{text}\n".encode()),
        st.recursive(
            texts | st.none() | st.integers(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["sex", "Levels", "F", "Description"]), inner)
            ),
            max_leaves=6,
        ).map(lambda value: json.dumps(value).encode()),
    ),
)
def test_no_tree_whatever_its_bytes_raises(tmp_path_factory, name, data):
    tree = tmp_path_factory.getbasetemp() / "random-tree"
    for folder in ("sub-1", "phenotype"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    (tree / "participants.tsv").write_text("participant_id\tsex\tage\nsub-1\tF\t40\n")
    (tree / "sub-1" / "sub-1_task-a_video.mp4").write_bytes(b"x")
    (tree / name).write_bytes(data)
    section = BidsSection(score="sex", timezone="Asia/Tokyo", consent="age")
    try:
        assert isinstance(import_bids(tree, section, root=tree), Imported)
    finally:
        (tree / name).unlink()
