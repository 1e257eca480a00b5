"""Runs and their models as MLflow shows them, for people who compare experiments there.

The library writes into a database and a folder on this machine, or to a tracking server that was
named. Its own reports on how it is used stay switched off.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from server.history import NOTICE, RunReport
from server.models.entries import ModelEntry, RegistryError
from server.models.lineage import read_ended_run
from server.models.loading import find_fault, weights_file
from server.models.onnx_export import ExtraMissingError
from server.models.registration import coordinator_key, open_registry, registry_folder
from server.models.registry import entry_file
from server.runs import REPORT_PAGE
from server.workspace import Workspace
from shared_models.signed_files import signature_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

SWITCHED_OFF = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
DATABASE = "mlflow.db"
ARTIFACTS = "artifacts"
RUN_TAG = "vultus.run"
WHOLE_TAG = "vultus.exported"
"""Set last, so that a run that was written halfway is recognised and written again."""


@dataclass(frozen=True)
class MlflowExport:
    """What was written.

    Attributes:
        tracking_uri: Where.
        experiment: Name of the experiment, which is the study's.
        written: Runs that were written now.
        skipped: Runs that were there already.
    """

    tracking_uri: str
    experiment: str
    written: tuple[str, ...]
    skipped: tuple[str, ...]


def local_store(folder: Path) -> str:
    """Tracking address of a store in a folder of this machine; the folder is made."""
    folder = folder.expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / DATABASE}"


def export_to_mlflow(
    workspace: Workspace, *, tracking_uri: str, artifacts: Path | None
) -> MlflowExport:
    """Write every run with a registered model that the store does not hold yet.

    Args:
        workspace: The coordinator's folder.
        tracking_uri: A database on this machine, or the address of a tracking server.
        artifacts: Folder for files, where the store is on this machine.

    Raises:
        ExtraMissingError: If the library is not installed.
        RegistryError: If registry or weights are not as they were signed.
    """
    registry = open_registry(workspace)
    # A run's released model need not be its last.
    told = sorted(registry.entries, key=lambda entry: (entry.run, entry.is_final, entry.number))
    last = {entry.run: entry for entry in told}
    _refuse_changed(workspace, last.values())
    study = next((entry.study for entry in last.values()), "none")
    with _mlflow(tracking_uri) as client:
        experiment = _experiment(client, study, artifacts)
        held = _held(client, experiment)
        for run, entry in last.items():
            if run not in held:
                _write_run(client, experiment, workspace, entry)
    return MlflowExport(
        tracking_uri,
        study,
        tuple(run for run in last if run not in held),
        tuple(run for run in last if run in held),
    )


@contextmanager
def _mlflow(tracking_uri: str) -> Iterator[MlflowClient]:
    """A client that reports to nobody but the store that was named."""
    os.environ.update(SWITCHED_OFF)
    try:
        with warnings.catch_warnings():
            # Of the library's own use of its database layer; nothing that a caller could mend.
            warnings.simplefilter("ignore")
            from mlflow import MlflowClient

            yield MlflowClient(tracking_uri=tracking_uri)
    except ImportError as error:
        msg = (
            f"Expected the library MLflow, found no {error.name}: install it with "
            "pip install 'vultus[mlflow]'."
        )
        raise ExtraMissingError(msg) from error


def _experiment(client: MlflowClient, name: str, artifacts: Path | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = artifacts.expanduser().absolute().as_uri() if artifacts else None
    return str(client.create_experiment(name, artifact_location=location))


def _held(client: MlflowClient, experiment: str) -> set[str]:
    """Runs that the store holds whole; those that were written halfway are removed."""
    held = set()
    for run in client.search_runs([experiment], max_results=1000):
        tags = run.data.tags
        if tags.get(WHOLE_TAG) == "yes":
            held.add(tags[RUN_TAG])
        elif RUN_TAG in tags:
            client.delete_run(run.info.run_id)
    return held


def _refuse_changed(workspace: Workspace, entries: Iterable[ModelEntry]) -> None:
    """Let no file pass that is not what was signed.

    Raises:
        RegistryError: With every fault.
    """
    key = coordinator_key(workspace)
    faults = [find_fault(workspace, entry, public_key=key) for entry in entries]
    if told := [fault for fault in faults if fault]:
        raise RegistryError("\n".join(told))


def _write_run(
    client: MlflowClient, experiment: str, workspace: Workspace, entry: ModelEntry
) -> None:
    ended = read_ended_run(weights_file(workspace, entry).parent)
    if ended is None:
        msg = f"Expected the report of {entry.run}, found none: restore it from a copy."
        raise RegistryError(msg)
    run = client.create_run(experiment, run_name=entry.run, tags=lineage_tags(entry))
    run_id = run.info.run_id
    for name, value in parameters(entry).items():
        client.log_param(run_id, name, value)
    for step, figures in metrics_by_round(ended.report).items():
        for name, number in figures.items():
            client.log_metric(run_id, name, number, step=step)
    for file in _files(workspace, entry):
        client.log_artifact(run_id, str(file))
    client.set_tag(run_id, WHOLE_TAG, "yes")
    client.set_terminated(run_id, "FINISHED" if entry.run_status == "completed" else "FAILED")


def lineage_tags(entry: ModelEntry) -> dict[str, str]:
    """Where a run's last model comes from, as tags."""
    lineage = {
        "run": entry.run,
        "run_id": entry.run_id,
        "model": entry.number,
        "weights_digest": entry.weights_digest,
        "file_sha256": entry.file_sha256,
        "consortium_digest": entry.consortium_digest,
        "roster": entry.roster_number,
        "sites": ", ".join(entry.sites),
        "parent": entry.parent.number,
        "parent_digest": entry.parent.weights_digest,
        **{f"version.{name}": number for name, number in entry.versions.items()},
        "notice": NOTICE,
    }
    return {f"vultus.{name}": str(value) for name, value in lineage.items() if value is not None}


def parameters(entry: ModelEntry) -> dict[str, object]:
    """The study's terms, and what the run reveals, by name."""
    terms = {f"privacy.{name}": value for name, value in vars(entry.privacy).items()}
    return {
        "study": entry.study,
        "instrument": entry.instrument,
        "rounds": entry.rounds,
        **{f"network.{name}": value for name, value in vars(entry.network).items()},
        **terms,
    }


def metrics_by_round(report: RunReport) -> dict[int, dict[str, float]]:
    """Numbers of each round that a report may show, over all held-out subjects together."""
    rounds: dict[int, dict[str, float]] = {}
    for entry in report.rounds:
        figures = {"participants": float(len(entry.participants)), "seconds": entry.seconds}
        if entry.update_norm is not None:
            figures["update_norm"] = entry.update_norm
        rounds[entry.server_round] = figures
    for evaluation in report.evaluations:
        figures = rounds.setdefault(evaluation.server_round, {})
        for metric, estimate in evaluation.fairness.overall.metrics.items():
            ends = {"": estimate.value, "_low": estimate.low, "_high": estimate.high}
            figures |= {f"{metric}{end}": v for end, v in ends.items() if v is not None}
    return rounds


def _files(workspace: Workspace, entry: ModelEntry) -> list[Path]:
    weights = weights_file(workspace, entry)
    files = [
        weights,
        signature_file(weights),
        entry_file(registry_folder(workspace), entry.number),
        weights.with_name(REPORT_PAGE),
    ]
    return [file for file in files if file.is_file()]


__all__ = ["MlflowExport", "export_to_mlflow", "local_store", "metrics_by_round"]
