"""The only way out of a site: what is on the list passes, and leaves a signed receipt.

What is checked is the message as it would travel, not the object it was made from: whatever code
asked, a record, a field or an array that is not on the list stops it here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from flwr.app import Array, RecordDict

from client.learning.allow_list import (
    ArrayForm,
    Fields,
    Form,
    NotListedError,
    Question,
    Sender,
    allowed_form,
    anchor_fields,
)
from client.learning.anchoring import make_anchor
from client.learning.charging import release_name
from client.learning.receipts import (
    STOPPED,
    Details,
    Load,
    describe_again,
    describe_spending,
    write_receipt,
)
from privacy.audit import AuditEntry, AuditLog
from shared_models.messages import ModelRequest, Refusal, Reply
from shared_models.records import attach_anchor, encode_reply

ARRAYS = "arrays"
_DETAIL_LENGTH = 300
_DIGEST_LENGTH = 64


class EgressError(RuntimeError):
    """Something that may not leave the site was about to; names fields, never what they held."""


def release(reply: Reply, question: Question, sender: Sender, *, detail: str = "") -> RecordDict:
    """The reply as Flower records: checked, with a receipt in the site's log, and anchored.

    Guarantees:
        See :mod:`client.learning.allow_list` for what can leave. An answer leaves only if it
        stands in the outbox, the very same bytes, and its receipt is durable before this returns;
        the anchor that travels with it vouches for ledger and receipt.

    Args:
        reply: What the site wants to say.
        question: What it was asked.
        sender: The site, as its learner.
        detail: What stays in the site's own log, beside the receipt.

    Raises:
        EgressError: If the reply is not on the list; nothing has left then.
    """
    log = _open_log(sender.site.paths.audit)
    content, form = _checked(reply, question, sender, log)
    load = _measure(content)
    details = _describe(reply, question, detail)
    if form.arrays is None:
        write_receipt(log, sender.site, type(reply).__name__, load, details)
        return content
    receipt = _tell(reply, question, sender, load=load, details=details, form=form)
    _anchor(content, sender, receipt, log)
    return content


def _tell(  # noqa: PLR0913 - an answer, and all that its receipt says
    reply: Reply, question: Question, sender: Sender, *, load: Load, details: Details, form: Form
) -> AuditEntry:
    """The receipt of an answer that stands in the outbox."""
    path, request = sender.site.paths.audit, question.request
    log = _open_log(path)
    assert isinstance(request, ModelRequest)  # noqa: S101 - nothing else has an answer's form
    with sender.stand(request, question.asked, load.sha256) as standing:
        if standing is None:
            raise _stop(log, reply, ["it does not stand in the outbox"])
        again = {}
        if standing == "again":
            again = describe_again(path, release_name(request, question.asked))
        spent = describe_spending(sender.site, sender.ledger, form.reservation)
        told = {**details, **spent, **again}
        return write_receipt(log, sender.site, type(reply).__name__, load, told)


def _checked(
    reply: Reply, question: Question, sender: Sender, log: AuditLog
) -> tuple[RecordDict, Form]:
    try:
        form = allowed_form(reply, question, sender)
        content = encode_reply(reply)
    except NotListedError as error:
        raise _stop(log, reply, [str(error)]) from error
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # The error may quote what was planted: only its kind is told.
        fault = f"it cannot be written as a message ({type(error).__name__})"
        raise _stop(log, reply, [fault]) from None
    if faults := [*_find_faults(content, form)]:
        raise _stop(log, reply, faults)
    return content, form


def _anchor(content: RecordDict, sender: Sender, receipt: AuditEntry, log: AuditLog) -> None:
    anchor = make_anchor(sender.site, sender.ledger)
    attach_anchor(content, anchor)
    fields = anchor_fields(anchor, sender.site, ledger=sender.ledger, receipt=receipt)
    if faults := [*_field_faults("anchor", dict(content.config_records["anchor"]), fields)]:
        raise _stop(log, anchor, faults)


def _stop(log: AuditLog, stopped: object, faults: list[str]) -> EgressError:
    text = "; ".join(faults)
    log.append(STOPPED, kind=type(stopped).__name__, faults=text)
    return EgressError(f"{type(stopped).__name__} was stopped: {text}")


def _find_faults(content: RecordDict, form: Form) -> Iterator[str]:
    """Every way in which a message is not of the form, without a word of what it holds."""
    expected = {*form.configs, *([ARRAYS] if form.arrays is not None else [])}
    if set(content) != expected:
        yield f"expected the records {', '.join(sorted(expected))} and no other"
        return
    for name, fields in form.configs.items():
        if name not in content.config_records:
            yield f"{name} is not a record of plain fields"
        else:
            yield from _field_faults(name, dict(content.config_records[name]), fields)
    if form.arrays is not None:
        yield from _array_faults(dict(content.array_records.get(ARRAYS, {})), form.arrays)


def _field_faults(record: str, found: Mapping[str, object], fields: Fields) -> Iterator[str]:
    if set(found) != set(fields):
        yield f"expected the fields {', '.join(fields)} in {record} and no other"
        return
    for name, may_leave in fields.items():
        if not may_leave(found[name]):
            yield f"{record}.{name} is not what it may be"


def _array_faults(found: Mapping[str, Array], forms: Mapping[str, ArrayForm]) -> Iterator[str]:
    if set(found) != set(forms):
        yield f"expected {len(forms)} arrays of the agreed names and no other"
        return
    for name, form in forms.items():
        if not _fits(found[name], form):
            yield f"{name}: expected finite {form.dtype} of shape {form.shape}"


def _fits(array: Array, form: ArrayForm) -> bool:
    dtype = np.dtype(form.dtype)
    same = (array.stype, array.dtype, tuple(array.shape)) == ("raw", form.dtype, form.shape)
    if not same or len(array.data) != dtype.itemsize * int(np.prod(form.shape)):
        return False
    return bool(np.isfinite(np.frombuffer(array.data, dtype)).all())


def _measure(content: RecordDict) -> Load:
    arrays = dict(content.array_records.get(ARRAYS, {}))
    return Load(
        arrays=tuple(f"{name} {one.dtype} {list(one.shape)}" for name, one in arrays.items()),
        numbers=sum(int(np.prod(one.shape)) for one in arrays.values()),
        bytes=sum(len(one.data) for one in arrays.values()),
        sha256=digest_content(content),
    )


def digest_content(content: RecordDict) -> str:
    """SHA-256 (hex) over all that a message says, but for the anchor that travels with it.

    Fields in order of name as JSON, bytes in hexadecimal, then the arrays in order of name.

    Args:
        content: The message.
    """
    fields = {
        name: {key: _plain(value) for key, value in record.items()}
        for name, record in content.config_records.items()
        if name != "anchor"
    }
    sha256 = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for name, array in sorted(dict(content.array_records.get(ARRAYS, {})).items()):
        sha256.update(f"|{name}|{array.dtype}|{list(array.shape)}|".encode())
        sha256.update(array.data)
    return sha256.hexdigest()


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


def _describe(reply: Reply, question: Question, detail: str) -> Details:
    """What was asked, and what a refusal says and keeps to itself."""
    details: Details = {"asked": question.asked}
    request = question.request
    if request is not None:
        # What is refused may be anything, of any length.
        length = _DIGEST_LENGTH if isinstance(reply, Refusal) else None
        details["run_id"] = request.run_id[:length]
    if isinstance(request, ModelRequest):
        details |= {"server_round": request.server_round, "attempt": request.attempt}
        details["base_digest"] = request.base_digest[:_DIGEST_LENGTH]
        if request.cohort:
            details["sites_in_sum"] = len(request.cohort)
    if isinstance(reply, Refusal):
        details |= {"code": str(reply.code), "message": reply.message}
    if detail:
        details["kept_here"] = detail[:_DETAIL_LENGTH]
    return details


@cache
def _open_log(path: Path) -> AuditLog:
    """The log, kept open in mind so that its chain is not followed anew for every message."""
    return AuditLog(path)
