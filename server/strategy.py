"""The consortium's strategy: admitted sites only, quorum, digests, refusals, fixed weights."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from privacy.plan import PrivacyPlan
from server.admission import Admission, nodes_of
from server.aggregation import ServerOptimizer, average_updates
from server.history import EvaluationReport, RoundReport, evaluation_report
from server.progress import Progress, write_progress
from shared_models.consortium import TALLY_SENSITIVITY, Consortium
from shared_models.messages import (
    MessageError,
    ModelRequest,
    ModelUpdate,
    RefusalCode,
    TallyReply,
    decode_refusal,
    decode_tallies,
    decode_update,
    encode_model_request,
)
from shared_models.networks import BehaviourNet
from shared_models.tallies import GroupTally
from shared_models.weights import (
    State,
    WeightsError,
    check_weights,
    digest_weights,
    save_weights,
    state_to_arrays,
    trainable_state,
)

PATIENCE_S = 30.0
"""How long a run waits for the last sites once it has a quorum."""

logger = logging.getLogger("vultus.coordinator")

Answer = TypeVar("Answer", ModelUpdate, TallyReply)


def model_file(folder: Path, server_round: int) -> Path:
    """Where the global model of a round is kept."""
    return folder / f"model-{server_round:04d}.safetensors"


class QuorumError(RuntimeError):
    """Too few sites answered; names those that are missing or refused."""

    exit_code = 1


@dataclass
class Exchange:
    """One round trip to the sites: who was asked, who answered, who did not and why."""

    asked: dict[int, str]
    base_digest: str
    started: float = field(default_factory=time.monotonic)
    refusals: list[tuple[str, str, str]] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)

    @property
    def missing(self) -> tuple[str, ...]:
        """Sites that neither answered nor refused."""
        heard = self.answered | {site for site, _, _ in self.refusals}
        return tuple(sorted(set(self.asked.values()) - heard))


class ConsortiumStrategy(Strategy):
    """Trains the study's network over its sites, one noised step of each a round.

    Args:
        consortium: The study.
        network: The initial network; its trainable parameters are what travels.
        run_id: Name of the run, bound into every proof and ledger entry.
        folder: Where progress is written.

    Attributes:
        rounds: What happened in each training round.
        evaluations: Tallies of each evaluation, summed over sites.
        epsilon_by_site: What the sites' ledgers reported last: training and held-out subjects.
    """

    def __init__(
        self, consortium: Consortium, *, network: BehaviourNet, run_id: str, folder: Path
    ) -> None:
        self.consortium = consortium
        self.config = consortium.config
        self.run_id = run_id
        self.folder = folder
        self.admission = Admission(consortium, run_id)
        self.rounds: list[RoundReport] = []
        self.evaluations: list[EvaluationReport] = []
        self.epsilon_by_site: dict[str, dict[str, float]] = {}
        self._frozen = network.state_dict()
        training = self.config.training
        self.optimizer = ServerOptimizer(
            trainable_state(network),
            learning_rate=training.learning_rate,
            momentum=training.momentum,
            ema=training.ema,
        )
        self._training_plan = self.config.training_plan()
        self._tally_plan = self.config.tally_plan()
        self._exchange = Exchange({}, "")

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
        timeout_s = self.config.training.round_timeout_s
        if server_round == 1:
            self._require_reachable_quorum()
            self._note(0, "gathering", self.admission.missing())
            self.admission.gather(grid, timeout_s=timeout_s, patience_s=PATIENCE_S)
        else:
            self.admission.refresh(grid, timeout_s=timeout_s)
        self._require_quorum(server_round, len(self.admission.sites))
        self._note(server_round, "training", tuple(self.admission.sites.values()))
        return self._ask(
            "train", server_round, weights=self.optimizer.weights, plan=self._training_plan
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Move the global model by the weighted mean of the sites' updates.

        Raises:
            QuorumError: If fewer sites than the quorum sent a usable update.
        """
        updates: dict[str, ModelUpdate] = {}
        for message in replies:
            if update := self._accept(message, self._read_update):
                updates[update.site_id] = update
                self._charge(update.site_id, "training", update.epsilon_spent)
        self._require_quorum(server_round, len(updates))
        sites = sorted(updates)
        gradient = average_updates(
            [updates[site].update for site in sites],
            [self._weight(site) for site in sites],
        )
        self.optimizer.step(gradient)
        save_weights(model_file(self.folder, server_round), self.model_state())
        norm = math.sqrt(sum(float((part.double() ** 2).sum()) for part in gradient.values()))
        self.rounds.append(self._report_round(server_round, tuple(sites), norm))
        return state_to_arrays(self.optimizer.weights), MetricRecord({"update_norm": norm})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every admitted site for the tallies that the study declares after this round."""
        del arrays, config, grid
        if not self.config.training.evaluates_after(server_round):
            return []
        self._note(server_round, "evaluating", tuple(self.admission.sites.values()))
        return self._ask(
            "evaluate", server_round, weights=self.optimizer.average, plan=self._tally_plan
        )

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Sum the sites' tallies; at the last round each site's own table is kept beside them.

        Raises:
            QuorumError: If fewer sites than the quorum sent usable tallies.
        """
        if not self.config.training.evaluates_after(server_round):
            return None
        answers: dict[str, TallyReply] = {}
        for message in replies:
            if answer := self._accept(message, self._read_tallies(server_round)):
                answers[answer.site_id] = answer
                self._charge(answer.site_id, "tallies", answer.epsilon_spent)
        self._require_quorum(server_round, len(answers))
        tallies = [
            tally
            for site in sorted(answers)
            for tally in self._tallies_of(answers[site], server_round)
        ]
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

    def _ask(
        self, kind: str, server_round: int, *, weights: State, plan: PrivacyPlan
    ) -> list[Message]:
        request = ModelRequest(
            run_id=self.run_id,
            server_round=server_round,
            weights=weights,
            base_digest=digest_weights({**self._frozen, **weights}),
            consortium_digest=self.consortium.digest,
            plan=plan,
        )
        self._exchange = Exchange(dict(self.admission.sites), request.base_digest)
        content = encode_model_request(request)
        return [
            Message(
                content=content, message_type=kind, dst_node_id=node, group_id=str(server_round)
            )
            for node, _ in nodes_of(self.admission.sites)
        ]

    def _accept(self, message: Message, read: Callable[[Message], Answer]) -> Answer | None:
        """The answer in a reply, or None with the reason noted."""
        site = self._exchange.asked.get(message.metadata.src_node_id)
        if site is None:
            return None
        if message.has_error():
            reason = message.error.reason or "no reason given"
            self._exchange.refusals.append((site, str(RefusalCode.INTERNAL), reason))
            return None
        try:
            if refusal := decode_refusal(message.content):
                self._exchange.refusals.append((site, str(refusal.code), refusal.message))
                return None
            answer = read(message)
            self._check_identity(answer, site)
        except (MessageError, WeightsError) as error:
            self._exchange.refusals.append((site, str(RefusalCode.WRONG_MESSAGE), str(error)))
            return None
        self._exchange.answered.add(site)
        return answer

    def _check_identity(self, answer: ModelUpdate | TallyReply, site: str) -> None:
        if answer.site_id != site:
            msg = f"Expected an answer of {site}, got one that says {answer.site_id!r}"
            raise MessageError(msg)
        if answer.base_digest != self._exchange.base_digest:
            msg = f"Expected an answer for weights {self._exchange.base_digest[:12]}, got another"
            raise MessageError(msg)

    def _read_update(self, message: Message) -> ModelUpdate:
        update = decode_update(message.content)
        check_weights(update.update, self.optimizer.weights)
        return update

    def _read_tallies(self, server_round: int) -> Callable[[Message], TallyReply]:
        cells = len(list(self.config.tally_groups(server_round)))
        shape = (cells, 2 * self.config.fairness.bins + 3)
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

    def _charge(self, site: str, purpose: str, epsilon: float) -> None:
        self.epsilon_by_site.setdefault(site, {})[purpose] = epsilon

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

    def _require_quorum(self, server_round: int, present: int) -> None:
        quorum = self.config.training.quorum
        if present >= quorum:
            return
        reasons = [f"{site} refused ({code}: {text})" for site, code, text in self._refusals()]
        silent = sorted({*self._exchange.missing, *self.admission.missing()})
        reasons += [f"{site} did not answer" for site in silent]
        msg = f"Round {server_round} needs {quorum} sites, {present} took part: " + (
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
