"""What a run has spent of its subjects' privacy, from who took part and what ledgers reported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from privacy.accounting import epsilon_spent
from privacy.plan import PrivacyPlan
from server.aggregation import epsilon_of_sums, epsilons_of_secure_sums
from server.history import RoundReport, SitePrivacy
from shared_models.consortium import ConsortiumConfig


def training_epsilons(
    plan: PrivacyPlan, rounds: Sequence[RoundReport], *, summed: Sequence[int], tolerated: int
) -> tuple[float | None, float | None]:
    """What training revealed: the sums alone, and one site's releases were they seen apart.

    Args:
        plan: Of training.
        rounds: What happened in each round of training.
        summed: Number of sites in each secure sum that was asked for; unused in other modes.
        tolerated: Sites whose noise may be missing in a secure sum.
    """
    if plan.mode == "distributed":
        return epsilons_of_secure_sums(
            plan.released_noise_multiplier,
            plan.delta,
            summed,
            tolerated=tolerated,
        )
    counts = [len(report.participants) for report in rounds]
    alone = None
    if plan.mode != "off" and counts:
        alone = epsilon_spent(plan.noise_multiplier, plan.delta, steps=len(counts))
    return epsilon_of_sums(plan.noise_multiplier, plan.delta, counts), alone


def site_privacy(
    config: ConsortiumConfig,
    rounds: Sequence[RoundReport],
    epsilon_by_site: Mapping[str, Mapping[str, float]],
) -> tuple[SitePrivacy, ...]:
    """What each site's ledger reported last, also of sites that left the study meanwhile."""

    def reported(site_id: str, purpose: str) -> float | None:
        epsilon = epsilon_by_site.get(site_id, {}).get(purpose)
        return epsilon if epsilon is not None and math.isfinite(epsilon) else None

    present = [entry.id for entry in config.sites]
    took_part = {site for report in rounds for site in report.participants}
    return tuple(
        SitePrivacy(
            site_id=site_id,
            epsilon_training=reported(site_id, "training"),
            epsilon_tallies=reported(site_id, "tallies"),
            rounds=sum(site_id in report.participants for report in rounds),
        )
        for site_id in [*present, *sorted(took_part - set(present))]
    )
