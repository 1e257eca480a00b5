"""How much each feature at each moment moved a score: integrated gradients, at the site only.

The gradient of the score is integrated along straight lines from typical clips to the recorded one.
What comes out adds up to the difference of the scores, so that nothing is hidden and nothing is
counted twice (completeness); it is checked, not assumed.

The lines begin at clips of simulated faces that ship with the package, and the mean over them is
taken. A face at rest, every column at the centre of the schema, would be simpler; but nobody's lids
and lips rest for 15 s, so that blinks and speech would get large parts in everybody. A mean over a
site's subjects would put other people's data into the explanation of one. The mask is the same at
both ends: a moment without a face is no behaviour that one could have shown more or less of.

Source: Sundararajan, Taly, Yan 2017 (arXiv:1703.01365), with several beginnings as Erion et al.
2021 (10.1038/s42256-021-00343-w); computed by Captum: Kokhlikyan et al. 2020 (arXiv:2009.07896).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shared_models.tallies import Float64Array

STEPS = 8
"""Nodes of the Gauss-Legendre rule on each line from a typical clip to the clip itself.

Where all channels of a norm's group are at rest the network is steep, so that the sum meets the
difference no faster than one over the nodes. Errors of different lines cancel in part.
"""

_BATCH = 256
_SCORE = 0
"""Column of the network's output that is the standardised score."""


@dataclass(frozen=True)
class Attribution:
    """What moved the score of a set of clips, in points of the instrument.

    Attributes:
        points: ``[C, T, F]``; over all clips it adds up to ``score - typical_score``.
        score: Mean score of the clips, not cut to the instrument's range.
        typical_score: Mean score of the typical clips, measured where these clips are.
    """

    points: Float64Array
    score: float
    typical_score: float

    @property
    def total(self) -> float:
        """Sum of all attributions."""
        return float(self.points.sum())

    @property
    def gap(self) -> float:
        """What the sum of the attributions misses of the difference of the scores."""
        return self.score - self.typical_score - self.total


def attribute_score(  # noqa: PLR0913 - clips, and how closely they are looked at
    network: nn.Module,
    values: Tensor,
    mask: Tensor,
    *,
    score_range: tuple[float, float, float],
    typical: Tensor,
    steps: int = STEPS,
    advance: Callable[[], None] = lambda: None,
) -> Attribution:
    """Integrated gradients of the mean score of a subject's clips, mean over typical clips.

    Args:
        network: Takes ``[C, T, F]`` values and mask, gives ``[C, 2]``; its clips do not mix.
        values: ``[C, T, F]`` normalised features, C >= 1.
        mask: ``[C, T, F]`` bool, True where measured.
        score_range: Lowest score, highest score and clinical threshold, in points.
        typical: ``[R, T, F]`` normalised clips to begin from, R >= 1.
        steps: Nodes of each integral; more make the sum meet the difference more closely.
        advance: Called after each typical clip.
    """
    from captum.attr import IntegratedGradients

    low, high, threshold = score_range
    unit = (high - low) / 4
    device = next(network.parameters()).device
    shown, seen = values.detach().to(device).requires_grad_(), mask.to(device)
    integrate = IntegratedGradients(network)
    moved = torch.zeros(shown.shape, dtype=torch.float64, device=device)
    begun = 0.0
    for clip in typical.to(device):
        start = torch.where(seen, clip, 0.0)
        part = integrate.attribute(
            shown,
            baselines=start,
            target=_SCORE,
            additional_forward_args=(seen,),
            n_steps=steps,
            method="gausslegendre",
            internal_batch_size=max(_BATCH, len(shown)),
        )
        moved += part.detach().double()
        begun += _mean_score(network, start, seen)
        advance()
    paths = len(typical)
    return Attribution(
        points=moved.cpu().numpy() * (unit / len(shown) / paths),
        score=_mean_score(network, shown, seen) * unit + threshold,
        typical_score=begun / paths * unit + threshold,
    )


@torch.no_grad()
def _mean_score(network: nn.Module, values: Tensor, mask: Tensor) -> float:
    return float(network(values, mask)[:, _SCORE].double().mean())
