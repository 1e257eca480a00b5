"""The page of a run that people ask for: its report, or how it stands while there is none."""

from __future__ import annotations

import math
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from server.checkpoints import Checkpoint, CheckpointStore
from server.history import RunReport, report_on
from server.report import page_name, render_page, write_pages, write_report
from server.run_folder import load_present
from server.runs import REPORT_JSON, Run, RunEnd
from server.spending import site_privacy, training_epsilons
from shared_models.consortium import Consortium

INTERIM = "interim"
"""Pages of a run that has not ended begin so; ``report.json`` is what tells of an end."""


def publish_report(run: Run, *, language: str = "en", out: Path | None = None) -> tuple[Path, str]:
    """Path of the page, and the status of the run that it tells of.

    Pages in every language are written into the run's folder; a page elsewhere links to none.

    Args:
        run: The run.
        language: Of the page.
        out: Where the page goes; into the run's folder if None.

    Raises:
        CheckpointError: If what an unfinished run left is damaged.
    """
    numbers = run.folder / REPORT_JSON
    if numbers.is_file():
        stem, report = "report", RunReport.from_json(numbers.read_bytes())
        write_report(report, run.folder)
    else:
        stem, report = INTERIM, unfinished_report(run)
        write_pages(report, run.folder, stem=stem)
    if out is None:
        return run.folder / page_name(language, stem), report.status
    out.write_text(render_page(report, language), encoding="utf-8")
    return out, report.status


def unfinished_report(run: Run) -> RunReport:
    """What is known of a run that has not written its report, from its last checkpoint.

    Raises:
        CheckpointError: If the checkpoint is damaged.
    """
    consortium = load_present(run.folder)
    checkpoint = CheckpointStore(run.folder).read() or _before_the_first(consortium)
    end, config = run.end, consortium.config
    plan = config.training_plan()
    epsilon_sum, epsilon_site = training_epsilons(
        plan,
        checkpoint.rounds,
        summed=checkpoint.sums.get("train", []),
        tolerated=config.privacy.tolerated_dropouts,
    )
    return report_on(consortium)(
        run_id=checkpoint.run_id or run.name,
        epsilon_sum=epsilon_sum if checkpoint.rounds else None,
        epsilon_site=epsilon_site if checkpoint.rounds else None,
        rounds=checkpoint.rounds,
        evaluations=checkpoint.evaluations,
        sites=site_privacy(config, checkpoint.rounds, checkpoint.epsilon_by_site),
        weights_digest=checkpoint.rounds[-1].weights_digest if checkpoint.rounds else "",
        versions={"vultus": version("vultus")},
        status=_status(end),
        status_detail=end.detail if end else "",
        seconds={"train": math.fsum(entry.seconds for entry in checkpoint.rounds)},
    )


def _status(end: RunEnd | None) -> Literal["failed", "stopped", "unfinished"]:
    if end is None:
        return "unfinished"
    return "stopped" if end.status == "stopped" else "failed"


def _before_the_first(consortium: Consortium) -> Checkpoint:
    return Checkpoint("", consortium.digest, 0, (), (), {}, {}, None, 0.0, "")
