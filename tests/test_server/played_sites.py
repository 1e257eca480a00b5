"""Sites that answer a coordinator as real ones do, unless a test tells them otherwise."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.learning.secure_sums import mask_vector
from privacy.keys import public_line, sign
from privacy.noise import SeededNoise
from privacy.secure_sum import exchange_key, exchange_statement, public_bytes
from server.app import app as server_app
from server.bundle import RUN_FOLDER
from server.history import RunReport
from server.signing import ready_signing_key
from server.study_file import render_study
from shared_models.consortium import (
    Consortium,
    ConsortiumConfig,
    CoordinatorConfig,
    FairnessConfig,
    PrivacyConfig,
    SiteEntry,
    StudyConfig,
    TrainingConfig,
    load_consortium,
)
from shared_models.messages import (
    Anchor,
    MaskedReply,
    ModelRequest,
    ModelUpdate,
    Reply,
    SiteHello,
    TallyReply,
    anchor_statement,
    hello_statement,
)
from shared_models.records import (
    attach_anchor,
    decode_hello_request,
    decode_model_request,
    encode_reply,
)
from shared_models.signed_models import Kind, is_signed
from simulation.engine import run_in_process

SITES = ("east", "north", "west")
FOUR = ("east", "north", "south", "west")
KEYS = {site: ec.generate_private_key(ec.SECP384R1()) for site in (*FOUR, "stranger")}


SECRETS = {site: site.encode().ljust(32, b".") for site in KEYS}


class Sites:
    """Three sites that answer correctly, unless told otherwise."""

    def __init__(
        self,
        folder: Path,
        *,
        quorum: int = 2,
        rounds: int = 2,
        privacy: PrivacyConfig | None = None,
        sites: tuple[str, ...] = SITES,
    ) -> None:
        # What a coordinator keeps over all its runs lies beside their folders.
        self.runs = folder
        self.folder = folder / "run"
        self.folder.mkdir()
        config = ConsortiumConfig(
            study=StudyConfig("trial", "phq9"),
            training=TrainingConfig(
                rounds=rounds, quorum=quorum, evaluate_every=rounds, round_timeout_s=0.2
            ),
            privacy=privacy or PrivacyConfig(target_epsilon=3.0),
            fairness=FairnessConfig(),
            coordinator=CoordinatorConfig(ready_signing_key(folder)),
            sites=tuple(SiteEntry(s, 10, public_line(KEYS[s])) for s in sites),
        )
        (self.folder / "consortium.toml").write_text(render_study(config))
        self.consortium: Consortium = load_consortium(self.folder / "consortium.toml")
        self.app = ClientApp()
        self.app.query("hello")(self._reply(self.hello))
        self.app.train()(self._reply(self.train))
        self.app.evaluate()(self._reply(self.evaluate))
        self.names: list[str] = list(sites)
        self.asked: list[tuple[str, str]] = []
        self.kept: list[tuple[str, Anchor | None]] = []

    def run_again(self) -> RunReport:
        """Another run of the same study, in a folder of its own."""
        study = (self.folder / "consortium.toml").read_bytes()
        self.folder = self.runs / f"{self.folder.name}-next"
        self.folder.mkdir()
        (self.folder / "consortium.toml").write_bytes(study)
        return self.run()

    def run(self) -> RunReport:
        run_in_process(
            server_app,
            self.app,
            node_configs=[{"name": name} for name in self.names],
            run_config={RUN_FOLDER: str(self.folder)},
        )
        return RunReport.from_json((self.folder / "report.json").read_bytes())

    def hello(self, site: str, message: Message, node_id: int) -> Reply:
        request = decode_hello_request(message.content)
        statement = hello_statement(request, node_id=node_id, site_id=site)
        digest = self.consortium.digest
        public = public_bytes(exchange_key(SECRETS[site], request.run_id))
        introduced = sign(KEYS[site], exchange_statement(request.run_id, site, public))
        return SiteHello(site, digest, "0.1.0", sign(KEYS[site], statement), public, introduced)

    def train(self, site: str, message: Message, node_id: int) -> Reply:
        request = decode_model_request(message.content)
        step = {name: torch.full_like(w, 0.1) for name, w in request.weights.items()}
        return ModelUpdate(site, request.server_round, request.base_digest, step, 1.0)

    def evaluate(self, site: str, message: Message, node_id: int) -> Reply:
        request = decode_model_request(message.content)
        cells = len(list(self.consortium.config.tally_groups(request.server_round)))
        table = torch.full((cells, 19), 5.0).double().numpy()
        return TallyReply(site, request.server_round, request.base_digest, table, 2.0)

    def require_signature(self, kind: Kind, message: Message) -> None:
        """As at a real site: nothing is answered that the coordinator did not sign."""
        request = decode_model_request(message.content)
        if not is_signed(request, self.consortium.coordinator_key, kind=kind):
            msg = "not signed"
            raise PermissionError(msg)

    def anchor(self, site: str, message: Message) -> Anchor:
        """What the site signs of its records: one row more with each answer."""
        self.kept.append((site, decode_model_request(message.content).anchor))
        rows = sum(name == site for name, _ in self.kept)
        anchor = Anchor(rows, f"row {rows}", rows, f"entry {rows}")
        return replace(anchor, signature=sign(KEYS[site], anchor_statement(anchor, site_id=site)))

    def _reply(self, answer: Callable) -> Callable:
        name = answer.__name__

        def reply(message: Message, context: Context) -> Message:
            site = str(context.node_config["name"])
            self.asked.append((name, site))
            if name != "hello":
                self.require_signature(name, message)
            content = getattr(self, name)(site, message, context.node_id)
            if not isinstance(content, RecordDict):
                content = encode_reply(content)
            if name != "hello":
                attach_anchor(content, self.anchor(site, message))
            return Message(content, reply_to=message)

        return reply


def spoil(sites: Sites, kind: str, site: str, change: Callable[[Reply], Reply]) -> None:
    """Let one site change its answers of one kind."""
    honest = getattr(sites, kind)

    def answer(name: str, message: Message, node_id: int) -> Reply:
        reply = honest(name, message, node_id)
        return change(reply) if name == site else reply

    setattr(sites, kind, answer)


class SecureSites(Sites):
    """Four sites whose vectors are known, so that their sum is."""

    def __init__(self, folder: Path, *, retries: int = 2, tolerated: int = 0) -> None:
        self.values = {s: np.random.default_rng(i) for i, s in enumerate(FOUR)}
        self.masked: list[tuple[str, int, int, np.ndarray]] = []
        privacy = PrivacyConfig("subject", "distributed", tolerated_dropouts=tolerated,
                                retries=retries)  # fmt: skip
        super().__init__(folder, privacy=privacy, sites=FOUR)

    def train(self, site: str, message: Message, node_id: int) -> Reply:
        request = decode_model_request(message.content)
        size = sum(w.numel() for w in request.weights.values())
        return self._mask(site, request, np.full(size, float(FOUR.index(site) + 1)), "train")

    def evaluate(self, site: str, message: Message, node_id: int) -> Reply:
        request = decode_model_request(message.content)
        cells = len(list(self.consortium.config.tally_groups(request.server_round)))
        return self._mask(site, request, np.full(cells * 19, 5.0), "evaluate")

    def _mask(self, site: str, request: ModelRequest, values: np.ndarray, purpose: str) -> Reply:
        config = self.consortium.config
        plan = config.training_plan() if purpose == "train" else config.tally_plan()
        vector = mask_vector(
            values, request, config, site_id=site, own=exchange_key(SECRETS[site], request.run_id),
            plan=plan, purpose=purpose,
            noise=SeededNoise(hash((site, request.server_round, request.attempt)) % 2**31),
        )  # fmt: skip
        self.masked.append((site, request.server_round, request.attempt, vector))
        return MaskedReply(site, request.server_round, request.base_digest, vector,
                           attempt=request.attempt, epsilon_spent=1.0)  # fmt: skip
