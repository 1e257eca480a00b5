"""What an answer depends on, as one digest, and how messages are written down and read again."""

from __future__ import annotations

import hashlib
import json

from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from google.protobuf.message import DecodeError

from privacy.plan import PrivacyPlan
from shared_models.consortium import ConsortiumConfig
from shared_models.messages import (
    MaskedReply,
    MessageError,
    ModelRequest,
    ModelUpdate,
    TallyReply,
)
from shared_models.records import (
    decode_masked,
    decode_model_request,
    decode_tallies,
    decode_update,
    encode_model_request,
    encode_reply,
)
from shared_models.signed_models import Kind, model_statement

Answer = ModelUpdate | TallyReply | MaskedReply
"""A reply that holds what was computed on subjects."""


def digest_question(
    request: ModelRequest, *, kind: Kind, plan: PrivacyPlan, config: ConsortiumConfig, site_id: str
) -> str:
    """SHA-256 (hex) over all that the answer to a request depends on, beside the site's data.

    That is what the coordinator signs (run, round, attempt, kind, cohort, digests of weights and
    study), each key that a mask is made with, the weights that sites are counted with, and the plan
    as the site itself derives it.

    Args:
        request: A checked request.
        kind: What it asks for.
        plan: The site's own plan for it.
        config: The agreed study.
        site_id: The site that answers.
    """
    members = [(member.site_id, member.exchange_key.hex()) for member in request.cohort]
    counted = [site_id, *(name for name, _ in members)]
    entries = [config.site(name) for name in counted]
    terms = [
        model_statement(request, kind=kind).decode(),
        members,
        [None if entry is None else entry.weight for entry in entries],
        plan.to_dict(),
    ]
    return hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()


def pack_reply(reply: Answer) -> bytes:
    """A reply as bytes, exactly as it is going to travel."""
    data: bytes = recorddict_to_proto(encode_reply(reply)).SerializeToString()
    return data


def pack_request(request: ModelRequest) -> bytes:
    """A request as bytes, exactly as it came: the coordinator's signature stays good."""
    data: bytes = recorddict_to_proto(encode_model_request(request)).SerializeToString()
    return data


def unpack_request(data: bytes) -> ModelRequest:
    """The request that :func:`pack_request` wrote down; nothing of it is checked but its form.

    Raises:
        MessageError: If it is damaged, or another version of this program wrote it.
        WeightsError: The same.
    """
    try:
        content = unpack_content(data)
    except DecodeError as error:
        msg = "Expected a request as it was kept, got other bytes"
        raise MessageError(msg) from error
    return decode_model_request(content)


def unpack_content(data: bytes) -> RecordDict:
    """The message that :func:`pack_reply` wrote down."""
    return recorddict_from_proto(ProtoRecordDict.FromString(data))


def unpack_reply(data: bytes) -> Answer:
    """The reply that :func:`pack_reply` wrote down; its form is checked again where it leaves.

    Raises:
        MessageError: If another version of this program wrote it in another form.
        WeightsError: The same.
    """
    content = unpack_content(data)
    arrays = content.array_records["arrays"]
    attempt = content.config_records["reply"].get("attempt")
    if isinstance(attempt, int):
        (size,) = arrays["masked"].shape
        return decode_masked(content, size=size, attempt=attempt)
    if list(arrays) == ["tallies"]:
        rows, columns = arrays["tallies"].shape
        return decode_tallies(content, shape=(rows, columns))
    return decode_update(content)
