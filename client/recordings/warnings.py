"""What is no fault in a table of recordings, yet would surprise later."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from client.recordings.recording import Recording
from shared_models.consortium import ConsortiumConfig


def find_warnings(
    recordings: Sequence[Recording], consortium: ConsortiumConfig, min_subjects: int
) -> Iterator[str]:
    """One sentence a matter: too few subjects, no labels, one class only, one video twice.

    Args:
        recordings: Those that take part.
        consortium: The study, for its threshold.
        min_subjects: Fewest subjects that the site's policy asks for.
    """
    subjects = {recording.subject_id for recording in recordings}
    if len(subjects) < min_subjects:
        yield (
            f"{len(subjects)} subjects, fewer than policy.min_subjects = {min_subjects}: "
            "this site will refuse to train."
        )
    yield from _label_warnings([r.score for r in recordings if r.score is not None], consortium)
    for twins in _same_content(recordings):
        names = ", ".join(recording.recording_id for recording in twins)
        yield f"The recordings {names} have the same video."


def _label_warnings(scores: Sequence[float], consortium: ConsortiumConfig) -> Iterator[str]:
    threshold = consortium.study.score_range[2]
    if not scores:
        yield "No recording has a score: this site cannot train."
    elif len({score >= threshold for score in scores}) == 1:
        side = "at or above" if scores[0] >= threshold else "below"
        yield f"All scores are {side} the threshold {threshold:g}: this site shows one class only."


def _same_content(recordings: Iterable[Recording]) -> Iterator[list[Recording]]:
    """Groups of recordings whose files have the same bytes; only equal sizes are read."""
    by_size: dict[int, list[Recording]] = defaultdict(list)
    for recording in recordings:
        if recording.file is not None and recording.file.is_file():
            by_size[recording.file.stat().st_size].append(recording)
    for same_size in by_size.values():
        if len(same_size) > 1:
            yield from _same_hash(same_size)


def _same_hash(recordings: list[Recording]) -> Iterator[list[Recording]]:
    by_hash: dict[str, list[Recording]] = defaultdict(list)
    for recording in recordings:
        if recording.file is not None:
            by_hash[hash_file(recording.file)].append(recording)
    yield from (twins for twins in by_hash.values() if len(twins) > 1)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal; read in pieces, so that length costs no memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
