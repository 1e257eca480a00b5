"""The only way out of a site: what is on the list passes, and leaves a receipt.

The list follows from the study alone: the trainable tensors of the network with their shapes and
dtypes, or the table of tallies with its shape. Anything else is refused here, whatever code asked.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
from flwr.app import RecordDict
from torch import Tensor

from privacy.audit import AuditLog
from shared_models.messages import (
    MaskedReply,
    ModelUpdate,
    Refusal,
    Reply,
    SiteHello,
    TallyReply,
    encode_reply,
)
from shared_models.weights import find_weight_faults


class EgressError(RuntimeError):
    """Something that may not leave the site was about to."""


def release(
    reply: Reply,
    *,
    log: AuditLog,
    allowed_update: Mapping[str, Tensor],
    allowed_tallies: tuple[int, int],
) -> RecordDict:
    """The reply as Flower records, checked and with a receipt in the site's log.

    Args:
        reply: What the site wants to say.
        log: The site's audit log.
        allowed_update: Tensors of the form an update must have.
        allowed_tallies: Shape ``(G, 2 B + 3)`` that tallies must have.

    Raises:
        EgressError: If the reply is not on the list; nothing has left then.
    """
    if faults := _find_faults(reply, allowed_update, allowed_tallies):
        log.append("egress refused", kind=type(reply).__name__, faults="; ".join(faults))
        raise EgressError("; ".join(faults))
    content = encode_reply(reply)
    log.append("sent", kind=type(reply).__name__, **_describe(reply, content))
    return content


def _find_faults(
    reply: Reply, allowed_update: Mapping[str, Tensor], allowed_tallies: tuple[int, int]
) -> list[str]:
    match reply:
        case ModelUpdate(update=update):
            return find_weight_faults(update, allowed_update)
        case TallyReply(tallies=tallies):
            fits = tallies.shape == allowed_tallies and tallies.dtype == np.float64
            if not (fits and bool(np.isfinite(tallies).all())):
                return [f"tallies: expected finite float64 {allowed_tallies}, got {tallies.shape}"]
        case MaskedReply(masked=masked):
            entries = sum(part.numel() for part in allowed_update.values())
            forms = [(entries,), (math.prod(allowed_tallies),)]
            if masked.dtype != np.uint32 or masked.shape not in forms:
                return [f"masked: expected uint32 of a shape in {forms}, got {masked.shape}"]
    return []


def _describe(reply: Reply, content: RecordDict) -> dict[str, str | int | float]:
    """What the receipt says: what kind, how much, which bytes, what it cost."""
    arrays = [array for record in content.array_records.values() for array in record.values()]
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(array.data)
    receipt: dict[str, str | int | float] = {
        "arrays": len(arrays),
        "bytes": sum(len(array.data) for array in arrays),
        "sha256": sha256.hexdigest(),
    }
    match reply:
        case ModelUpdate() | TallyReply() | MaskedReply():
            receipt["server_round"] = reply.server_round
            receipt["base_digest"] = reply.base_digest
            if math.isfinite(reply.epsilon_spent):
                receipt["epsilon_spent"] = reply.epsilon_spent
        case Refusal(code=code, message=message):
            receipt |= {"code": str(code), "message": message}
        case SiteHello(consortium_digest=digest):
            receipt["consortium_digest"] = digest
    return receipt
