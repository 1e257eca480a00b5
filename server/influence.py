"""How much one site can move the model in a round, whatever it sends.

Where each update is seen apart, one that no honest site could have made is refused. In a secure sum
no part can be seen: there a site's influence is bounded only by the ring's range, which is that of
``_HEADROOM`` times its clipped subjects and their noise, and by what the sum shows as a whole
(docs/adr/0014).
"""

from __future__ import annotations

import math

from privacy.plan import PrivacyPlan
from shared_models.weights import State, WeightsError

MOST_SUBJECTS = 4
"""A site may train with this many times the subjects that it is counted with."""
_RARELY = 1e-12
"""Probability with which an honest site's noise is longer than is accepted."""


def largest_update_norm(plan: PrivacyPlan, *, weight: int, size: int) -> float:
    """L2 norm that an honest update does not exceed, but with probability 1e-12.

    An update is the sum of at most ``4 weight`` clipped gradients and of Gaussian noise, over
    ``weight``. The norm of noise in D dimensions exceeds ``stddev (sqrt(D) + t)`` with probability
    at most ``exp(-t^2 / 2)``.

    Args:
        plan: Noise and clipping of each site; without noise nothing is clipped either.
        weight: Subjects that the site is counted with, >= 1.
        size: Entries D of the update, >= 1.

    Returns:
        The norm; infinite where the plan promises no privacy, as only a simulation does.

    Source: Boucheron, Lugosi, Massart 2013, theorem 5.6
        (10.1093/acprof:oso/9780199535255.001.0001).

    >>> plan = PrivacyPlan("local", 2.0, 0.5, 1.0, 30, 1e-3, None)
    >>> round(largest_update_norm(plan, weight=100, size=130), 3)
    2.188
    """
    if plan.mode == "off":
        return math.inf
    reach = math.sqrt(size) + math.sqrt(-2 * math.log(_RARELY))
    return plan.max_grad_norm * (MOST_SUBJECTS + plan.noise_multiplier * reach / weight)


def check_influence(update: State, plan: PrivacyPlan, *, weight: int) -> None:
    """Refuse an update that is longer than an honest one could be.

    Raises:
        WeightsError: If it is.
    """
    norm = math.sqrt(math.fsum(float((part.double() ** 2).sum()) for part in update.values()))
    size = sum(part.numel() for part in update.values())
    largest = largest_update_norm(plan, weight=weight, size=size)
    if norm > largest:
        msg = (
            f"Expected an update of norm {largest:.3g} at most, which {MOST_SUBJECTS} x {weight} "
            f"clipped subjects and their noise give, got {norm:.3g}"
        )
        raise WeightsError(msg)
