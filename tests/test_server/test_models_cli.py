"""``vultus-coordinator models`` as a coordinator uses it."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from ended_runs import add_run, copy_hub, make_hub, weights_of
from typer.testing import CliRunner

from server.cli import app
from server.signing import model_file
from server.workspace import Workspace
from shared_models.weights import digest_weights

COMMANDS = ("list", "show", "export", "verify", "rollback", "mlflow")


@pytest.fixture(scope="module")
def full_hub(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    hub = make_hub(tmp_path_factory.mktemp("full") / "hub")
    add_run(hub)
    add_run(hub)
    return hub


@pytest.fixture
def hub(full_hub: Workspace, tmp_path: Path) -> Workspace:
    return copy_hub(full_hub, tmp_path / "hub")


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["models", *[str(word) for word in words]])


def answer(*words: object, code: int = 0) -> dict:
    told = call(*words, "--json")
    assert told.exit_code == code, told.output
    return json.loads(told.stdout.splitlines()[-1])


def test_the_group_and_each_command_explain_themselves() -> None:
    group = call("--help")
    assert group.exit_code == 0
    for command in COMMANDS:
        assert command in group.output
        told = call(command, "--help")
        assert told.exit_code == 0
        assert len(told.output) > 200


def test_final_models_are_listed_and_all_on_request(hub: Workspace) -> None:
    final = answer("list", hub.folder)
    assert [(m["number"], m["run"], m["round"]) for m in final["models"]] == [
        (3, "run-0001", 3),
        (6, "run-0002", 3),
    ]
    assert final["current"] == 6
    everything = answer("list", hub.folder, "--all")["models"]
    assert [m["number"] for m in everything] == [1, 2, 3, 4, 5, 6]


def test_a_folder_alone_lists_its_models(hub: Workspace) -> None:
    assert answer(hub.folder) == answer("list", hub.folder)
    told = call(hub.folder)
    assert "run-0002" in told.output
    assert "Current: model 6" in told.output


def test_a_coordinator_without_models_says_what_is_missing(tmp_path: Path) -> None:
    hub = make_hub(tmp_path / "hub")
    told = call("list", hub.folder)
    assert told.exit_code == 0
    assert "a run has to be completed" in told.output


def test_the_lineage_of_a_model_is_shown_in_words_and_as_an_object(hub: Workspace) -> None:
    told = call("show", hub.folder, 6).output
    for words in ("run-0002, round 3 of 3", "north: 1-3", "sum 1.75, site 2.96", "model 5"):
        assert words in told
    assert "This is the current model." in told
    entry = answer("show", hub.folder, 6)
    assert entry["weights_digest"] == digest_weights(weights_of(2, 3))
    assert entry["parent"] == {"number": 5, "weights_digest": digest_weights(weights_of(2, 2))}


def test_an_unknown_number_is_wrong_input(hub: Workspace) -> None:
    told = call("show", hub.folder, 7)
    assert told.exit_code == 2
    assert "1 to 6" in told.stderr


def test_verifying_a_whole_registry_prints_its_head(hub: Workspace) -> None:
    call("list", hub.folder)
    told = answer("verify", hub.folder)
    assert told["whole"] is True
    assert told["models"] == 6
    assert call("verify", hub.folder, "--head", told["head"]).exit_code == 0


def test_verifying_fails_with_every_fault(hub: Workspace) -> None:
    call("list", hub.folder)
    for server_round in (1, 3):
        model_file(hub.runs / "run-0001", server_round).write_bytes(b"other")
    told = answer("verify", hub.folder, code=1)
    assert told["whole"] is False
    assert [fault[:7] for fault in told["faults"]] == ["Model 1", "Model 3"]


def test_a_journal_put_back_from_an_old_copy_fails_against_the_kept_head(hub: Workspace) -> None:
    call("list", hub.folder)
    journal = hub.folder / "models" / "journal.jsonl"
    old = journal.read_bytes()
    assert call("rollback", hub.folder, 3, "--why", "labels were wrong").exit_code == 0
    head = answer("verify", hub.folder)["head"]
    journal.write_bytes(old)
    assert answer("verify", hub.folder)["whole"] is True
    assert "cut off" in answer("verify", hub.folder, "--head", head, code=1)["faults"][0]


@pytest.mark.parametrize("head", ["", "8", "8:abc", "x:" + "0" * 64])
def test_a_head_of_another_form_is_wrong_input(hub: Workspace, head: str) -> None:
    told = call("verify", hub.folder, "--head", head)
    assert told.exit_code == 2


def test_a_broken_registry_stops_the_other_commands(hub: Workspace, tmp_path: Path) -> None:
    call("list", hub.folder)
    (hub.folder / "models" / "entries" / "0003.json").unlink()
    for words in (["list"], ["show", 3], ["rollback", 3, "--why", "x"]):
        told = call(words[0], hub.folder, *words[1:])
        assert told.exit_code == 1
        assert "entry of model 3 is missing" in told.stderr
    out = tmp_path / "out.safetensors"
    assert call("export", hub.folder, 6, "--out", out).exit_code == 1
    assert not out.exists()


def test_a_rollback_tells_what_was_and_is_kept(hub: Workspace) -> None:
    moved = answer("rollback", hub.folder, 3, "--why", "labels were wrong")
    assert (moved["current"], moved["previous"]) == (3, 6)
    listed = answer("list", hub.folder)
    assert listed["current"] == 3
    assert [(m["model"], m["why"]) for m in listed["moves"]] == [
        (3, "run-0001 completed"),
        (6, "run-0002 completed"),
        (3, "labels were wrong"),
    ]
    assert "labels were wrong" in call("list", hub.folder).output


def test_a_rollback_without_a_reason_is_wrong_usage(hub: Workspace) -> None:
    assert call("rollback", hub.folder, 3).exit_code == 2


def test_a_model_that_cannot_be_registered_is_named_beside_the_others(hub: Workspace) -> None:
    model_file(hub.runs / "run-0002", 2).write_bytes(b"other")
    told = call("list", hub.folder, "--all")
    assert told.exit_code == 0
    assert "round 2" in told.output
    assert len(answer("list", hub.folder, "--all")["models"]) == 5


@pytest.mark.parametrize("command", ["list", "verify"])
def test_another_folder_is_wrong_input(tmp_path: Path, command: str) -> None:
    assert call(command, tmp_path).exit_code == 2


def test_mlflow_needs_exactly_one_place(hub: Workspace, tmp_path: Path) -> None:
    assert call("mlflow", hub.folder).exit_code == 2
    both = call("mlflow", hub.folder, "--out", tmp_path, "--tracking-uri", "sqlite:///x.db")
    assert both.exit_code == 2


def test_listing_survives_a_run_folder_that_is_half_there(hub: Workspace) -> None:
    shutil.rmtree(hub.runs / "run-0002")
    (hub.runs / "run-0002").mkdir()
    (hub.runs / "run-0002" / "report.json").write_text("{}")
    told = call("list", hub.folder)
    assert told.exit_code == 0
    assert "run-0002" in told.output
