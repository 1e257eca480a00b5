"""Messages: they survive Flower's own encoding, and anything malformed is refused by name."""

import math

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from privacy.plan import PrivacyPlan
from shared_models.messages import (
    HelloRequest,
    MessageError,
    ModelRequest,
    ModelUpdate,
    Refusal,
    RefusalCode,
    SiteHello,
    TallyReply,
    hello_statement,
)
from shared_models.records import (
    decode_hello,
    decode_hello_request,
    decode_model_request,
    decode_refusal,
    decode_tallies,
    decode_update,
    encode_hello_request,
    encode_model_request,
    encode_reply,
)

PLAN = PrivacyPlan("local", 5.7, 0.5, 1.0, 30, 1e-3, 3.0)
OFF = PrivacyPlan("off", 0.0, 0.5, 1.0, 30, 1e-3, None)
UPDATE = ModelUpdate("north", 3, "ab", {"w": torch.tensor([[1.0, 2.0]])}, 1.5)


def over_the_wire(content: RecordDict) -> RecordDict:
    return recorddict_from_proto(recorddict_to_proto(content))


@pytest.mark.parametrize("plan", [PLAN, OFF])
def test_a_model_request_arrives_as_it_was_sent(plan: PrivacyPlan) -> None:
    weights = {"w": torch.tensor([1.0, -0.0])}
    sent = ModelRequest("run", 2, weights, "d1", "d2", plan, signature=b"signed")
    got = decode_model_request(over_the_wire(encode_model_request(sent)))
    assert (got.run_id, got.server_round, got.base_digest) == ("run", 2, "d1")
    assert got.consortium_digest == "d2"
    assert (got.plan, got.signature) == (plan, b"signed")
    assert torch.equal(got.weights["w"], sent.weights["w"])


def test_replies_arrive_as_they_were_sent() -> None:
    update = decode_update(over_the_wire(encode_reply(UPDATE)))
    assert torch.equal(update.update["w"], UPDATE.update["w"])
    assert (update.site_id, update.server_round, update.epsilon_spent) == ("north", 3, 1.5)
    tallies = np.arange(6.0).reshape(2, 3)
    reply = TallyReply("north", 3, "ab", tallies, math.inf)
    got = decode_tallies(over_the_wire(encode_reply(reply)), shape=(2, 3))
    assert got.tallies.tolist() == tallies.tolist()
    assert got.epsilon_spent == math.inf
    hello = SiteHello("north", "d2", "0.1.0", b"signature", b"k" * 32, b"exchange signature")
    assert decode_hello(over_the_wire(encode_reply(hello))) == hello
    refusal = Refusal("north", RefusalCode.BUDGET, "spent")
    assert decode_refusal(over_the_wire(encode_reply(refusal))) == refusal
    assert decode_refusal(encode_reply(UPDATE)) is None


def test_a_hello_binds_run_node_site_and_question() -> None:
    request = decode_hello_request(
        over_the_wire(encode_hello_request(HelloRequest("r", b"n" * 32)))
    )
    base = hello_statement(request, node_id=7, site_id="north")
    others = {
        hello_statement(request, node_id=8, site_id="north"),
        hello_statement(request, node_id=7, site_id="south"),
        hello_statement(HelloRequest("r2", b"n" * 32), node_id=7, site_id="north"),
        hello_statement(HelloRequest("r", b"m" * 32), node_id=7, site_id="north"),
    }
    assert base not in others
    assert len(others) == 4


def tallies_of(dtype: str, shape: tuple[int, ...], data: bytes) -> RecordDict:
    content = encode_reply(TallyReply("north", 3, "ab", np.zeros((2, 3)), 1.0))
    content["arrays"] = ArrayRecord({"tallies": Array(dtype, shape, "raw", data)})
    return content


@pytest.mark.parametrize(
    "content",
    [
        tallies_of("float64", (3, 2), np.zeros(6).tobytes()),
        tallies_of("float32", (2, 3), np.zeros(6, np.float32).tobytes()),
        tallies_of("float64", (2, 3), np.full(6, np.nan).tobytes()),
        RecordDict({"reply": ConfigRecord({})}),
        encode_reply(UPDATE),
    ],
)
def test_tallies_of_another_form_are_refused(content: RecordDict) -> None:
    with pytest.raises(MessageError, match="Expected"):
        decode_tallies(content, shape=(2, 3))


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [
        ("request", "server_round", "two"),
        ("request", "run_id", 7),
        ("plan", "noise_multiplier", -1.0),
        ("plan", "mode", "none"),
        ("plan", "surprise", 1),
    ],
)
def test_a_request_with_a_wrong_field_is_refused(record: str, field: str, value: object) -> None:
    content = encode_model_request(ModelRequest("run", 2, {}, "d1", "d2", PLAN))
    content[record][field] = value  # type: ignore[index]
    with pytest.raises(MessageError, match="Expected"):
        decode_model_request(content)


@pytest.mark.parametrize("epsilon", [math.nan, -1.0])
def test_a_spent_epsilon_that_cannot_be_is_refused(epsilon: float) -> None:
    content = encode_reply(UPDATE)
    content["reply"]["epsilon_spent"] = epsilon  # type: ignore[index]
    with pytest.raises(MessageError, match="epsilon_spent"):
        decode_update(content)


def test_a_refusal_outside_the_catalogue_is_refused() -> None:
    content = encode_reply(Refusal("north", RefusalCode.BUDGET, "spent"))
    content["refusal"]["code"] = "because"  # type: ignore[index]
    with pytest.raises(MessageError, match="because"):
        decode_refusal(content)
