"""Who takes part: nodes become sites only by a signature of a key that the study lists."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from privacy.keys import verify
from privacy.secure_sum import exchange_statement
from shared_models.consortium import Consortium
from shared_models.messages import (
    CohortMember,
    HelloRequest,
    MessageError,
    RefusalCode,
    SiteHello,
    hello_statement,
)
from shared_models.records import decode_hello, decode_refusal, encode_hello_request
from shared_models.versions import explain

HELLO_TIMEOUT_S = 120.0
"""A node that does not say who it is by then is asked again in the next round."""
LOST_ON_THE_WAY = frozenset(
    {
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.CLIENT_APP_CRASHED,
    }
)
"""Errors that say that a question or its answer was lost on the way, not that a site said no."""


@dataclass
class Admission:
    """The nodes of a run that proved which site they are.

    Attributes:
        consortium: The study; its sites' public keys decide.
        run_id: The run that the proof is bound to.
        sites: Site id by node id.
        rejected: Code and sentence by node id, for nodes that may not take part.
        members: What each admitted site shows the others in a secure sum.
    """

    consortium: Consortium
    run_id: str
    sites: dict[int, str] = field(default_factory=dict)
    rejected: dict[int, tuple[str, str]] = field(default_factory=dict)
    members: dict[str, CohortMember] = field(default_factory=dict)

    def follow(self, consortium: Consortium) -> None:
        """Take over another roster: whoever is there has to agree to it and say who it is anew."""
        self.consortium = consortium
        self.sites, self.rejected, self.members = {}, {}, {}

    def refresh(self, grid: Grid, *, timeout_s: float) -> None:
        """Forget nodes that left, and ask unknown and rejected ones who they are.

        A site that approved the bundle or agreed to the study meanwhile is the same node as before.
        """
        present = set(grid.get_node_ids())
        self.sites = {node: site for node, site in self.sites.items() if node in present}
        self.rejected = {}
        unknown = sorted(present - self.sites.keys())
        if not unknown:
            return
        question = HelloRequest(self.run_id, secrets.token_bytes(32), self.consortium.signed_roster)
        messages = [
            Message(
                content=encode_hello_request(question),
                message_type="query.hello",
                dst_node_id=node,
                group_id="hello",
            )
            for node in unknown
        ]
        for reply in grid.send_and_receive(messages, timeout=min(timeout_s, HELLO_TIMEOUT_S)):
            self._admit(reply, question)

    def missing(self) -> tuple[str, ...]:
        """Sites of the study that no admitted node stands for."""
        present = set(self.sites.values())
        return tuple(e.id for e in self.consortium.config.sites if e.id not in present)

    def _admit(self, reply: Message, question: HelloRequest) -> None:
        node = reply.metadata.src_node_id
        if reply.has_error() and reply.error.code in LOST_ON_THE_WAY:
            # The engine says so in its own name; whoever is back is asked anew.
            return
        if reply.has_error():
            # A site's gate refuses a bundle in this way, before any of our code could answer.
            self.rejected[node] = (RefusalCode.INTERNAL, reply.error.reason or "no reason given")
            return
        try:
            site_id = self._check(reply, question, node)
        except MessageError as error:
            self.rejected[node] = (RefusalCode.NOT_A_MEMBER, str(error))
            return
        self.sites[node] = site_id

    def _check(self, reply: Message, question: HelloRequest, node: int) -> str:
        if refusal := decode_refusal(reply.content):
            msg = f"{refusal.site_id} refused: {refusal.message}"
            raise MessageError(msg)
        claim = decode_hello(reply.content)
        entry = self.consortium.config.site(claim.site_id)
        if entry is None:
            msg = f"{claim.site_id!r} is not a site of the study"
            raise MessageError(msg)
        statement = hello_statement(question, node_id=node, site_id=claim.site_id)
        if not verify(entry.public_key, claim.signature, statement):
            msg = f"The signature of {claim.site_id} does not belong to its key in the study"
            raise MessageError(msg)
        if claim.consortium_digest != self.consortium.digest:
            msg = (
                f"{claim.site_id} agreed to study {claim.consortium_digest[:12]}, this run follows "
                f"{self.consortium.digest[:12]}: send the site its new kit"
            )
            raise MessageError(msg)
        if claim.roster_number != self.consortium.roster_number:
            msg = (
                f"{claim.site_id} follows roster {claim.roster_number}, this run "
                f"{self.consortium.roster_number}"
            )
            raise MessageError(msg)
        if fault := explain(here=version("vultus"), there=claim.version, whose=claim.site_id):
            raise MessageError(fault)
        if claim.site_id in self.sites.values():
            msg = f"{claim.site_id} is connected twice: the first connection stays"
            raise MessageError(msg)
        self.members[claim.site_id] = self._introduce(claim, entry.public_key)
        return claim.site_id

    def _introduce(self, claim: SiteHello, public_key: str) -> CohortMember:
        """The site's exchange key as the other sites will check it."""
        statement = exchange_statement(self.run_id, claim.site_id, claim.exchange_key)
        if not verify(public_key, claim.exchange_signature, statement):
            msg = f"The exchange key of {claim.site_id} is not signed by its key in the study"
            raise MessageError(msg)
        return CohortMember(claim.site_id, claim.exchange_key, claim.exchange_signature)


def nodes_of(sites: dict[int, str]) -> Iterable[tuple[int, str]]:
    """Node and site pairs in order of site id, so that sums do not depend on who came first."""
    return sorted(sites.items(), key=lambda pair: pair[1])
