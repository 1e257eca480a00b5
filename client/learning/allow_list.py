"""What may leave a site, field by field: nothing that is not on this list can be said.

The list follows from what is known before anything is computed: the agreed study (the network's
trainable tensors, the table of tallies, the mode), the request, the site's keys and the ledger's
row of this release. Each field of a reply can hold one value only, or one that carries the site's
signature; the arrays alone hold what was computed.

Guarantees:
    No text, no number of a header and no name of an array can come from a recording, a subject or a
    file. An array passes by its form: names, dtype, shape, finite. Not covered: that its
    numbers were computed as they should; that is shown by the tests of the private step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal, Protocol

import numpy as np
from torch import nn

from client.learning.charging import release_name
from client.learning.refusals import is_listed
from client.site import Site
from privacy.audit import AuditEntry
from privacy.keys import public_line, verify
from privacy.ledger import PrivacyLedger, Reservation
from privacy.secure_sum import exchange_key, exchange_statement, public_bytes
from shared_models.messages import (
    Anchor,
    HelloRequest,
    MaskedReply,
    ModelRequest,
    ModelUpdate,
    Refusal,
    RefusalCode,
    Reply,
    SiteHello,
    TallyReply,
    anchor_statement,
    hello_statement,
)
from shared_models.weights import trainable_state

Asked = Literal["hello", "train", "evaluate"]
"""What a site can be asked for."""

Standing = Literal["first", "again"]
"""Whether a reply that stands in the outbox is told for the first time."""

Rule = Callable[[object], bool]
"""Whether a field's value may leave."""

Fields = Mapping[str, Rule]


@dataclass(frozen=True)
class Question:
    """What a reply answers.

    Attributes:
        asked: What the site was asked for.
        request: The request as it was understood; None if it was not.
        node_id: The node that was asked, as the engine numbers it.
    """

    asked: Asked
    request: HelloRequest | ModelRequest | None
    node_id: int = 0


class Sender(Protocol):
    """The site that speaks, as far as what it may say depends on it; its learner is one."""

    @property
    def site(self) -> Site:
        """The site with its pinned study, its policy and its keys."""

    @property
    def ledger(self) -> PrivacyLedger:
        """Its record of privacy spent."""

    @property
    def network(self) -> nn.Module:
        """The study's network; an update has the form of its trainable tensors."""

    def tally_shape(self, server_round: int) -> tuple[int, int]:
        """Shape ``(G, 2 B + 3)`` that tallies after a round must have."""

    def stand(
        self, request: ModelRequest, asked: Asked, sha256: str
    ) -> AbstractContextManager[Standing | None]:
        """Context in which the answer to a request can be told, and nobody takes it back meanwhile.

        Args:
            request: What is answered.
            asked: What the site was asked for.
            sha256: Of the answer.

        Returns:
            How this very answer stands in the outbox; None if it does not.
        """


@dataclass(frozen=True)
class ArrayForm:
    """Form of an array that may leave: its dtype by NumPy's name, and its shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """Form of a message that may leave.

    Attributes:
        configs: Fields of each configuration record.
        arrays: The arrays of the record ``arrays``; None if it may not be there.
        reservation: Row of the ledger that the message is charged to.
    """

    configs: Mapping[str, Fields]
    arrays: Mapping[str, ArrayForm] | None = None
    reservation: Reservation | None = None


class NotListedError(Exception):
    """A reply that the question does not permit in any form."""


def allowed_form(reply: Reply, question: Question, sender: Sender) -> Form:
    """The one form in which this kind of reply may answer the question.

    Raises:
        NotListedError: If this kind of reply may not leave at all.
    """
    if isinstance(reply, Refusal):
        return Form({"refusal": _refusal_fields(sender.site, reply)})
    request = question.request
    if isinstance(reply, SiteHello) and isinstance(request, HelloRequest):
        return Form({"hello": _hello_fields(sender.site, request, question.node_id)})
    if isinstance(reply, SiteHello) or not isinstance(request, ModelRequest):
        msg = f"{type(reply).__name__} is no answer to what was asked"
        raise NotListedError(msg)
    _refuse_conversion(reply)
    arrays = _array_forms(reply, request, question.asked, sender)
    reservation = _reservation(request, question.asked, sender)
    fields = _answer_fields(sender.site, request, reservation)
    if isinstance(reply, MaskedReply):
        fields["attempt"] = _is(request.attempt)
    return Form({"reply": fields}, arrays, reservation)


def anchor_fields(
    anchor: Anchor, site: Site, *, ledger: PrivacyLedger, receipt: AuditEntry
) -> Fields:
    """What an anchor beside a reply may hold: heads of the site's own records, and its signature.

    Args:
        anchor: As it was made.
        site: The site.
        ledger: Its record of privacy spent.
        receipt: Of the reply; the anchor must vouch for it.
    """
    held = ledger.extends(anchor.ledger_rows, anchor.ledger_head)
    return {
        "ledger_rows": lambda value: held and type(value) is int,
        "ledger_head": lambda value: held and _is_hash(value),
        "log_entries": lambda value: type(value) is int and value >= receipt.sequence,
        "log_head": _is_hash,
        "signature": _signed(site, anchor_statement(anchor, site_id=site.id)),
    }


def _refusal_fields(site: Site, refusal: Refusal) -> Fields:
    return {
        "site_id": _is(site.id),
        "code": lambda value: value in set(RefusalCode),
        "message": lambda value: is_listed(refusal.code, value),
    }


def _hello_fields(site: Site, request: HelloRequest, node_id: int) -> Fields:
    public = public_bytes(exchange_key(site.exchange_secret, request.run_id))
    return {
        "site_id": _is(site.id),
        "consortium_digest": _is(site.consortium.digest),
        "version": _is(version("vultus")),
        "signature": _signed(site, hello_statement(request, node_id=node_id, site_id=site.id)),
        "exchange_key": _is(public),
        "roster_number": _is(site.consortium.roster_number),
        "exchange_signature": _signed(site, exchange_statement(request.run_id, site.id, public)),
    }


def _answer_fields(
    site: Site, request: ModelRequest, reservation: Reservation | None
) -> dict[str, Rule]:
    spent = math.inf if reservation is None else reservation.epsilon_after
    return {
        "site_id": _is(site.id),
        "server_round": _is(request.server_round),
        "base_digest": _is(request.base_digest),
        "epsilon_spent": _is(spent),
    }


def _array_forms(
    reply: Reply, request: ModelRequest, asked: str, sender: Sender
) -> dict[str, ArrayForm]:
    """The arrays that answer this request in the study's mode.

    Raises:
        NotListedError: If the study does not let this kind of reply be seen.
    """
    shape = sender.tally_shape(request.server_round)
    trainable = trainable_state(sender.network)
    update = {
        name: ArrayForm(str(part.dtype).removeprefix("torch."), tuple(part.shape))
        for name, part in trainable.items()
    }
    sizes = {
        "train": sum(part.numel() for part in trainable.values()),
        "evaluate": math.prod(shape),
    }
    masked = _mode(asked, sender.site) == "distributed"
    listed: dict[tuple[type[Reply], str, bool], dict[str, ArrayForm]] = {
        (ModelUpdate, "train", False): update,
        (TallyReply, "evaluate", False): {"tallies": ArrayForm("float64", shape)},
        (MaskedReply, "train", True): {"masked": ArrayForm("uint32", (sizes["train"],))},
        (MaskedReply, "evaluate", True): {"masked": ArrayForm("uint32", (sizes["evaluate"],))},
    }
    try:
        return listed[type(reply), asked, masked]
    except KeyError:
        msg = f"{type(reply).__name__} is no answer to what was asked in this study's mode"
        raise NotListedError(msg) from None


def _refuse_conversion(reply: ModelUpdate | TallyReply | MaskedReply) -> None:
    """Refuse numbers that writing the message would turn into those of the agreed dtype.

    Raises:
        NotListedError: If they are of another dtype, such as a vector that was never masked.
    """
    match reply:
        case TallyReply(tallies=np.ndarray(dtype=np.dtypes.Float64DType())):
            return
        case MaskedReply(masked=np.ndarray(dtype=np.dtypes.UInt32DType())):
            return
        case ModelUpdate():
            return
    msg = f"{type(reply).__name__} does not hold numbers of its dtype"
    raise NotListedError(msg)


def _reservation(request: ModelRequest, asked: str, sender: Sender) -> Reservation | None:
    """The ledger's row of this release; None in a study without privacy that the site allows.

    Raises:
        NotListedError: If the release was not reserved.
    """
    policy = sender.site.policy
    if _mode(asked, sender.site) == "off" and policy is not None and policy.allow_no_privacy:
        return None
    name = release_name(request, asked)
    found = [row for row in sender.ledger.releases_of(name) if row.release_id == name]
    if not found:
        msg = "the release does not stand in the ledger"
        raise NotListedError(msg)
    return found[0]


def _mode(asked: str, site: Site) -> str:
    config = site.consortium.config
    return (config.training_plan() if asked == "train" else config.tally_plan()).mode


def _is(expected: str | int | float | bytes) -> Rule:
    """Exactly this value, of exactly this type: True does not pass for 1."""
    return lambda value: type(value) is type(expected) and value == expected


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _signed(site: Site, statement: bytes) -> Rule:
    """The site's own signature over this statement."""
    line = public_line(site.identity_key)
    return lambda value: type(value) is bytes and verify(line, value, statement)
