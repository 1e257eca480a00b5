"""What a site is asked to approve, in plain words: who asks, what runs, what it costs a patient.

Every figure is derived here from the study file, as the site's own privacy ledger will count it;
nothing is taken from what the coordinator says about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version

from client.approval.inspection import BundleView
from client.approval.record import Approval, plans_digest, read_approvals
from client.site import Site
from client.site_template import describe_changes
from privacy.accounting import epsilon_spent
from privacy.keys import fingerprint
from privacy.plan import PrivacyPlan
from privacy.policy import check_plan
from shared_models.consortium import Consortium, ConsortiumConfig
from shared_models.toml import ConfigError, parse_toml

LEAVES = {
    "local": "one noised, clipped update a round, and noised counts of held-out patients",
    "distributed": (
        "one noised and masked vector a round, and masked counts of held-out patients; only the "
        "sum over the sites can be read"
    ),
    "off": "one update a round and exact counts of held-out patients, WITHOUT ANY NOISE",
}


@dataclass(frozen=True)
class Topic:
    """One thing that a person has to know before saying yes.

    Attributes:
        title: What it is about.
        lines: Sentences, or names with figures.
    """

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """What somebody asks of a site: to run this bundle for this study.

    Attributes:
        site: The site as it is now.
        consortium: The study, with the sites that take part.
        address: Where the site would connect to; None before there is one.
        bundle: What would be approved.
    """

    site: Site
    consortium: Consortium
    address: str | None
    bundle: BundleView


def describe_request(request: Request) -> tuple[Topic, ...]:
    """All that is asked, in the order in which a person decides on it."""
    return tuple(
        Topic(title, tuple(describe(request)))
        for title, describe in (
            ("Who asks", _describe_coordinator),
            ("The bundle", _describe_bundle),
            ("What would run here", _describe_program),
            ("The study", _describe_study),
            ("What leaves this site", _describe_egress),
            ("What it costs a patient", _describe_cost),
            ("The other sites", _describe_sites),
            ("Since the last approval", _describe_changes),
        )
    )


def _describe_coordinator(request: Request) -> Iterator[str]:
    key = request.consortium.coordinator_key
    yield f"the coordinator with key {fingerprint(key) if key else 'unknown'}"
    yield f"at {request.address or 'an address that no kit has named yet'}"
    yield "Compare the key with the coordinator by telephone."


def _describe_bundle(request: Request) -> Iterator[str]:
    bundle = request.bundle
    yield f"SHA-256 {bundle.sha256}, {bundle.size} bytes, which holds"
    yield from (f"  {entry.name} ({entry.size} bytes)" for entry in bundle.entries)
    if bundle.is_approvable:
        yield "No code: it names the program that this site installed itself."
    else:
        yield "IT CANNOT BE APPROVED:"
        yield from (f"  {fault}" for fault in bundle.faults)


def _describe_program(_request: Request) -> Iterator[str]:
    yield (
        f"client.app of vultus {version('vultus')} on flwr {version('flwr')}, as installed here; "
        "nothing that the coordinator sends is run"
    )


def _describe_study(request: Request) -> Iterator[str]:
    config = request.consortium.config
    study, training = config.study, config.training
    low, high, threshold = study.score_range
    yield (
        f"'{study.name}' predicts {study.instrument} ({low:g} to {high:g}, threshold {threshold:g})"
        f" from the features '{config.features.set}'"
    )
    tasks = ", ".join(study.tasks) or "all tasks"
    yield f"recordings of {tasks}; network '{config.network.name}'"
    yield f"{training.rounds} rounds, the model is judged {training.evaluations} times"
    yield from _describe_mitigation(config)
    yield f"study file, SHA-256 {request.consortium.digest}"


def _describe_mitigation(config: ConsortiumConfig) -> Iterator[str]:
    """What the study does against differences between groups; nothing unless declared."""
    for w in config.mitigation.weights:
        who = "" if w.label == "any" else f", {w.label} the threshold"
        yield f"patients of {w.attribute} {w.group}{who} count {w.weight:g} times in training"
    if config.mitigation.choose == "worst_group":
        yield "the judged model whose worst group is best is released, not simply the last"
    if config.mitigation.recalibrate:
        yield "the model's log-odds are recalibrated from the noised sums"


def _describe_egress(request: Request) -> Iterator[str]:
    config = request.consortium.config
    yield LEAVES[config.privacy.mode]
    if config.fairness.importance:
        yield (
            "sums over held-out patients of how much each behaviour moved the model's score, "
            "protected as the counts are"
        )
    yield (
        "this site's name, version, public key and signatures, how far its ledger and log have "
        "come, and refusals"
    )
    yield "never a video, a picture, a feature, a score, a pseudonym or a path"


def _describe_cost(request: Request) -> Iterator[str]:
    config = request.consortium.config
    if config.privacy.mode == "off":
        yield "NO PRIVACY: the study adds no noise. For simulated patients only."
    else:
        for who, plan in (
            ("trained on", config.training_plan()),
            ("held out to judge the model", config.tally_plan()),
        ):
            yield f"a patient who is {who}: {_cost(plan)}"
        yield (
            "Each patient is either the one or the other. Less is better: at 1 hardly anything can "
            "be learned of one person."
        )
    yield from _describe_limits(request.site, config)


def _cost(plan: PrivacyPlan) -> str:
    seen, alone = (
        _epsilon(plan.released_noise_multiplier, plan),
        _epsilon(plan.noise_multiplier, plan),
    )
    text = f"epsilon {seen:.3g} in all rounds together (delta {plan.delta:g})"
    if plan.mode == "distributed":
        return f"{text} in what the coordinator sees, {alone:.3g} were the masks of all sums broken"
    return text


def _epsilon(noise_multiplier: float, plan: PrivacyPlan) -> float:
    return epsilon_spent(
        noise_multiplier, plan.delta, steps=plan.steps, sample_rate=plan.sample_rate
    )


def _describe_limits(site: Site, config: ConsortiumConfig) -> Iterator[str]:
    """What the site's own policy says to it, number of subjects apart."""
    policy = site.policy
    if policy is None:
        yield "This site has no [policy]: everything would be refused."
        return
    yield f"your limit for a patient in total: epsilon {policy.max_epsilon_per_subject:g}"
    found = {
        violation.rule: violation.message
        for plan in (config.training_plan(), config.tally_plan())
        for violation in check_plan(
            plan,
            policy,
            subjects=policy.min_subjects,
            network=config.network.name,
            features=config.features.set,
            rounds=config.training.rounds,
        )
    }
    yield from (f"YOUR POLICY REFUSES THIS ({rule}): {text}" for rule, text in found.items())


def _describe_sites(request: Request) -> Iterator[str]:
    consortium = request.consortium
    others = [entry for entry in consortium.config.sites if entry.id != request.site.id]
    if consortium.roster is not None:
        yield f"by roster {consortium.roster.number}; the coordinator can add and remove sites"
    for entry in others:
        yield f"{entry.id}, counted with {entry.weight} patients, {fingerprint(entry.public_key)}"
    if not others:
        yield "none yet"


def _describe_changes(request: Request) -> Iterator[str]:
    given = read_approvals(request.site.folder).bundle
    if not given:
        yield "nothing was approved before"
        return
    last, consortium = given[-1], request.consortium
    yield f"approved last on {last.approved_at[:10]}: {last.note}"
    changes = list(_compare(last, request))
    if last.consortium_sha256 == consortium.digest and last.plans_sha256 != plans_digest(
        consortium.config
    ):
        changes.append("this version derives other privacy plans from the same study file")
    yield from changes or ["nothing changed"]


def _compare(last: Approval, request: Request) -> Iterator[str]:
    if last.sha256 != request.bundle.sha256:
        yield f"bundle: {last.sha256} -> {request.bundle.sha256}"
    if last.consortium_sha256 == request.consortium.digest:
        return
    try:
        before = parse_toml(last.study, ConsortiumConfig, name="the study approved before")
    except ConfigError:
        yield "study: another one, and the earlier one cannot be read by this version"
        return
    pair = (replace(config, sites=()) for config in (before, request.consortium.config))
    yield from (f"study: {line}" for line in describe_changes(*pair) or ["wording and layout"])
