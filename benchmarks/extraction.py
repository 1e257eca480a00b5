"""Speed and memory of extraction beside a bare decode-and-detect loop.

usage: python benchmarks/extraction.py FACE_MODEL VIDEO --rival FILE [--repeats N] [--long N]

The rival is a script that takes FACE_MODEL VIDEO and prints "... N frames/s" as its last line.
Each run is a process of its own, in turn, so that neither side profits from a warm cache.
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
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Print frames per second, their ratio, and peak memory at two lengths."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("face_model", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("--rival", type=Path, help="script of the bare loop")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--long", type=int, default=10, help="times the video is looped")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.face_model, options.video)
        return
    compare(options)
    if options.long > 1:
        grow(options)


def measure(face_model: Path, video: Path) -> None:
    """Extract once in this process and print what it took as JSON."""
    # The bare loop starts its clock after these imports, so this one does too.
    import cv2  # noqa: F401
    import mediapipe  # noqa: F401

    from client.extraction.pipeline import extract_recording

    started = time.perf_counter()
    extraction = extract_recording(video, face_model)
    seconds = time.perf_counter() - started
    frames = extraction.quality.frames
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"frames": frames, "fps": frames / seconds, "peak_mb": peak_mb}))


def compare(options: argparse.Namespace) -> None:
    """Run both in turn and print the ratio of their medians."""
    ours, rival = [], []
    for _ in range(options.repeats):
        if options.rival is not None:
            rival.append(run_rival(options.rival, options.face_model, options.video))
        ours.append(run_ours(options.face_model, options.video)["fps"])
    print(f"ours   {statistics.median(ours):6.1f} frames/s  {[round(value, 1) for value in ours]}")
    if rival:
        middle = statistics.median(rival)
        print(f"rival  {middle:6.1f} frames/s  {[round(value, 1) for value in rival]}")
        print(f"ratio  {statistics.median(ours) / middle:6.2f}")


def grow(options: argparse.Namespace) -> None:
    """Print peak memory for the video and for the same video looped."""
    with tempfile.TemporaryDirectory() as folder:
        long = loop_video(options.video, Path(folder) / "long.avi", times=options.long)
        for label, video in (("1x", options.video), (f"{options.long}x", long)):
            found = run_ours(options.face_model, video)
            print(
                f"memory {label:>4}: {found['frames']:7.0f} frames, "
                f"peak {found['peak_mb']:6.1f} MB, {found['fps']:6.1f} frames/s"
            )


def run_ours(face_model: Path, video: Path) -> dict[str, float]:
    """What one extraction in a fresh process took."""
    command = [sys.executable, __file__, str(face_model), str(video), "--measure"]
    found: dict[str, float] = json.loads(last_line(command))
    return found


def run_rival(rival: Path, face_model: Path, video: Path) -> float:
    """Frames per second by the rival's own last line."""
    line = last_line([sys.executable, str(rival), str(face_model), str(video)])
    found = re.search(r"([\d.]+) frames/s", line)
    if found is None:
        sys.exit(f"Expected 'N frames/s' in the rival's last line, got: {line}")
    return float(found.group(1))


def last_line(command: list[str]) -> str:
    """The last line that a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout.strip().splitlines()[-1]


def loop_video(source: Path, target: Path, *, times: int) -> Path:
    """A video that shows the source several times over."""
    import cv2

    from client.extraction.video import probe_video, read_frames

    header = probe_video(source)
    size = (header.width_px, header.height_px)
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter_fourcc(*"MJPG"), header.fps, size)
    for _ in range(times):
        for frame in read_frames(source):
            writer.write(cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    writer.release()
    return target


if __name__ == "__main__":
    sys.path.insert(0, str(PROJECT))
    main()
