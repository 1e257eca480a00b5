"""What is known of a run while it goes on, and after: its report, or its last checkpoint.

A checkpoint holds the same types as the report, with suppressed groups withheld already; tensors
and open questions of the checkpoint are not looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from server.history import EvaluationReport, RoundReport, RunReport, SitePrivacy
from server.run_folder import CHECKPOINT_FILE, STUDY_FILE
from server.runs import REPORT_JSON, Run
from shared_models.consortium import load_consortium

if TYPE_CHECKING:
    from server.checkpoints import Checkpoint
    from server.fairness import FairnessReport


@dataclass(frozen=True)
class RunFigures:
    """The figures of one run so far.

    Attributes:
        run: Name of the run.
        is_final: Whether they are those of its report.
        mode: ``local``, ``distributed`` or ``off``.
        delta: Of every epsilon here.
        target_epsilon: Bound on training; None without privacy.
        fairness_epsilon: Bound on tallies; None without privacy.
        min_cell: Smaller groups are withheld.
        planned: Rounds in all.
        quorum: Fewest sites that a round needs; None where the report does not say.
        rounds: What happened in each.
        evaluations: In order.
        spent: What each site reported last.
    """

    run: str
    is_final: bool
    mode: str
    delta: float
    target_epsilon: float | None
    fairness_epsilon: float | None
    min_cell: int
    planned: int
    quorum: int | None
    rounds: tuple[RoundReport, ...]
    evaluations: tuple[EvaluationReport, ...]
    spent: tuple[SitePrivacy, ...]

    @property
    def latest(self) -> EvaluationReport | None:
        """The last judgement of the model."""
        return self.evaluations[-1] if self.evaluations else None

    @property
    def fairness(self) -> FairnessReport | None:
        """Figures of the last judgement."""
        return self.latest.fairness if self.latest else None

    @cached_property
    def took_part(self) -> Counter[str]:
        """Rounds by site."""
        return Counter(site for entry in self.rounds for site in entry.participants)

    def site(self, site_id: str) -> SitePrivacy | None:
        """What one site has spent; None if it reported nothing."""
        return self._spent_by_site.get(site_id)

    @cached_property
    def _spent_by_site(self) -> dict[str, SitePrivacy]:
        return {one.site_id: one for one in self.spent}


def figure_files(run: Run) -> list[Path]:
    """The files that the figures of a run depend on."""
    return [run.folder / name for name in (REPORT_JSON, CHECKPOINT_FILE, STUDY_FILE)]


def read_figures(run: Run) -> RunFigures | None:
    """The figures of a run; None before its first step.

    Raises:
        pydantic.ValidationError: If the report is damaged.
        CheckpointError: If the checkpoint is damaged.
        ConfigError: If the run's study file is.
    """
    from server.checkpoints import CheckpointStore

    report = run.folder / REPORT_JSON
    if report.is_file():
        return _of_report(run.name, RunReport.from_json(report.read_bytes()))
    checkpoint = CheckpointStore(run.folder).read()
    return None if checkpoint is None else _of_checkpoint(run, checkpoint)


def _of_report(name: str, report: RunReport) -> RunFigures:
    return RunFigures(
        run=name,
        is_final=True,
        mode=report.mode,
        delta=report.delta,
        target_epsilon=report.target_epsilon,
        fairness_epsilon=report.fairness_epsilon,
        min_cell=report.min_cell,
        planned=max((entry.server_round for entry in report.rounds), default=0),
        quorum=None,
        rounds=report.rounds,
        evaluations=report.evaluations,
        spent=report.sites,
    )


def _of_checkpoint(run: Run, checkpoint: Checkpoint) -> RunFigures:
    study = load_consortium(run.folder / STUDY_FILE).config
    is_private = study.privacy.mode != "off"
    took_part = Counter(site for entry in checkpoint.rounds for site in entry.participants)
    return RunFigures(
        run=run.name,
        is_final=False,
        mode=study.privacy.mode,
        delta=study.privacy.delta,
        target_epsilon=study.privacy.target_epsilon if is_private else None,
        fairness_epsilon=study.fairness.epsilon if is_private else None,
        min_cell=study.fairness.min_cell,
        planned=study.training.rounds,
        quorum=study.training.quorum,
        rounds=checkpoint.rounds,
        evaluations=checkpoint.evaluations,
        spent=tuple(
            SitePrivacy(
                site,
                _finite(charged.get("training")),
                _finite(charged.get("tallies")),
                took_part[site],
            )
            for site, charged in sorted(checkpoint.epsilon_by_site.items())
        ),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
