"""What a site allows: its own limits, checked before anything is computed on its subjects."""

import math
from dataclasses import dataclass, fields

from privacy.accounting import epsilon_spent
from privacy.plan import PrivacyPlan


class PolicyError(ValueError):
    """A site policy that cannot be meant: the message lists every fault found."""


@dataclass(frozen=True)
class SitePolicy:
    """Limits that the site sets for itself; a plan beyond any of them is refused.

    Attributes:
        max_epsilon_per_subject: cap on epsilon of any subject over everything ever released, > 0.
        max_epsilon_per_year: cap on epsilon of any subject over any 365 days, > 0; None for none.
        min_noise_multiplier: least noise of what the coordinator sees (this site's release, or
            the sum in mode ``distributed``), in units of max_grad_norm, >= 0.
        min_subjects: fewest subjects that may stand behind a release, >= 1.
        max_rounds: most releases in one run, >= 1.
        allowed_networks: registry names that may be trained here; empty allows none.
        allowed_features: names of the feature sets that may be learned from; empty allows none.
        max_delta: largest delta a guarantee may be stated at, in (0, 1).
        allow_no_privacy: lets mode ``off`` through; for simulated data only.
        require_secure_sum: refuses every mode in which the coordinator sees this site's release.
        approve_members: refuses every list of sites with one that this site has not approved.

    Raises:
        PolicyError: any value is out of its range; all faults are reported at once.
    """

    max_epsilon_per_subject: float
    min_noise_multiplier: float
    min_subjects: int
    max_rounds: int
    allowed_networks: tuple[str, ...]
    max_delta: float
    allow_no_privacy: bool = False
    require_secure_sum: bool = False
    max_epsilon_per_year: float | None = None
    allowed_features: tuple[str, ...] = ("behaviour",)
    approve_members: bool = False

    def __post_init__(self) -> None:
        yearly = self.max_epsilon_per_year
        rules = (
            ("max_epsilon_per_subject", "> 0", 0 < self.max_epsilon_per_subject < math.inf),
            ("max_epsilon_per_year", "> 0 or none", yearly is None or 0 < yearly < math.inf),
            ("min_noise_multiplier", ">= 0", 0 <= self.min_noise_multiplier < math.inf),
            ("min_subjects", ">= 1", self.min_subjects >= 1),
            ("max_rounds", ">= 1", self.max_rounds >= 1),
            ("max_delta", "in (0, 1)", 0 < self.max_delta < 1),
        )
        faults = [
            f"Expected policy.{name} {expected}, got {getattr(self, name)!r}."
            for name, expected, holds in rules
            if not holds
        ]
        if faults:
            raise PolicyError("\n".join(faults))


RULES = ("policy", *(field.name for field in fields(SitePolicy)))
"""Every name that :attr:`Violation.rule` can have."""


@dataclass(frozen=True)
class Violation:
    """One limit that a plan breaks.

    Attributes:
        rule: name of the policy's key, or ``policy`` where there is none at all.
        message: the plan's value and the limit; never anything of a subject.
    """

    rule: str
    message: str


def check_plan(  # noqa: PLR0913 - a plan, the limits, and what is counted against them
    plan: PrivacyPlan,
    policy: SitePolicy | None,
    *,
    subjects: int,
    network: str,
    features: str,
    rounds: int | None = None,
) -> list[Violation]:
    """Every limit of the site that the plan breaks; empty means allowed.

    Args:
        plan: what the coordinator asks for.
        policy: the site's limits; without any, everything is refused.
        subjects: how many subjects would take part, >= 0.
        network: registry name of the network to be trained.
        features: name of the feature set that it learns from.
        rounds: rounds of the run; by default one a step of the plan.

    Returns:
        Violations, each limit's once. Both caps on epsilon are compared with what the whole run
        would spend on what the coordinator sees; what was spent before is the ledger's business.
    """
    if policy is None:
        return [Violation("policy", "This site has no policy, so nothing is allowed.")]
    violations = _check_scale(
        policy, rounds=plan.steps if rounds is None else rounds, subjects=subjects
    )
    violations += _check_names(policy, network=network, features=features)
    if policy.require_secure_sum and plan.mode != "distributed":
        message = f"The plan has mode {plan.mode!r}, which shows this site's release by itself."
        violations.append(Violation("require_secure_sum", message))
    if plan.mode == "off":
        return violations + _check_no_privacy(policy)
    return violations + _check_privacy(plan, policy)


def _check_scale(policy: SitePolicy, *, rounds: int, subjects: int) -> list[Violation]:
    violations = []
    if subjects < policy.min_subjects:
        # The count itself stays here: with a sharp limit it would be the only thing told.
        message = f"Fewer subjects take part than the {policy.min_subjects} required."
        violations.append(Violation("min_subjects", message))
    if rounds > policy.max_rounds:
        message = f"The plan has {rounds} steps, allowed are {policy.max_rounds}."
        violations.append(Violation("max_rounds", message))
    return violations


def _check_names(policy: SitePolicy, *, network: str, features: str) -> list[Violation]:
    violations = []
    if network not in policy.allowed_networks:
        message = f"Network {network!r} is not among those allowed."
        violations.append(Violation("allowed_networks", message))
    if features not in policy.allowed_features:
        message = f"Feature set {features!r} is not among those allowed."
        violations.append(Violation("allowed_features", message))
    return violations


def _check_no_privacy(policy: SitePolicy) -> list[Violation]:
    if policy.allow_no_privacy:
        return []
    return [Violation("allow_no_privacy", "The plan has mode 'off', which gives no privacy.")]


def _check_privacy(plan: PrivacyPlan, policy: SitePolicy) -> list[Violation]:
    violations = []
    if plan.released_noise_multiplier < policy.min_noise_multiplier:
        message = (
            f"The plan has noise multiplier {plan.released_noise_multiplier:g} in what is "
            f"released, required is {policy.min_noise_multiplier:g}."
        )
        violations.append(Violation("min_noise_multiplier", message))
    if plan.delta > policy.max_delta:
        message = f"The plan has delta {plan.delta:g}, allowed is {policy.max_delta:g}."
        violations.append(Violation("max_delta", message))
    epsilon = epsilon_spent(
        plan.released_noise_multiplier,
        plan.delta,
        steps=plan.steps,
        sample_rate=plan.sample_rate,
    )
    caps = {
        "max_epsilon_per_subject": policy.max_epsilon_per_subject,
        "max_epsilon_per_year": policy.max_epsilon_per_year,
    }
    for rule, cap in caps.items():
        # Written so that an epsilon that is not a number is a violation too.
        if cap is not None and not epsilon <= cap:
            message = (
                f"The plan spends epsilon {epsilon:.3g} at delta {plan.delta:g}, "
                f"allowed is {cap:g}."
            )
            violations.append(Violation(rule, message))
    return violations
