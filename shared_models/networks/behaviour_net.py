"""``behaviour_net``: a temporal CNN over clips of behaviour features.

Dilated convolutions with GroupNorm, a masked average over time, one linear head. The norm works on
each time step by itself, so what is padded or missing can never change what was measured.

Source: Bai, Kolter, Koltun 2018 (temporal convolutional networks, arXiv:1803.01271); Wu, He 2018
(GroupNorm, 10.1007/978-3-030-01261-8_1); Lin, Chen, Yan 2014 (global average pooling,
arXiv:1312.4400).
"""

from __future__ import annotations

from importlib.resources import files
from itertools import pairwise

import torch
from safetensors.torch import load
from torch import Tensor, nn

CHANNELS = {"small": (32, 32, 32)}
KERNEL = 5
GROUPS = 8


class StepNorm(nn.GroupNorm):
    """GroupNorm over the channels of each time step, apart from all other steps."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own name
        """``[C, H, T]`` → ``[C, H, T]``."""
        clips, channels, steps = input.shape
        by_step = input.transpose(1, 2).reshape(clips * steps, channels)
        return super().forward(by_step).view(clips, steps, channels).transpose(1, 2)


class BehaviourNet(nn.Module):
    """Temporal CNN from behaviour clips to severity.

    Args:
        features: Number of feature columns F.
        channels: Width of each convolution; the i-th is dilated by 2**i.
    """

    def __init__(self, features: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        # The mask is part of the input: "no face" is information of its own.
        widths = (2 * features, *channels)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, KERNEL, padding=(KERNEL // 2) * 2**i, dilation=2**i)
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.norms = nn.ModuleList(StepNorm(GROUPS, width) for width in channels)
        self.head = nn.Linear(2 * channels[-1], 2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def embed(self, values: Tensor, mask: Tensor) -> Tensor:
        """Embedding of each clip: mean and spread over the measured steps.

        Args:
            values: ``[C, T, F]`` normalised features, 0 where nothing was measured.
            mask: ``[C, T, F]`` bool, True where measured.

        Returns:
            ``[C, 2 H]``; zeros for a clip in which nothing was measured.
        """
        measured = mask.any(dim=2, keepdim=True).transpose(1, 2).to(values.dtype)
        hidden = torch.cat([values, mask.to(values.dtype)], dim=2).transpose(1, 2)
        for convolve, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = torch.relu(norm(convolve(hidden))) * measured
        steps = measured.sum(dim=2).clamp(min=1)
        mean = hidden.sum(dim=2) / steps
        square = (hidden**2).sum(dim=2) / steps
        # A floor under the root keeps its gradient finite where a channel is constant.
        spread = (square - mean**2).clamp(min=1e-6).sqrt() * (measured.sum(dim=2) > 0)
        return torch.cat([mean, spread], dim=1)

    def judge(self, embedding: Tensor) -> Tensor:
        """``[C, 2 H]`` embeddings → ``[C, 2]`` standardised score and log-odds."""
        judged: Tensor = self.head(embedding)
        return judged

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """``[C, T, F]`` values and mask → ``[C, 2]`` standardised score and log-odds."""
        return self.judge(self.embed(values, mask))


def make_behaviour_net(size: str, features: int) -> BehaviourNet:
    """A network with the shipped trunk of its size, and a head of zeros.

    Raises:
        ValueError: If the size is not known.
        FileNotFoundError: If the package lacks the trunk.
    """
    if size not in CHANNELS:
        msg = f"Expected network.size to be one of {sorted(CHANNELS)}, got {size!r}"
        raise ValueError(msg)
    network = BehaviourNet(features, CHANNELS[size])
    trunk = load(files(__package__).joinpath(f"behaviour_net_{size}.safetensors").read_bytes())
    network.load_state_dict({**network.state_dict(), **trunk})
    return network
