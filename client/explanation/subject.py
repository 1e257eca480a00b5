"""The explanation of one subject's score: behaviours with signs, and whether they add up."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from client.explanation.model import ExplainedModel
from client.learning.attribution import Attribution, attribute_score
from client.learning.dataset import is_held_out
from client.preparation.steps import load_manifest
from client.recordings.recording import Recording
from client.site import Site
from client.storage.store import open_store
from client.withdrawal.exclusion import open_exclusions
from shared_models.behaviour_groups import BEHAVIOUR_GROUPS, BehaviourGroup, group_columns
from shared_models.console import InputError
from shared_models.consortium import ConsortiumConfig
from shared_models.features import BehaviourFeatures, FeatureSchema
from shared_models.tallies import Float64Array
from shared_models.typical_clips import typical_clips

Part = Literal["training", "held_out", "neither"]
OnProgress = Callable[[int, int], None]

TOLERANCE = 0.01
"""Largest part of all that moved the score that may be missing from the sum."""

_STEPS = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class ExplainedBehaviour:
    """What one behaviour did to the score.

    Attributes:
        group: The behaviour.
        points: What it added to the score, in points of the instrument; negative: took away.
        measured: Mean of the behaviour's first column in its own unit; None if never measured.
        typical: The same of the typical clips.
        unit: Of both.
    """

    group: BehaviourGroup
    points: float
    measured: float | None
    typical: float
    unit: str


@dataclass(frozen=True)
class ExplainedRecording:
    """One recording and what its moments did to the score.

    Attributes:
        recording: Its row of the table.
        features: Its clips.
        points: ``[C, T, K]`` points that each behaviour added at each step.
    """

    recording: Recording
    features: BehaviourFeatures
    points: Float64Array


@dataclass(frozen=True)
class Explanation:
    """What moved the score of one subject; never leaves the site.

    Attributes:
        subject_id: The site's pseudonym.
        site_id: The site.
        study: The study.
        model: Where the weights are from.
        part: Whether the subject's recordings trained the model.
        score: Mean score over all clips, in points; not cut to the instrument's range.
        typical_score: The same of typical faces.
        gap: What the parts miss of the difference.
        behaviours: The largest effect first, whatever its sign.
        recordings: In order of time.
    """

    subject_id: str
    site_id: str
    study: ConsortiumConfig
    model: str
    part: Part
    score: float
    typical_score: float
    gap: float
    behaviours: tuple[ExplainedBehaviour, ...]
    recordings: tuple[ExplainedRecording, ...]

    @property
    def difference(self) -> float:
        """What sets the subject apart from typical faces, in points."""
        return self.score - self.typical_score

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return self.difference - self.gap

    @property
    def is_complete(self) -> bool:
        """Whether the parts add up to the difference."""
        return abs(self.gap) <= TOLERANCE * self.moved

    @property
    def moved(self) -> float:
        """All that raised the score and all that lowered it, as one size in points."""
        return float(sum(abs(one.points) for one in self.behaviours)) + 1e-6

    def to_json(self) -> dict[str, object]:
        """The object for machines of this site."""
        return {
            "subject": self.subject_id,
            "model": self.model,
            "score": self.score,
            "typical_score": self.typical_score,
            "sum_of_attributions": self.total,
            "gap": self.gap,
            "complete": self.is_complete,
            "behaviours": [{"name": b.group.name, "points": b.points} for b in self.behaviours],
            "recordings": [one.recording.recording_id for one in self.recordings],
        }


def explain_subject(
    site: Site,
    model: ExplainedModel,
    subject_id: str,
    *,
    recording_id: str | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> Explanation:
    """What moved the score of a subject, or that of one recording.

    Args:
        site: The site.
        model: With verified weights.
        subject_id: The site's pseudonym.
        recording_id: Only this recording; all accepted ones of the study if None.
        on_progress: Told what is done and what there is to do; begins anew for a closer look.

    Raises:
        InputError: If there is nothing of the subject that could be explained.
        ManifestError: If the table of recordings is faulty.
        StoreError: If a stored recording cannot be opened.
    """
    config = site.consortium.config
    rows = _find_rows(site, subject_id, recording_id)
    schema = config.features.schema
    features = open_store(site).load_features(rows, schema_digest=schema.digest)
    kept = [row for row in rows if row.recording_id in features]
    if not kept:
        msg = (
            f"Expected an extracted and accepted recording of {subject_id!r}, got none: see "
            "'vultus-site inspect'."
        )
        raise InputError(msg)
    values, mask = _join(kept, features, schema)
    moved = _attribute(model, values, mask, config, on_progress)
    points = moved.points @ group_columns(schema)
    return Explanation(
        subject_id=subject_id,
        site_id=site.id,
        study=config,
        model=model.words,
        part=_part(rows, config),
        score=moved.score,
        typical_score=moved.typical_score,
        gap=moved.gap,
        behaviours=_rank(points, values, mask, schema),
        recordings=_split(kept, features, points),
    )


def _find_rows(site: Site, subject_id: str, recording_id: str | None) -> list[Recording]:
    if open_exclusions(site).holds(subject_id):
        msg = f"Subject {subject_id!r} was forgotten: nothing is kept that could be explained."
        raise InputError(msg)
    recordings = load_manifest(site, require_files=False).recordings
    own = [row for row in recordings if row.subject_id == subject_id]
    if not own:
        known = {row.subject_id for row in recordings}
        msg = f"Expected a subject of the table of recordings, got {subject_id!r}."
        raise InputError(msg + _hint(subject_id, known))
    if recording_id is None:
        return sorted(own, key=lambda row: row.recorded_at)
    chosen = [row for row in own if row.recording_id == recording_id]
    if not chosen:
        known = {row.recording_id for row in own}
        msg = f"Expected a recording of {subject_id!r}, got {recording_id!r}."
        raise InputError(msg + _hint(recording_id, known))
    return chosen


def _hint(given: str, known: set[str]) -> str:
    near = difflib.get_close_matches(given, sorted(known), n=3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _join(
    rows: Sequence[Recording], features: Mapping[str, BehaviourFeatures], schema: FeatureSchema
) -> tuple[Tensor, Tensor]:
    parts = [features[row.recording_id] for row in rows]
    mask = np.concatenate([part.mask for part in parts])
    values = schema.normalise(np.concatenate([part.values for part in parts]), mask)
    return torch.from_numpy(values), torch.from_numpy(mask)


def _attribute(
    model: ExplainedModel,
    values: Tensor,
    mask: Tensor,
    config: ConsortiumConfig,
    on_progress: OnProgress,
) -> Attribution:
    """The attribution with as many nodes as it takes until the parts add up."""
    member = group_columns(config.features.schema)
    typical = typical_clips()
    for steps in _STEPS:
        done = itertools.count(1)
        moved = attribute_score(
            model.network,
            values,
            mask,
            score_range=config.study.score_range,
            typical=typical,
            steps=steps,
            advance=lambda done=done: on_progress(next(done), len(typical)),  # type: ignore[misc]
        )
        size = float(np.abs(moved.points.sum(axis=(0, 1)) @ member).sum())
        if abs(moved.gap) <= TOLERANCE * size:
            break
    return moved


def _part(rows: Sequence[Recording], config: ConsortiumConfig) -> Part:
    if all(row.score is None for row in rows):
        return "neither"
    fraction, study = config.fairness.holdout_fraction, config.study.name
    held_out = is_held_out(rows[0].subject_id, study=study, fraction=fraction)
    return "held_out" if held_out else "training"


def _rank(
    points: Float64Array, values: Tensor, mask: Tensor, schema: FeatureSchema
) -> tuple[ExplainedBehaviour, ...]:
    net = points.sum(axis=(0, 1))
    found = [
        _describe(group, float(net[place]), values, mask, schema)
        for place, group in enumerate(BEHAVIOUR_GROUPS)
    ]
    return tuple(sorted(found, key=lambda one: -abs(one.points)))


def _describe(
    group: BehaviourGroup, points: float, values: Tensor, mask: Tensor, schema: FeatureSchema
) -> ExplainedBehaviour:
    column = schema.names.index(group.columns[0])
    feature = schema.features[column]
    seen = mask[..., column]
    own = float(values[..., column][seen].mean()) if bool(seen.any()) else None
    typical = float(typical_clips()[..., column].mean())
    return ExplainedBehaviour(
        group=group,
        points=points,
        measured=None if own is None else own * feature.scale + feature.center,
        typical=typical * feature.scale + feature.center,
        unit="" if feature.unit == "1" else feature.unit,
    )


def _split(
    rows: Sequence[Recording], features: Mapping[str, BehaviourFeatures], points: Float64Array
) -> tuple[ExplainedRecording, ...]:
    sizes = [len(features[row.recording_id].values) for row in rows]
    pieces = np.split(points, np.cumsum(sizes)[:-1])
    return tuple(
        ExplainedRecording(row, features[row.recording_id], piece)
        for row, piece in zip(rows, pieces, strict=True)
    )
