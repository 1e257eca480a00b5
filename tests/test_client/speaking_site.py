"""A site that may speak, without data: what the tests of the way out and of the log share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from client.learning.allow_list import Asked, Question, Standing
from client.learning.receipts import release_name
from client.learning.refusals import refuse
from client.site import Site, open_site
from privacy import audit
from privacy.keys import sign
from privacy.ledger import PrivacyLedger
from privacy.secure_sum import exchange_key, exchange_statement, public_bytes
from shared_models.messages import (
    HelloRequest,
    MaskedReply,
    ModelRequest,
    ModelUpdate,
    Refusal,
    RefusalCode,
    Reply,
    SiteHello,
    TallyReply,
    hello_statement,
)
from shared_models.weights import digest_weights, trainable_state
from simulation.study import design_study, write_cohort

ROUNDS = 3
HELLO = HelloRequest("17", b"n" * 32)
NODE = 5


class Head(nn.Module):
    """What an update has the form of: 130 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 2)


@dataclass
class Speaker:
    """A site that may speak, without data, and whose outbox holds whatever it is asked for."""

    site: Site
    ledger: PrivacyLedger
    network: nn.Module
    standing: Standing | None = "first"

    def tally_shape(self, server_round: int) -> tuple[int, int]:
        return (6, 19) if server_round == ROUNDS else (1, 19)

    def stand(self, *_: object) -> AbstractContextManager[Standing | None]:
        return nullcontext(self.standing)

    def log(self) -> list[audit.AuditEntry]:
        return audit.read(self.site.paths.audit)


def write_sites(folder: Path) -> dict[str, Path]:
    """One site of a study of four, for each mode."""
    found = {}
    for mode in ("local", "distributed", "off"):
        design = design_study(
            sites=4, subjects=4, rounds=ROUNDS, epsilon=3.0, mode=mode,
            network="behaviour_net", trainable="head", seed=5,
        )  # fmt: skip
        (folder / mode).mkdir()
        found[mode] = write_cohort(design, folder / mode, lambda *_: None)[0]
    return found


def speak(folder: Path, state: Path) -> Speaker:
    site = open_site(folder)
    site = replace(site, paths=replace(site.paths, state=state))
    return Speaker(site, PrivacyLedger(site.paths.ledger, key=site.ledger_key), Head())


def ask(speaker: Speaker, asked: Asked, server_round: int = ROUNDS) -> Question:
    config = speaker.site.consortium.config
    plan = config.training_plan() if asked == "train" else config.tally_plan()
    request = ModelRequest(
        run_id="17",
        server_round=server_round,
        weights=trainable_state(speaker.network),
        base_digest=digest_weights(speaker.network.state_dict()),
        consortium_digest=speaker.site.consortium.digest,
        plan=plan,
    )
    return Question(asked, request, NODE)


def reserve(speaker: Speaker, question: Question) -> float:
    request = question.request
    assert isinstance(request, ModelRequest)
    return speaker.ledger.reserve(
        release_name(request.run_id, request.server_round, question.asked, request.attempt),
        ["s001", "s002"],
        noise_multiplier=request.plan.released_noise_multiplier,
        sample_rate=1.0,
        steps=1,
        delta=request.plan.delta,
        purpose=question.asked,
        cap_epsilon=3.0,
    ).epsilon_after


def make_hello(speaker: Speaker) -> SiteHello:
    site = speaker.site
    public = public_bytes(exchange_key(site.exchange_secret, HELLO.run_id))
    return SiteHello(
        site.id,
        site.consortium.digest,
        "0.1.0",
        sign(site.identity_key, hello_statement(HELLO, node_id=NODE, site_id=site.id)),
        public,
        sign(site.identity_key, exchange_statement(HELLO.run_id, site.id, public)),
    )


def make_reply(speaker: Speaker, kind: type[Reply]) -> tuple[Reply, Question]:
    """A reply that may leave, and what it answers; its release is reserved."""
    if kind is SiteHello:
        return make_hello(speaker), Question("hello", HELLO, NODE)
    if kind is Refusal:
        rules = ("max_rounds", "min_subjects")
        return refuse(speaker.site.id, RefusalCode.POLICY, rules), ask(speaker, "train")
    question = ask(speaker, "evaluate" if kind is TallyReply else "train")
    assert isinstance(question.request, ModelRequest)
    header = (speaker.site.id, ROUNDS, question.request.base_digest)
    epsilon = reserve(speaker, question)
    if kind is ModelUpdate:
        return ModelUpdate(*header, trainable_state(speaker.network), epsilon), question
    if kind is TallyReply:
        return TallyReply(*header, np.ones((6, 19)), epsilon), question
    return MaskedReply(*header, np.ones(130, np.uint32), 1, epsilon), question
