"""The site's labelled subjects as the learner takes them: one item a subject.

A subject is either for training or held out, decided once by a hash of the study and the subject's
pseudonym: who is added later moves nobody, and no subject ever pays for both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from client.recordings.manifest import Recording
from shared_models.consortium import ConsortiumConfig
from shared_models.features import BehaviourFeatures

UNDECLARED = "undeclared"
"""Group of subjects outside every declared band or sex: counted overall, in no other cell."""


@dataclass(frozen=True)
class SubjectClips:
    """All clips of one subject.

    Attributes:
        subject_id: The site's pseudonym; never leaves the site.
        values: ``[C, T, F]`` float32, normalised.
        mask: ``[C, T, F]`` bool, True where measured.
        score: ``[C]`` float32, recorded severity of each clip's recording, in points.
        age_band: Name of the age band at the first recording.
        sex: ``female``, ``male`` or ``other``.
    """

    subject_id: str
    values: Tensor
    mask: Tensor
    score: Tensor
    age_band: str
    sex: str


@dataclass(frozen=True)
class SubjectDataset:
    """The labelled subjects of a site, in order of pseudonym.

    Attributes:
        training: Subjects that train the network.
        held_out: Subjects that only ever judge it.
    """

    training: tuple[SubjectClips, ...]
    held_out: tuple[SubjectClips, ...]


def is_held_out(subject_id: str, *, study: str, fraction: float) -> bool:
    """Whether a subject judges the network instead of training it.

    Args:
        subject_id: The site's pseudonym.
        study: Name of the study, so that two studies do not share their held-out subjects.
        fraction: Expected share of held-out subjects, between 0 and 1.
    """
    digest = hashlib.sha256(f"vultus held out|{study}|{subject_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def build_dataset(
    recordings: Iterable[Recording],
    features: Mapping[str, BehaviourFeatures],
    config: ConsortiumConfig,
) -> SubjectDataset:
    """The subjects with at least one labelled recording that has features.

    Args:
        recordings: Rows of the manifest, in any order; withdrawn ones already left out.
        features: Features by recording id; a recording that was rejected is absent.
        config: The study: its tasks, groups and schema.

    Raises:
        ValueError: If features follow another schema than the study's.
    """
    by_subject: dict[str, list[Recording]] = {}
    for recording in recordings:
        wanted = not config.study.tasks or recording.task in config.study.tasks
        if recording.score is not None and recording.recording_id in features and wanted:
            by_subject.setdefault(recording.subject_id, []).append(recording)
    subjects = [
        _gather_clips(sorted(rows, key=lambda row: row.recorded_at), features, config)
        for _, rows in sorted(by_subject.items())
    ]
    fraction, study = config.fairness.holdout_fraction, config.study.name
    held_out = [is_held_out(s.subject_id, study=study, fraction=fraction) for s in subjects]
    return SubjectDataset(
        training=tuple(s for s, held in zip(subjects, held_out, strict=True) if not held),
        held_out=tuple(s for s, held in zip(subjects, held_out, strict=True) if held),
    )


def without_clips(dataset: SubjectDataset) -> SubjectDataset:
    """The same subjects with their scores and groups; ``values`` and ``mask`` hold no clip."""

    def emptied(subjects: Iterable[SubjectClips]) -> tuple[SubjectClips, ...]:
        # Copies: a slice would keep all clips alive.
        return tuple(
            replace(s, values=s.values[:0].clone(), mask=s.mask[:0].clone()) for s in subjects
        )

    return SubjectDataset(emptied(dataset.training), emptied(dataset.held_out))


def _gather_clips(
    rows: list[Recording], features: Mapping[str, BehaviourFeatures], config: ConsortiumConfig
) -> SubjectClips:
    schema = config.features.schema
    parts = [features[row.recording_id] for row in rows]
    if any(part.schema_digest != schema.digest for part in parts):
        msg = (
            f"Expected features of schema {schema.digest[:12]}: extract the recordings again "
            "('vultus-site extract')."
        )
        raise ValueError(msg)
    mask = np.concatenate([part.mask for part in parts])
    values = schema.normalise(np.concatenate([part.values for part in parts]), mask)
    scores = [
        np.full(len(part.values), row.score, np.float32)
        for part, row in zip(parts, rows, strict=True)
    ]
    sex = rows[0].sex
    return SubjectClips(
        subject_id=rows[0].subject_id,
        values=torch.from_numpy(values),
        mask=torch.from_numpy(mask),
        score=torch.from_numpy(np.concatenate(scores)),
        age_band=config.fairness.age_group(rows[0].age_years) or UNDECLARED,
        sex=sex if sex in config.fairness.sexes else UNDECLARED,
    )
