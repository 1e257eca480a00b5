"""What coordinator and site say to each other; :mod:`shared_models.records` carries it over Flower.

A request that a site does not accept is answered by a :class:`Refusal`: a code from a catalogue and
a sentence that never carries a path, a subject id or a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from privacy.plan import PrivacyPlan
from shared_models.tallies import Float64Array
from shared_models.weights import State


class MessageError(ValueError):
    """A message that is not of the agreed form."""


class RefusalCode(StrEnum):
    """Why a site does not do what it was asked."""

    WRONG_CONSORTIUM = "wrong_consortium"
    WRONG_MESSAGE = "wrong_message"
    WRONG_SIGNATURE = "wrong_signature"
    WRONG_WEIGHTS = "wrong_weights"
    WRONG_PLAN = "wrong_plan"
    POLICY = "policy"
    BUDGET = "budget"
    TOO_FEW_SUBJECTS = "too_few_subjects"
    NOT_A_MEMBER = "not_a_member"
    COHORT = "cohort"
    REPEATED = "repeated"
    LEDGER_BEHIND = "ledger_behind"
    ROSTER = "roster"
    INTERNAL = "internal"


@dataclass(frozen=True)
class Refusal:
    """A site's answer to a request that it does not fulfil."""

    site_id: str
    code: RefusalCode
    message: str


@dataclass(frozen=True)
class HelloRequest:
    """Asks a node which site it is.

    Attributes:
        run_id: Run that is about to start.
        nonce: 32 random bytes, so that an old answer cannot be played again.
        roster: Who takes part, as :func:`shared_models.roster.sign_roster` made it; empty in a
            study whose file fixes its sites.
    """

    run_id: str
    nonce: bytes
    roster: bytes = b""


@dataclass(frozen=True)
class SiteHello:
    """A node's claim to be a site, signed with the site's identity key.

    Attributes:
        site_id: Site that the node claims to be.
        consortium_digest: Digest that the site has pinned.
        version: Vultus version at the site.
        signature: Signature over :func:`hello_statement`.
        exchange_key: The site's public key for the secure sums of this run.
        exchange_signature: Signature over :func:`privacy.secure_sum.exchange_statement`, for the
            other sites.
        roster_number: Of the roster that the site follows; 0 without one.
    """

    site_id: str
    consortium_digest: str
    version: str
    signature: bytes
    exchange_key: bytes
    exchange_signature: bytes
    roster_number: int = 0


@dataclass(frozen=True)
class CohortMember:
    """A site of a secure sum, as the coordinator introduces it to the others.

    Attributes:
        site_id: The site.
        exchange_key: Its public key for this run.
        signature: By the site's identity key, which every site knows from the study.
    """

    site_id: str
    exchange_key: bytes
    signature: bytes


@dataclass(frozen=True)
class Anchor:
    """How far a site's ledger and audit log had come, signed by the site and kept elsewhere.

    A hash chain shows what was changed in it, not that its tail was cut or an old copy restored;
    that shows only against an anchor that lies where the site's disk is not.

    Attributes:
        ledger_rows: Number of rows in the privacy ledger.
        ledger_head: Hash of the last of them.
        log_entries: Number of events in the audit log.
        log_head: Hash of its chain there.
        signature: By the site's identity key, over :func:`anchor_statement`.
    """

    ledger_rows: int
    ledger_head: str
    log_entries: int
    log_head: str
    signature: bytes = b""


@dataclass(frozen=True)
class ModelRequest:
    """Asks a site to train on, or to judge, a global model.

    Attributes:
        run_id: Run this belongs to.
        server_round: Round, from 1.
        weights: The trainable tensors; what is frozen ships with the package.
        base_digest: Digest over all tensors, frozen ones too.
        consortium_digest: Digest of the study that the coordinator follows.
        plan: Privacy plan, which the site compares with its own.
        cohort: Sites that are summed, in order of id; empty unless the plan is ``distributed``.
        attempt: 1, or more where an earlier cohort of this round lost a site.
        anchor: The latest that the coordinator has of this site.
        signature: By the coordinator, over :func:`shared_models.signed_models.model_statement`;
            empty where nobody signed.
    """

    run_id: str
    server_round: int
    weights: State
    base_digest: str
    consortium_digest: str
    plan: PrivacyPlan
    cohort: tuple[CohortMember, ...] = ()
    attempt: int = 1
    anchor: Anchor | None = None
    signature: bytes = b""


@dataclass(frozen=True)
class ModelUpdate:
    """A site's noised, clipped mean gradient.

    Attributes:
        site_id: Site that sends it.
        server_round: Round it answers.
        base_digest: Digest of the weights it was computed at.
        update: Tensors by parameter name.
        epsilon_spent: What the site's ledger holds for its most exposed training subject;
            infinite without noise.
    """

    site_id: str
    server_round: int
    base_digest: str
    update: State
    epsilon_spent: float


@dataclass(frozen=True)
class TallyReply:
    """A site's noised tallies, one row a cell of ``ConsortiumConfig.tally_groups``.

    Attributes:
        site_id: Site that sends them.
        server_round: Round after which the model was judged.
        base_digest: Digest of the weights that were judged.
        tallies: ``[G, 2 B + 3]`` float64.
        epsilon_spent: Of the site's most exposed held-out subject; infinite without noise.
    """

    site_id: str
    server_round: int
    base_digest: str
    tallies: Float64Array
    epsilon_spent: float


@dataclass(frozen=True)
class MaskedReply:
    """A site's part of a secure sum: without the rest of the cohort it is noise.

    Attributes:
        site_id: Site that sends it.
        server_round: Round it answers.
        base_digest: Digest of the weights it was computed at.
        masked: ``[D]`` uint32.
        attempt: Which cohort of the round it belongs to.
        epsilon_spent: As for the other replies; what the sum reveals.
    """

    site_id: str
    server_round: int
    base_digest: str
    masked: NDArray[np.uint32]
    attempt: int
    epsilon_spent: float


Reply = ModelUpdate | TallyReply | MaskedReply | SiteHello | Refusal


def hello_statement(request: HelloRequest, *, node_id: int, site_id: str) -> bytes:
    """The bytes a site signs: this run, this node, this site, this question."""
    return f"vultus hello|{request.run_id}|{node_id}|{site_id}|".encode() + request.nonce


def anchor_statement(anchor: Anchor, *, site_id: str) -> bytes:
    """The bytes a site signs: this is how far my ledger and my log have come."""
    return (
        f"vultus anchor|{site_id}|{anchor.ledger_rows}|{anchor.ledger_head}"
        f"|{anchor.log_entries}|{anchor.log_head}"
    ).encode()
