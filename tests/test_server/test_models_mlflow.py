"""The MLflow export: what lands in the store, and that nothing goes anywhere else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ended_runs import EPSILON_SUM, add_run, copy_hub, make_hub, weights_of

from server.models.entries import RegistryError
from server.models.mlflow_export import ExtraMissingError, export_to_mlflow, local_store
from server.models.registration import register_models
from server.signing import model_file
from server.workspace import Workspace
from shared_models.weights import digest_weights

pytest.importorskip("mlflow")
pytestmark = pytest.mark.slow

WATCH = """
import json, os, socket, sys, threading
attempts = []
def refuse(*where, **_):
    attempts.append(str(where))
    raise OSError("no network here")
socket.getaddrinfo = refuse
connect = socket.socket.connect
def only_local(self, address):
    return connect(self, address) if self.family == socket.AF_UNIX else refuse(address)
socket.socket.connect = only_local
socket.socket.connect_ex = only_local
"""
EXPORT = """
from server.models_cli import models
try:
    models(["mlflow", sys.argv[1], "--out", sys.argv[2], "--json"])
except SystemExit as end:
    assert not end.code, end.code
"""
OVERRULE = """
import server.models.mlflow_export as mlflow_export
mlflow_export.SWITCHED_OFF.clear()
"""
TELL = """
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join(3)
print(json.dumps(attempts))
"""
READ = """
import sys, json
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1])
experiment = client.get_experiment_by_name("trial")
print(json.dumps([
    {"name": run.info.run_name, "status": run.info.status, "params": run.data.params,
     "tags": run.data.tags,
     "norms": [m.step for m in client.get_metric_history(run.info.run_id, "update_norm")],
     "auroc": [m.step for m in client.get_metric_history(run.info.run_id, "auroc")],
     "files": sorted(f.path for f in client.list_artifacts(run.info.run_id)),
     "at": run.info.artifact_uri}
    for run in client.search_runs([experiment.experiment_id], order_by=["run_name"])
]))
"""


@pytest.fixture(scope="module")
def full_hub(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    hub = make_hub(tmp_path_factory.mktemp("full") / "hub")
    add_run(hub)
    add_run(hub, rounds=2, status="failed")
    register_models(hub)
    return hub


def python(program: str, *words: object, off: bool = False) -> str:
    """What a program prints in a process of its own, where MLflow takes nobody for a test."""
    marks = {"CI", "GITHUB_ACTIONS", "GITLAB_CI", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in marks and not name.startswith("PYTEST")
    }
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true"} if off else {}
    done = subprocess.run(
        [sys.executable, "-c", program, *[str(word) for word in words]],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def store(full_hub: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was written while every attempt to reach a network was noted."""
    folder = tmp_path_factory.mktemp("store") / "mlflow"
    told = python(WATCH + EXPORT + TELL, full_hub.folder, folder).splitlines()
    assert json.loads(told[-1]) == []
    assert json.loads(told[-2])["runs"] == ["run-0001", "run-0002"]
    return folder


def test_nothing_but_the_named_store_is_reached(store: Path) -> None:
    assert (store / "mlflow.db").is_file()


def test_the_watch_would_notice_the_librarys_own_reports(
    full_hub: Workspace, tmp_path: Path
) -> None:
    """The broken variant: without the switches the library looks for its telemetry host."""
    told = python(WATCH + OVERRULE + EXPORT + TELL, full_hub.folder, tmp_path / "store")
    assert "telemetry" in told.splitlines()[-1]


def test_the_store_holds_terms_figures_lineage_and_the_model(
    store: Path, full_hub: Workspace
) -> None:
    first, second = json.loads(python(READ, f"sqlite:///{store}/mlflow.db", off=True))
    assert (first["name"], first["status"]) == ("run-0001", "FINISHED")
    assert (second["name"], second["status"]) == ("run-0002", "FAILED")
    assert float(first["params"]["privacy.epsilon_sum"]) == EPSILON_SUM
    assert first["params"]["privacy.mode"] == "local"
    assert first["tags"]["vultus.model"] == "3"
    assert first["tags"]["vultus.weights_digest"] == digest_weights(weights_of(1, 3))
    assert first["tags"]["vultus.consortium_digest"] == full_hub.consortium.digest
    assert first["tags"]["vultus.notice"] == "Research software: no output is a diagnosis."
    assert first["norms"] == [1, 2, 3]
    assert first["auroc"] == [3]
    name = "model-0003.safetensors"
    assert first["files"] == ["0003.json", name, f"{name}.sig", "report.html"]
    assert Path(first["at"].removeprefix("file://")).is_relative_to(store)


def test_a_second_export_writes_only_what_is_new(
    full_hub: Workspace, store: Path, tmp_path: Path
) -> None:
    hub, out = copy_hub(full_hub, tmp_path / "hub"), tmp_path / "store"
    shutil.copytree(store, out)
    add_run(hub)
    told = json.loads(python(WATCH + EXPORT, hub.folder, out).splitlines()[-1])
    assert (told["runs"], told["skipped"]) == (["run-0003"], ["run-0001", "run-0002"])


def test_an_altered_model_is_not_exported(full_hub: Workspace, tmp_path: Path) -> None:
    hub = copy_hub(full_hub, tmp_path / "hub")
    model_file(hub.runs / "run-0001", 3).write_bytes(b"other")
    with pytest.raises(RegistryError, match="was changed"):
        export_to_mlflow(hub, tracking_uri="never reached", artifacts=None)


def test_without_the_library_the_error_says_what_to_install(
    full_hub: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ExtraMissingError, match=r"pip install 'vultus\[mlflow\]'"):
        export_to_mlflow(full_hub, tracking_uri=local_store(tmp_path), artifacts=None)
