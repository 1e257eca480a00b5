"""One round trip to the sites: who was asked, whose answer counts, who is missing and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from flwr.app import Message
from flwr.common.constant import ErrorCode

from server.anchors import check_signature
from shared_models.messages import (
    Anchor,
    MaskedReply,
    MessageError,
    ModelUpdate,
    RefusalCode,
    TallyReply,
)
from shared_models.records import decode_anchor, decode_refusal
from shared_models.weights import WeightsError

Answer = TypeVar("Answer", ModelUpdate, TallyReply, MaskedReply)


@dataclass
class Exchange:
    """A round trip, or one attempt of it.

    Attributes:
        asked: Site by node id.
        base_digest: Digest of the weights that were sent.
        public_keys: Identity key of each site.
        started: By the monotonic clock.
        refusals: Site, reason code and sentence.
        answered: Sites whose answer counts.
        lost: Sites of an earlier attempt that did not answer.
        anchors: What each site that answered signed of its records.
        heard: Sites that answered or refused in this attempt.
    """

    asked: dict[int, str]
    base_digest: str
    public_keys: Mapping[str, str]
    started: float = field(default_factory=time.monotonic)
    refusals: list[tuple[str, str, str]] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    anchors: dict[str, Anchor] = field(default_factory=dict)
    heard: set[str] = field(default_factory=set)

    @property
    def missing(self) -> tuple[str, ...]:
        """Sites that neither answered nor refused, in this attempt or an earlier one."""
        heard = self.answered | {site for site, _, _ in self.refusals}
        return tuple(sorted({*self.asked.values(), *self.lost} - heard))

    def accept(self, message: Message, read: Callable[[Message], Answer]) -> Answer | None:
        """The answer in a reply, or None with the reason noted.

        Args:
            message: From any node; one that was not asked, or whose site has answered, is passed
                over.
            read: Decodes and checks the answer's form.
        """
        site = self.asked.get(message.metadata.src_node_id)
        if site is None or site in self.answered:
            return None
        if message.has_error():
            self._refuse(site, _code_of(message), message.error.reason or "no reason given")
            return None
        try:
            if refusal := decode_refusal(message.content):
                self._refuse(site, refusal.code, refusal.message)
                return None
            answer = read(message)
            self._check_identity(answer, site)
            self.anchors[site] = check_signature(
                decode_anchor(message.content), site_id=site, public_key=self.public_keys[site]
            )
        except (MessageError, WeightsError) as error:
            self._refuse(site, RefusalCode.WRONG_MESSAGE, str(error))
            return None
        self.answered.add(site)
        self.heard.add(site)
        return answer

    def _refuse(self, site: str, code: RefusalCode, reason: str) -> None:
        self.refusals.append((site, str(code), reason))
        self.heard.add(site)

    def _check_identity(self, answer: ModelUpdate | TallyReply | MaskedReply, site: str) -> None:
        if answer.site_id != site:
            msg = f"Expected an answer of {site}, got one that says {answer.site_id!r}"
            raise MessageError(msg)
        if answer.base_digest != self.base_digest:
            msg = f"Expected an answer for weights {self.base_digest[:12]}, got another"
            raise MessageError(msg)


def _code_of(message: Message) -> RefusalCode:
    """A site's gate refuses a bundle that nobody there approved by an error of the engine."""
    unapproved = message.error.code == ErrorCode.INVALID_FAB
    return RefusalCode.POLICY if unapproved else RefusalCode.INTERNAL
