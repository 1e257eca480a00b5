"""Typical clips: what an explanation compares a recording with, the same at every site.

A few clips of simulated faces of middling severity, in the network's own units. They are public and
part of the package: nobody's data is in the explanation of somebody else.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import torch
from safetensors.torch import load
from torch import Tensor

FILE = "typical_clips.safetensors"
TENSOR = "clips"
CLIPS = 16
"""Clips R that ship."""


@cache
def typical_clips() -> Tensor:
    """``[R, T, F]`` float32, normalised as the networks take them.

    Raises:
        FileNotFoundError: If the package lacks them.
    """
    return load(files(__package__).joinpath(FILE).read_bytes())[TENSOR].to(torch.float32)
