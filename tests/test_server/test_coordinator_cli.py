"""``vultus-coordinator`` as a coordinator uses it, as far as no engine has to run."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import threading
import tomllib
import zipfile
from pathlib import Path

import pytest
from click.testing import Result
from played_engine import PlayedEngine
from typer.testing import CliRunner

from privacy.keys import create_identity_key
from server.bundle import build_bundle, load_bundle
from server.cli import app
from server.progress import Progress, write_progress
from server.resume import RunKeeper
from server.runs import RunEnd, follow, start_run, summarize
from server.study_file import new_study
from server.workspace import open_workspace
from shared_models.consortium import ConsortiumConfig, StudyConfig, load_consortium
from shared_models.supervision import only_one
from shared_models.toml import parse_toml

# The engine's own builder uses a pattern class that its dependency has renamed.

COMMANDS = (
    *("init", "add-site", "remove-site", "renew-site", "kits", "start", "run", "status", "report"),
    *("renew-certificate", "renew-authority"),
)


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def new_key(folder: Path) -> Path:
    create_identity_key(folder / "keys" / "identity", folder / "keys" / "identity.pub")
    return folder / "keys" / "identity.pub"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = call("init", tmp_path / "co", "--name", "north", "--port", free_port())
    assert made.exit_code == 0, made.output
    return tmp_path / "co"


@pytest.fixture
def with_site(folder: Path, tmp_path: Path) -> Path:
    key = new_key(tmp_path / "a")
    added = call("add-site", folder, "--id", "a", "--key", key, "--weight", 40)
    assert added.exit_code == 0, added.output
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    told = call(command, "--help")
    assert told.exit_code == 0
    assert len(told.output) > 200


def test_study_file_lists_every_setting_with_its_default() -> None:
    text = new_study("north", instrument="phq9")
    assert parse_toml(text, ConsortiumConfig, name="x") == ConsortiumConfig(
        StudyConfig("north", "phq9")
    )
    tables = tomllib.loads(text)
    sections = {"study", "features", "network", "training", "privacy", "fairness", "mitigation"}
    assert sections == set(tables)
    assert tables["training"]["rounds"] == 30
    assert "# smaller protects better" in text


def test_private_files_are_closed_to_others(folder: Path) -> None:
    for name in (
        "coordinator.toml",
        "pki/ca.key",
        "pki/server.key",
        "engine/secret",
        "runs/keys/signing",
    ):
        assert (folder / name).stat().st_mode & 0o077 == 0, name
    assert folder.stat().st_mode & 0o077 == 0


def test_the_study_names_the_key_that_signs_its_models(folder: Path) -> None:
    line = (folder / "runs" / "keys" / "signing.pub").read_text().strip()
    assert open_workspace(folder).consortium.coordinator_key == line
    assert "signing" not in (folder / "bundle" / "vultus.fab").read_bytes().decode("latin-1")


@pytest.mark.parametrize("lost", [True, False])
def test_a_run_is_not_begun_with_a_key_that_sites_would_refuse(
    with_site: Path, tmp_path: Path, lost: bool
) -> None:
    key = with_site / "runs" / "keys" / "signing"
    key.unlink()
    if not lost:
        new_key(tmp_path / "other")
        key.write_bytes((tmp_path / "other" / "keys" / "identity").read_bytes())
        key.chmod(0o600)
    told = call("run", with_site)
    assert told.exit_code == 2
    assert ("signing key cannot be used" if lost else "sites would refuse") in told.stderr
    assert not list((with_site / "runs").glob("run-*"))


def test_coordinator_without_host_listens_on_loopback_only(folder: Path) -> None:
    settings = open_workspace(folder).settings
    assert settings.listen == "127.0.0.1"


def test_coordinator_with_outside_host_names_it_to_sites_and_in_its_certificate(
    tmp_path: Path,
) -> None:
    made = call("init", tmp_path / "co", "--name", "north", "--host", "fl.example.org")
    assert made.exit_code == 0
    workspace = open_workspace(tmp_path / "co")
    assert workspace.settings.address == "fl.example.org:8443"
    assert workspace.settings.listen != "127.0.0.1"
    assert workspace.local_address == "127.0.0.1:8443"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--name", "No good"], "study.name"),
        (["--name", "x", "--instrument", "horoscope"], "study.instrument"),
        (["--name", "x", "--host", "two words"], "host names"),
    ],
)
def test_init_refuses_what_could_not_work(
    tmp_path: Path, options: list[str], complaint: str
) -> None:
    refused = call("init", tmp_path / "co", *options)
    assert refused.exit_code == 2
    assert complaint in refused.stderr


def test_init_never_replaces_a_coordinator(folder: Path) -> None:
    before = (folder / "pki" / "ca.crt").read_bytes()
    assert call("init", folder, "--name", "south").exit_code == 2
    assert (folder / "pki" / "ca.crt").read_bytes() == before


def test_bundle_holds_no_code_and_is_the_same_when_built_again(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, second = build_bundle(tmp_path), build_bundle(tmp_path / "again")
    assert first.sha256 == second.sha256
    names = zipfile.ZipFile(first.path).namelist()
    assert sorted(names) == [".info/CONTENT", "LICENSE", "pyproject.toml"]


def test_bundle_that_changed_on_disk_is_not_sent(tmp_path: Path) -> None:
    build_bundle(tmp_path)
    bundle = load_bundle(tmp_path)
    bundle.path.write_bytes(b"other")
    with pytest.raises(ValueError, match="has changed"):
        _ = bundle.content


def test_kit_names_the_digests_of_what_it_brings(with_site: Path) -> None:
    kit = with_site / "kits" / "a"
    terms = tomllib.loads((kit / "kit.toml").read_text())["kit"]
    files = tomllib.loads((kit / "kit.toml").read_text())["files"]
    assert files["consortium.toml"] == load_consortium(kit / "consortium.toml").digest
    assert terms["bundle_sha256"] == open_workspace(with_site).bundle.sha256
    assert (kit / "ca.crt").read_bytes() == (with_site / "pki" / "ca.crt").read_bytes()
    assert not list(kit.rglob("*key*"))


def test_second_site_changes_nothing_that_the_first_agreed_to(
    with_site: Path, tmp_path: Path
) -> None:
    before = load_consortium(with_site / "kits" / "a" / "consortium.toml").digest
    added = call("add-site", with_site, "--id", "b", "--key", new_key(tmp_path / "b"))
    assert added.exit_code == 0
    assert load_consortium(with_site / "kits" / "b" / "consortium.toml").digest == before
    now = open_workspace(with_site).consortium
    assert (now.digest, now.roster_number) == (before, 2)
    assert [site.id for site in now.config.sites] == ["a", "b"]


def test_adding_a_site_leaves_the_study_file_alone(folder: Path, tmp_path: Path) -> None:
    file = folder / "consortium.toml"
    edited = file.read_text().replace("rounds = 30", "rounds = 12 # agreed in May")
    file.write_text(edited)
    added = call("add-site", folder, "--id", "a", "--key", new_key(tmp_path / "a"))
    assert added.exit_code == 0
    assert file.read_text() == edited


def test_add_site_refuses_a_taken_id_and_a_taken_key(with_site: Path, tmp_path: Path) -> None:
    before = (with_site / "runs" / "roster.json").read_bytes()
    same_id = call("add-site", with_site, "--id", "a", "--key", new_key(tmp_path / "b"))
    key = tmp_path / "a" / "keys" / "identity.pub"
    same_key = call("add-site", with_site, "--id", "c", "--key", key)
    assert (same_id.exit_code, same_key.exit_code) == (2, 2)
    assert "'a'" in same_id.stderr
    assert "key of site 'a'" in same_key.stderr
    assert (with_site / "runs" / "roster.json").read_bytes() == before


def test_add_site_refuses_a_private_key_and_says_that_it_is_burnt(
    folder: Path, tmp_path: Path
) -> None:
    new_key(tmp_path / "a")
    refused = call("add-site", folder, "--id", "a", "--key", tmp_path / "a" / "keys" / "identity")
    assert refused.exit_code == 2
    assert "delete this copy" in refused.stderr


@pytest.mark.parametrize("content", ["", "ssh-ed25519 AAAA", "\udcff"])
def test_add_site_refuses_other_files(folder: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "identity.pub"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    refused = call("add-site", folder, "--id", "a", "--key", file)
    assert refused.exit_code == 2
    assert "identity.pub" in refused.stderr


@pytest.mark.parametrize("command", ["run", "status"])
def test_command_without_a_running_coordinator_says_how_to_start_it(
    with_site: Path, command: str
) -> None:
    told = call(command, with_site)
    assert told.exit_code == 1
    assert "vultus-coordinator start" in told.stderr
    assert not list((with_site / "runs").glob("run-*"))


def test_run_without_sites_is_wrong_usage(folder: Path) -> None:
    told = call("run", folder)
    assert told.exit_code == 2
    assert "add-site" in told.stderr


@pytest.mark.parametrize("command", ["start", "run", "status", "report"])
def test_command_on_another_folder_says_so(tmp_path: Path, command: str) -> None:
    told = call(command, tmp_path)
    assert told.exit_code == 2
    assert "vultus-coordinator init" in told.stderr


def test_second_start_of_a_folder_is_refused(with_site: Path) -> None:
    with only_one(with_site / "engine" / "lock", what="this test"):
        refused = call("start", with_site)
    assert refused.exit_code == 1
    assert "already being served" in refused.stderr


def test_start_on_a_taken_port_names_the_reason(
    with_site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.endpoint.FREE_WITHIN_S", 0.5)
    port = open_workspace(with_site).settings.port
    with socket.create_server(("127.0.0.1", port)) as taken:
        # Whoever holds the port closes every connection, as a server of another kind would.
        threading.Thread(target=_hang_up, args=(taken,), daemon=True).start()
        refused = call("start", with_site)
    assert refused.exit_code == 1
    assert "address already in use" in refused.stderr


def _hang_up(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


def test_report_without_a_run_names_what_there_is(with_site: Path) -> None:
    told = call("report", with_site, "run-0007")
    assert told.exit_code == 2
    assert "run-0007" in told.stderr


def test_run_starts_the_very_bytes_that_the_kits_name(with_site: Path) -> None:
    workspace, engine = open_workspace(with_site), PlayedEngine()
    run = start_run(workspace, engine)
    [(bundle, sha256, config)] = engine.started
    kit = tomllib.loads((with_site / "kits" / "a" / "kit.toml").read_text())["kit"]
    assert sha256 == kit["bundle_sha256"]
    assert bundle == workspace.bundle.content
    assert config == {"run-folder": str(run.folder)}
    study = (run.folder / "consortium.toml").read_bytes()
    assert study == (with_site / "consortium.toml").read_bytes()


def test_second_run_waits_for_the_first(with_site: Path) -> None:
    workspace, engine = open_workspace(with_site), PlayedEngine()
    first = start_run(workspace, engine)
    # Over at the engine is not over: the run is about to be taken up again.
    engine.end("failed")
    with pytest.raises(Exception, match="run-0001"):
        start_run(workspace, engine)
    write_progress(first.folder, Progress("1", 2, 2, "completed"))
    assert start_run(workspace, engine).name == "run-0002"


def test_run_that_nobody_takes_up_again_is_told_with_the_reason(
    with_site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.runs.RESUMED_WITHIN_S", 0.0)
    engine = PlayedEngine()
    run = start_run(open_workspace(with_site), engine)
    engine.end("failed", "the app stopped answering")
    answer = summarize(run, follow(run, engine, show=lambda _: None))
    assert answer["status"] == "failed"
    assert answer["detail"] == "the app stopped answering"
    assert answer["report"] is None


def test_interrupting_run_stops_it_for_good(
    with_site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = PlayedEngine()

    def interrupt(*_: object, **__: object) -> RunEnd:
        raise KeyboardInterrupt

    monkeypatch.setattr("server.deployment.engine_of", lambda _workspace: engine)
    monkeypatch.setattr("server.runs.follow", interrupt)
    told = call("run", with_site, "--json")
    assert told.exit_code == 1
    assert json.loads(told.stdout.splitlines()[-1])["status"] == "stopped"
    assert engine.run_state(1).outcome == "stopped"
    assert RunKeeper(open_workspace(with_site), engine).look() is None
    assert len(engine.started) == 1


def test_summary_has_the_keys_of_the_contract(with_site: Path) -> None:
    run = start_run(open_workspace(with_site), PlayedEngine())
    numbers = {
        "status": "completed",
        "rounds": [{}, {}],
        "weights_digest": "ab",
        "epsilon_sum": 1.5,
        "epsilon_site": 3.0,
    }
    (run.folder / "report.json").write_text(json.dumps(numbers))
    (run.folder / "report.html").write_text("<html></html>")
    answer = summarize(run, RunEnd("completed"))
    contract = {"run_id", "status", "rounds", "weights_digest", "epsilon", "report"}
    assert contract <= answer.keys()
    assert answer["rounds"] == 2
    assert answer["epsilon"] == {"sum": 1.5, "site": 3.0}
    assert json.loads(json.dumps(answer)) == answer


def test_secret_and_keys_are_never_printed(folder: Path, tmp_path: Path) -> None:
    told = call("add-site", folder, "--id", "a", "--key", new_key(tmp_path / "a")).output
    secret = (folder / "engine" / "secret").read_text()
    assert secret not in told
    assert not re.search(r"PRIVATE KEY", told)


def test_moved_folder_still_opens(with_site: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(with_site, moved)
    assert open_workspace(moved).consortium.config.site("a") is not None
