"""The Flower ServerApp of a consortium: one run, from the study file to the report.

The run's folder holds ``consortium.toml``; progress, the model and the report are written there.
"""

from __future__ import annotations

import math
import platform
import time
from importlib.metadata import version
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from privacy.accounting import epsilon_spent
from privacy.plan import PrivacyPlan
from server.aggregation import epsilon_of_sums, epsilons_of_secure_sums
from server.bundle import RUN_FOLDER
from server.history import RunReport, SitePrivacy
from server.pacing import pace_server_app
from server.progress import Progress, write_progress
from server.report import write_report
from server.signing import open_signing_key
from server.strategy import ConsortiumStrategy, QuorumError
from shared_models.consortium import Consortium, load_consortium
from shared_models.networks import make_network
from shared_models.weights import digest_weights, freeze_trunk, state_to_arrays

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the run whose folder the run configuration names."""
    pace_server_app()
    folder = Path(str(context.run_config[RUN_FOLDER]))
    conduct_run(grid, folder, run_id=str(context.run_id))


def conduct_run(grid: Grid, folder: Path, *, run_id: str) -> RunReport:
    """Train, judge and report.

    Args:
        grid: Connection to the nodes.
        folder: The run's folder with ``consortium.toml``.
        run_id: Name of the run.

    Raises:
        SigningKeyError: If the coordinator's key is not the one that the study names.
        QuorumError: If too few sites took part; the report tells what happened until then.
    """
    consortium = load_consortium(folder / "consortium.toml")
    config = consortium.config
    schema = config.features.schema
    network = make_network(config.network.name, config.network.size, features=len(schema.features))
    freeze_trunk(network, trainable=config.network.trainable)
    key = open_signing_key(folder.parent, consortium)
    strategy = ConsortiumStrategy(
        consortium, network=network, run_id=run_id, folder=folder, key=key
    )
    started = time.monotonic()
    failure: QuorumError | None = None
    try:
        strategy.start(
            grid,
            state_to_arrays(strategy.optimizer.weights),
            num_rounds=config.training.rounds,
            timeout=config.training.round_timeout_s,
        )
    except QuorumError as error:
        failure = error
    report = _make_report(strategy, failure, seconds=time.monotonic() - started)
    write_report(report, folder)
    _note_end(folder, report, rounds=config.training.rounds)
    if failure:
        raise failure
    return report


def _make_report(
    strategy: ConsortiumStrategy, failure: QuorumError | None, *, seconds: float
) -> RunReport:
    consortium = strategy.consortium
    config = consortium.config
    plan, tally_plan = config.training_plan(), config.tally_plan()
    training_s = math.fsum(report.seconds for report in strategy.rounds)
    epsilon_sum, epsilon_site = _epsilons(strategy, plan)
    return RunReport(
        run_id=strategy.run_id,
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
        epsilon_sum=epsilon_sum,
        epsilon_site=epsilon_site,
        rounds=tuple(strategy.rounds),
        evaluations=tuple(strategy.evaluations),
        sites=_site_privacy(strategy, consortium),
        min_cell=config.fairness.min_cell,
        weights_digest=digest_weights(strategy.model_state()),
        consortium_digest=consortium.digest,
        versions={
            "vultus": version("vultus"),
            "flwr": version("flwr"),
            "torch": version("torch"),
            "python": platform.python_version(),
        },
        status="failed" if failure else "completed",
        status_detail=str(failure or ""),
        seconds={"total": seconds, "train": training_s, "evaluate": seconds - training_s},
    )


def _epsilons(strategy: ConsortiumStrategy, plan: PrivacyPlan) -> tuple[float | None, float | None]:
    """What training revealed: the sums alone, and one site's releases were they seen apart."""
    if plan.mode != "distributed":
        counts = [len(report.participants) for report in strategy.rounds]
        alone = None
        if plan.mode != "off" and counts:
            alone = epsilon_spent(plan.noise_multiplier, plan.delta, steps=len(counts))
        return epsilon_of_sums(plan.noise_multiplier, plan.delta, counts), alone
    tolerated = strategy.config.privacy.tolerated_dropouts
    return epsilons_of_secure_sums(
        plan.released_noise_multiplier,
        plan.delta,
        strategy.sums.sizes["train"],
        tolerated=tolerated,
    )


def _site_privacy(strategy: ConsortiumStrategy, consortium: Consortium) -> tuple[SitePrivacy, ...]:
    """What each site's ledger reported last."""

    def reported(site_id: str, purpose: str) -> float | None:
        epsilon = strategy.epsilon_by_site.get(site_id, {}).get(purpose)
        return epsilon if epsilon is not None and math.isfinite(epsilon) else None

    return tuple(
        SitePrivacy(
            site_id=entry.id,
            epsilon_training=reported(entry.id, "training"),
            epsilon_tallies=reported(entry.id, "tallies"),
            rounds=sum(entry.id in report.participants for report in strategy.rounds),
        )
        for entry in consortium.config.sites
    )


def _note_end(folder: Path, report: RunReport, *, rounds: int) -> None:
    done = len(report.rounds)
    write_progress(
        folder,
        Progress(report.run_id, done, rounds, report.status, detail=report.status_detail),
    )
