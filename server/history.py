"""What happened in a run: rounds, evaluations, privacy spent. Nothing here identifies a subject.

These types hold no tallies and no counts of withheld groups, so a report made of them cannot show
any. ``report.json`` is their JSON, and reads back into the same objects.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer, TypeAdapter

from server.fairness import FairnessReport, measure_fairness
from server.groups import OVERALL, Cell
from server.importance import ImportanceReport, measure_importance, split_importance
from server.recalibration import Recalibration, fit_recalibration
from server.reliability import ReliabilityBin, measure_reliability
from shared_models.consortium import Consortium, Mode
from shared_models.tallies import GroupTally, sum_tallies

NOTICE = "Research software: no output is a diagnosis."

GroupTruth = tuple[int, float | None, float | None, float | None]


def _rows(table: dict[Cell, GroupTruth]) -> list[list[object]]:
    return [[*cell, *truth] for cell, truth in table.items()]


def _table(rows: Any) -> Any:  # noqa: ANN401 - pydantic checks what comes out
    if isinstance(rows, dict):
        return rows
    return {tuple(row[:2]): tuple(row[2:]) for row in rows}


@dataclass(frozen=True)
class RoundReport:
    """One round of training.

    Attributes:
        server_round: Number of the round, from 1.
        seconds: Duration.
        participants: Sites whose update is in the sum.
        missing: Sites that did not answer in time.
        refusals: Site, reason code and public message of each refusal.
        weights_digest: SHA-256 of the weights after the round.
        update_norm: L2 norm of the noised update; None where there was none.
    """

    server_round: int
    seconds: float
    participants: tuple[str, ...]
    missing: tuple[str, ...]
    refusals: tuple[tuple[str, str, str], ...]
    weights_digest: str
    update_norm: float | None


@dataclass(frozen=True)
class EvaluationReport:
    """Figures of the model after a round; made by :func:`evaluation_report`.

    Attributes:
        server_round: Number of the round, from 1.
        fairness: Figures of all groups.
        reliability: Observed fraction by predicted probability, of all subjects together; empty
            where they are withheld, and in reports written before it was measured.
        recalibration: What the sums say of the log-odds; None unless the study asks.
        importance: Which behaviours moved the scores; None unless the study asks.
    """

    server_round: int
    fairness: FairnessReport
    reliability: tuple[ReliabilityBin, ...] = ()
    recalibration: Recalibration | None = None
    importance: ImportanceReport | None = None


@dataclass(frozen=True)
class Release:
    """Which model of a completed run is released, where that is not simply the last.

    Attributes:
        server_round: The round that made it.
        why: How it was chosen, in sentences.
    """

    server_round: int
    why: str


def evaluation_report(  # noqa: PLR0913 - what is known of a round, and the study's rules
    server_round: int,
    tallies: Iterable[GroupTally],
    *,
    score_range: tuple[float, float, float],
    min_cell: int,
    expected: Iterable[Cell] = (),
    recalibrate: bool = False,
) -> EvaluationReport:
    """What may be published of the tallies of one round.

    Args:
        server_round: Number of the round, from 1.
        tallies: Tallies of all sites; those of the same cell are added. At the last round the
            caller adds each site's overall tally once more as attribute ``"site"``.
        score_range: Lowest score, highest score and clinical threshold, in points.
        min_cell: Groups with fewer subjects, as noised, are suppressed.
        expected: Cells that were to be measured; those without a tally are ``not_reported``.
        recalibrate: Whether slope and intercept of the log-odds are fitted.
    """
    groups, moved = split_importance(tallies)
    sums = sum_tallies(groups)
    fairness = measure_fairness(
        sums.values(), score_range=score_range, min_cell=min_cell, expected=expected
    )
    known = fairness.overall.metrics
    reliability = measure_reliability(sums[OVERALL], min_cell=min_cell) if known else ()
    asked = recalibrate and OVERALL in sums and known
    fitted = fit_recalibration(sums[OVERALL]) if asked else None
    importance = measure_importance(moved, fairness.overall) if moved else None
    return EvaluationReport(server_round, fairness, reliability, fitted, importance)


@dataclass(frozen=True)
class SitePrivacy:
    """What the subjects of one site have spent in this run.

    Attributes:
        site_id: The site.
        epsilon_training: Of each training subject; None without privacy.
        epsilon_tallies: Of each held-out subject; None without privacy.
        rounds: Training rounds charged.
    """

    site_id: str
    epsilon_training: float | None
    epsilon_tallies: float | None
    rounds: int


@dataclass(frozen=True)
class Truth:
    """Exact figures, which only a simulation can know.

    Attributes:
        curve: Round, AUROC and MAE.
        by_group: Subjects, AUROC, TPR and FPR by attribute and group.
        note: How the figures were obtained.
    """

    curve: tuple[tuple[int, float | None, float | None], ...]
    by_group: Annotated[
        dict[Cell, GroupTruth], BeforeValidator(_table), PlainSerializer(_rows, when_used="json")
    ]
    note: str


@dataclass(frozen=True)
class RunReport:
    """All that a page about a run needs.

    Attributes:
        run_id: Name of the run.
        study_name: Name of the study.
        instrument: The questionnaire or rating scale predicted.
        threshold: Clinical threshold, in points.
        score_range: Lowest score, highest score and threshold, in points.
        mode: Where noise is added: ``local``, ``distributed`` or ``off``.
        target_epsilon: Bound on what the coordinator can see; None without privacy.
        delta: Of every epsilon here.
        noise_multiplier: Of training.
        max_grad_norm: L2 bound of one subject's gradient.
        tally_noise_multiplier: Of the tallies.
        fairness_epsilon: Bound on the tallies of held-out subjects; None without privacy.
        epsilon_sum: What the sum of all sites reveals; None without privacy.
        epsilon_site: What one site's release reveals; None without privacy.
        rounds: In order.
        evaluations: In order of their rounds.
        sites: What each site has spent.
        min_cell: Groups with fewer subjects, as noised, are suppressed.
        weights_digest: SHA-256 of the final weights.
        consortium_digest: SHA-256 of the consortium file.
        versions: Of software, by name.
        status: ``completed``, ``failed``, ``stopped``, or ``unfinished`` on a page made meanwhile.
        status_detail: Why it failed, or a remark.
        seed: Of a simulation; real sites draw cryptographic noise.
        seconds: By phase.
        truth: Only in a simulation.
        notice: What every report says.
        release: Which model was released; None for the last.
    """

    run_id: str
    study_name: str
    instrument: str
    threshold: float
    score_range: tuple[float, float, float]
    mode: Mode
    target_epsilon: float | None
    delta: float
    noise_multiplier: float
    max_grad_norm: float
    tally_noise_multiplier: float
    fairness_epsilon: float | None
    epsilon_sum: float | None
    epsilon_site: float | None
    rounds: tuple[RoundReport, ...]
    evaluations: tuple[EvaluationReport, ...]
    sites: tuple[SitePrivacy, ...]
    min_cell: int
    weights_digest: str
    consortium_digest: str
    versions: dict[str, str]
    status: Literal["completed", "failed", "stopped", "unfinished"]
    status_detail: str = ""
    seed: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    truth: Truth | None = None
    notice: str = NOTICE
    release: Release | None = None

    @property
    def judged(self) -> EvaluationReport | None:
        """Evaluation of the released model, or of the last; None if there was none."""
        if self.release is None:
            return self.evaluations[-1] if self.evaluations else None
        chosen = (e for e in self.evaluations if e.server_round == self.release.server_round)
        return next(chosen, None)

    @property
    def released_round(self) -> int:
        """The round that made the released model, or the last; 0 if there was none."""
        if self.release is not None:
            return self.release.server_round
        return self.rounds[-1].server_round if self.rounds else 0

    @property
    def final(self) -> FairnessReport | None:
        """Figures of the released model, or None if it was never judged."""
        return self.judged.fairness if self.judged else None

    def to_json(self) -> str:
        """JSON of the report, without the truth of groups that are withheld."""
        return _adapter().dump_json(self._public(), indent=2).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> RunReport:
        """The report that :meth:`to_json` wrote.

        Raises:
            pydantic.ValidationError: If the text is not such a report.
        """
        return _adapter().validate_json(text)

    def _public(self) -> RunReport:
        if self.truth is None:
            return self
        shown = {
            (group.attribute, group.group)
            for evaluation in self.evaluations
            for group in (evaluation.fairness.overall, *evaluation.fairness.by_group)
            if group.count is not None
        }
        table = {cell: truth for cell, truth in self.truth.by_group.items() if cell in shown}
        return replace(self, truth=replace(self.truth, by_group=table))


@functools.cache
def _adapter() -> TypeAdapter[RunReport]:
    return TypeAdapter(RunReport)


def report_on(consortium: Consortium) -> partial[RunReport]:
    """A report that holds the terms of its study; what happened in the run is to be added."""
    config = consortium.config
    plan, tally_plan = config.training_plan(), config.tally_plan()
    return partial(
        RunReport,
        study_name=config.study.name,
        instrument=config.study.instrument,
        threshold=config.study.score_range[2],
        score_range=config.study.score_range,
        mode=plan.mode,
        target_epsilon=plan.target_epsilon,
        delta=plan.delta,
        noise_multiplier=plan.released_noise_multiplier,
        max_grad_norm=plan.max_grad_norm,
        tally_noise_multiplier=tally_plan.released_noise_multiplier,
        fairness_epsilon=tally_plan.target_epsilon,
        min_cell=config.fairness.min_cell,
        consortium_digest=consortium.digest,
    )
