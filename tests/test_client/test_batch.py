"""What is extracted again and what is not, at which rate, and what people see meanwhile."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from agreed_study import STUDY

from client.extraction.parallel import ExtractionJob, HeaderResult
from client.extraction.video import VideoHeader
from client.preparation import batch
from client.preparation.batch import Batch, BatchTally, refuse_low_rate
from client.preparation.batch_progress import FrameProgress
from client.preparation.steps import ExtractionOptions, extract_site
from client.site import Site, init_site, open_site
from client.site_template import REQUIRED_COLUMNS
from client.storage.frame_log import FrameOutcome
from client.storage.store import open_store
from shared_models.console import Screen
from shared_models.toml import ConfigError

WHEN = "2026-03-02T09:30:00+01:00"


def write_video(path: Path, *, frames: int = 20) -> None:
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (64, 48))
    for index in range(frames):
        writer.write(np.full((48, 64, 3), 10 * index, dtype=np.uint8))
    writer.release()


def write_table(site: Site, names: list[str], **extra: str) -> None:
    with site.paths.recordings.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*REQUIRED_COLUMNS, *extra])
        for name in names:
            row = [name, f"s-{name}", f"videos/{name}.avi", WHEN, 40, "female", 5]
            table.writerow([*row, *extra.values()])


@pytest.fixture
def site(tmp_path) -> Site:
    """A site with two videos in which nobody is to be seen."""
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    made = init_site(tmp_path / "site", site_id="north", consortium_file=study)
    for number, name in enumerate(("r1", "r2")):
        write_video(made.folder / "videos" / f"{name}.avi", frames=20 + number)
    write_table(made, ["r1", "r2"])
    return made


@pytest.fixture
def extract(site, face_model):
    def call(**options: object) -> tuple[int, int]:
        chosen = replace(ExtractionOptions(face_model=face_model), **options)
        tally = extract_site(Screen(json=True), open_site(site.folder), options=chosen).tally
        return tally.done, tally.skipped

    return call


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Names of the files that the batch hashes."""
    names: list[str] = []
    original = batch.sha256_of_file

    def note(path: Path) -> str:
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(batch, "sha256_of_file", note)
    return names


@pytest.mark.needs_model
def test_what_is_done_is_neither_hashed_nor_extracted_again(extract, hashed):
    assert extract() == (2, 0)
    assert extract() == (0, 2)
    assert hashed == []


@pytest.mark.needs_model
def test_a_copied_file_is_hashed_once_and_not_extracted_again(extract, hashed, site):
    extract()
    before = open_store(site).get("s-r1", "r1")
    video = site.folder / "videos" / "r1.avi"
    os.utime(video, ns=(1, 1))
    assert extract() == (0, 2)
    assert hashed == ["r1.avi"]
    assert extract() == (0, 2)
    assert hashed == ["r1.avi"]
    after = open_store(site).get("s-r1", "r1")
    assert after.provenance == {**before.provenance, "file_mtime_ns": 1}
    assert len(open_store(site).frames("s-r1", "r1")) == 20


@pytest.mark.needs_model
def test_another_video_of_the_same_size_is_extracted_again(extract, site):
    extract()
    video = site.folder / "videos" / "r1.avi"
    data = bytearray(video.read_bytes())
    data[-9] ^= 1
    video.write_bytes(data)
    assert extract() == (1, 1)


@pytest.mark.needs_model
def test_a_damaged_record_is_extracted_again_and_hides_no_other(extract, site):
    extract()
    damaged = min(site.paths.store.glob("*/*.features"))
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    assert extract() == (1, 1)
    assert open_store(site).find_damaged() == []


@pytest.mark.needs_model
def test_other_notes_are_another_extraction(extract, site):
    notes = site.folder / "videos" / "events.csv"
    notes.write_text("onset_s,duration_s,label\n0.2,0.1,positive\n")
    write_table(site, ["r1"], events="videos/events.csv")
    assert extract() == (1, 0)
    assert extract() == (0, 1)
    notes.write_text("onset_s,duration_s,label\n0.2,0.1,negative\n")
    assert extract() == (1, 0)


@pytest.mark.needs_model
def test_a_lower_rate_decodes_all_and_analyses_some(extract, site):
    assert extract(analysis_hz=12.5) == (2, 0)
    assert extract(analysis_hz=12.5) == (0, 2)
    stored = open_store(site)
    log = stored.frames("s-r1", "r1")
    assert (log.outcome == FrameOutcome.NOT_ANALYSED).tolist() == [False, True] * 10
    quality = stored.get("s-r1", "r1").quality
    assert (quality["frames"], quality["analysed_frames"]) == (20, 10)
    assert quality["decoded_fps"] == pytest.approx(25.0)
    assert quality["fps"] == pytest.approx(12.5)
    assert stored.get("s-r1", "r1").provenance["analysis_hz"] == 12.5
    assert extract() == (2, 0)


@pytest.mark.needs_model
def test_recordings_that_left_the_table_are_told_and_pruned_on_demand(
    extract, site, face_model, capsys
):
    extract()
    write_table(site, ["r2"])
    extract()
    assert "not among the recordings of the study: r1" in capsys.readouterr().err
    assert {one.recording_id for one in open_store(site).records()} == {"r1", "r2"}
    done = extract_site(
        Screen(json=True), site, options=ExtractionOptions(face_model=face_model, prune=True)
    )
    assert (done.to_json()["strays"], done.to_json()["pruned"]) == (1, 1)
    assert {one.recording_id for one in open_store(site).records()} == {"r2"}


def test_a_rate_below_what_the_study_needs_is_refused_by_name(site):
    refuse_low_rate(["blink_rate_per_min", "smile_peak"], None)
    refuse_low_rate(["blink_rate_per_min", "smile_peak"], 25.0)
    refuse_low_rate(["smile_peak"], 12.0)
    with pytest.raises(ConfigError) as refusal:
        refuse_low_rate(["blink_rate_per_min", "smile_peek"], 12.0)
    assert "analysis_hz >= 25, which blink_rate_per_min of the study needs, got 12" in str(
        refusal.value
    )
    assert "smile_peek" in str(refusal.value)
    assert "did you mean smile_peak?" in str(refusal.value)


def test_the_batch_refuses_the_rate_of_the_site_for_its_study(site):
    features = replace(site.consortium.config.features, indicators=("blink_rate_per_min",))
    config = replace(site.consortium.config, features=features)
    strict = replace(site, consortium=replace(site.consortium, config=config))
    store = open_store(site)
    Batch(strict, store)
    with pytest.raises(ConfigError, match="blink_rate_per_min"):
        Batch(strict, store, analysis_hz=12.0)


def test_the_site_decides_whether_its_workers_lose_the_network(site, monkeypatch, face_model):
    asked = []

    class Refusing:
        def __init__(self, settings, *, workers, network) -> None:
            asked.append(network)
            raise InterruptedError

    monkeypatch.setattr(batch, "Extractor", Refusing)
    for mode in ("cut_if_possible", "cut", "open"):
        text = site.config_file.read_text()
        site.config_file.write_text(
            text.replace('network = "cut_if_possible"', f'network = "{mode}"')
        )
        with pytest.raises(InterruptedError):
            extract_site(
                Screen(json=True),
                open_site(site.folder),
                options=ExtractionOptions(face_model=face_model),
            )
        site.config_file.write_text(text)
    assert asked == ["cut_if_possible", "cut", "open"]


@pytest.fixture
def waiting(tmp_path) -> list[ExtractionJob]:
    jobs = []
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(bytes(100_000))
        jobs.append(ExtractionJob(name, tmp_path / name))
    return jobs


def header(frames: int, fps: float = 25.0) -> VideoHeader:
    return VideoHeader(frames, fps, 640, 480)


def test_progress_counts_frames_over_all_recordings(waiting):
    a, b, c = waiting
    with FrameProgress(Screen(json=True), waiting) as progress:
        for job, frames in ((a, 100), (b, 200), (c, 300)):
            progress.expect(HeaderResult(job, header(frames), None))
        assert (progress.completed, progress.total) == (0, 600)
        progress.advance("a", 40)
        progress.advance("b", 60)
        assert (progress.completed, progress.total) == (100, 600)
        progress.finish("a", 90, BatchTally(extracted=1))
        assert (progress.completed, progress.total) == (150, 590)


def test_progress_survives_headers_that_lie_or_fail(waiting):
    a, b, c = waiting
    with FrameProgress(Screen(json=True), waiting) as progress:
        progress.expect(HeaderResult(a, header(10), None))
        progress.expect(HeaderResult(b, header(2_000_000_000), None))
        progress.expect(HeaderResult(c, None, "no video"))
        assert progress.total == 10 + 5_000
        progress.advance("a", 50)
        assert progress.total == 50 + 5_000
        progress.finish("b", None, BatchTally(failed=1))
        progress.finish("c", 0, BatchTally(failed=1, rejected=1))
        progress.finish("a", 70, BatchTally(failed=1, rejected=1, extracted=1))
        assert (progress.completed, progress.total) == (70, 70)
