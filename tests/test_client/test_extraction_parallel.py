"""Batches: every recording gets its result, whatever happens to the others."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from client.extraction import parallel
from client.extraction.parallel import (
    ExtractionJob,
    ExtractionResult,
    ExtractionSettings,
    extract_many,
)

SETTINGS = ExtractionSettings(face_model=Path("unused.task"))


def jobs(*names: str) -> list[ExtractionJob]:
    return [ExtractionJob(name, Path(name)) for name in names]


def work_or_die(link, settings) -> None:
    """A worker whose extraction is commanded by the file's name."""
    while True:
        try:
            job = link.recv()
        except EOFError:
            return
        if job.recording_id.startswith("die"):
            os._exit(7)
        link.send(ExtractionResult(job, None, f"done by {settings.face_model}"))


@pytest.fixture
def commanded(monkeypatch):
    monkeypatch.setattr(parallel, "_work", work_or_die)


def collect(names: list[str], *, workers: int) -> dict[str, str | None]:
    done: dict[str, str | None] = {}
    extract_many(
        jobs(*names),
        SETTINGS,
        workers=workers,
        on_done=lambda result: done.update({result.job.recording_id: result.error}),
    )
    return done


def test_a_process_that_dies_fails_its_own_recording_only(commanded):
    done = collect(["a", "die-b", "c", "die-d", "e"], workers=2)
    assert sorted(done) == ["a", "c", "die-b", "die-d", "e"]
    assert all(done[name] == "done by unused.task" for name in "ace")
    assert "exit code 7" in (done["die-b"] or "")


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


def test_an_exception_becomes_a_failed_result_with_its_message(monkeypatch):
    def failing(*args: object, **kwargs: object) -> None:
        msg = "no memory for frame 7"
        raise MemoryError(msg)

    monkeypatch.setattr(parallel, "extract_recording", failing)
    result = parallel._result(ExtractionJob("a", Path("a")), SETTINGS)
    assert (result.extraction, result.error) == (None, "MemoryError: no memory for frame 7")


def linger() -> None:
    parallel._end_with_parent()
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
