"""The Flower ServerApp of a consortium: one run, from the study file to the report.

The run's folder holds ``consortium.toml``; progress, checkpoint, model and report are written
there. A run outlives the process that conducts it: the next one goes on from the checkpoint, under
the same name.
"""

from __future__ import annotations

import math
import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from privacy.plan import PrivacyPlan
from server.bundle import RUN_FOLDER
from server.checkpoints import CheckpointError, CheckpointStore, make_durable
from server.history import Release, RunReport, SitePrivacy, report_on
from server.models.beginning import first_network
from server.pacing import pace_server_app
from server.progress import Progress, read_progress, write_progress
from server.quorum import QuorumError
from server.release import choose_release
from server.report import write_report
from server.rounds import Rounds
from server.run_folder import StoppedError, hold_run, load_present
from server.signing import open_signing_key
from server.spending import site_privacy, training_epsilons
from server.strategy import ConsortiumStrategy
from shared_models.weights import digest_weights

REPORT_JSON = "report.json"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the run whose folder the run configuration names."""
    pace_server_app()
    folder = Path(str(context.run_config[RUN_FOLDER]))
    conduct_run(grid, folder, run_id=str(context.run_id))


def conduct_run(grid: Grid, folder: Path, *, run_id: str) -> RunReport:
    """Train, judge and report, from the beginning or from where another process left the run.

    Args:
        grid: Connection to the nodes.
        folder: The run's folder with ``consortium.toml``.
        run_id: The engine's name for this life of the run; that of the first is the run's.

    Raises:
        HeldError: If another process conducts the run.
        SigningKeyError: If the coordinator's key is not the one that the study names.
        CheckpointError: If the run cannot go on from what its last life left.
        QuorumError: If too few sites took part; the report tells what happened until then.
        StoppedError: If somebody stopped the run.
    """
    with hold_run(folder, life=run_id):
        ended = read_progress(folder)
        if ended and ended.has_ended:
            return RunReport.from_json((folder / REPORT_JSON).read_bytes())
        try:
            return _conduct(grid, folder, life=run_id)
        except (QuorumError, StoppedError):
            raise
        except Exception as error:
            # What ends a life may end the next one too: then this is the reason that is told.
            _note_fault(folder, error)
            raise


def _conduct(grid: Grid, folder: Path, *, life: str) -> RunReport:
    rounds, strategy = _open_run(grid, folder, life=life)
    failure: QuorumError | StoppedError | None = None
    try:
        rounds.conduct()
    except (QuorumError, StoppedError) as error:
        failure = error
    report = _make_report(strategy, failure, seconds=rounds.seconds)
    write_report(report, folder)
    make_durable(folder / REPORT_JSON)
    last = replace(rounds.progress, refused=tuple(strategy.refusals()))
    _note_end(folder, report, last, failure)
    if failure:
        raise failure
    return report


def _open_run(grid: Grid, folder: Path, *, life: str) -> tuple[Rounds, ConsortiumStrategy]:
    consortium = load_present(folder)
    checkpoint = CheckpointStore(folder).read()
    if checkpoint and checkpoint.consortium_digest != consortium.digest:
        msg = f"Expected the study file that {folder.name} began with, got one that was changed."
        raise CheckpointError(msg)
    strategy = ConsortiumStrategy(
        consortium,
        network=first_network(consortium, folder),
        run_id=checkpoint.run_id if checkpoint else life,
        folder=folder,
        key=open_signing_key(folder.parent, consortium),
    )
    return Rounds(strategy, grid, folder), strategy


def _make_report(
    strategy: ConsortiumStrategy, failure: QuorumError | StoppedError | None, *, seconds: float
) -> RunReport:
    consortium = strategy.consortium
    config = consortium.config
    plan = config.training_plan()
    training_s = math.fsum(report.seconds for report in strategy.rounds)
    epsilon_sum, epsilon_site = _epsilons(strategy, plan)
    release = None if failure else choose_release(strategy.evaluations, config.mitigation)
    return report_on(consortium)(
        run_id=strategy.run_id,
        epsilon_sum=epsilon_sum,
        epsilon_site=epsilon_site,
        rounds=tuple(strategy.rounds),
        evaluations=tuple(strategy.evaluations),
        sites=_site_privacy(strategy),
        weights_digest=_released_digest(strategy, release),
        versions={
            "vultus": version("vultus"),
            "flwr": version("flwr"),
            "torch": version("torch"),
            "python": platform.python_version(),
        },
        status=_status(failure),
        status_detail=str(failure or ""),
        seconds={"total": seconds, "train": training_s, "evaluate": seconds - training_s},
        release=release,
    )


def _released_digest(strategy: ConsortiumStrategy, release: Release | None) -> str:
    if release is None:
        return digest_weights(strategy.model_state())
    return strategy.rounds[release.server_round - 1].weights_digest


def _epsilons(strategy: ConsortiumStrategy, plan: PrivacyPlan) -> tuple[float | None, float | None]:
    """What training revealed: the sums alone, and one site's releases were they seen apart."""
    return training_epsilons(
        plan,
        strategy.rounds,
        summed=strategy.sums.sizes["train"],
        tolerated=strategy.config.privacy.tolerated_dropouts,
    )


def _site_privacy(strategy: ConsortiumStrategy) -> tuple[SitePrivacy, ...]:
    """What each site's ledger reported last, also of sites that left the study meanwhile."""
    return site_privacy(strategy.config, strategy.rounds, strategy.epsilon_by_site)


def _status(
    failure: QuorumError | StoppedError | None,
) -> Literal["completed", "failed", "stopped"]:
    if failure is None:
        return "completed"
    return "stopped" if isinstance(failure, StoppedError) else "failed"


def _note_end(
    folder: Path, report: RunReport, last: Progress, failure: QuorumError | StoppedError | None
) -> None:
    """The end, with who was missing or refused when it came."""
    write_progress(
        folder,
        replace(
            last,
            server_round=len(report.rounds),
            phase=report.status,
            waiting_for=(),
            detail=report.status_detail,
            by_policy=isinstance(failure, QuorumError) and failure.by_policy,
        ),
    )


def _note_fault(folder: Path, error: Exception) -> None:
    if last := read_progress(folder):
        write_progress(folder, replace(last, detail=f"{type(error).__name__}: {error}"))
