"""Charging a release to the subjects it is made of, before it is made."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from client.learning.admission import RefusedError
from client.learning.dataset import SubjectClips
from client.site import Site
from privacy.ledger import AlreadyReservedError, BudgetExceeded, PrivacyLedger
from privacy.plan import PrivacyPlan
from shared_models.messages import ModelRequest, RefusalCode


def charge_release(  # noqa: PLR0913 - a release, whose it is, and where it is written down
    request: ModelRequest,
    site: Site,
    *,
    ledger: PrivacyLedger,
    plan: PrivacyPlan,
    subjects: Sequence[SubjectClips],
    steps: int,
    purpose: str,
) -> float:
    """Charge the release to every subject before it is made; epsilon of the worst off.

    Raises:
        RefusedError: If there is nobody, the budget does not allow it, or it was made before.
    """
    policy = site.policy
    if not subjects:
        msg = f"No labelled subject with accepted recordings is there to {purpose}"
        raise RefusedError(RefusalCode.TOO_FEW_SUBJECTS, msg)
    if plan.mode == "off" or policy is None:
        return float("inf")
    if plan.mode == "distributed":
        # Two vectors under one mask would tell on both, so a sum is answered once.
        release_id = _name_sum(request, plan, ledger, purpose=purpose, steps=steps)
    else:
        # Each attempt is charged anew: what a crash may have released counts as released.
        release_id = f"{request.run_id}/{request.server_round}/{purpose}/{uuid.uuid4().hex}"
    try:
        reservation = ledger.reserve(
            release_id,
            [subject.subject_id for subject in subjects],
            noise_multiplier=plan.released_noise_multiplier,
            sample_rate=plan.sample_rate,
            steps=steps,
            delta=plan.delta,
            purpose=purpose,
            cap_epsilon=policy.max_epsilon_per_subject,
            once=plan.mode == "distributed",
        )
    except AlreadyReservedError as error:
        msg = f"Attempt {request.attempt} of round {request.server_round} was answered before"
        raise RefusedError(RefusalCode.REPEATED, msg) from error
    except BudgetExceeded as error:
        raise RefusedError(RefusalCode.BUDGET, str(error)) from error
    return reservation.epsilon_after


def _name_sum(
    request: ModelRequest, plan: PrivacyPlan, ledger: PrivacyLedger, *, purpose: str, steps: int
) -> str:
    """Name of a sum, the same whenever it is asked for.

    Raises:
        RefusedError: If the sums that the study pays for are used up.
    """
    run = f"{request.run_id}/"
    release_id = f"{run}{request.server_round}/{purpose}/{request.attempt}"
    made = sum(
        release.steps
        for release in ledger.releases()
        if release.release_id.startswith(run) and release.purpose == purpose
    )
    if made + steps > plan.steps:
        msg = f"The study pays for {plan.steps} releases to {purpose} in a run; all are made"
        raise RefusedError(RefusalCode.BUDGET, msg)
    return release_id
