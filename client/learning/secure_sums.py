"""A site's part of a secure sum: the cohort is checked, noise is added, then the mask.

The coordinator introduces the sites to one another and might lie: a key counts only with the
signature of a site that the agreed study names.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privacy.keys import verify
from privacy.noise import NoiseSource
from privacy.plan import PrivacyPlan
from privacy.secure_sum import (
    Attempt,
    FloatArray,
    Ring,
    SecureSumError,
    exchange_statement,
    pairwise_mask,
    public_bytes,
)
from shared_models.consortium import ConsortiumConfig
from shared_models.masking import sum_terms
from shared_models.messages import ModelRequest


def check_cohort(
    request: ModelRequest, config: ConsortiumConfig, *, site_id: str, own: X25519PrivateKey
) -> None:
    """Refuse a cohort that could lay this site's part open.

    Args:
        request: Names the cohort.
        config: The agreed study, which holds every site's public key.
        site_id: This site.
        own: Its exchange key of the run.

    Raises:
        SecureSumError: If a key is not signed by its site, this site is missing or carries another
            key, the attempt is beyond those agreed, or the cohort is too small, unsorted or names
            a site twice.
    """
    # Both are made for their checks: distinct sites in order, enough of them, all in the study.
    attempt = _attempt(request, purpose="")
    sum_terms(config, attempt.cohort, plan=config.training_plan(), size=1)
    if not 1 <= request.attempt <= 1 + config.privacy.retries:
        msg = f"The study allows {1 + config.privacy.retries} attempts, got {request.attempt}"
        raise SecureSumError(msg)
    for member in request.cohort:
        entry = config.site(member.site_id)
        statement = exchange_statement(request.run_id, member.site_id, member.exchange_key)
        if entry is None or not verify(entry.public_key, member.signature, statement):
            msg = f"The exchange key of {member.site_id} is not signed by that site for this run"
            raise SecureSumError(msg)
    keys = {member.site_id: member.exchange_key for member in request.cohort}
    if keys.get(site_id) != public_bytes(own):
        msg = "The cohort does not hold this site with its own key"
        raise SecureSumError(msg)


def mask_vector(  # noqa: PLR0913 - a vector, where it goes, and what hides it
    values: FloatArray,
    request: ModelRequest,
    config: ConsortiumConfig,
    *,
    site_id: str,
    own: X25519PrivateKey,
    plan: PrivacyPlan,
    purpose: str,
    noise: NoiseSource,
) -> Ring:
    """The vector with this site's share of the noise and its mask.

    Guarantees:
        Unit: the subject. Adding or removing one moves ``values`` by at most ``plan.max_grad_norm``
        in L2, and the rounded vector by what :func:`sum_terms` adds. The sum over the cohort
        carries noise of ``plan.released_noise_multiplier`` times that, even without the shares of
        ``tolerated_dropouts`` sites: one release of the plan. Alone, the vector reveals what the
        share of one site protects, were the masks broken.

    Args:
        values: ``[D]`` exact, of sensitivity ``plan.max_grad_norm``.
        request: Run, round, attempt and a checked cohort.
        config: The agreed study.
        site_id: This site.
        own: Its exchange key of the run.
        plan: Of mode ``distributed``.
        purpose: What is summed.
        noise: Where the noise comes from.
    """
    attempt = _attempt(request, purpose=purpose)
    terms = sum_terms(config, attempt.cohort, plan=plan, size=len(values))
    drawn = noise.normal_array((len(values),), terms.form.noise_stddev)
    encoded = terms.form.encode(values, drawn, bound=terms.bounds[site_id])
    peers = {member.site_id: member.exchange_key for member in request.cohort}
    masked: Ring = encoded + pairwise_mask(attempt, site_id, own, peers, size=len(values))
    return np.ascontiguousarray(masked)


def _attempt(request: ModelRequest, *, purpose: str) -> Attempt:
    return Attempt(
        request.run_id,
        request.server_round,
        purpose,
        request.attempt,
        tuple(member.site_id for member in request.cohort),
    )
