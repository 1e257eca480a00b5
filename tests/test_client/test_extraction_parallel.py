"""Batches: every recording gets its result, whatever happens to the others."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import commanded_worker
import numpy as np
import psutil
import pytest

from client.extraction import parallel, pool, worker
from client.extraction.parallel import (
    ExtractionJob,
    ExtractionRefusedError,
    ExtractionResult,
    ExtractionSettings,
    Extractor,
    extract_many,
)
from client.extraction.pipeline import extract_recording
from client.extraction.quality import QualityThresholds
from client.extraction.wire import (
    WireError,
    job_facts,
    pack_message,
    pack_settings,
    to_extraction,
    to_job,
    unpack_message,
    unpack_settings,
)
from client.recordings.annotations import Annotations, Stimulus, Turn

SETTINGS = ExtractionSettings(face_model=Path("unused.task"))


def jobs(*names: str) -> list[ExtractionJob]:
    return [ExtractionJob(name, Path(name)) for name in names]


@pytest.fixture
def commanded(monkeypatch):
    monkeypatch.setattr(parallel, "_WORK", "commanded_worker:obey")


def collect(names: list[str], *, workers: int, **options: object) -> dict[str, str | None]:
    done: dict[str, str | None] = {}
    with Extractor(SETTINGS, workers=workers, **options) as extractor:
        extractor.extract(
            jobs(*names),
            on_done=lambda result: done.update({result.job.recording_id: result.error}),
        )
    return done


def test_a_process_that_dies_fails_its_own_recording_only(commanded):
    done = collect(["a", "die-b", "c", "die-d", "e"], workers=2)
    assert sorted(done) == ["a", "c", "die-b", "die-d", "e"]
    assert all(done[name] == "done by unused.task" for name in "ace")
    assert "exit code 7" in (done["die-b"] or "")


def test_a_process_that_hangs_fails_its_own_recording_only(commanded):
    done = collect(["a", "hang-b", "c"], workers=2, stall_s=5.0)
    assert done["a"] == done["c"] == "done by unused.task"
    assert "No frame came for 5 s" in (done["hang-b"] or "")
    assert not multiprocessing.active_children()


def test_a_slow_recording_whose_frames_come_is_waited_for(commanded):
    done = collect(["slow-a", "slow-b", "slow-c"], workers=3, stall_s=5.0)
    assert set(done.values()) == {"done at last"}


def test_frames_are_reported_while_they_come(commanded):
    heard = []
    with Extractor(SETTINGS) as extractor:
        extractor.extract(
            jobs("slow", "a"),
            on_done=lambda result: heard.append(result.job.recording_id),
            on_frames=lambda name, frames: heard.append((name, frames)),
        )
    assert heard == [*(("slow", frames) for frames in range(1, 10)), "slow", "a"]


def test_an_answer_of_another_kind_is_never_unpickled(commanded, monkeypatch):
    monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("unpickled"))
    done = collect(["pickle", "lie", "a"], workers=1)
    assert "Expected a message of a worker" in (done["pickle"] or "")
    assert "Expected an extraction" in (done["lie"] or "")
    assert done["a"] == "done by unused.task"


def test_a_refused_network_cut_ends_the_batch_with_the_remedy(commanded, monkeypatch):
    monkeypatch.setattr(parallel, "_WORK", "os:getpid")
    monkeypatch.setattr(pool, "begin", commanded_worker.refuse)
    with pytest.raises(ExtractionRefusedError, match="no namespaces here"):
        collect(["a"], workers=2, network="cut")
    assert not multiprocessing.active_children()


def test_an_error_while_storing_a_result_ends_the_workers(commanded):
    def failing(result: ExtractionResult) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_many(jobs("a", "b", "c"), SETTINGS, workers=2, on_done=failing)
    assert not multiprocessing.active_children()


def test_jobs_are_taken_one_at_a_time(commanded):
    taken: list[str] = []

    def endless():
        for number in range(100):
            taken.append(str(number))
            yield ExtractionJob(str(number), Path("x"))

    class EnoughError(Exception):
        pass

    def stop(result: ExtractionResult) -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        extract_many(endless(), SETTINGS, workers=1, on_done=stop)
    assert taken == ["0"]


def test_no_jobs_start_no_process(commanded):
    assert collect([], workers=4) == {}


def test_less_than_one_worker_is_refused():
    with pytest.raises(ValueError, match="workers >= 1, got 0"):
        collect(["a"], workers=0)


class Unheard:
    """A link whose other end does not matter."""

    def send_bytes(self, message: bytes) -> None:
        pass


def test_an_exception_becomes_an_answer_with_its_message(monkeypatch):
    def failing(*args: object, **kwargs: object) -> None:
        msg = "no memory for frame 7"
        raise MemoryError(msg)

    monkeypatch.setattr(worker, "extract_recording", failing)
    task = {"kind": "extract", **job_facts(ExtractionJob("a", Path("a")))}
    facts, _ = unpack_message(worker.answer(Unheard(), task, SETTINGS))
    assert facts == {"error": "MemoryError: no memory for frame 7"}


def test_jobs_and_settings_come_back_from_their_bytes():
    notes = Annotations((Stimulus(1.0, 2.0, "positive"),), (Turn(0.0, 3.5, "other"),), 3.25)
    job = ExtractionJob("r1", Path("/videos/ü 1.mp4"), notes)
    facts, _ = unpack_message(pack_message(job_facts(job)))
    assert to_job(facts) == job
    settings = ExtractionSettings(
        Path("/m.task"), QualityThresholds(min_fps=12.0), clip_s=4.0, rate_hz=5.0, analysis_hz=12.0
    )
    assert unpack_settings(pack_settings(settings)) == settings
    assert unpack_settings(pack_settings(SETTINGS)) == SETTINGS


@pytest.mark.parametrize("data", [b"", b"\0\0\0\2[]", b"\0\0\0\2{}tensors?", b"\xff" * 40])
def test_bytes_that_are_no_message_are_refused(data):
    with pytest.raises(WireError, match="Expected a message"):
        unpack_message(data)


@pytest.mark.needs_model
def test_an_extraction_comes_back_from_a_process_as_it_was_made(assets, face_model):
    path = assets / "videos" / "nod_30fps.mkv"
    here = extract_recording(path, face_model)
    results: list[ExtractionResult] = []
    extract_many([ExtractionJob("r", path)], ExtractionSettings(face_model), on_done=results.append)
    there = results[0].extraction
    assert (there.quality, there.indicators) == (here.quality, here.indicators)
    assert {**there.provenance, "seconds": 0} == {**here.provenance, "seconds": 0}
    for name in ("values", "mask", "clip_start_s"):
        assert np.array_equal(getattr(there.features, name), getattr(here.features, name))
    for name in ("timestamps_s", "outcome", "faces", "head_pose_deg", "blendshapes", "signals"):
        ours, theirs = getattr(here.frames, name), getattr(there.frames, name)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs, equal_nan=True)
    assert there.frames.signal_names == here.frames.signal_names


def test_an_extraction_with_a_part_missing_is_refused():
    with pytest.raises(WireError, match="Expected an extraction"):
        to_extraction({"schema_digest": "x", "indicators": {}, "quality": {}}, {})


def linger() -> None:
    worker.end_with_parent()
    time.sleep(60.0)


PARENT = """
import multiprocessing, sys
from test_extraction_parallel import linger
if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=linger)
    child.start()
    print(child.pid, flush=True)
    child.join()
"""


def test_a_worker_ends_when_its_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    places = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": places},
    ) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    child.wait(timeout=30.0)


@pytest.mark.needs_model
def test_real_recordings_come_back_from_two_processes(assets, face_model, capfd):
    videos = assets / "videos"
    verdicts = {}
    extract_many(
        [ExtractionJob(name, videos / name) for name in ("nod_30fps.mkv", "empty.mp4")],
        ExtractionSettings(face_model),
        workers=2,
        on_done=lambda result: verdicts.update(
            {result.job.recording_id: result.extraction.quality.accepted}
        ),
    )
    assert verdicts == {"nod_30fps.mkv": True, "empty.mp4": False}
    assert capfd.readouterr().err == ""
