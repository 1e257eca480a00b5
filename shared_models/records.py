"""The messages of :mod:`shared_models.messages` as Flower records, and back.

What comes from outside is read field by field: raw numbers, known types, nothing unpickled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from privacy.plan import PrivacyPlan
from shared_models.messages import (
    Anchor,
    CohortMember,
    HelloRequest,
    MaskedReply,
    MessageError,
    ModelRequest,
    ModelUpdate,
    Refusal,
    RefusalCode,
    Reply,
    SiteHello,
    TallyReply,
)
from shared_models.tallies import Float64Array
from shared_models.weights import (
    arrays_to_state,
    pack_state,
    read_array,
    state_to_arrays,
    unpack_state,
)

T = TypeVar("T", str, int, float, bytes)


def encode_hello_request(request: HelloRequest) -> RecordDict:
    """The question as Flower records."""
    return RecordDict({"request": ConfigRecord(dict(vars(request)))})


def decode_hello_request(content: RecordDict) -> HelloRequest:
    """The question that a site received.

    Raises:
        MessageError: If a field is missing or of another type.
    """
    fields = _config(content, "request")
    return HelloRequest(
        _field(fields, "run_id", str),
        _field(fields, "nonce", bytes),
        _field(fields, "roster", bytes),
    )


def encode_model_request(request: ModelRequest) -> RecordDict:
    """A training or evaluation request as Flower records."""
    form, weights = pack_state(request.weights)
    header = ConfigRecord(
        {
            "run_id": request.run_id,
            "server_round": request.server_round,
            "base_digest": request.base_digest,
            "consortium_digest": request.consortium_digest,
            "attempt": request.attempt,
            "weights_form": form,
            "signature": request.signature,
        }
    )
    cohort = ConfigRecord(
        {
            "site_ids": [member.site_id for member in request.cohort],
            "exchange_keys": [member.exchange_key for member in request.cohort],
            "signatures": [member.signature for member in request.cohort],
        }
    )
    plan = ConfigRecord({k: v for k, v in request.plan.to_dict().items() if v is not None})
    content = RecordDict(
        {
            "request": header,
            "plan": plan,
            "cohort": cohort,
            "weights": weights,
        }
    )
    if request.anchor is not None:
        attach_anchor(content, request.anchor)
    return content


def attach_anchor(content: RecordDict, anchor: Anchor) -> None:
    """Let an anchor travel with a message."""
    content["anchor"] = ConfigRecord(dict(vars(anchor)))


def decode_anchor(content: RecordDict) -> Anchor | None:
    """The anchor that travels with a message, not yet checked; None if there is none.

    Raises:
        MessageError: If a field is missing or of another type.
    """
    if "anchor" not in content.config_records:
        return None
    fields = _config(content, "anchor")
    return Anchor(
        ledger_rows=_field(fields, "ledger_rows", int),
        ledger_head=_field(fields, "ledger_head", str),
        log_entries=_field(fields, "log_entries", int),
        log_head=_field(fields, "log_head", str),
        signature=_field(fields, "signature", bytes),
    )


def decode_model_request(content: RecordDict) -> ModelRequest:
    """The request that a site received; weights are in form only, not yet checked.

    Raises:
        MessageError: If a record or field is missing or of another type.
        WeightsError: If the weights are not raw numbers of the form that the request tells.
    """
    header = _config(content, "request")
    try:
        plan = PrivacyPlan.from_dict({"target_epsilon": None, **_config(content, "plan")})
    except (TypeError, ValueError) as error:
        msg = f"Expected a privacy plan, got {error}"
        raise MessageError(msg) from error
    return ModelRequest(
        run_id=_field(header, "run_id", str),
        server_round=_field(header, "server_round", int),
        weights=unpack_state(_field(header, "weights_form", str), _arrays(content, "weights")),
        base_digest=_field(header, "base_digest", str),
        consortium_digest=_field(header, "consortium_digest", str),
        plan=plan,
        cohort=_cohort(_config(content, "cohort")),
        attempt=_field(header, "attempt", int),
        anchor=decode_anchor(content),
        signature=_field({"signature": b"", **header}, "signature", bytes),
    )


def encode_reply(reply: Reply) -> RecordDict:
    """A site's answer as Flower records."""
    match reply:
        case SiteHello():
            return RecordDict({"hello": ConfigRecord(dict(vars(reply)))})
        case Refusal(site_id, code, message):
            record = ConfigRecord({"site_id": site_id, "code": str(code), "message": message})
            return RecordDict({"refusal": record})
        case ModelUpdate():
            arrays = state_to_arrays(reply.update)
        case TallyReply(tallies=tallies):
            raw = np.ascontiguousarray(tallies, dtype=np.float64)
            arrays = ArrayRecord({"tallies": Array("float64", raw.shape, "raw", raw.tobytes())})
        case MaskedReply(masked=masked):
            ring = np.ascontiguousarray(masked, dtype="<u4")
            arrays = ArrayRecord({"masked": Array("uint32", ring.shape, "raw", ring.tobytes())})
    header = ConfigRecord(
        {
            "site_id": reply.site_id,
            "server_round": reply.server_round,
            "base_digest": reply.base_digest,
            "epsilon_spent": reply.epsilon_spent,
        }
    )
    if isinstance(reply, MaskedReply):
        header["attempt"] = reply.attempt
    return RecordDict({"reply": header, "arrays": arrays})


def decode_refusal(content: RecordDict) -> Refusal | None:
    """The refusal that a reply holds, or None if it is an answer.

    Raises:
        MessageError: If it is a refusal of unknown form.
    """
    if "refusal" not in content.config_records:
        return None
    fields = _config(content, "refusal")
    code = _field(fields, "code", str)
    if code not in set(RefusalCode):
        msg = f"Expected a refusal code of the catalogue, got {code!r}"
        raise MessageError(msg)
    return Refusal(
        _field(fields, "site_id", str), RefusalCode(code), _field(fields, "message", str)
    )


def decode_hello(content: RecordDict) -> SiteHello:
    """The claim that a node made.

    Raises:
        MessageError: If a field is missing or of another type.
    """
    fields = _config(content, "hello")
    return SiteHello(
        _field(fields, "site_id", str),
        _field(fields, "consortium_digest", str),
        _field(fields, "version", str),
        _field(fields, "signature", bytes),
        _field(fields, "exchange_key", bytes),
        _field(fields, "exchange_signature", bytes),
        _field(fields, "roster_number", int),
    )


def decode_update(content: RecordDict) -> ModelUpdate:
    """The update that a site sent; tensors are in form only, not yet checked.

    Raises:
        MessageError: If a record or field is missing or of another type.
        WeightsError: If an array is not raw numbers.
    """
    update = arrays_to_state(_arrays(content, "arrays"))
    return _decode_answer(content, lambda **header: ModelUpdate(update=update, **header))


def decode_tallies(content: RecordDict, *, shape: tuple[int, int]) -> TallyReply:
    """The tallies that a site sent.

    Args:
        content: The reply.
        shape: Expected ``(G, 2 B + 3)``.

    Raises:
        MessageError: If a record or field is missing, or the table has another shape or holds
            numbers that are not finite.
    """
    arrays = _arrays(content, "arrays")
    if list(arrays) != ["tallies"]:
        msg = f"Expected one array 'tallies', got {sorted(arrays)}"
        raise MessageError(msg)
    table = read_array("tallies", arrays["tallies"])
    if table.shape != shape or table.dtype != np.float64 or not np.isfinite(table).all():
        msg = f"Expected finite float64 tallies of shape {shape}, got {table.dtype} {table.shape}"
        raise MessageError(msg)
    tallies: Float64Array = table.astype(np.float64)
    return _decode_answer(content, lambda **header: TallyReply(tallies=tallies, **header))


def decode_masked(content: RecordDict, *, size: int, attempt: int) -> MaskedReply:
    """A site's part of a secure sum.

    Args:
        content: The reply.
        size: Expected entries D.
        attempt: The cohort that was asked.

    Raises:
        MessageError: If a record or field is missing or of another type, the vector has another
            form, or the reply belongs to another attempt.
    """
    arrays = _arrays(content, "arrays")
    if list(arrays) != ["masked"]:
        msg = f"Expected one array 'masked', got {sorted(arrays)}"
        raise MessageError(msg)
    vector = read_array("masked", arrays["masked"])
    if vector.shape != (size,) or vector.dtype != np.uint32:
        msg = f"Expected a masked vector of {size} uint32, got {vector.dtype} {vector.shape}"
        raise MessageError(msg)
    found = _field(_config(content, "reply"), "attempt", int)
    if found != attempt:
        msg = f"Expected an answer to attempt {attempt}, got one to {found}"
        raise MessageError(msg)
    masked = vector.astype(np.uint32)
    return _decode_answer(
        content, lambda **header: MaskedReply(masked=masked, attempt=found, **header)
    )


Answer = TypeVar("Answer", ModelUpdate, TallyReply, MaskedReply)


def _decode_answer(content: RecordDict, make: Callable[..., Answer]) -> Answer:
    header = _config(content, "reply")
    epsilon = _field(header, "epsilon_spent", float)
    if math.isnan(epsilon) or epsilon < 0:
        msg = f"Expected epsilon_spent >= 0, got {epsilon}"
        raise MessageError(msg)
    return make(
        site_id=_field(header, "site_id", str),
        server_round=_field(header, "server_round", int),
        base_digest=_field(header, "base_digest", str),
        epsilon_spent=epsilon,
    )


def _cohort(fields: Mapping[str, object]) -> tuple[CohortMember, ...]:
    columns = [
        _list(fields, "site_ids", str),
        _list(fields, "exchange_keys", bytes),
        _list(fields, "signatures", bytes),
    ]
    if len({len(column) for column in columns}) != 1:
        msg = "Expected one key and one signature for each site of the cohort"
        raise MessageError(msg)
    return tuple(CohortMember(*row) for row in zip(*columns, strict=True))


def _list(fields: Mapping[str, object], name: str, kind: type[T]) -> list[Any]:
    values = fields.get(name)
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        msg = f"Expected {name} to be a list of {kind.__name__}"
        raise MessageError(msg)
    return values


def _config(content: RecordDict, name: str) -> Mapping[str, object]:
    if name not in content.config_records:
        msg = f"Expected a record {name!r}"
        raise MessageError(msg)
    return dict(content.config_records[name])


def _arrays(content: RecordDict, name: str) -> ArrayRecord:
    if name not in content.array_records:
        msg = f"Expected an array record {name!r}"
        raise MessageError(msg)
    return content.array_records[name]


def _field(fields: Mapping[str, object], name: str, kind: type[T]) -> T:
    value = fields.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        msg = f"Expected {name} to be {kind.__name__}, got {type(value).__name__}"
        raise MessageError(msg)
    return value
