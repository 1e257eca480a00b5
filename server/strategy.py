"""What a round asks of the sites, and how their answers move the model or judge it.

When sites are asked, how long they are waited for and what is kept for a crash is decided by
:mod:`server.rounds`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import Message

from server.admission import Admission
from server.aggregation import ServerOptimizer
from server.anchors import ANCHORS_FILE, AnchorStore
from server.checkpoints import Checkpoint, Pending, make_durable
from server.exchange import Exchange
from server.history import EvaluationReport, RoundReport, evaluation_report
from server.influence import check_influence
from server.model_requests import Asked, ModelRequests, Question
from server.quorum import QuorumError, Refused, too_few
from server.running_sums import RunningMean
from server.secure_sums import SecureSum, SecureSums, SumsUsedUpError
from server.signing import model_file, publish_model
from server.tallying import expected_cells, summed_tallies, tallies_of, tally_shape
from shared_models.consortium import Consortium
from shared_models.masking import smallest_cohort
from shared_models.messages import ModelUpdate, TallyReply
from shared_models.networks import BehaviourNet
from shared_models.records import decode_tallies, decode_update
from shared_models.signed_models import Kind
from shared_models.tallies import GroupTally
from shared_models.weights import (
    State,
    check_weights,
    digest_weights,
    trainable_state,
    unflatten_state,
)

__all__ = ["Ask", "ConsortiumStrategy", "QuorumError"]

Ask = Callable[[Asked], Iterator[Message]]
"""Puts a question to its sites and hands over their replies as they come."""

_CHARGED_AS: dict[Kind, str] = {"train": "training", "evaluate": "tallies"}


class ConsortiumStrategy:
    """Trains the study's network over its sites, one noised step of each a round.

    Args:
        consortium: The study.
        network: The initial network; its trainable parameters are what travels.
        run_id: Name of the run, bound into every proof and ledger entry.
        folder: Where models are written.
        key: Signs every model that sites are asked to follow, and those that are published.

    Attributes:
        rounds: What happened in each training round.
        evaluations: Tallies of each evaluation, summed over sites.
        judged: Last round after which the model was judged.
        epsilon_by_site: What the sites' ledgers reported last: training and held-out subjects.
        sums: The secure sums that were asked for.
        pending: What sites are being asked, or were when the run's process ended.
    """

    def __init__(
        self,
        consortium: Consortium,
        *,
        network: BehaviourNet,
        run_id: str,
        folder: Path,
        key: EllipticCurvePrivateKey,
    ) -> None:
        self.run_id = run_id
        self.folder = folder
        self.admission = Admission(consortium, run_id)
        self.rounds: list[RoundReport] = []
        self.evaluations: list[EvaluationReport] = []
        self.judged = 0
        self.epsilon_by_site: dict[str, dict[str, float]] = {}
        self.pending: Pending | None = None
        self._frozen = network.state_dict()
        self._key = key
        self._anchors = AnchorStore(folder.parent / ANCHORS_FILE)
        self._exchange = Exchange({}, "", {})
        self._take(consortium)
        self.sums = SecureSums(self.config, self._charge)
        training = self.config.training
        self.optimizer = ServerOptimizer(
            trainable_state(network),
            # Sites scale weights down to at most 1, which keeps the bound on each subject.
            learning_rate=training.learning_rate * self.config.mitigation.largest_weight,
            momentum=training.momentum,
            ema=training.ema,
        )

    def model_state(self) -> State:
        """The global model as it is judged and published: averaged weights on the frozen trunk."""
        return {**self._frozen, **self.optimizer.average}

    def follow(self, consortium: Consortium) -> None:
        """Go on with another roster of the same study: every node has to say who it is anew."""
        self._take(consortium)
        self.sums = replace(self.sums, config=self.config)
        self.admission.follow(consortium)

    @property
    def least(self) -> int:
        """Fewest sites that a round can do with."""
        return smallest_cohort(self.config) if self.is_distributed else self.quorum

    @property
    def quorum(self) -> int:
        """Fewest sites whose answers count."""
        return self.config.training.quorum

    @property
    def is_distributed(self) -> bool:
        """Whether only sums over sites can be read."""
        return self._training_plan.mode == "distributed"

    def train(self, server_round: int, ask: Ask) -> None:
        """Move the global model by the weighted mean of the sites' updates.

        Raises:
            QuorumError: If fewer sites than the quorum sent a usable update.
        """
        gather = self._sum_updates if self.is_distributed else self._average_updates
        try:
            gradient, sites = gather(server_round, ask)
        finally:
            self._anchors.keep(self._exchange.anchors)
        self.optimizer.step(gradient)
        # Before the checkpoint that follows: a round that counts has its model.
        published = model_file(self.folder, server_round)
        publish_model(published, self.model_state(), self._key)
        make_durable(published)
        norm = math.sqrt(sum(float((part.double() ** 2).sum()) for part in gradient.values()))
        self.rounds.append(self._report_round(server_round, sites, norm))
        self.pending = None

    def judge(self, server_round: int, ask: Ask) -> None:
        """Sum the tallies that the study declares after this round; what may be published is kept.

        Raises:
            QuorumError: If fewer sites than the quorum answered.
        """
        gather = self._sum_tallies if self.is_distributed else self._collect_tallies
        try:
            tallies = gather(server_round, ask)
        finally:
            self._anchors.keep(self._exchange.anchors)
        self.evaluations.append(
            evaluation_report(
                server_round,
                tallies,
                score_range=self.config.study.score_range,
                min_cell=self.config.fairness.min_cell,
                expected=expected_cells(self.config, server_round),
                recalibrate=self.config.mitigation.recalibrate,
            )
        )
        self.judged = server_round
        self.pending = None

    def tensors(self) -> dict[str, State]:
        """All that a later life of the run needs of the model."""
        return self.optimizer.state()

    def checkpoint(self, *, seconds: float, tensors: str) -> Checkpoint:
        """The run as it stands; see :class:`Checkpoint`."""
        return Checkpoint(
            run_id=self.run_id,
            consortium_digest=self.consortium.digest,
            judged=self.judged,
            rounds=tuple(self.rounds),
            evaluations=tuple(self.evaluations),
            epsilon_by_site=self.epsilon_by_site,
            sums=self.sums.sizes,
            pending=self.pending,
            seconds=seconds,
            tensors=tensors,
        )

    def restore(self, checkpoint: Checkpoint, tensors: dict[str, State]) -> None:
        """Go on where another life of the run ended."""
        self.rounds = list(checkpoint.rounds)
        self.evaluations = list(checkpoint.evaluations)
        self.judged = checkpoint.judged
        self.epsilon_by_site = checkpoint.epsilon_by_site
        self.sums = replace(self.sums, sizes=checkpoint.sums)
        self.pending = checkpoint.pending
        self.optimizer.restore(tensors)

    def refuse_round(self, server_round: int, least: int, present: int) -> NoReturn:
        """End the run, naming everybody who is missing or refused.

        Raises:
            QuorumError: Always.
        """
        silent = {*self._exchange.missing, *self.admission.missing()}
        raise too_few(
            server_round, least=least, present=present, refusals=self.refusals(), silent=silent
        )

    def refusals(self) -> list[Refused]:
        """Every refusal in the present exchange, and every node that may not take part."""
        turned_away = [
            (f"node {node}", code, text) for node, (code, text) in self.admission.rejected.items()
        ]
        return [*self._exchange.refusals, *turned_away]

    def _take(self, consortium: Consortium) -> None:
        self.consortium = consortium
        self.config = consortium.config
        self._training_plan = self.config.training_plan()
        self._tally_plan = self.config.tally_plan()
        self._requests = ModelRequests(
            consortium, self.run_id, self._frozen, self._key, self._anchors
        )

    def _average_updates(self, server_round: int, ask: Ask) -> tuple[State, tuple[str, ...]]:
        """Weighted mean of the updates that are private each on its own, and whose they are."""
        mean = RunningMean(self.optimizer.weights)
        for message in ask(self._pose(self._question("train", server_round))):
            if update := self._exchange.accept(message, self._read_update):
                mean.add(update.update, weight=self._weight(update.site_id))
                self._charge(update.site_id, "train", update.epsilon_spent)
        sites = tuple(sorted(self._exchange.answered))
        self._require_quorum(server_round, len(sites))
        return mean.mean(), sites

    def _sum_updates(self, server_round: int, ask: Ask) -> tuple[State, tuple[str, ...]]:
        """The same mean from a sum in which no site's part can be seen."""
        summed = self._sum_securely(self._question("train", server_round), ask)
        counted = math.fsum(self._weight(site) for site in summed.sites)
        return unflatten_state(summed.values / counted, self.optimizer.weights), summed.sites

    def _collect_tallies(self, server_round: int, ask: Ask) -> list[GroupTally]:
        answers: dict[str, TallyReply] = {}
        shape = tally_shape(self.config, server_round)
        for message in ask(self._pose(self._question("evaluate", server_round))):
            if answer := self._exchange.accept(message, partial(_read_tallies, shape=shape)):
                answers[answer.site_id] = answer
                self._charge(answer.site_id, "evaluate", answer.epsilon_spent)
        self._require_quorum(server_round, len(answers))
        noise = self._tally_plan.noise_multiplier
        return [
            tally
            for site in sorted(answers)
            for tally in tallies_of(answers[site], self.config, noise_multiplier=noise)
        ]

    def _sum_tallies(self, server_round: int, ask: Ask) -> list[GroupTally]:
        summed = self._sum_securely(self._question("evaluate", server_round), ask)
        return summed_tallies(
            summed.values,
            self.config,
            server_round=server_round,
            noise_stddev=summed.noise_stddev,
        )

    def _sum_securely(self, question: Question, ask: Ask) -> SecureSum:
        """The sum over a cohort of which every site answered, tried anew without those lost.

        Raises:
            QuorumError: If the cohort became too small, or the sums paid for are used up.
        """
        size = sum(part.numel() for part in question.weights.values())
        if question.kind == "evaluate":
            size = math.prod(tally_shape(self.config, question.server_round))
        asked = self._pose_sum(question)

        def ask_again(sites: set[str], attempt: int) -> tuple[Exchange, Iterator[Message]]:
            self._anchors.keep(self._exchange.anchors)
            again = self._pose(
                replace(question, attempt=attempt), sites=sites, earlier=self._exchange
            )
            return again.exchange, ask(again)

        try:
            return self.sums.gather(
                question.kind,
                asked.exchange,
                ask(asked),
                plan=question.plan,
                size=size,
                ask_again=ask_again,
                attempt=asked.question.attempt,
            )
        except SumsUsedUpError:
            self.refuse_round(question.server_round, self.quorum, 0)

    def _pose_sum(self, question: Question) -> Asked:
        """A question for a secure sum: the one that an earlier life put, if all are there again.

        A cohort of which somebody is gone is not asked again under the same attempt: its sites
        answer another question under the same name with a refusal.
        """
        earlier = self.pending
        place = (question.kind, question.server_round)
        if earlier is None or (earlier.kind, earlier.server_round) != place:
            return self._pose(question)
        present = set(self.admission.sites.values())
        known = Exchange({}, "", {}, refusals=list(earlier.refusals), lost=set(earlier.lost))
        if set(earlier.cohort) <= present and earlier.roster == self._roster_number:
            # Counted again when its replies are gathered.
            self.sums.sizes[question.kind].pop()
            return self._pose(
                replace(question, attempt=earlier.attempt),
                sites=set(earlier.cohort),
                earlier=known,
            )
        if earlier.attempt > self.config.privacy.retries:
            self._exchange = replace(known, lost=known.lost | (set(earlier.cohort) - present))
            self.refuse_round(question.server_round, self.least, len(present))
        known.lost |= set(earlier.cohort) - present
        return self._pose(replace(question, attempt=earlier.attempt + 1), earlier=known)

    def _question(self, kind: Kind, server_round: int) -> Question:
        """What the sites are asked in a round: weights, and the plan of what comes back."""
        if kind == "train":
            return Question(kind, server_round, self.optimizer.weights, self._training_plan)
        return Question(kind, server_round, self.optimizer.average, self._tally_plan)

    def _pose(
        self,
        question: Question,
        *,
        sites: set[str] | None = None,
        earlier: Exchange | None = None,
    ) -> Asked:
        """The question to all admitted sites, unless some are named; it is pending from now on."""
        asked = {n: s for n, s in self.admission.sites.items() if sites is None or s in sites}
        if len(asked) < self.least:
            self._exchange = earlier or self._exchange
            self.refuse_round(question.server_round, self.least, len(asked))
        posed = self._requests.make(
            question, asked, members=self.admission.members, earlier=earlier
        )
        self._exchange = posed.exchange
        self.pending = Pending(
            kind=question.kind,
            server_round=question.server_round,
            attempt=question.attempt,
            cohort=tuple(sorted(asked.values())),
            roster=self._roster_number,
            refusals=tuple(posed.exchange.refusals),
            lost=tuple(sorted(posed.exchange.lost)),
        )
        return posed

    @property
    def _roster_number(self) -> int:
        return self.consortium.roster.number if self.consortium.roster else 0

    def _read_update(self, message: Message) -> ModelUpdate:
        update = decode_update(message.content)
        check_weights(update.update, self.optimizer.weights)
        site = self._exchange.asked[message.metadata.src_node_id]
        check_influence(update.update, self._training_plan, weight=self._weight(site))
        return update

    def _charge(self, site: str, kind: Kind, epsilon: float) -> None:
        self.epsilon_by_site.setdefault(site, {})[_CHARGED_AS[kind]] = epsilon

    def _weight(self, site_id: str) -> int:
        entry = self.config.site(site_id)
        assert entry is not None  # noqa: S101 - admission lets only sites of the study in
        return entry.weight

    def _require_quorum(self, server_round: int, present: int) -> None:
        if present < self.quorum:
            self.refuse_round(server_round, self.quorum, present)

    def _report_round(self, server_round: int, sites: tuple[str, ...], norm: float) -> RoundReport:
        absent = {*self._exchange.missing, *self.admission.missing()}
        return RoundReport(
            server_round=server_round,
            seconds=time.monotonic() - self._exchange.started,
            participants=sites,
            missing=tuple(sorted(absent)),
            refusals=tuple(self.refusals()),
            weights_digest=digest_weights(self.model_state()),
            update_norm=norm,
        )


def _read_tallies(message: Message, *, shape: tuple[int, int]) -> TallyReply:
    return decode_tallies(message.content, shape=shape)
