"""The way out: whatever is planted, in whatever field, stays; what leaves has a signed receipt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from speaking_site import (
    HELLO,
    NODE,
    ROUNDS,
    Speaker,
    ask,
    make_hello,
    make_reply,
    reserve,
    speak,
    write_sites,
)

from client.learning import egress
from client.learning.allow_list import Question
from client.learning.anchoring import make_anchor
from client.learning.egress import EgressError, digest_content, release
from client.learning.receipts import SENT, STOPPED, is_signed_by
from client.learning.refusals import SENTENCES, is_listed, refuse
from client.site import Site
from privacy import audit
from privacy.keys import sign
from privacy.ledger import PrivacyLedger
from shared_models.messages import (
    Anchor,
    MaskedReply,
    ModelRequest,
    ModelUpdate,
    Refusal,
    RefusalCode,
    Reply,
    SiteHello,
    TallyReply,
    anchor_statement,
)
from shared_models.records import decode_anchor
from shared_models.weights import trainable_state


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sites(tmp_path_factory.mktemp("sites"))


@pytest.fixture
def local(folders: dict[str, Path], tmp_path: Path) -> Iterator[Speaker]:
    speaker = speak(folders["local"], tmp_path)
    yield speaker
    speaker.ledger.close()


@pytest.fixture
def distributed(folders: dict[str, Path], tmp_path: Path) -> Iterator[Speaker]:
    speaker = speak(folders["distributed"], tmp_path)
    yield speaker
    speaker.ledger.close()


KINDS = (ModelUpdate, TallyReply, MaskedReply, SiteHello, Refusal)
FRAME = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
LANDMARKS = np.random.default_rng(2).random((478, 3), dtype=np.float32)
CANARIES = {
    "frame": FRAME,
    "frame bytes": FRAME.tobytes(),
    "32 bytes of a frame": FRAME.tobytes()[:32],
    "frame tensor": torch.from_numpy(FRAME),
    "landmarks": LANDMARKS,
    "landmarks tensor": torch.from_numpy(LANDMARKS),
    "landmark": float(LANDMARKS[0, 0]),
    "subject": "s001",
    "path": "videos/s001.mp4",
    "score": 17,
    "score as number": 17.0,
    "score as text": "17",
    "scores": [17.0, 3.0],
    "nothing": None,
    "truth": True,
}


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def spoken(
    request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path: Path
) -> Iterator[tuple[Speaker, Reply, Question]]:
    """Every kind of reply at a site that may send it."""
    mode = "distributed" if request.param is MaskedReply else "local"
    speaker = speak(folders[mode], tmp_path)
    yield speaker, *make_reply(speaker, request.param)
    speaker.ledger.close()


def assert_stopped(speaker: Speaker, reply: Reply, question: Question) -> None:
    before = len(speaker.log())
    with pytest.raises(EgressError) as caught:
        release(reply, question, speaker)
    (entry,) = speaker.log()[before:]
    assert entry.event == STOPPED
    # Neither the error nor the log repeats what was planted.
    told = f"{caught.value}{json.dumps(entry.details)}"
    assert not re.search(r"s001|mp4|\b17\b|\b3\.0", told), told


def test_what_is_on_the_list_leaves(spoken: tuple[Speaker, Reply, Question]) -> None:
    speaker, reply, question = spoken
    content = release(reply, question, speaker)
    assert set(content) >= {"reply", "arrays"} or len(content) == 1
    assert [entry.event for entry in speaker.log()] == [SENT]


def test_a_canary_in_any_field_of_any_reply_stays(
    spoken: tuple[Speaker, Reply, Question],
) -> None:
    speaker, reply, question = spoken
    planted = 0
    for field in fields(reply):
        for canary in CANARIES.values():
            assert_stopped(speaker, replace(reply, **{field.name: canary}), question)  # type: ignore[type-var]
            planted += 1
    assert planted == len(fields(reply)) * len(CANARIES)
    assert SENT not in {entry.event for entry in speaker.log()}


def test_a_canary_beside_or_inside_the_tensors_of_an_update_stays(local: Speaker) -> None:
    reply, question = make_reply(local, ModelUpdate)
    assert isinstance(reply, ModelUpdate)
    right = reply.update
    planted: list[dict[str, torch.Tensor]] = [
        {},
        {"head.weight": right["head.weight"]},
        {**right, "frame": torch.from_numpy(FRAME)},
        {**right, "s001": torch.zeros(1)},
        {**right, "videos/s001.mp4": torch.zeros(1)},
        {"head.weight": right["head.weight"], "s001": right["head.bias"]},
        {**right, "head.bias": torch.from_numpy(LANDMARKS)},
        {**right, "head.bias": torch.from_numpy(FRAME)},
        {**right, "head.bias": torch.tensor([17, 3])},
        {**right, "head.bias": right["head.bias"].double()},
        {**right, "head.bias": right["head.bias"].reshape(2, 1)},
        {**right, "head.bias": torch.tensor([1.0, float("inf")])},
        {**right, "head.bias": torch.tensor([1.0, float("nan")])},
    ]
    for update in planted:
        assert_stopped(local, replace(reply, update=update), question)


@pytest.mark.parametrize(
    "table",
    [
        LANDMARKS.astype(np.float64),
        np.ones((1, 19)),
        np.ones((19, 6)),
        np.ones((6, 19, 1)),
        np.ones((6, 19), np.uint8),
        np.ones((6, 19), np.float32),
        np.full((6, 19), np.nan),
        np.full((6, 19), np.inf),
    ],
)
def test_tallies_of_another_form_stay(local: Speaker, table: np.ndarray) -> None:
    reply, question = make_reply(local, TallyReply)
    assert_stopped(local, replace(reply, tallies=table), question)  # type: ignore[call-arg]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32, np.uint8, np.uint64])
def test_a_vector_that_was_never_masked_stays(distributed: Speaker, dtype: type) -> None:
    reply, question = make_reply(distributed, MaskedReply)
    assert_stopped(distributed, replace(reply, masked=np.ones(130, dtype)), question)  # type: ignore[call-arg]


@pytest.mark.parametrize("shape", [(129,), (131,), (130, 1), (2, 65), (6 * 19,), (0,)])
def test_a_masked_vector_of_another_form_stays(
    distributed: Speaker, shape: tuple[int, ...]
) -> None:
    reply, question = make_reply(distributed, MaskedReply)
    assert_stopped(distributed, replace(reply, masked=np.ones(shape, np.uint32)), question)  # type: ignore[call-arg]


def plant(content: RecordDict, where: str) -> None:
    header = next(iter(content.config_records.values()))
    match where:
        case "record":
            content["frame"] = ConfigRecord({"rgb": FRAME.tobytes()})
        case "metrics":
            content["scores"] = MetricRecord({"s001": 17.0})
        case "array record":
            raw = Array("uint8", FRAME.shape, "raw", FRAME.tobytes())
            content["frame"] = ArrayRecord({"frame": raw})
        case "field":
            header["comment"] = "s001 in videos/s001.mp4 scored 17"
        case "list":
            header["site_id"] = ["north", "s001"]
        case "field gone":
            del header["site_id"]


@pytest.mark.parametrize(
    "where", ["record", "metrics", "array record", "field", "list", "field gone"]
)
def test_what_a_faulty_writer_of_messages_adds_stays(
    spoken: tuple[Speaker, Reply, Question], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker, reply, question = spoken
    honest = egress.encode_reply

    def encode(reply: Reply) -> RecordDict:
        content = honest(reply)
        plant(content, where)
        return content

    monkeypatch.setattr(egress, "encode_reply", encode)
    assert_stopped(speaker, reply, question)


@pytest.mark.parametrize("change", [{"stype": "npy"}, {"data": b"s001"}, {"dtype": "int32"}])
def test_an_array_that_only_claims_its_form_stays(
    distributed: Speaker, change: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply, question = make_reply(distributed, MaskedReply)
    honest = egress.encode_reply

    def encode(reply: Reply) -> RecordDict:
        content = honest(reply)
        content.array_records["arrays"]["masked"].__dict__.update(change)
        return content

    monkeypatch.setattr(egress, "encode_reply", encode)
    assert_stopped(distributed, reply, question)


def test_a_way_out_that_looks_at_arrays_only_would_let_names_through(
    spoken: tuple[Speaker, Reply, Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken variant: without the rules for fields, the canaries above would leave."""
    speaker, reply, question = spoken
    monkeypatch.setattr(egress, "_field_faults", lambda *_: iter(()))
    planted = replace(reply, site_id="s001")  # type: ignore[type-var]
    content = release(planted, question, speaker)
    assert "s001" in str(content)


# Which reply may answer what.


def test_a_release_that_is_not_in_the_ledger_stays(local: Speaker) -> None:
    reply, question = make_reply(local, ModelUpdate)
    assert isinstance(question.request, ModelRequest)
    for changes in ({"server_round": 2}, {"attempt": 2}, {"run_id": "18"}):
        other = replace(question, request=replace(question.request, **changes))
        changed = replace(reply, server_round=changes.get("server_round", ROUNDS))  # type: ignore[call-arg]
        assert_stopped(local, changed, other)


def test_another_release_whose_name_begins_the_same_does_not_pay(local: Speaker) -> None:
    question = ask(local, "train")
    assert isinstance(question.request, ModelRequest)
    twelfth = replace(question, request=replace(question.request, attempt=12))
    epsilon = reserve(local, twelfth)
    state = trainable_state(local.network)
    header = (local.site.id, ROUNDS, question.request.base_digest)
    assert_stopped(local, ModelUpdate(*header, state, epsilon), question)


def test_in_a_study_of_sums_nothing_leaves_without_a_mask(distributed: Speaker) -> None:
    masked, question = make_reply(distributed, MaskedReply)
    assert isinstance(masked, MaskedReply)
    header = (masked.site_id, masked.server_round, masked.base_digest)
    update = ModelUpdate(*header, trainable_state(distributed.network), masked.epsilon_spent)
    assert_stopped(distributed, update, question)


def test_a_masked_vector_is_no_answer_where_nobody_adds_up(local: Speaker) -> None:
    update, question = make_reply(local, ModelUpdate)
    assert isinstance(update, ModelUpdate)
    header = (update.site_id, update.server_round, update.base_digest)
    masked = MaskedReply(*header, np.ones(130, np.uint32), 1, update.epsilon_spent)
    assert_stopped(local, masked, question)


def test_an_update_is_no_answer_to_an_evaluation_nor_to_a_hello(local: Speaker) -> None:
    update, question = make_reply(local, ModelUpdate)
    assert_stopped(local, update, replace(question, asked="evaluate"))
    assert_stopped(local, update, Question("hello", HELLO, NODE))
    assert_stopped(local, update, Question("train", None, NODE))
    assert_stopped(local, make_hello(local), question)


def test_a_hello_to_another_question_stays(local: Speaker) -> None:
    hello = make_hello(local)
    for question in (
        Question("hello", replace(HELLO, nonce=b"m" * 32), NODE),
        Question("hello", HELLO, NODE + 1),
        Question("hello", replace(HELLO, run_id="18"), NODE),
    ):
        assert_stopped(local, hello, question)


def test_without_privacy_only_a_site_that_allows_it_speaks(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    speaker = speak(folders["off"], tmp_path)
    question = ask(speaker, "train")
    assert isinstance(question.request, ModelRequest)
    state = trainable_state(speaker.network)
    update = ModelUpdate(speaker.site.id, ROUNDS, question.request.base_digest, state, float("inf"))
    release(update, question, speaker)
    (receipt,) = speaker.log()
    assert receipt.details["ledger_row"] is None
    assert speaker.site.policy is not None
    strict = replace(speaker.site.policy, allow_no_privacy=False)
    speaker.site = replace(speaker.site, policy=strict)
    assert_stopped(speaker, update, question)
    speaker.ledger.close()


# Refusals.


def test_every_code_has_its_sentence() -> None:
    assert set(SENTENCES) == set(RefusalCode)
    assert len(set(SENTENCES.values())) == len(SENTENCES)


@pytest.mark.parametrize("code", list(RefusalCode))
def test_a_refusal_says_what_the_list_says_and_nothing_else(code: RefusalCode) -> None:
    for rules in ((), ("max_rounds",), ("min_subjects", "max_epsilon_per_year")):
        assert is_listed(code, refuse("north", code, rules).message)
    sentence = SENTENCES[code]
    for said in (
        "", "s001", sentence + " s001", sentence + ": s001", f"s001: {sentence}",
        sentence + ": max_rounds, s001", sentence + ": max_rounds, max_rounds",
        sentence + ": ", sentence + "\n", sentence.lower(),
    ):  # fmt: skip
        assert not is_listed(code, said), said
    assert not is_listed("s001", sentence)


# Receipts.


def test_a_receipt_says_what_left_and_what_it_cost(distributed: Speaker) -> None:
    reply, question = make_reply(distributed, MaskedReply)
    content = release(reply, question, distributed)
    (receipt,) = distributed.log()
    wanted = {
        "site": "site-01", "kind": "MaskedReply", "asked": "train", "run_id": "17",
        "server_round": ROUNDS, "attempt": 1, "arrays": "masked uint32 [130]", "numbers": 130,
        "bytes": 520, "ledger_row": 1, "sha256": digest_content(content),
        "to": "a coordinator on this machine",
    }  # fmt: skip
    assert {name: receipt.details[name] for name in wanted} == wanted
    (row,) = distributed.ledger.releases()
    assert receipt.details["epsilon_spent"] == row.epsilon_after
    cap = distributed.site.policy.max_epsilon_per_subject  # type: ignore[union-attr]
    assert receipt.details["epsilon_left"] == pytest.approx(cap - row.epsilon_after)


def test_a_receipt_tells_what_is_left_of_the_year(local: Speaker) -> None:
    assert local.site.policy is not None
    policy = replace(local.site.policy, max_epsilon_per_year=2.0)
    local.site = replace(local.site, policy=policy)
    reply, question = make_reply(local, ModelUpdate)
    release(reply, question, local)
    (receipt,) = local.log()
    (row,) = local.ledger.releases()
    assert receipt.details["epsilon_left_this_year"] == pytest.approx(2.0 - row.epsilon_after)


def test_a_receipt_is_signed_for_its_place(spoken: tuple[Speaker, Reply, Question]) -> None:
    speaker, reply, question = spoken
    release(reply, question, speaker)
    (receipt,) = speaker.log()
    assert is_signed_by(speaker.site, receipt)
    changed = {**receipt.details, "bytes": 1}
    for forged in (
        replace(receipt, details=changed),
        replace(receipt, sequence=2),
        replace(receipt, previous="1" * 64),
        replace(receipt, at="2020-01-01T00:00:00+00:00"),
        replace(receipt, details={k: v for k, v in receipt.details.items() if k != "signature"}),
        replace(receipt, details={**receipt.details, "signature": "no hex"}),
        replace(receipt, details={**receipt.details, "signature": "00"}),
    ):
        assert not is_signed_by(speaker.site, forged)


def test_the_digest_covers_all_that_was_said() -> None:
    def message(**changes: object) -> RecordDict:
        values = {"name": "w", "data": b"12345678", "shape": (2,), "site": "north", **changes}
        array = Array("float32", values["shape"], "raw", values["data"])  # type: ignore[arg-type]
        return RecordDict(
            {
                "reply": ConfigRecord({"site_id": values["site"], "key": b"k"}),  # type: ignore[dict-item]
                "arrays": ArrayRecord({str(values["name"]): array}),
            }
        )

    changes = [{}, {"name": "v"}, {"data": b"12345679"}, {"shape": (1, 2)}, {"site": "south"}]
    digests = {digest_content(message(**change)) for change in changes}
    assert len(digests) == len(changes)


def test_the_anchor_beside_an_answer_vouches_for_its_receipt(
    spoken: tuple[Speaker, Reply, Question],
) -> None:
    speaker, reply, question = spoken
    content = release(reply, question, speaker)
    anchor = decode_anchor(content)
    if isinstance(reply, SiteHello | Refusal):
        assert anchor is None
        return
    assert anchor is not None
    assert (anchor.log_entries, anchor.log_head) == audit.head(speaker.site.paths.audit)
    assert (anchor.ledger_rows, anchor.ledger_head) == speaker.ledger.head()


@pytest.mark.parametrize(
    "change",
    [
        {"ledger_rows": 17},
        {"ledger_head": "s001"},
        {"ledger_head": "0" * 64},
        {"log_head": "videos/s001.mp4"},
        {"log_head": "0" * 64},
        {"log_entries": 17},
        {"log_entries": 0},
        {"signature": FRAME.tobytes()[:102]},
    ],
)
def test_a_canary_in_the_anchor_stays(
    local: Speaker, change: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forge(site: Site, ledger: PrivacyLedger) -> object:
        return replace(make_anchor(site, ledger), **change)

    monkeypatch.setattr(egress, "make_anchor", forge)
    reply, question = make_reply(local, ModelUpdate)
    with pytest.raises(EgressError):
        release(reply, question, local)
    assert local.log()[-1].event == STOPPED


@pytest.mark.parametrize(
    "change",
    [
        {"ledger_rows": 17},
        {"ledger_rows": True},
        {"ledger_head": "s001"},
        {"ledger_head": "0" * 64},
        {"log_head": "videos/s001.mp4"},
        {"log_head": "A" * 64},
        {"log_entries": 0},
        {"log_entries": 17.0},
    ],
)
def test_the_sites_own_signature_does_not_make_a_canary_an_anchor(
    local: Speaker, change: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forge(site: Site, ledger: PrivacyLedger) -> Anchor:
        anchor = replace(make_anchor(site, ledger), **change)
        statement = anchor_statement(anchor, site_id=site.id)
        return replace(anchor, signature=sign(site.identity_key, statement))

    monkeypatch.setattr(egress, "make_anchor", forge)
    reply, question = make_reply(local, ModelUpdate)
    with pytest.raises(EgressError):
        release(reply, question, local)


def test_what_the_site_keeps_to_itself_is_in_the_receipt_and_not_in_the_message(
    local: Speaker,
) -> None:
    refusal, question = make_reply(local, Refusal)
    content = release(refusal, question, local, detail="s001 has no recording")
    assert "s001" not in str(content)
    (receipt,) = local.log()
    assert receipt.details["kept_here"] == "s001 has no recording"
    assert receipt.details["code"] == "policy"
