"""A site's learner: holds the data, the network and the ledger, and answers the coordinator.

Everything that can make a site say no is decided here, in this order: the study, the plan, the
policy, the weights, the budget. Only then is data touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
from torch import Tensor

from client.learning.admission import RefusedError, check_request, require_member
from client.learning.allow_list import Asked, Standing
from client.learning.charging import Charges
from client.learning.dataset import SubjectDataset, build_dataset, without_clips
from client.learning.egress import digest_content
from client.learning.evaluation import add_tally_noise, score_subjects, tally_table
from client.learning.importance import measure_importance
from client.learning.kept_model import keep_model
from client.learning.kept_reply import (
    Answer,
    digest_question,
    pack_reply,
    unpack_content,
    unpack_reply,
)
from client.learning.membership import follow_roster
from client.learning.outbox import Entry, Outbox, open_outbox
from client.learning.secure_sums import mask_vector
from client.learning.training import (
    SubjectItem,
    embed_subjects,
    item_share,
    make_items,
    site_gradient,
    subject_loss,
)
from client.recordings.manifest import read_manifest
from client.site import Site, open_site
from client.storage.store import open_store
from client.withdrawal.exclusion import Exclusion, ExclusionList, open_exclusions
from privacy.keys import sign
from privacy.ledger import PrivacyLedger
from privacy.noise import ChaChaNoise, NoiseSource, SeededNoise
from privacy.plan import PrivacyPlan
from privacy.secure_sum import (
    FloatArray,
    exchange_key,
    exchange_statement,
    public_bytes,
)
from privacy.training import clipped_sum
from shared_models.importance import IMPORTANCE
from shared_models.messages import (
    HelloRequest,
    MaskedReply,
    ModelRequest,
    ModelUpdate,
    RefusalCode,
    SiteHello,
    TallyReply,
    hello_statement,
)
from shared_models.networks import BehaviourNet, make_network
from shared_models.signed_models import Kind
from shared_models.tallies import Float64Array, SubjectScores
from shared_models.weights import (
    State,
    WeightsError,
    check_weights,
    digest_weights,
    flatten_state,
    freeze_trunk,
    trainable_state,
)


class Learner:
    """The learning half of one site, kept for as long as the process lives."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.config = site.consortium.config
        self._forgotten: tuple[Exclusion, ...] = ()

    @cached_property
    def network(self) -> BehaviourNet:
        """The study's network with the shipped trunk, frozen as the study says."""
        name, size = self.config.network.name, self.config.network.size
        network = make_network(name, size, features=len(self.config.features.schema.features))
        freeze_trunk(network, trainable=self.config.network.trainable)
        return network.to(self.site.config.device.torch)

    @cached_property
    def dataset(self) -> SubjectDataset:
        """The site's labelled subjects with accepted recordings."""
        site = self.site
        forgotten = self.exclusions.read()
        if forgotten != self._forgotten:
            self._let_go()
        self._forgotten = forgotten
        manifest = read_manifest(
            site.paths.recordings,
            consortium=self.config,
            root=site.paths.videos,
            now=datetime.now(tz=UTC),
            require_files=False,
            is_forgotten=self.exclusions.holds,
        )
        features = open_store(site).load_features(
            manifest.recordings, schema_digest=self.config.features.schema.digest
        )
        return build_dataset(manifest.recordings, features, self.config)

    @cached_property
    def exclusions(self) -> ExclusionList:
        """The subjects that the site has forgotten."""
        return open_exclusions(self.site)

    @cached_property
    def ledger(self) -> PrivacyLedger:
        """The site's durable record of privacy spent."""
        return PrivacyLedger(self.site.paths.ledger, key=self.site.ledger_key)

    @cached_property
    def _charges(self) -> Charges:
        return Charges(self.site, self.ledger, self.outbox)

    @cached_property
    def outbox(self) -> Outbox:
        """What the site answered last."""
        return open_outbox(self.site)

    @cached_property
    def subjects(self) -> SubjectDataset:
        """The subjects of the dataset without their clips: who is charged, and who is tallied."""
        return without_clips(self.dataset)

    @property
    def head_items(self) -> list[SubjectItem]:
        """Embeddings of the training subjects, for a study that trains the head alone."""
        return self._embedded[0]

    @property
    def held_out_embeddings(self) -> list[Tensor] | None:
        """Embeddings of the held-out subjects; None where the trunk is trained and they change."""
        return self._embedded[1] if self._head_only else None

    @cached_property
    def _embedded(self) -> tuple[list[SubjectItem], list[Tensor]]:
        """What a frozen trunk makes of the training and the held-out subjects."""
        items = self._make_items(head_only=True)
        held_out = embed_subjects(self.network.eval(), self.dataset.held_out)
        if self.site.simulation_seed is not None and self.subjects:
            # Hundreds of simulated sites share a machine. Nobody changes their recordings, so that
            # whoever wants the clips again reads the same; a real site's stay as they were charged.
            del self.dataset
        return items, held_out

    def score_held_out(self) -> SubjectScores:
        """Predictions of the present weights for the held-out subjects; for this site's eyes."""
        embeddings = self.held_out_embeddings
        return score_subjects(
            self.network.eval(),
            (self.subjects if embeddings is not None else self.dataset).held_out,
            self.config.study.score_range,
            embeddings=embeddings,
        )

    def greet(self, request: HelloRequest, *, node_id: int) -> SiteHello:
        """Who this site is, signed; whom the coordinator names beside it counts from now on.

        Raises:
            RefusedError: If the request's roster may not be followed.
        """
        self.site = follow_roster(self.site, request.roster)
        self.config = self.site.consortium.config
        statement = hello_statement(request, node_id=node_id, site_id=self.site.id)
        public = public_bytes(exchange_key(self.site.exchange_secret, request.run_id))
        return SiteHello(
            site_id=self.site.id,
            consortium_digest=self.site.consortium.digest,
            version=version("vultus"),
            signature=sign(self.site.identity_key, statement),
            exchange_key=public,
            exchange_signature=sign(
                self.site.identity_key, exchange_statement(request.run_id, self.site.id, public)
            ),
            roster_number=self.site.consortium.roster_number,
        )

    def train(self, request: ModelRequest) -> Answer:
        """One noised step on the site's training subjects; the budget is spent before it.

        Raises:
            RefusedError: If study, plan, policy, weights or budget do not allow it.
            OutboxBusyError: If another process of the site is answering for too long.
        """
        return self._answer_once(request, "train")

    def evaluate(self, request: ModelRequest) -> Answer:
        """Noised tallies of the held-out subjects; the budget is spent before it.

        Raises:
            RefusedError: If study, plan, policy, weights or budget do not allow it.
            OutboxBusyError: If another process of the site is answering for too long.
        """
        return self._answer_once(request, "evaluate")

    @contextmanager
    def stand(self, request: ModelRequest, asked: Asked, sha256: str) -> Iterator[Standing | None]:
        """How an answer stands in the outbox; see :class:`~client.learning.allow_list.Sender`."""
        kind: Kind = "train" if asked == "train" else "evaluate"
        entry = self._entry(request, kind)
        with self.outbox.locked():
            kept = self.outbox.find(entry)
            if kept is None or digest_content(unpack_content(kept)) != sha256:
                yield None
                return
            yield "first" if self.outbox.is_untold(entry) else "again"
            self.outbox.note_told(entry)

    def _answer_once(self, request: ModelRequest, kind: Kind) -> Answer:
        """The reply that stands in the outbox, put there first if need be: reserve, make, keep."""
        plan = self._plan(kind)
        with self.outbox.locked():
            with self._without_forgotten():
                weights = self._admit(request, plan, kind=kind)
                entry = self._entry(request, kind)
                kept = self.outbox.find(entry)
                if kept is not None:
                    return unpack_reply(kept)
                data = self.subjects
                subjects = data.training if kind == "train" else data.held_out
                steps = self._steps(request, kind)
                epsilon = self._charges.charge(request, plan, subjects, steps=steps, entry=entry)
            self.network.load_state_dict(weights)
            if kind == "evaluate":
                keep_model(self.site, request)
            make = self._make_update if kind == "train" else self._make_tallies
            reply = make(request, plan, epsilon)
            self.outbox.keep(entry, pack_reply(reply))
        return reply

    def _plan(self, kind: Kind) -> PrivacyPlan:
        return self.config.training_plan() if kind == "train" else self.config.tally_plan()

    def _entry(self, request: ModelRequest, kind: Kind) -> Entry:
        question = digest_question(
            request, kind=kind, plan=self._plan(kind), config=self.config, site_id=self.site.id
        )
        return Entry(request.run_id, kind, question)

    def _steps(self, request: ModelRequest, kind: Kind) -> int:
        """Equal releases that an answer stands for: a step of training, or a table each."""
        if kind == "train":
            return 1
        tables = len(self.config.tally_attributes(request.server_round))
        if not tables:
            msg = f"The study declares no evaluation after round {request.server_round}"
            raise RefusedError(RefusalCode.WRONG_PLAN, msg)
        return tables

    def _make_update(self, request: ModelRequest, plan: PrivacyPlan, epsilon: float) -> Answer:
        items = self.head_items if self._head_only else self._make_items(head_only=False)
        if plan.mode == "distributed":
            summed = clipped_sum(
                self.network.train(),
                items,
                subject_loss,
                plan=plan,
                noise=ChaChaNoise(),
                share_of=item_share,
            )
            return self._mask(request, flatten_state(summed), plan, epsilon, purpose="train")
        update = site_gradient(
            self.network.train(),
            items,
            plan=plan,
            expected_subjects=require_member(self.site).weight,
            noise=self._noise(request, "train"),
        )
        sent = {name: part.cpu() for name, part in update.items()}
        return ModelUpdate(self.site.id, request.server_round, request.base_digest, sent, epsilon)

    def _make_tallies(self, request: ModelRequest, plan: PrivacyPlan, epsilon: float) -> Answer:
        exact = self._tally_exactly(request.server_round)
        if plan.mode == "distributed":
            return self._mask(request, exact.ravel(), plan, epsilon, purpose="evaluate")
        noised = add_tally_noise(exact, plan, self._noise(request, "evaluate"))
        return TallyReply(self.site.id, request.server_round, request.base_digest, noised, epsilon)

    def _tally_exactly(self, server_round: int) -> Float64Array:
        """Every table of the round, without noise; never leaves."""
        exact = tally_table(self.score_held_out(), self.config, server_round=server_round)
        if IMPORTANCE not in self.config.tally_attributes(server_round):
            return exact
        return np.concatenate(
            [
                exact,
                measure_importance(
                    self.network, self.dataset.held_out, self.config, columns=exact.shape[1]
                ),
            ]
        )

    @contextmanager
    def _without_forgotten(self) -> Iterator[None]:
        """Context whose data holds nobody who was forgotten by now, and nobody is meanwhile.

        A release that is reserved within stands in the ledger before anyone can be forgotten, so
        that a certificate of erasure names it.
        """
        with self.exclusions.steady():
            if self.exclusions.read() != self._forgotten:
                self._let_go()
            yield

    def _let_go(self) -> None:
        """Drop everything that was made of the site's recordings."""
        for name in ("dataset", "subjects", "_embedded"):
            self.__dict__.pop(name, None)

    def _mask(
        self,
        request: ModelRequest,
        values: FloatArray,
        plan: PrivacyPlan,
        epsilon: float,
        *,
        purpose: str,
    ) -> MaskedReply:
        """The site's part of the secure sum that the request names."""
        masked = mask_vector(
            values,
            request,
            self.config,
            site_id=self.site.id,
            own=exchange_key(self.site.exchange_secret, request.run_id),
            plan=plan,
            purpose=purpose,
            noise=self._noise(request, purpose),
        )
        return MaskedReply(
            self.site.id,
            request.server_round,
            request.base_digest,
            masked,
            attempt=request.attempt,
            epsilon_spent=epsilon,
        )

    def tally_shape(self, server_round: int) -> tuple[int, int]:
        """Shape of the tallies that may leave after a round."""
        cells = len(list(self.config.tally_groups(server_round)))
        return cells, 2 * self.config.fairness.bins + 3

    @property
    def _head_only(self) -> bool:
        return self.config.network.trainable == "head"

    def _make_items(self, *, head_only: bool) -> list[SubjectItem]:
        return make_items(
            self.network.eval(),
            self.dataset.training,
            score_range=self.config.study.score_range,
            head_only=head_only,
            mitigation=self.config.mitigation,
        )

    def _admit(self, request: ModelRequest, plan: PrivacyPlan, *, kind: Kind) -> State:
        """All weights that the request is about, once everything about it is as agreed."""
        data = self.subjects
        subjects = len(data.training) + len(data.held_out)
        check_request(
            request, self.site, kind=kind, plan=plan, ledger=self.ledger, subjects=subjects
        )
        self._charges.refuse_passed(request, purpose=kind)
        return self._merged(request)

    def _merged(self, request: ModelRequest) -> State:
        """The coordinator's weights and the frozen ones, once form and digest are right."""
        try:
            check_weights(request.weights, trainable_state(self.network))
        except WeightsError as error:
            raise RefusedError(RefusalCode.WRONG_WEIGHTS, str(error)) from error
        merged = {**self.network.state_dict(), **request.weights}
        if digest_weights(merged) != request.base_digest:
            msg = "The digest of the weights is not the one announced: versions may differ"
            raise RefusedError(RefusalCode.WRONG_WEIGHTS, msg)
        return merged

    def _noise(self, request: ModelRequest, purpose: str) -> NoiseSource:
        """Cryptographic noise; a simulated site repeats its own, so that a seed fixes a study."""
        seed = self.site.simulation_seed
        if seed is None:
            return ChaChaNoise()
        text = f"{seed}|{self.site.id}|{request.server_round}|{purpose}"
        if request.attempt > 1:
            text += f"|{request.attempt}"
        return SeededNoise(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))


@cache
def open_learner(site_file: Path) -> Learner:
    """The learner of a site, kept between messages; a hello has it opened anew."""
    return Learner(open_site(site_file))
