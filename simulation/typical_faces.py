"""Typical clips of simulated faces, which explanations at every site compare a recording with.

They ship with ``shared_models`` and are made from this module once; a study is explained the same
way at every site, and with nobody's data. ``python -m simulation.typical_faces FILE`` makes them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from shared_models.features import BEHAVIOUR
from shared_models.networks import make_network
from shared_models.typical_clips import CLIPS, TENSOR
from simulation.cohort import CohortDesign, SiteCohort, generate_cohort

SEED = 20_260_101
"""Of a cohort that no study, benchmark or trunk uses."""

_CLOSE = 0.15
"""Largest distance from the mean severity, as a share of the severities that occur."""


def pick_typical_clips(design: CohortDesign, *, clips: int = CLIPS) -> NDArray[np.float32]:
    """``[R, T, F]`` normalised clips of subjects with middling severity, one a subject.

    Each pick brings the mean embedding of those picked closer to that of all such subjects
    (herding). A head is linear in the embedding, so whatever a study trains, the mean score of
    few clips stands for the mean score of many.

    Source: Welling 2009 (herding, 10.1145/1553374.1553517).

    Args:
        design: A cohort of many sites, so that no camera decides what is typical.
        clips: How many, R.

    Raises:
        ValueError: If the cohort has too few such subjects.
    """
    cohorts = list(generate_cohort(design))
    severities = [one.severity for cohort in cohorts for one in cohort.recordings]
    middle = float(np.mean(severities))
    reach = _CLOSE * (max(severities) - min(severities))
    rows = [row for cohort in cohorts for row in _whole_clips(cohort, middle, reach)]
    if len(rows) < clips:
        msg = f"Expected at least {clips} typical subjects in the cohort, got {len(rows)}"
        raise ValueError(msg)
    table = np.stack(rows)
    return table[_herd(_embed(table), clips)]


def write_typical_clips(path: Path) -> None:
    """Write the clips that ship."""
    design = CohortDesign(sites=CLIPS, subjects_per_site=80, seed=SEED, visits=(1.0,))
    clips = torch.from_numpy(pick_typical_clips(design)).to(torch.float16)
    save_file({TENSOR: clips}, path, metadata={"schema_digest": BEHAVIOUR.digest})


def _whole_clips(cohort: SiteCohort, middle: float, reach: float) -> list[NDArray[np.float32]]:
    """A clip of each subject of middling severity that was measured from end to end."""
    found = []
    for recording, features in zip(cohort.recordings, cohort.features, strict=True):
        # Speeds have no value at the first sample.
        whole = np.flatnonzero(features.mask[:, 1:].all(axis=(1, 2)))
        if abs(recording.severity - middle) <= reach and len(whole):
            clip = whole[0]
            found.append(BEHAVIOUR.normalise(features.values[clip], features.mask[clip]))
    return found


@torch.no_grad()
def _embed(clips: NDArray[np.float32]) -> NDArray[np.float64]:
    """``[R, H]`` embeddings by the trunk that ships, each entry of SD 1."""
    network = make_network("behaviour_net", "small", features=clips.shape[2])
    values = torch.from_numpy(clips)
    embedded = network.embed(values, torch.ones_like(values, dtype=torch.bool)).double().numpy()
    return np.asarray(embedded / (embedded.std(axis=0) + 1e-9))


def _herd(points: NDArray[np.float64], count: int) -> list[int]:
    """Rows whose mean is close to the mean of all, found one after another."""
    away = points - points.mean(axis=0)
    picked: list[int] = []
    total = np.zeros(away.shape[1])
    for _ in range(count):
        distance = np.linalg.norm(total + away, axis=1)
        distance[picked] = np.inf
        picked.append(int(distance.argmin()))
        total += away[picked[-1]]
    return picked


if __name__ == "__main__":
    write_typical_clips(Path(sys.argv[1]))
