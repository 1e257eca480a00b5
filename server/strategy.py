"""The consortium's strategy: admitted sites only, quorum, digests, refusals, fixed weights."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from server.admission import Admission
from server.aggregation import ServerOptimizer, average_updates
from server.anchors import ANCHORS_FILE, AnchorStore
from server.exchange import Exchange
from server.history import EvaluationReport, RoundReport, evaluation_report
from server.model_requests import ModelRequests, Question
from server.progress import Progress, write_progress
from server.secure_sums import SecureSum, SecureSums, SumsUsedUpError
from server.signing import model_file, publish_model
from shared_models.consortium import TALLY_SENSITIVITY, Consortium
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
    state_to_arrays,
    trainable_state,
    unflatten_state,
)

PATIENCE_S = 30.0
"""How long a run waits for the last sites once it has a quorum."""

logger = logging.getLogger("vultus.coordinator")

_CHARGED_AS: dict[Kind, str] = {"train": "training", "evaluate": "tallies"}


class QuorumError(RuntimeError):
    """Too few sites answered; names those that are missing or refused."""

    exit_code = 1


class ConsortiumStrategy(Strategy):
    """Trains the study's network over its sites, one noised step of each a round.

    Args:
        consortium: The study.
        network: The initial network; its trainable parameters are what travels.
        run_id: Name of the run, bound into every proof and ledger entry.
        folder: Where progress and models are written.
        key: Signs every model that sites are asked to follow, and those that are published.

    Attributes:
        rounds: What happened in each training round.
        evaluations: Tallies of each evaluation, summed over sites.
        epsilon_by_site: What the sites' ledgers reported last: training and held-out subjects.
        sums: The secure sums that were asked for.
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
        self.consortium = consortium
        self.config = consortium.config
        self.run_id = run_id
        self.folder = folder
        self.admission = Admission(consortium, run_id)
        self.rounds: list[RoundReport] = []
        self.evaluations: list[EvaluationReport] = []
        self.epsilon_by_site: dict[str, dict[str, float]] = {}
        self.sums = SecureSums(self.config, self._charge)
        self._frozen = network.state_dict()
        self._key = key
        training = self.config.training
        self.optimizer = ServerOptimizer(
            trainable_state(network),
            learning_rate=training.learning_rate,
            momentum=training.momentum,
            ema=training.ema,
        )
        self._training_plan = self.config.training_plan()
        self._tally_plan = self.config.tally_plan()
        self._exchange = Exchange({}, "", {})
        self._anchors = AnchorStore(folder.parent / ANCHORS_FILE)
        self._requests = ModelRequests(consortium, run_id, self._frozen, key, self._anchors)
        self._grid: Grid | None = None

    def model_state(self) -> State:
        """The global model as it is judged and published: averaged weights on the frozen trunk."""
        return {**self._frozen, **self.optimizer.average}

    def summary(self) -> None:
        """Log what the run is about."""
        logger.info("Run %s of study %s", self.run_id, self.config.study.name)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every admitted site for one noised step at the current weights."""
        del arrays, config  # the optimizer of this strategy holds the weights
        self._grid = grid
        timeout_s = self.config.training.round_timeout_s
        if server_round == 1:
            self._require_reachable_quorum()
            self._note(0, "gathering", self.admission.missing())
            self.admission.gather(grid, timeout_s=timeout_s, patience_s=PATIENCE_S)
        else:
            self.admission.refresh(grid, timeout_s=timeout_s)
        self._require_quorum(server_round, len(self.admission.sites))
        self._note(server_round, "training", tuple(self.admission.sites.values()))
        return self._ask(self._question("train", server_round))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Move the global model by the weighted mean of the sites' updates.

        Raises:
            QuorumError: If fewer sites than the quorum sent a usable update.
        """
        gather = self._sum_updates if self._is_distributed else self._average_updates
        try:
            gradient, sites = gather(server_round, replies)
        finally:
            self._anchors.keep(self._exchange.anchors)
        self.optimizer.step(gradient)
        publish_model(model_file(self.folder, server_round), self.model_state(), self._key)
        norm = math.sqrt(sum(float((part.double() ** 2).sum()) for part in gradient.values()))
        self.rounds.append(self._report_round(server_round, sites, norm))
        return state_to_arrays(self.optimizer.weights), MetricRecord({"update_norm": norm})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every admitted site for the tallies that the study declares after this round."""
        del arrays, config, grid
        if not self.config.training.evaluates_after(server_round):
            return []
        self._note(server_round, "evaluating", tuple(self.admission.sites.values()))
        return self._ask(self._question("evaluate", server_round))

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Sum the sites' tallies; at the last round each site's own table is kept beside them.

        Raises:
            QuorumError: If fewer sites than the quorum sent usable tallies.
        """
        if not self.config.training.evaluates_after(server_round):
            return None
        gather = self._sum_tallies if self._is_distributed else self._collect_tallies
        try:
            tallies = gather(server_round, replies)
        finally:
            self._anchors.keep(self._exchange.anchors)
        self.evaluations.append(
            evaluation_report(
                server_round,
                tallies,
                score_range=self.config.study.score_range,
                min_cell=self.config.fairness.min_cell,
                expected=self._expected_cells(server_round),
            )
        )
        return None

    @property
    def _is_distributed(self) -> bool:
        return self._training_plan.mode == "distributed"

    def _average_updates(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[State, tuple[str, ...]]:
        """Weighted mean of the updates that are private each on its own, and whose they are."""
        updates: dict[str, ModelUpdate] = {}
        for message in replies:
            if update := self._exchange.accept(message, self._read_update):
                updates[update.site_id] = update
                self._charge(update.site_id, "train", update.epsilon_spent)
        self._require_quorum(server_round, len(updates))
        sites = tuple(sorted(updates))
        gradient = average_updates(
            [updates[site].update for site in sites],
            [self._weight(site) for site in sites],
        )
        return gradient, sites

    def _sum_updates(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[State, tuple[str, ...]]:
        """The same mean from a sum in which no site's part can be seen."""
        summed = self._sum_securely("train", server_round, replies)
        counted = math.fsum(self._weight(site) for site in summed.sites)
        return unflatten_state(summed.values / counted, self.optimizer.weights), summed.sites

    def _collect_tallies(self, server_round: int, replies: Iterable[Message]) -> list[GroupTally]:
        answers: dict[str, TallyReply] = {}
        for message in replies:
            if answer := self._exchange.accept(message, self._read_tallies(server_round)):
                answers[answer.site_id] = answer
                self._charge(answer.site_id, "evaluate", answer.epsilon_spent)
        self._require_quorum(server_round, len(answers))
        return [
            tally
            for site in sorted(answers)
            for tally in self._tallies_of(answers[site], server_round)
        ]

    def _sum_tallies(self, server_round: int, replies: Iterable[Message]) -> list[GroupTally]:
        """Tallies of all sites together; no site's own table can be seen."""
        summed = self._sum_securely("evaluate", server_round, replies)
        cells = list(self.config.tally_groups(server_round))
        return [
            GroupTally(attribute, group, row, summed.noise_stddev)
            for (attribute, group), row in zip(
                cells, summed.values.reshape(len(cells), -1), strict=True
            )
        ]

    def _sum_securely(self, kind: Kind, server_round: int, replies: Iterable[Message]) -> SecureSum:
        """The sum over a cohort of which every site answered, tried anew without those lost.

        Raises:
            QuorumError: If the cohort became too small, or the sums paid for are used up.
        """
        question = self._question(kind, server_round)
        size = sum(part.numel() for part in question.weights.values())
        if kind == "evaluate":
            size = math.prod(self._tally_shape(server_round))

        def ask_again(sites: set[str], attempt: int) -> tuple[Exchange, Iterable[Message]]:
            self._anchors.keep(self._exchange.anchors)
            messages = self._ask(replace(question, attempt=attempt), sites=sites)
            assert self._grid is not None  # noqa: S101 - a round is configured before its replies
            timeout_s = self.config.training.round_timeout_s
            return self._exchange, self._grid.send_and_receive(messages, timeout=timeout_s)

        try:
            return self.sums.gather(
                kind, self._exchange, replies, plan=question.plan, size=size, ask_again=ask_again
            )
        except SumsUsedUpError:
            self._refuse_round(server_round, self.config.training.quorum, 0)

    def _question(self, kind: Kind, server_round: int) -> Question:
        """What the sites are asked in a round: weights, and the plan of what comes back."""
        if kind == "train":
            return Question(kind, server_round, self.optimizer.weights, self._training_plan)
        return Question(kind, server_round, self.optimizer.average, self._tally_plan)

    def _ask(self, question: Question, *, sites: set[str] | None = None) -> list[Message]:
        """The requests of an exchange; of all admitted sites unless some are named."""
        asked = {n: s for n, s in self.admission.sites.items() if sites is None or s in sites}
        if self._is_distributed:
            self._require_cohort(question.server_round, len(asked))
        self._exchange, messages = self._requests.make(
            question,
            asked,
            members=self.admission.members,
            earlier=self._exchange if question.attempt > 1 else None,
        )
        return messages

    def _read_update(self, message: Message) -> ModelUpdate:
        update = decode_update(message.content)
        check_weights(update.update, self.optimizer.weights)
        return update

    def _tally_shape(self, server_round: int) -> tuple[int, int]:
        cells = len(list(self.config.tally_groups(server_round)))
        return cells, 2 * self.config.fairness.bins + 3

    def _read_tallies(self, server_round: int) -> Callable[[Message], TallyReply]:
        shape = self._tally_shape(server_round)
        return lambda message: decode_tallies(message.content, shape=shape)

    def _tallies_of(self, answer: TallyReply, server_round: int) -> list[GroupTally]:
        stddev = self._tally_plan.noise_multiplier * TALLY_SENSITIVITY
        tallies = [
            GroupTally(attribute, group, np.asarray(row), stddev)
            for (attribute, group), row in zip(
                self.config.tally_groups(server_round), answer.tallies, strict=True
            )
        ]
        if server_round == self.config.training.rounds:
            overall = next(tally for tally in tallies if tally.attribute == "overall")
            tallies.append(replace(overall, attribute="site", group=answer.site_id))
        return tallies

    def _expected_cells(self, server_round: int) -> list[tuple[str, str]]:
        cells = list(self.config.tally_groups(server_round))
        if server_round == self.config.training.rounds:
            cells += [("site", entry.id) for entry in self.config.sites]
        return cells

    def _charge(self, site: str, kind: Kind, epsilon: float) -> None:
        self.epsilon_by_site.setdefault(site, {})[_CHARGED_AS[kind]] = epsilon

    def _weight(self, site_id: str) -> int:
        entry = self.config.site(site_id)
        assert entry is not None  # noqa: S101 - admission lets only sites of the study in
        return entry.weight

    def _require_reachable_quorum(self) -> None:
        """A quorum may stand in the file before its sites do, but not in a run."""
        quorum, sites = self.config.training.quorum, len(self.config.sites)
        if quorum > sites:
            msg = (
                f"Expected training.quorum of at most {sites} (the number of sites), got {quorum} "
                "(consortium.toml): admit more sites or lower the quorum."
            )
            raise QuorumError(msg)

    def _require_cohort(self, server_round: int, present: int) -> None:
        """A secure sum of too few would tell on each of them."""
        least = smallest_cohort(self.config)
        if present < least:
            self._refuse_round(server_round, least, present)

    def _require_quorum(self, server_round: int, present: int) -> None:
        quorum = self.config.training.quorum
        if present < quorum:
            self._refuse_round(server_round, quorum, present)

    def _refuse_round(self, server_round: int, least: int, present: int) -> NoReturn:
        reasons = [f"{site} refused ({code}: {text})" for site, code, text in self._refusals()]
        silent = sorted({*self._exchange.missing, *self.admission.missing()})
        reasons += [f"{site} did not answer" for site in silent]
        msg = f"Round {server_round} needs {least} sites, {present} took part: " + (
            "; ".join(reasons) or "no site is connected"
        )
        raise QuorumError(msg)

    def _refusals(self) -> list[tuple[str, str, str]]:
        turned_away = [
            (f"node {node}", code, text) for node, (code, text) in self.admission.rejected.items()
        ]
        return [*self._exchange.refusals, *turned_away]

    def _report_round(self, server_round: int, sites: tuple[str, ...], norm: float) -> RoundReport:
        absent = {*self._exchange.missing, *self.admission.missing()}
        return RoundReport(
            server_round=server_round,
            seconds=time.monotonic() - self._exchange.started,
            participants=sites,
            missing=tuple(sorted(absent)),
            refusals=tuple(self._refusals()),
            weights_digest=digest_weights(self.model_state()),
            update_norm=norm,
        )

    def _note(self, server_round: int, phase: str, waiting_for: tuple[str, ...]) -> None:
        rounds = self.config.training.rounds
        moment = Progress(self.run_id, server_round, rounds, phase, tuple(sorted(waiting_for)))
        write_progress(self.folder, moment)
