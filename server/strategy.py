"""The consortium's strategy: admitted sites only, quorum, digests, refusals, fixed weights."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from privacy.plan import PrivacyPlan
from privacy.secure_sum import FloatArray, add_masked
from server.admission import Admission, nodes_of
from server.aggregation import ServerOptimizer, average_updates
from server.anchors import ANCHORS_FILE, AnchorStore
from server.exchange import Exchange
from server.history import EvaluationReport, RoundReport, evaluation_report
from server.progress import Progress, write_progress
from shared_models.consortium import TALLY_SENSITIVITY, Consortium
from shared_models.masking import smallest_cohort, sum_terms
from shared_models.messages import (
    CohortMember,
    MaskedReply,
    ModelRequest,
    ModelUpdate,
    TallyReply,
    decode_masked,
    decode_tallies,
    decode_update,
    encode_model_request,
)
from shared_models.networks import BehaviourNet
from shared_models.tallies import GroupTally
from shared_models.weights import (
    State,
    check_weights,
    digest_weights,
    save_weights,
    state_to_arrays,
    trainable_state,
    unflatten_state,
)

PATIENCE_S = 30.0
"""How long a run waits for the last sites once it has a quorum."""

logger = logging.getLogger("vultus.coordinator")

_CHARGED_AS = {"train": "training", "evaluate": "tallies"}


def model_file(folder: Path, server_round: int) -> Path:
    """Where the global model of a round is kept."""
    return folder / f"model-{server_round:04d}.safetensors"


class QuorumError(RuntimeError):
    """Too few sites answered; names those that are missing or refused."""

    exit_code = 1


@dataclass(frozen=True)
class SecureSum:
    """What a secure sum gave.

    Attributes:
        values: ``[D]`` the noised sum.
        sites: Sites in it.
        noise_stddev: Standard deviation of the noise in each entry.
    """

    values: FloatArray
    sites: tuple[str, ...]
    noise_stddev: float


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
        sums: Number of sites in each secure sum that was asked for, by its purpose.
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
        self.sums: dict[str, list[int]] = {"train": [], "evaluate": []}
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
        self._exchange = Exchange({}, "", {})
        self._anchors = AnchorStore(folder.parent / ANCHORS_FILE)
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
        return self._ask("train", server_round)

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
        save_weights(model_file(self.folder, server_round), self.model_state())
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
        return self._ask("evaluate", server_round)

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
                self._charge(update.site_id, "training", update.epsilon_spent)
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
                self._charge(answer.site_id, "tallies", answer.epsilon_spent)
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

    def _sum_securely(self, kind: str, server_round: int, replies: Iterable[Message]) -> SecureSum:
        """The sum over a cohort of which every site answered, tried anew without those lost.

        Raises:
            QuorumError: If the cohort became too small, or the sums paid for are used up.
        """
        weights, plan = self._subject_of(kind)
        size = sum(part.numel() for part in weights.values())
        if kind == "evaluate":
            size = math.prod(self._tally_shape(server_round))
        attempt = 1
        while True:
            cohort = tuple(sorted(self._exchange.asked.values()))
            read = partial(self._read_masked, size=size, attempt=attempt)
            rows = {a.site_id: a for m in replies if (a := self._exchange.accept(m, read))}
            self.sums[kind].append(len(cohort))
            for site, answer in rows.items():
                self._charge(site, _CHARGED_AS[kind], answer.epsilon_spent)
            if len(rows) == len(cohort):
                terms = sum_terms(self.config, cohort, plan=plan, size=size)
                total = add_masked(rows[site].masked for site in cohort)
                return SecureSum(terms.form.decode(total), cohort, terms.total_stddev)
            if attempt > self.config.privacy.retries:
                self._require_quorum(server_round, 0)
            attempt += 1
            self._anchors.keep(self._exchange.anchors)
            messages = self._ask(kind, server_round, sites=set(rows), attempt=attempt)
            assert self._grid is not None  # noqa: S101 - a round is configured before its replies
            replies = self._grid.send_and_receive(
                messages, timeout=self.config.training.round_timeout_s
            )

    def _subject_of(self, kind: str) -> tuple[State, PrivacyPlan]:
        """Which weights a request is about, and the plan of what comes back."""
        if kind == "train":
            return self.optimizer.weights, self._training_plan
        return self.optimizer.average, self._tally_plan

    def _ask(
        self,
        kind: str,
        server_round: int,
        *,
        sites: set[str] | None = None,
        attempt: int = 1,
    ) -> list[Message]:
        """The requests of an exchange; of all admitted sites unless some are named."""
        weights, plan = self._subject_of(kind)
        asked = {n: s for n, s in self.admission.sites.items() if sites is None or s in sites}
        members: tuple[CohortMember, ...] = ()
        if plan.mode == "distributed":
            self._require_cohort(server_round, len(asked))
            members = tuple(self.admission.members[site] for site in sorted(asked.values()))
        request = ModelRequest(
            run_id=self.run_id,
            server_round=server_round,
            weights=weights,
            base_digest=digest_weights({**self._frozen, **weights}),
            consortium_digest=self.consortium.digest,
            plan=plan,
            cohort=members,
            attempt=attempt,
        )
        before = self._exchange if attempt > 1 else Exchange({}, "", {})
        self._exchange = Exchange(
            asked,
            request.base_digest,
            {entry.id: entry.public_key for entry in self.config.sites},
            refusals=before.refusals,
            lost=set(before.missing),
        )
        return [
            Message(
                encode_model_request(replace(request, anchor=self._anchors.latest(site))),
                node,
                kind,
                group_id=str(server_round),
            )
            for node, site in nodes_of(asked)
        ]

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

    def _read_masked(self, message: Message, *, size: int, attempt: int) -> MaskedReply:
        return decode_masked(message.content, size=size, attempt=attempt)

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
