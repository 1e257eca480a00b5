"""How the sites' updates become a new global model: pure functions and the server's optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from privacy.accounting import Release, compose, site_noise_multiplier
from shared_models.weights import State


@dataclass
class ServerOptimizer:
    """Gradient descent with momentum, and a running average of the weights.

    Both only post-process noised updates, so neither costs privacy. The average is what is judged
    and published: it carries less of the last rounds' noise.

    Attributes:
        weights: The trainable tensors; changed by :meth:`step`.
        learning_rate: Step size.
        momentum: Share of the last direction that is kept, in [0, 1).
        ema: Share of the old average that is kept, in [0, 1).

    Source: Polyak 1964 (10.1016/0041-5553(64)90137-5); Polyak, Juditsky 1992 (10.1137/0330046).
    """

    weights: State
    learning_rate: float
    momentum: float
    ema: float

    def __post_init__(self) -> None:
        self._velocity = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        self.average = {name: w.clone() for name, w in self.weights.items()}

    def step(self, gradient: State) -> None:
        """Move the weights against a gradient, and the average towards them."""
        for name, weight in self.weights.items():
            self._velocity[name].mul_(self.momentum).add_(gradient[name])
            weight.sub_(self._velocity[name], alpha=self.learning_rate)
            self.average[name].lerp_(weight, 1 - self.ema)

    def state(self) -> dict[str, State]:
        """All that a later process needs to go on with the same steps."""
        return {"weights": self.weights, "velocity": self._velocity, "average": self.average}

    def restore(self, state: Mapping[str, State]) -> None:
        """Go on from what :meth:`state` gave."""
        self.weights, self.average = state["weights"], state["average"]
        self._velocity = state["velocity"]


def epsilon_of_sums(
    noise_multiplier: float, delta: float, sites_by_round: Iterable[int]
) -> float | None:
    """Epsilon of someone who sees only the sum over sites of each round.

    A subject is at one site, and every site of the round adds its own full noise: the sum of P
    sites carries ``sqrt(P)`` times the noise of one.

    Args:
        noise_multiplier: Of one site's release; 0 means no privacy.
        delta: Probability with which the bound may fail.
        sites_by_round: Number of sites P in each round's sum.

    Returns:
        Epsilon, or None where nothing is promised.
    """
    counts = [count for count in sites_by_round if count]
    if noise_multiplier == 0 or not counts:
        return None
    releases = [Release(noise_multiplier * math.sqrt(count), steps=1) for count in counts]
    return compose(releases, delta)


def epsilons_of_secure_sums(
    noise_multiplier: float, delta: float, sites_by_sum: Iterable[int], *, tolerated: int
) -> tuple[float | None, float | None]:
    """Epsilon of the sums, and of one site's parts were all masks broken.

    Each sum carries ``noise_multiplier`` even without the shares of ``tolerated`` sites; a part of
    a sum over P sites carries ``noise_multiplier / sqrt(P - tolerated)``. Sums that were asked for
    and never completed count: the sites answered.

    Args:
        noise_multiplier: Of a sum, > 0.
        delta: Probability with which the bound may fail.
        sites_by_sum: Number of sites P asked for each sum.
        tolerated: Sites whose noise may be missing or known.

    Returns:
        Both; None where nothing was released.
    """
    counts = list(sites_by_sum)
    if not counts:
        return None, None
    parts = [
        Release(site_noise_multiplier(noise_multiplier, sites=p, tolerated_dropouts=tolerated), 1)
        for p in counts
    ]
    return compose([Release(noise_multiplier, len(counts))], delta), compose(parts, delta)
