"""One round of training at a site: the loss of a subject and the private gradient.

Where only the head is trained, the frozen trunk sees each clip once and its embeddings are kept:
the head's exact gradient then costs almost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from client.learning.dataset import SubjectClips
from privacy.noise import NoiseSource
from privacy.plan import PrivacyPlan
from privacy.training import noised_gradient, plain_gradient
from shared_models.mitigation import MitigationConfig
from shared_models.networks import BehaviourNet
from shared_models.weights import State

EMBED_BATCH_CLIPS = 256


@dataclass(frozen=True)
class SubjectItem:
    """What the loss of one subject needs.

    Attributes:
        inputs: ``(values, mask)`` for the whole network, or ``(embedding,)`` for the head alone.
        target: ``[C]`` severity in standard units, 0 at the clinical threshold.
        share: Weight of the subject over the largest that the study has, in (0, 1].
    """

    inputs: tuple[Tensor, ...]
    target: Tensor
    share: float = 1.0


def standardise_scores(score: Tensor, score_range: tuple[float, float, float]) -> Tensor:
    """Points of the instrument as units of a quarter of its range, 0 at the clinical threshold."""
    low, high, threshold = score_range
    return (score - threshold) * 4 / (high - low)


def restore_scores(standard: Tensor, score_range: tuple[float, float, float]) -> Tensor:
    """Standard units back to points, clipped to the instrument's range."""
    low, high, threshold = score_range
    return (standard * (high - low) / 4 + threshold).clamp(low, high)


def make_items(
    network: BehaviourNet,
    subjects: Sequence[SubjectClips],
    *,
    score_range: tuple[float, float, float],
    head_only: bool,
    mitigation: MitigationConfig | None = None,
) -> list[SubjectItem]:
    """The subjects as training takes them; runs the frozen trunk once if only the head trains."""
    device = network.head.weight.device
    targets = [standardise_scores(s.score, score_range).to(device) for s in subjects]
    if not head_only:
        inputs: list[tuple[Tensor, ...]] = [
            (s.values.to(device), s.mask.to(device)) for s in subjects
        ]
    else:
        inputs = [(embedding,) for embedding in embed_subjects(network, subjects)]
    shares = [subject_share(s, score_range[2], mitigation or MitigationConfig()) for s in subjects]
    return [SubjectItem(i, t, w) for i, t, w in zip(inputs, targets, shares, strict=True)]


def subject_share(subject: SubjectClips, threshold: float, mitigation: MitigationConfig) -> float:
    """What a subject's clipped gradient is scaled by, in (0, 1]: from the study and itself alone.

    Args:
        subject: Whose groups and mean score count.
        threshold: Clinical threshold, in points.
        mitigation: The study's declared weights.
    """
    if not mitigation.weights:
        return 1.0
    groups = {"age_band": subject.age_band, "sex": subject.sex}
    return mitigation.share_of(groups, above=bool(subject.score.mean() >= threshold))


def item_share(item: SubjectItem) -> float:
    """The share that was worked out for a subject."""
    return item.share


@torch.no_grad()
def embed_subjects(network: BehaviourNet, subjects: Sequence[SubjectClips]) -> list[Tensor]:
    """``[C, H]`` embeddings of each subject's clips, on the network's device, batch by batch."""
    if not subjects:
        return []
    device = network.head.weight.device
    values = torch.cat([subject.values for subject in subjects])
    mask = torch.cat([subject.mask for subject in subjects])
    embedded = torch.cat(
        [
            network.embed(v.to(device), m.to(device))
            for v, m in zip(
                torch.split(values, EMBED_BATCH_CLIPS),
                torch.split(mask, EMBED_BATCH_CLIPS),
                strict=True,
            )
        ]
    )
    return list(torch.split(embedded, [len(subject.values) for subject in subjects]))


def subject_loss(network: BehaviourNet, item: SubjectItem) -> Tensor:
    """Mean loss over one subject's clips.

    Args:
        network: The network, with the weights to judge.
        item: The subject; its loss depends on nobody else's data.

    Returns:
        Scalar.
    """
    judged = network.judge(*item.inputs) if len(item.inputs) == 1 else network(*item.inputs)
    return severity_loss(judged, item.target)


def severity_loss(judged: Tensor, target: Tensor) -> Tensor:
    """Huber loss on the score plus cross-entropy at the threshold, mean over clips.

    Args:
        judged: ``[C, 2]`` standardised score and log-odds.
        target: ``[C]`` standardised severity.

    Returns:
        Scalar.
    """
    reaches = functional.binary_cross_entropy_with_logits(
        judged[:, 1], (target >= 0).to(judged.dtype)
    )
    return functional.huber_loss(judged[:, 0], target) + reaches


def site_gradient(
    network: BehaviourNet,
    items: Sequence[SubjectItem],
    *,
    plan: PrivacyPlan,
    expected_subjects: int,
    noise: NoiseSource,
) -> State:
    """The gradient that a site releases: noised under the plan, or plain where privacy is off."""
    if plan.mode == "off":
        gradient = plain_gradient(network, items, subject_loss, item_share)
        # The same fixed denominator as with privacy, so that only the noise differs.
        return {name: part * (len(items) / expected_subjects) for name, part in gradient.items()}
    return noised_gradient(
        network,
        items,
        subject_loss,
        plan=plan,
        expected_subjects=expected_subjects,
        noise=noise,
        share_of=item_share,
    )
