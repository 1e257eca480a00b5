"""Damaged containers through the real batch into a real store: each ends with a verdict or why."""

from __future__ import annotations

import csv
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from agreed_study import STUDY

from client.preparation.steps import ExtractionOptions, check_recordings, extract_site
from client.site import Site, init_site
from client.site_template import REQUIRED_COLUMNS
from client.storage.store import open_store
from client.storage.stored_recording import StoredRecording
from shared_models.console import Screen

SEED = 20260301
FILES = 504
SIZE = "160x120"
CONTAINERS = {
    "a.mp4": ("-c:v", "libx264"),
    "a.mov": ("-c:v", "mjpeg"),
    "a.mkv": ("-c:v", "libx264"),
    "a.avi": ("-c:v", "mpeg4"),
    "a.webm": ("-c:v", "libvpx"),
    "a.mts": ("-c:v", "libx264", "-f", "mpegts"),
}


def flip_bytes(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 4, 16, 64, 256))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return data


def flip_in_header(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 2, 8))):
        data[rng.randrange(min(600, len(data)))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    return data


def cut(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(1, len(data))]


def repeat_block(data: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(data))
    block = data[start : start + rng.randrange(1, 4096)]
    return data[:start] + block * rng.randrange(2, 20) + data[start:]


def zero_block(data: bytearray, rng: random.Random) -> bytearray:
    start, length = rng.randrange(len(data)), rng.randrange(1, 2048)
    data[start : start + length] = bytes(len(data[start : start + length]))
    return data


def drop_block(data: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(data))
    del data[start : start + rng.randrange(1, 2048)]
    return data


def swap_header(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    length = rng.choice((4, 16, 64, 512))
    return bytearray(other[:length]) + data[length:]


CHANGES = (flip_bytes, flip_in_header, cut, repeat_block, zero_block, drop_block)


def mutants(originals: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Damaged files, no two alike and none whole."""
    rng = random.Random(SEED)
    names = sorted(originals)
    known = set(originals.values())
    while len(known) < FILES + len(originals):
        name = names[len(known) % len(names)]
        change = rng.choice((*CHANGES, swap_header))
        data = bytearray(originals[name])
        if change is swap_header:
            data = swap_header(data, rng, originals[rng.choice(names)])
        else:
            data = change(data, rng)
        if bytes(data) not in known:
            known.add(bytes(data))
            yield f"{len(known):03d}-{change.__name__}{Path(name).suffix}", bytes(data)


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, bytes]:
    binary = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    folder = tmp_path_factory.mktemp("originals")
    for name, words in CONTAINERS.items():
        picture = ("-f", "lavfi", "-i", f"testsrc2=size={SIZE}:rate=12", "-frames:v", "12")
        encoded = ("-g", "4", "-pix_fmt", "yuv420p", *words)
        subprocess.run(
            [binary, "-y", "-loglevel", "error", "-nostdin", *picture, *encoded, folder / name],
            check=True,
            timeout=60,
        )
    return {name: (folder / name).read_bytes() for name in CONTAINERS}


@pytest.fixture
def damaged_site(originals, tmp_path) -> Site:
    """A site whose videos are all damaged."""
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    site = init_site(tmp_path / "site", site_id="north", consortium_file=study)
    when = "2026-03-02T09:30:00+01:00"
    with site.paths.recordings.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(REQUIRED_COLUMNS)
        for name, data in mutants(originals):
            (site.folder / "videos" / name).write_bytes(data)
            table.writerow([name, f"s{name[:3]}", f"videos/{name}", when, 40, "female", 5])
    return site


@pytest.mark.slow
@pytest.mark.needs_model
def test_every_damaged_container_ends_with_a_verdict_or_a_message(damaged_site, face_model):
    checked = check_recordings(damaged_site)
    assert (checked.recordings, checked.faults) == (FILES, ())
    options = ExtractionOptions(workers=2, face_model=face_model)
    tally = extract_site(Screen(), damaged_site, options=options).tally
    assert tally.done == FILES
    assert all(why for _, why in tally.failures)

    store = open_store(damaged_site)
    assert store.find_damaged() == []
    stored = {one.recording_id: one for one in store.records()}
    assert len(stored) == tally.extracted + tally.rejected
    outcomes = Counter(outcome(one) for one in stored.values())
    assert not outcomes["neither"], outcomes
    # Both readable and unreadable files are among them, or the test says nothing.
    assert outcomes["unreadable"] > 20, outcomes
    assert outcomes["rejected"] > 200, outcomes
    for one in stored.values():
        frames = store.frames(one.subject_id, one.recording_id)
        assert (0 if frames is None else len(frames)) == one.quality["frames"]
        assert frames is None or np.all(np.diff(frames.timestamps_s) > 0)
    assert not [path for path in store.folder.rglob("*") if path.name.startswith(".")]

    again = extract_site(Screen(), damaged_site, options=options).tally
    assert (again.skipped, again.done) == (len(stored), tally.failed)


def outcome(record: StoredRecording) -> str:
    """What a recording came to; ``neither`` is what must not happen."""
    codes = [reason.code for reason in record.reasons if reason.text]
    if len(codes) < len(record.reasons) or bool(codes) == (record.verdict == "accepted"):
        return "neither"
    if not codes:
        return "accepted"
    return "unreadable" if "unreadable" in codes else "rejected"


def test_the_same_seed_damages_the_same_way(originals):
    first, again = list(mutants(originals)), list(mutants(originals))
    assert first == again
    assert len(first) == FILES
