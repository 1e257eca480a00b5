"""Exports: a table with its dictionary, and frames in the columns of OpenFace."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from extraction_tracks import frame_times, make_track
from inspected_site import Sample, faceless_track, make_site, smiling_track
from typer.testing import CliRunner

from client.cli import app
from client.extraction.behaviour.catalogue import CATALOGUE
from client.extraction.behaviour.frames import frame_log
from client.extraction.behaviour.geometry import rotation_matrices
from client.inspection import inspect_site
from client.inspection.files import safe_names
from client.inspection.indicator_table import describe_columns, indicator_table, write_table
from client.inspection.openface import (
    encode_openface,
    openface_table,
    openface_turns,
    write_openface,
)
from client.recordings.annotations import Annotations
from client.site import Site
from client.storage.store import open_store
from shared_models.console import InputError

_OPENFACE_TEXT = (
    "frame face_id timestamp confidence success gaze_0_x gaze_0_y gaze_0_z gaze_1_x gaze_1_y "
    "gaze_1_z gaze_angle_x gaze_angle_y pose_Tx pose_Ty pose_Tz pose_Rx pose_Ry pose_Rz "
    "AU01_r AU02_r AU04_r AU05_r AU06_r AU07_r AU09_r AU10_r AU12_r AU14_r AU15_r AU17_r "
    "AU20_r AU23_r AU25_r AU26_r AU45_r AU01_c AU02_c AU04_c AU05_c AU06_c AU07_c AU09_c "
    "AU10_c AU12_c AU14_c AU15_c AU17_c AU20_c AU23_c AU25_c AU26_c AU28_c AU45_c "
)
OPENFACE = tuple(_OPENFACE_TEXT.split())


@pytest.fixture
def site(tmp_path) -> Site:
    samples = [
        Sample("r1", smiling_track(), annotations=Annotations(pupil_mm=4.5)),
        Sample("r2", faceless_track(), subject_id="s2", sex="male"),
    ]
    return make_site(tmp_path / "site", samples)


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


# The table


def test_the_table_has_a_row_a_recording_with_values_coverage_and_notes(site):
    found = inspect_site(site)
    table = indicator_table(found)
    first, second = table.to_pylist()
    stored = found.rows[0][1].indicators
    assert first["smile_rate_per_min"] == stored["smile_rate_per_min"].value == 3.0
    assert first["coverage_smile_rate_per_min"] == 1.0
    assert first["note_pupil_diameter_mm"] == "imported, not taken from the video"
    assert first["note_blink_rate_per_min"].startswith("no value: Needs at least 180 seconds")
    assert second["smile_rate_per_min"] is None
    assert second["note_smile_rate_per_min"] == "no value: No face was in view"
    assert (second["verdict"], second["reasons"]) == ("rejected", "no_face")
    assert "score" not in table.column_names
    assert table.schema.field("head_speed_deg_s").metadata == {b"unit": b"deg/s"}


def test_quality_figures_keep_their_kind(site):
    found = inspect_site(site)
    (first, stored), second = found.rows
    changed = replace(stored, quality={**stored.quality, "interlaced": True, "camera": "A"})
    table = indicator_table(replace(found, rows=((first, changed), second)))
    assert str(table.schema.field("quality_interlaced").type) == "bool"
    assert str(table.schema.field("quality_camera").type) == "string"
    assert str(table.schema.field("quality_fps").type) == "double"


def test_every_column_is_explained_and_nothing_else_is(site):
    found = inspect_site(site)
    explained = describe_columns(found)
    assert set(explained) - {"MeasurementToolMetadata"} == set(indicator_table(found).column_names)
    assert all(entry.get("LongName") for name, entry in explained.items() if name[0].islower())
    assert set(CATALOGUE) <= set(explained)
    for name, known in CATALOGUE.items():
        entry = explained[name]
        assert entry["Description"] == known.definition
        assert entry["Units"] == known.unit
        assert entry["Source"] == known.source
        assert f"note_{name}" in str(entry["MissingValues"])
    assert explained["blink_rate_per_min"]["MinimumFramesPerSecond"] == 25.0
    assert explained["blink_rate_per_min"]["MinimumSeconds"] == 180.0
    assert explained["coverage_blink_rate_per_min"]["Description"].startswith("Share of the recor")


def test_the_dictionary_lies_beside_the_table_and_both_are_private(site):
    assert run("inspect", site.folder, "--export", "csv").exit_code == 0
    table, dictionary = site.folder / "indicators.csv", site.folder / "indicators.json"
    for path in (table, dictionary):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    columns = pd.read_csv(table).columns
    assert set(columns) < set(json.loads(dictionary.read_text()))
    assert run("inspect", site.folder, "--export", "parquet").exit_code == 0
    written = pyarrow.parquet.read_table(site.folder / "indicators.parquet")
    assert written.column_names == list(columns)
    assert written.schema.metadata[b"notice"].startswith(b"Research software")


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_an_earlier_export_is_replaced_and_anything_else_is_not(site, tmp_path, file_format):
    found, path = inspect_site(site), tmp_path / f"t.{file_format}"
    write_table(found, path, file_format=file_format)
    before = path.read_bytes()
    write_table(found, path, file_format=file_format)
    assert path.read_bytes() == before
    for name in (path.name, "t.json"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(InputError, match="new or an earlier export"):
            write_table(found, path, file_format=file_format)
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_a_link_is_never_followed(site, tmp_path):
    mine = tmp_path / "mine.csv"
    write_table(inspect_site(site), mine, file_format="csv")
    link = tmp_path / "t.csv"
    link.symlink_to(mine)
    with pytest.raises(InputError, match="earlier export"):
        write_table(inspect_site(site), link, file_format="csv")
    assert link.is_symlink()


# Frames in the columns of OpenFace


def read_frames(log, path: Path) -> pd.DataFrame:
    path.write_bytes(encode_openface(openface_table(log)))
    return pd.read_csv(path)


def test_a_script_for_openface_finds_its_columns_types_frames_and_times(tmp_path):
    times = frame_times(4.0, 29.97) + 0.04
    frames = read_frames(frame_log(make_track(times)), tmp_path / "r.csv")
    assert tuple(frames.columns[: len(OPENFACE)]) == OPENFACE
    assert list(frames.columns[len(OPENFACE) :][:2]) == ["dropped_for", "faces"]
    assert list(frames["frame"]) == list(range(1, len(times) + 1))
    np.testing.assert_allclose(frames["timestamp"], times, atol=1e-6)
    for name in ("frame", "face_id", "success", "faces"):
        assert frames[name].dtype == np.int64
    for name in set(OPENFACE) - {"frame", "face_id", "success"}:
        assert frames[name].dtype == np.float64, name


def test_intensities_are_activations_times_five_and_presence_starts_at_one(tmp_path):
    times = frame_times(1.0, 10.0)
    shapes = {
        "mouthSmileLeft": np.linspace(0, 0.9, 10),
        "mouthSmileRight": np.linspace(0, 0.9, 10),
        "browInnerUp": 0.5,
        "browDownLeft": 0.4,
        "jawOpen": 0.6,
        "mouthClose": 0.2,
        "mouthRollLower": 0.6,
        "eyeBlinkLeft": 1.0,
        "eyeBlinkRight": 1.0,
    }
    log = frame_log(make_track(times, blendshapes=shapes))
    frames = read_frames(log, tmp_path / "r.csv")
    np.testing.assert_allclose(frames["AU12_r"], np.linspace(0, 4.5, 10), atol=3e-3)
    assert list(frames["AU12_c"]) == [0, 0] + [1.0] * 8
    expected = {"AU01_r": 2.5, "AU04_r": 1.0, "AU26_r": 3.0, "AU25_r": 2.0, "AU45_r": 5.0}
    for name, value in expected.items():
        np.testing.assert_allclose(frames[name], value, atol=3e-3)
    assert set(frames["AU28_c"]) == {1.0}
    assert frames["AU23_r"].isna().all()
    assert frames["AU23_c"].isna().all()
    assert "AU28_r" not in frames


def test_every_decoded_frame_is_there_and_dropped_ones_say_why(tmp_path):
    times = frame_times(10.0, 10.0)
    analysed = np.arange(100) % 2 == 0
    seen = np.arange(50) >= 10
    pose = np.zeros((50, 3))
    pose[40:, 1] = 40.0
    track = make_track(
        times[analysed], detected=seen, pose_deg=pose, blendshapes={"browInnerUp": 0.5}
    )
    frames = read_frames(frame_log(track, times), tmp_path / "r.csv")
    assert len(frames) == 100
    reasons = frames["dropped_for"].fillna("used").value_counts().to_dict()
    assert reasons == {"not_analysed": 50, "used": 30, "no_face": 10, "turned_away": 10}
    used = frames["dropped_for"].isna()
    assert (frames["success"] == used).all()
    assert (frames["confidence"] == used.astype(float)).all()
    for name in ("AU01_r", "AU01_c", "vultus_corner_height"):
        assert frames.loc[used, name].notna().all()
        assert frames.loc[~used, name].isna().all()
    turned = frames["dropped_for"] == "turned_away"
    np.testing.assert_allclose(frames.loc[turned, "pose_Ry"], -np.radians(40.0), atol=1e-4)
    assert frames.loc[frames["dropped_for"] == "no_face", "pose_Ry"].isna().all()


def test_turns_compose_as_openface_composes_them():
    pose = np.random.default_rng(1).uniform(-40, 40, (50, 3))
    flip = np.diag([1.0, -1.0, -1.0])
    for angles, matrix in zip(openface_turns(pose).T, rotation_matrices(pose), strict=True):
        (s1, s2, s3), (c1, c2, c3) = np.sin(angles), np.cos(angles)
        about_x = np.array([[1, 0, 0], [0, c1, -s1], [0, s1, c1]])
        about_y = np.array([[c2, 0, s2], [0, 1, 0], [-s2, 0, c2]])
        about_z = np.array([[c3, -s3, 0], [s3, c3, 0], [0, 0, 1]])
        np.testing.assert_allclose(about_x @ about_y @ about_z, flip @ matrix @ flip, atol=1e-9)


@pytest.mark.parametrize(
    ("pose_deg", "direction"),
    [
        ((-20.0, 0.0, 0.0), (0.0, 1.0)),  # chin down: the nose points down in the picture
        ((0.0, 30.0, 0.0), (1.0, 0.0)),  # the nose points to the right of the picture
    ],
)
def test_turns_point_the_nose_where_it_points(pose_deg, direction):
    angles = openface_turns(np.array([pose_deg]))[:, 0]
    (s1, s2), (c1, c2) = np.sin(angles[:2]), np.cos(angles[:2])
    # A face at rest looks along -z, at the camera; y points down.
    nose = np.array([-s2, s1 * c2, -c1 * c2])
    assert np.allclose(np.sign(np.round(nose[:2], 6)), direction)


def test_the_folder_holds_a_file_a_recording_a_dictionary_and_a_readme(site):
    out = site.folder / "frames"
    result = run("inspect", site.folder, "--export", "openface", "--out", out)
    assert result.exit_code == 0
    assert sorted(one.name for one in out.iterdir()) == [
        "README.txt",
        "columns.json",
        "r1.csv",
        "r2.csv",
    ]
    assert {stat.S_IMODE(one.stat().st_mode) for one in out.iterdir()} == {0o600}
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    columns = json.loads((out / "columns.json").read_text())
    assert list(columns) == list(pd.read_csv(out / "r1.csv").columns)
    assert all(one["Description"] for one in columns.values())
    readme = (out / "README.txt").read_text()
    assert "no output is a diagnosis" in readme
    assert "r1.csv: recording r1" in readme
    assert len(pd.read_csv(out / "r1.csv")) == 1200
    again = run("inspect", site.folder, "--export", "openface", "--out", out)
    assert again.exit_code == 0


def test_a_recording_without_frames_is_named(site):
    store = open_store(site)
    record = store.get("s1", "r1")
    store.put(record, features=store.features("s1", "r1"))
    result = run("inspect", site.folder, "--export", "openface")
    assert "r1 has no file" in result.stdout
    assert "r1: none" in (site.folder / "openface" / "README.txt").read_text()


def test_files_of_others_are_not_replaced_and_stale_ones_are_named(site, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "README.txt").write_text("my notes")
    refused = run("inspect", site.folder, "--export", "openface", "--out", theirs)
    assert refused.exit_code == 2
    assert [one.name for one in theirs.iterdir()] == ["README.txt"]
    ours = tmp_path / "ours"
    run("inspect", site.folder, "--export", "openface", "--out", ours)
    (ours / "r1.csv").write_text("frame,face_id\n1,0\n")
    refused = run("inspect", site.folder, "--export", "openface", "--out", ours)
    assert refused.exit_code == 2
    assert (ours / "r1.csv").read_text() == "frame,face_id\n1,0\n"
    (ours / "r1.csv").rename(ours / "old.csv")
    named = run("inspect", site.folder, "--export", "openface", "--out", ours)
    assert named.exit_code == 0
    assert "old.csv is of no recording" in named.stdout.replace("\n", "")


def test_no_recording_id_leads_out_of_the_folder(tmp_path):
    hostile = ["../../etc/passwd", "..", ".hidden", "a/b", "C:\\x", "x" * 200, "nul\0", "ä", "%2E"]
    site = make_site(tmp_path / "site", [])
    names = safe_names(hostile)
    assert len(set(names.values())) == len(hostile)
    for name in names.values():
        assert Path(name).name == name
        assert not name.startswith(".")
        assert len(name) < 140
        assert name.isascii()
    samples = [Sample("../../up", smiling_track(seconds=3.0)), Sample("a/b", faceless_track(3.0))]
    site = make_site(tmp_path / "site", samples)
    out = tmp_path / "deep" / "out"
    out.parent.mkdir()
    written, _ = write_openface(inspect_site(site), out, store=open_store(site))
    assert {one.parent for one in written} == {out}
    assert sorted(one.name for one in tmp_path.iterdir()) == ["deep", "site", "study.toml"]


def test_names_differ_also_where_case_does_not_count():
    names = safe_names(["r1", "R1", "r2"])
    assert names["r2"] == "r2"
    assert len({name.casefold() for name in names.values()}) == 3


def test_before_any_extraction_there_is_nothing_to_export(tmp_path):
    site = make_site(tmp_path / "site", [Sample("r1")])
    for word in ("csv", "parquet", "openface"):
        result = run("inspect", site.folder, "--export", word)
        assert result.exit_code == 2
        assert "vultus-site extract" in result.stderr
    assert not (site.folder / "openface").exists()
