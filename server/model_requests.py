"""Requests for a step or a judgement of the global model, each signed by the coordinator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import Message, RecordDict

from privacy.plan import PrivacyPlan
from server.anchors import AnchorStore
from server.exchange import Exchange
from shared_models.consortium import Consortium
from shared_models.messages import CohortMember, ModelRequest
from shared_models.records import attach_anchor, encode_model_request
from shared_models.signed_models import Kind, sign_request
from shared_models.weights import State, digest_weights


@dataclass(frozen=True)
class Question:
    """What is asked of the sites.

    Attributes:
        kind: A step of training, or tallies.
        server_round: Round, from 1.
        weights: The trainable tensors that it is about.
        plan: Privacy plan of what comes back.
        attempt: 1, or more where an earlier cohort of the round lost a site.
    """

    kind: Kind
    server_round: int
    weights: State
    plan: PrivacyPlan
    attempt: int = 1


@dataclass(frozen=True)
class Asked:
    """A question that is put to sites.

    Attributes:
        question: What is asked.
        exchange: Of whom, and what came of it.
        message_to: The same question to a node that stands for a site, as often as it is needed.
    """

    question: Question
    exchange: Exchange
    message_to: Callable[[int, str], Message]


@dataclass(frozen=True)
class ModelRequests:
    """Makes the requests of a run.

    Attributes:
        consortium: The study.
        run_id: Name of the run.
        frozen: All tensors of the network, of which the frozen ones count.
        key: Signs each model.
        anchors: What each site signed last of its records.
    """

    consortium: Consortium
    run_id: str
    frozen: State
    key: EllipticCurvePrivateKey
    anchors: AnchorStore

    def make(
        self,
        question: Question,
        sites: dict[int, str],
        *,
        members: dict[str, CohortMember],
        earlier: Exchange | None = None,
    ) -> Asked:
        """An exchange, and the message to each of its sites.

        Args:
            question: What is asked.
            sites: Site by node id.
            members: How the sites of a secure sum show themselves to one another.
            earlier: The attempt before this one.
        """
        cohort: tuple[CohortMember, ...] = ()
        if question.plan.mode == "distributed":
            cohort = tuple(members[site] for site in sorted(sites.values()))
        request = ModelRequest(
            run_id=self.run_id,
            server_round=question.server_round,
            weights=question.weights,
            base_digest=digest_weights({**self.frozen, **question.weights}),
            consortium_digest=self.consortium.digest,
            plan=question.plan,
            cohort=cohort,
            attempt=question.attempt,
        )
        signed = sign_request(request, self.key, kind=question.kind)
        exchange = Exchange(
            sites,
            request.base_digest,
            {entry.id: entry.public_key for entry in self.consortium.config.sites},
            refusals=earlier.refusals if earlier else [],
            lost=set(earlier.missing) if earlier else set(),
        )

        shared = encode_model_request(signed)

        def message_to(node: int, site: str) -> Message:
            # The records are the same objects for all sites: one copy of the weights, sent once.
            content = RecordDict(dict(shared))
            if anchor := self.anchors.latest(site):
                attach_anchor(content, anchor)
            group = str(question.server_round)
            return Message(content, node, question.kind, group_id=group)

        return Asked(question, exchange, message_to)
