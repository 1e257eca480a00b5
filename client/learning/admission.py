"""What a site asks of a request before it touches weights or data, and how it says no.

The order is fixed, from whom the request comes from to what it would do: the study, the
membership, the coordinator's signature, the site's own records, the plan, the cohort, the policy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from client.approval.record import approved_members
from client.learning.anchoring import AnchorError, check_anchor
from client.learning.secure_sums import check_cohort
from client.site import Site
from privacy.ledger import PrivacyLedger
from privacy.plan import PrivacyPlan
from privacy.policy import check_plan
from privacy.secure_sum import SecureSumError, exchange_key
from shared_models.messages import ModelRequest, RefusalCode
from shared_models.roster import SiteEntry
from shared_models.signed_models import Kind, is_signed


class RefusedError(Exception):
    """The site says no; code and rules may be told to the coordinator, the sentence stays here.

    Attributes:
        code: Why, from the catalogue.
        rules: Names of the site's limits that stand against it.
    """

    def __init__(self, code: RefusalCode, message: str, *, rules: Sequence[str] = ()) -> None:
        self.code = code
        self.rules = tuple(rules)
        super().__init__(message)


def require_member(site: Site) -> SiteEntry:
    """The site's line in the study, with the weight that it is counted with.

    Raises:
        RefusedError: If the study does not name the site.
    """
    entry = site.entry
    if entry is None:
        msg = "The agreed study does not name this site"
        raise RefusedError(RefusalCode.NOT_A_MEMBER, msg)
    return entry


def refuse_strangers(site: Site) -> None:
    """Refuse to work with sites that the people of this one have not approved, if they ask for it.

    Raises:
        RefusedError: If the policy has ``approve_members`` and a site is unknown, or known with
            another key.
    """
    if site.policy is None or not site.policy.approve_members:
        return
    known = approved_members(site)
    others = (entry for entry in site.consortium.config.sites if entry.id != site.id)
    strangers = [e.id for e in others if known.get(e.id) != " ".join(e.public_key.split()[:2])]
    if strangers:
        msg = (
            f"Nobody here has approved {', '.join(strangers)} with the keys that the coordinator "
            "names: read 'vultus-site approve'"
        )
        raise RefusedError(RefusalCode.ROSTER, msg, rules=["approve_members"])


def check_request(  # noqa: PLR0913 - a request, and all that it is held against
    request: ModelRequest,
    site: Site,
    *,
    kind: Kind,
    plan: PrivacyPlan,
    ledger: PrivacyLedger,
    subjects: int,
) -> None:
    """Refuse a request that is not the agreed study's, or that the site does not permit.

    Args:
        request: As it came.
        site: The site with its pinned study and its policy.
        kind: What the request was delivered as.
        plan: What follows from the study for this kind of request.
        ledger: The site's record of privacy spent.
        subjects: How many labelled subjects the site has.

    Raises:
        RefusedError: With the first reason.
    """
    _check_study(request, site)
    require_member(site)
    refuse_strangers(site)
    _check_signature(request, site, kind)
    try:
        check_anchor(request.anchor, site, ledger)
    except AnchorError as error:
        raise RefusedError(RefusalCode.LEDGER_BEHIND, str(error)) from error
    _check_terms(request, site, plan)
    if plan.mode == "distributed":
        _check_cohort(request, site)
    _check_policy(site, plan, subjects=subjects)


def _check_study(request: ModelRequest, site: Site) -> None:
    agreed = site.consortium.digest
    if request.consortium_digest != agreed:
        msg = (
            f"The site agreed to study {agreed[:12]}, "
            f"the coordinator runs {request.consortium_digest[:12]}"
        )
        raise RefusedError(RefusalCode.WRONG_CONSORTIUM, msg)


def _check_signature(request: ModelRequest, site: Site, kind: Kind) -> None:
    if not is_signed(request, site.consortium.coordinator_key, kind=kind):
        msg = (
            f"The model to {kind} in round {request.server_round} is not signed for it by the "
            "coordinator's key in the agreed study"
        )
        raise RefusedError(RefusalCode.WRONG_SIGNATURE, msg)


def _check_terms(request: ModelRequest, site: Site, plan: PrivacyPlan) -> None:
    if not _is_same_plan(request.plan, plan):
        msg = "The plan differs from the one that follows from the agreed study"
        raise RefusedError(RefusalCode.WRONG_PLAN, msg)
    rounds = site.consortium.config.training.rounds
    if not 1 <= request.server_round <= rounds:
        msg = f"The study has {rounds} rounds, got {request.server_round}"
        raise RefusedError(RefusalCode.WRONG_PLAN, msg)


def _check_cohort(request: ModelRequest, site: Site) -> None:
    own = exchange_key(site.exchange_secret, request.run_id)
    try:
        check_cohort(request, site.consortium.config, site_id=site.id, own=own)
    except SecureSumError as error:
        raise RefusedError(RefusalCode.COHORT, str(error)) from error


def _check_policy(site: Site, plan: PrivacyPlan, *, subjects: int) -> None:
    config = site.consortium.config
    violations = check_plan(
        plan,
        site.policy,
        subjects=subjects,
        network=config.network.name,
        features=config.features.set,
        rounds=config.training.rounds,
    )
    if violations:
        message = "; ".join(f"{v.rule}: {v.message}" for v in violations)
        raise RefusedError(RefusalCode.POLICY, message, rules=[v.rule for v in violations])


def _is_same_plan(asked: PrivacyPlan, own: PrivacyPlan) -> bool:
    """Whether the coordinator derived the same plan, but for another machine's last digits.

    The site's own plan is what noise and ledger follow in any case.
    """
    close = math.isclose(asked.noise_multiplier, own.noise_multiplier, rel_tol=1e-6)
    return close and replace(asked, noise_multiplier=own.noise_multiplier) == own
