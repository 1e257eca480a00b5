"""How a vector is summed over a cohort of sites: derived from the study alone, by every party.

Coordinator and sites must agree on bounds, noise and rounding to the last bit, or the sum would
mean something else to each of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from privacy.accounting import site_noise_multiplier
from privacy.plan import PrivacyPlan
from privacy.secure_sum import MIN_COHORT, NOISE_REACH, FixedPoint, SecureSumError
from shared_models.consortium import ConsortiumConfig

_HEADROOM = 4
"""A site may have this many times the subjects that the study counts it with before its sum is
cut; cutting costs accuracy, never privacy."""

_HALF_RING = 2**31


@dataclass(frozen=True)
class SumTerms:
    """The terms of one secure sum.

    Attributes:
        form: Bounds, noise of each site and rounding.
        bounds: Largest absolute entry of each site's vector before noise, by site.
        size: Entries D of the vector.
    """

    form: FixedPoint
    bounds: dict[str, float]
    size: int

    @property
    def total_stddev(self) -> float:
        """Standard deviation of the noise in each entry of the sum."""
        return self.form.noise_stddev * math.sqrt(len(self.bounds))


def smallest_cohort(config: ConsortiumConfig) -> int:
    """Fewest sites in a sum: enough for a quorum, and two that tell nobody anything."""
    return max(MIN_COHORT, config.privacy.tolerated_dropouts + 2, config.training.quorum)


def sum_terms(
    config: ConsortiumConfig, cohort: Sequence[str], *, plan: PrivacyPlan, size: int
) -> SumTerms:
    """The terms of a sum over these sites.

    The noise is shared by as many sites as surely keep theirs to themselves, so the sum carries the
    whole of it whatever the cohort's size. Rounding adds to the sensitivity; because the unit of
    rounding grows with the noise, the two are solved for together.

    Args:
        config: The study.
        cohort: Ids of the sites.
        plan: Noise and clipping, of mode ``distributed``.
        size: Entries D of the vector.

    Raises:
        SecureSumError: If the cohort is too small or names a site that the study does not.
    """
    entries = [config.site(site) for site in cohort]
    if None in entries:
        msg = "Expected a cohort of the study's sites"
        raise SecureSumError(msg)
    least = smallest_cohort(config)
    if len(cohort) < least:
        msg = f"Expected at least {least} sites in a sum, got {len(cohort)}"
        raise SecureSumError(msg)
    bounds = {e.id: _HEADROOM * e.weight * plan.max_grad_norm for e in entries if e is not None}
    share = site_noise_multiplier(
        plan.released_noise_multiplier,
        sites=len(cohort),
        tolerated_dropouts=config.privacy.tolerated_dropouts,
    )
    noise = len(cohort) * NOISE_REACH * share
    units = _HALF_RING - 1 - len(cohort) - noise * math.sqrt(size)
    step = (math.fsum(bounds.values()) + noise * plan.max_grad_norm) / units
    stddev = share * (plan.max_grad_norm + step * math.sqrt(size))
    return SumTerms(FixedPoint(tuple(bounds.values()), stddev), bounds, size)
