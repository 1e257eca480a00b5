"""Speed and memory of extraction beside a bare decode-and-detect loop.

usage: python benchmarks/extraction.py FACE_MODEL VIDEO [--rival FILE] [--workers N]
           [--analysis-hz HZ] [--store] [--rerun N] [--long SECONDS] [--repeats N]

The rival is a script that takes FACE_MODEL VIDEO and prints "... N frames/s" as its last line.
What is compared runs in turn, each in a process of its own, so that neither side profits from a
warm cache or a quiet minute; ratios are medians of the pairs.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
FILES_A_WORKER = 3


def main() -> None:
    """Print frames per second, ratios, shares and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("face_model", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("--rival", type=Path, help="script of the bare loop")
    parser.add_argument("--workers", type=int, default=1, help="compare with so many workers")
    parser.add_argument("--analysis-hz", type=float, help="compare with so many frames a second")
    parser.add_argument("--store", action="store_true", help="shares of store and indicators")
    parser.add_argument("--rerun", type=int, default=0, help="recordings of a finished folder")
    parser.add_argument("--long", type=float, default=0, help="seconds of a looped video")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(MEASURES[options.measure](options)))
        return
    compare_with_rival(options)
    if options.workers > 1:
        compare_workers(options)
    if options.analysis_hz:
        compare_rates(options)
    if options.store:
        show_shares(options)
    if options.rerun:
        show_rerun(options)
    if options.long:
        show_growth(options)


def compare_with_rival(options: argparse.Namespace) -> None:
    """One worker beside the bare loop."""
    ours, rival = [], []
    for _ in range(options.repeats):
        if options.rival is not None:
            rival.append(run_rival(options))
        ours.append(run(options, "one"))
    speeds = [one["fps"] for one in ours]
    cpu = statistics.median(one["cpu_ms"] for one in ours)
    wall = statistics.median(1000 / speed for speed in speeds)
    show("one worker", speeds)
    print(f"{'':14} {cpu:.2f} ms CPU a frame in {wall:.2f} ms: {cpu / wall:.2f} cores")
    if rival:
        show("bare loop", rival)
        show_ratio("one worker / bare loop", [a / b for a, b in zip(speeds, rival, strict=True)])


def compare_workers(options: argparse.Namespace) -> None:
    """Several workers beside one, when all have their models loaded."""
    one, many = [], []
    for _ in range(options.repeats):
        one.append(run(options, "batch", workers=1)["fps"])
        many.append(run(options, "batch", workers=options.workers)["fps"])
    name = f"{options.workers} workers"
    show("batch, one", one)
    show(f"batch, {options.workers}", many)
    show_ratio(f"{name} / one worker", [b / a for a, b in zip(one, many, strict=True)])


def compare_rates(options: argparse.Namespace) -> None:
    """The cost of analysing some of the frames beside that of all."""
    costs = []
    for _ in range(options.repeats):
        whole = run(options, "one")["seconds"]
        some = run(options, "one", analysis_hz=options.analysis_hz)["seconds"]
        costs.append(some / whole)
    show_ratio(f"cost at {options.analysis_hz:g} Hz / all frames", costs)


def show_shares(options: argparse.Namespace) -> None:
    """What indicators and the store take of the time of an extraction."""
    found = [run(options, "shares") for _ in range(options.repeats)]
    for name in ("indicators", "store"):
        show_ratio(f"{name} / extraction", [one[name] / one["seconds"] for one in found], digits=4)


def show_rerun(options: argparse.Namespace) -> None:
    """Seconds that the command takes where nothing is left to do."""
    with tempfile.TemporaryDirectory() as folder:
        site = finished_site(Path(folder), options)
        for _ in range(options.repeats):
            started = time.perf_counter()
            answer = json.loads(last_line(program("client.cli", "extract", site, "--json")))
            print(f"re-run of {answer['skipped']}: {time.perf_counter() - started:.2f} s")


def show_growth(options: argparse.Namespace) -> None:
    """Peak memory for the video and for the same video looped."""
    with tempfile.TemporaryDirectory() as folder:
        looped = loop_video(options.video, Path(folder) / "long.mkv", seconds=options.long)
        for video in (options.video, looped):
            found = run(options, "one", video=video)
            print(
                f"{found['frames'] / found['rate']:8.0f} s of video: peak {found['peak_mb']:.0f} MB"
                f", {found['fps']:.1f} frames/s"
            )


def measure_one(options: argparse.Namespace) -> dict[str, float]:
    """Extract once in this process."""
    # The bare loop starts its clock after these imports, so this one does too.
    import cv2
    import mediapipe  # noqa: F401

    from client.extraction.pipeline import extract_recording

    cv2.setNumThreads(1)
    started, cpu = time.perf_counter(), time.process_time()
    extraction = extract_recording(
        options.video, options.face_model, analysis_hz=options.analysis_hz
    )
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    frames = extraction.quality.frames
    return {
        "frames": frames,
        "rate": extraction.quality.decoded_fps,
        "seconds": seconds,
        "fps": frames / seconds,
        "cpu_ms": 1000 * cpu / frames,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure_batch(options: argparse.Namespace) -> dict[str, float]:
    """Extract several copies with workers that are warm."""
    from client.extraction.parallel import ExtractionJob, ExtractionSettings, Extractor

    def jobs(count: int) -> list[ExtractionJob]:
        return [ExtractionJob(str(number), options.video) for number in range(count)]

    frames = []
    settings = ExtractionSettings(options.face_model, analysis_hz=options.analysis_hz)
    with Extractor(settings, workers=options.workers) as extractor:
        extractor.extract(jobs(options.workers), on_done=lambda _: None)
        started = time.perf_counter()
        extractor.extract(
            jobs(FILES_A_WORKER * options.workers),
            on_done=lambda result: frames.append(result.extraction.quality.frames),
        )
        seconds = time.perf_counter() - started
    return {"fps": sum(frames) / seconds}


def measure_shares(options: argparse.Namespace) -> dict[str, float]:
    """Time an extraction, its indicators, and the keeping of its results."""
    from client.extraction import pipeline
    from client.preparation.batch import to_stored
    from client.storage.store import FeatureStore
    from privacy.vault import Vault

    spent = {"indicators": 0.0}
    original = pipeline.measure_indicators

    def timed(*args, **kwargs):
        began = time.perf_counter()
        found = original(*args, **kwargs)
        spent["indicators"] += time.perf_counter() - began
        return found

    pipeline.measure_indicators = timed
    started = time.perf_counter()
    extraction = pipeline.extract_recording(options.video, options.face_model)
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(Path(folder) / "store", Vault(bytes(32)), site_id="north")
        record = to_stored("r", extraction, subject_id="s")
        began = time.perf_counter()
        store.put(record, features=extraction.features, frames=extraction.frames)
        kept = time.perf_counter() - began
    return {"seconds": seconds, "store": kept, **spent}


MEASURES = {"one": measure_one, "batch": measure_batch, "shares": measure_shares}


def finished_site(folder: Path, options: argparse.Namespace) -> Path:
    """A site whose table names many recordings, all of them stored."""
    from client.site import open_site
    from client.site_template import REQUIRED_COLUMNS
    from client.storage.store import open_store

    last_line(program("server.cli", "init", folder / "c", "--name", "benchmark"))
    study = folder / "c" / "consortium.toml"
    words = ("--id", "north", "--consortium", study)
    last_line(program("client.cli", "init", folder / "s", *words))
    site = open_site(folder / "s")
    first = site.folder / "videos" / f"0{options.video.suffix}"
    first.write_bytes(options.video.read_bytes())
    rows = [",".join(REQUIRED_COLUMNS)]
    for number in range(options.rerun):
        video = first.with_stem(str(number))
        if number:
            video.hardlink_to(first)
        when = "2026-03-02T09:30:00+01:00"
        rows.append(f"r{number},s{number // 2},videos/{video.name},{when},40,female,5")
    site.paths.recordings.write_text("\n".join([*rows[:2], ""]))
    model = ("--face-model", options.face_model)
    last_line(program("client.cli", "extract", site.folder, *model, "--json"))
    store = open_store(site)
    known = store.get("s0", "r0")
    arrays = {"features": store.features("s0", "r0"), "frames": store.frames("s0", "r0")}
    for number in range(1, options.rerun):
        names = {"recording_id": f"r{number}", "subject_id": f"s{number // 2}"}
        store.put(replace(known, **names), **arrays)
    site.paths.recordings.write_text("\n".join([*rows, ""]))
    return site.folder


def run(
    options: argparse.Namespace,
    measure: str,
    *,
    video: Path | None = None,
    workers: int = 1,
    analysis_hz: float | None = None,
) -> dict[str, float]:
    """What a measure in a fresh process found."""
    words = [str(options.face_model), str(video or options.video), "--measure", measure]
    words += ["--workers", str(workers)]
    words += ["--analysis-hz", str(analysis_hz)] if analysis_hz else []
    found: dict[str, float] = json.loads(last_line([sys.executable, __file__, *words]))
    return found


def run_rival(options: argparse.Namespace) -> float:
    """Frames per second by the rival's own last line."""
    line = last_line(
        [sys.executable, str(options.rival), str(options.face_model), str(options.video)]
    )
    found = re.search(r"([\d.]+) frames/s", line)
    if found is None:
        sys.exit(f"Expected 'N frames/s' in the rival's last line, got: {line}")
    return float(found.group(1))


def program(module: str, *words: object) -> list[str]:
    """A command line of ours as arguments of a process."""
    start = f"from {module} import app; app()"
    return [sys.executable, "-c", start, *map(str, words)]


def last_line(command: list[str]) -> str:
    """The last line that a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout.strip().splitlines()[-1]


def loop_video(source: Path, target: Path, *, seconds: float) -> Path:
    """A video that shows the source over and over, without encoding it anew."""
    import imageio_ffmpeg

    endless = ["-stream_loop", "-1", "-i", str(source), "-t", str(seconds), "-an", "-c", "copy"]
    binary = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([binary, "-y", "-loglevel", "error", *endless, str(target)], check=True)
    return target


def show(name: str, speeds: list[float]) -> None:
    """Frames per second of each run."""
    middle = statistics.median(speeds)
    print(f"{name:14} {middle:7.1f} frames/s  {[round(speed, 1) for speed in speeds]}")


def show_ratio(name: str, ratios: list[float], *, digits: int = 2) -> None:
    """A ratio of pairs and their middle."""
    middle = statistics.median(ratios)
    print(f"{name}: {middle:.{digits}f}  {[round(ratio, digits) for ratio in ratios]}")


if __name__ == "__main__":
    sys.path.insert(0, str(PROJECT))
    main()
