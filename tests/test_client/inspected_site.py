"""A site whose store holds tracks of known motion, for the tests of what is shown and exported."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from agreed_study import STUDY
from extraction_tracks import frame_times, make_track

from client.extraction.behaviour.features import behaviour_series, cut_clips
from client.extraction.behaviour.frames import frame_log
from client.extraction.behaviour.indicators import measure_indicators
from client.extraction.container import VideoHeader
from client.extraction.pipeline import Extraction
from client.extraction.quality import judge_quality
from client.extraction.track import FaceTrack
from client.preparation.batch import to_stored
from client.recordings.annotations import NO_ANNOTATIONS, Annotations
from client.site import Site, init_site
from client.site_template import REQUIRED_COLUMNS
from client.storage.store import open_store

COLUMNS = (*REQUIRED_COLUMNS, "visit", "task", "events", "turns")


@dataclass(frozen=True)
class Sample:
    """One recording of the site."""

    recording_id: str
    track: FaceTrack | None = None
    subject_id: str = "s1"
    age_years: int = 43
    sex: str = "female"
    events: str = ""
    turns: str = ""
    decoded_fps: float = 0.0
    annotations: Annotations = field(default=NO_ANNOTATIONS)


def smiling_track(*, seconds: float = 40.0, fps: float = 30.0, smiles=((5, 7), (20, 21)), **more):
    """A frontal face that smiles in the given stretches."""
    times = frame_times(seconds, fps)
    level = np.zeros(len(times))
    for start, end in smiles:
        level[(times >= start) & (times < end)] = 0.9
    shapes = {"mouthSmileLeft": level, "mouthSmileRight": level}
    return make_track(times, blendshapes=shapes, **more)


def faceless_track(seconds: float = 10.0, fps: float = 30.0) -> FaceTrack:
    times = frame_times(seconds, fps)
    return make_track(times, detected=np.zeros(len(times), dtype=bool))


def make_site(folder: Path, samples: Iterable[Sample]) -> Site:
    """A site folder with a table; every sample with a track is in the store."""
    study = folder.parent / "study.toml"
    study.write_text(STUDY)
    site = init_site(folder, site_id="north", consortium_file=study)
    known = list(samples)
    when = "2026-03-02T09:30:00+01:00"
    with site.paths.recordings.open("w", newline="") as file:
        csv.writer(file).writerow(COLUMNS)
        for number, one in enumerate(known):
            name = f"videos/{number}.mp4"
            (folder / name).write_bytes(b"x")
            cells = (one.recording_id, one.subject_id, name, when, one.age_years, one.sex, 7)
            csv.writer(file).writerow((*cells, "baseline", "interview", one.events, one.turns))
    for one in known:
        if one.track is not None:
            keep(site, one, one.track)
    return site


def keep(site: Site, sample: Sample, track: FaceTrack) -> None:
    """Store a track as its extraction would."""
    extraction = extract(track, sample.annotations)
    record = to_stored(sample.recording_id, extraction, subject_id=sample.subject_id)
    open_store(site).put(record, features=extraction.features, frames=extraction.frames)


def extract(track: FaceTrack, annotations: Annotations = NO_ANNOTATIONS) -> Extraction:
    quality = judge_quality(track, VideoHeader(len(track), track.fps, 640, 480))
    series = behaviour_series(track)
    return Extraction(
        features=cut_clips(series) if quality.accepted else None,
        indicators=measure_indicators(track, series, annotations=annotations),
        quality=quality,
        provenance={"packages": {"mediapipe": "1.2.0"}, "frames": len(track)},
        frames=frame_log(track),
    )
