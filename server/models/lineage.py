"""The lineage of a run's models, from its folder: study, roster, report, signed weights."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from server.groups import GroupMetrics
from server.history import RoundReport, RunReport
from server.models.entries import (
    FORMAT,
    Figure,
    GroupFigures,
    ModelEntry,
    Network,
    Parent,
    PrivacyTerms,
    RegistryError,
)
from server.recalibration import Recalibration
from server.runs import REPORT_JSON
from server.signing import model_file
from server.workspace import CONSORTIUM_FILE
from shared_models.consortium import Consortium, ConsortiumConfig, load_consortium
from shared_models.networks import BehaviourNet, make_network
from shared_models.roster import ROSTER_FILE, read_roster
from shared_models.signed_models import load_signed_weights
from shared_models.weights import WeightsError, digest_weights

START_FILE = "start.json"
"""In a run's folder: ``{"model": N}`` if it began with a registered model; absent otherwise."""


@dataclass(frozen=True)
class EndedRun:
    """A run that has written its report.

    Attributes:
        folder: The run's folder.
        report: What happened.
        consortium: The study as the run had it.
    """

    folder: Path
    report: RunReport
    consortium: Consortium

    @property
    def config(self) -> ConsortiumConfig:
        """The study's settings."""
        return self.consortium.config

    def round(self, server_round: int) -> RoundReport:
        """What happened in a round.

        Raises:
            RegistryError: If the report does not know the round.
        """
        for report in self.report.rounds:
            if report.server_round == server_round:
                return report
        msg = f"Expected round {server_round} in the report of {self.folder.name}, found none."
        raise RegistryError(msg)


def read_ended_run(folder: Path) -> EndedRun | None:
    """The run of a folder; None as long as it has no report.

    Raises:
        RegistryError: If report or study file cannot be read.
    """
    report = folder / REPORT_JSON
    if not report.is_file():
        return None
    try:
        return EndedRun(
            folder,
            RunReport.from_json(report.read_bytes()),
            load_consortium(folder / CONSORTIUM_FILE),
        )
    except (ValueError, OSError) as error:
        msg = f"Expected the report and the study file of {folder.name}, got: {error}"
        raise RegistryError(msg) from error


def begun_with(folder: Path) -> int | None:
    """Number of the registered model that a run began with; None if with what ships.

    Raises:
        RegistryError: If the folder says so in no way that can be read.
    """
    file = folder / START_FILE
    if not file.is_file():
        return None
    try:
        return int(json.loads(file.read_bytes())["model"])
    except (ValueError, KeyError, TypeError) as error:
        msg = f"Expected the number of a model in {START_FILE} of {folder.name}, got no such thing."
        raise RegistryError(msg) from error


def describe_model(
    run: EndedRun, server_round: int, *, number: int, parent: Parent, public_key: str | None
) -> ModelEntry:
    """The entry of one round's model, once its file is what the coordinator signed and reported.

    Args:
        run: The run.
        server_round: Round that made the model.
        number: Number it gets.
        parent: What the round began with.
        public_key: OpenSSH line of the coordinator's key.

    Raises:
        RegistryError: If the file is missing, or not the model that the report tells of.
    """
    file, told = model_file(run.folder, server_round), run.round(server_round)
    network = network_of(run.config)
    try:
        state = load_signed_weights(file, network.state_dict(), public_key=public_key)
    except (WeightsError, OSError) as error:
        msg = f"The model of {run.folder.name}, round {server_round}, cannot be registered: {error}"
        raise RegistryError(msg) from error
    digest = digest_weights(state)
    if digest != told.weights_digest:
        msg = (
            f"Expected weights {told.weights_digest} of {run.folder.name}, round {server_round} "
            f"(report.json), got {digest} ({file.name})."
        )
        raise RegistryError(msg)
    report, config = run.report, run.config
    return ModelEntry(
        format=FORMAT,
        number=number,
        run=run.folder.name,
        run_id=report.run_id,
        run_status=report.status,
        server_round=server_round,
        rounds=config.training.rounds,
        is_final=report.status == "completed" and server_round == report.released_round,
        study=report.study_name,
        instrument=report.instrument,
        score_range=report.score_range,
        feature_schema=config.features.schema.digest,
        network=Network(config.network.name, config.network.size, config.network.trainable),
        file=f"{run.folder.parent.name}/{run.folder.name}/{file.name}",
        file_sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        weights_digest=digest,
        consortium_digest=report.consortium_digest,
        roster_number=_roster_number(run, public_key),
        sites=stretches(run, server_round),
        privacy=_privacy(run),
        evaluation=measured_figures(run, server_round),
        versions=dict(report.versions),
        parent=parent,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        recalibration=_recalibration(run, server_round),
    )


def network_of(config: ConsortiumConfig) -> BehaviourNet:
    """The network of a study as it ships, before any training."""
    return _ship_network(
        config.network.name, config.network.size, len(config.features.schema.features)
    )


def shipped_digest(run: EndedRun) -> str | None:
    """SHA-256 of the weights that a run without a parent began with.

    None if another version conducted the run: its trunk may have been another one.
    """
    if run.report.versions.get("vultus") != version("vultus"):
        return None
    return digest_weights(network_of(run.config).state_dict())


def stretches(run: EndedRun, server_round: int) -> dict[str, tuple[tuple[int, int], ...]]:
    """First and last round of each stretch in which a site took part, up to a round, by site."""
    taken: dict[str, list[tuple[int, int]]] = {}
    for report in run.report.rounds:
        if report.server_round > server_round:
            continue
        for site in report.participants:
            _extend(taken.setdefault(site, []), report.server_round)
    return {site: tuple(parts) for site, parts in sorted(taken.items())}


def _extend(parts: list[tuple[int, int]], server_round: int) -> None:
    if parts and parts[-1][1] == server_round - 1:
        parts[-1] = (parts[-1][0], server_round)
    else:
        parts.append((server_round, server_round))


@functools.lru_cache(maxsize=4)
def _ship_network(name: str, size: str, features: int) -> BehaviourNet:
    return make_network(name, size, features=features)


def _roster_number(run: EndedRun, public_key: str | None) -> int | None:
    file = run.folder / ROSTER_FILE
    if not file.is_file():
        return None
    digest = run.consortium.digest
    return read_roster(file.read_bytes(), public_key=public_key, consortium_digest=digest).number


def _privacy(run: EndedRun) -> PrivacyTerms:
    report = run.report
    return PrivacyTerms(
        mode=report.mode,
        unit=run.config.privacy.unit,
        delta=report.delta,
        target_epsilon=_finite(report.target_epsilon),
        epsilon_sum=_finite(report.epsilon_sum),
        epsilon_site=_finite(report.epsilon_site),
        noise_multiplier=report.noise_multiplier,
        max_grad_norm=report.max_grad_norm,
    )


def _recalibration(run: EndedRun, server_round: int) -> Recalibration | None:
    judged = (e for e in run.report.evaluations if e.server_round == server_round)
    return next((evaluation.recalibration for evaluation in judged), None)


def measured_figures(run: EndedRun, server_round: int) -> tuple[GroupFigures, ...]:
    """What the run's report may show of one round's model; empty if it was not judged."""
    for evaluation in run.report.evaluations:
        if evaluation.server_round == server_round:
            fairness = evaluation.fairness
            return tuple(_group(group) for group in (fairness.overall, *fairness.by_group))
    return ()


def _group(group: GroupMetrics) -> GroupFigures:
    figures = {
        str(metric): Figure(_finite(e.value), _finite(e.low), _finite(e.high))
        for metric, e in group.metrics.items()
    }
    return GroupFigures(group.attribute, group.group, group.state, figures)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
