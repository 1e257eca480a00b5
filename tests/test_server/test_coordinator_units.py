"""The coordinator's systemd units: what they give up, and that a copy can be gone on from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.study_file import new_study
from server.units import copy_command, make_units, prune_command
from server.workspace import Workspace, create_workspace, open_workspace
from shared_models.console import InputError
from shared_models.systemd import write_units

ANALYZE = shutil.which("systemd-analyze")
SYSTEMD = pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze on this machine")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make(tmp_path / "50% of 'hub'")


def make(folder: Path, *, port: int = 8443) -> Workspace:
    study = new_study("trial", instrument="phq9")
    return create_workspace(
        folder, consortium_toml=study, name="trial", hosts=["127.0.0.1"], port=port
    )


def settings(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def test_service_starts_this_folder_and_writes_nowhere_else(workspace):
    (unit,) = make_units(workspace, user="vultus")
    service, folder = settings(unit.text), str(workspace.folder).replace("%", "%%")
    assert unit.name == "vultus-coordinator-trial.service"
    assert service["ExecStart"][0].endswith(f'"start" "{folder}"')
    assert service["ReadWritePaths"] == [f'"{folder}"']
    assert service["ProtectSystem"] == ["strict"]
    assert service["NoNewPrivileges"] == ["yes"]
    assert service["CapabilityBoundingSet"] == [""]
    assert service["RestartPreventExitStatus"] == ["2 3"]
    assert service["User"] == ["vultus"]


def test_only_a_port_below_1024_costs_a_capability(tmp_path):
    (unit,) = make_units(make(tmp_path / "hub", port=443), user="vultus")
    assert settings(unit.text)["AmbientCapabilities"] == ["", "CAP_NET_BIND_SERVICE"]
    assert settings(unit.text)["CapabilityBoundingSet"] == ["", "CAP_NET_BIND_SERVICE"]


def test_copy_reads_the_folder_and_has_no_network(workspace, tmp_path):
    _, copy, timer = make_units(workspace, user="vultus", backup=tmp_path / "copies")
    found = settings(copy.text)
    assert found["PrivateNetwork"] == ["yes"]
    assert found["ReadWritePaths"] == [f'"{tmp_path}/copies"']
    assert found["UMask"] == ["0077"]
    assert settings(timer.text)["Persistent"] == ["true"]


def test_copies_do_not_lie_in_what_they_copy(workspace):
    with pytest.raises(InputError, match="outside"):
        make_units(workspace, user="vultus", backup=workspace.folder / "copies")


def test_copy_that_was_unpacked_is_the_same_coordinator(workspace, tmp_path):
    """The unit's own command, run by a shell, then put back at another place."""
    (workspace.logs / "superlink.log").write_text("noise")
    workspace.database.write_text("of the engine")
    copies = tmp_path / "50% of the copies"
    copies.mkdir()
    shell(copy_command(workspace.folder, copies, name="trial"))
    (archive,) = copies.iterdir()
    restored = tmp_path / "restored"
    restored.mkdir(mode=0o700)
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", restored], check=True)
    found = open_workspace(restored)
    assert found.consortium.digest == workspace.consortium.digest
    assert found.authority.server().hosts == workspace.authority.server().hosts
    for kept in ("runs/keys/signing", "engine/secret", "coordinator.toml", "pki", "bundle"):
        assert (restored / kept).exists(), kept
    assert not found.database.exists()
    assert not (restored / "logs").exists()


def test_copy_that_failed_does_not_look_like_one(workspace, tmp_path):
    gone = workspace.folder / "not there"
    assert shell(copy_command(gone, tmp_path, name="trial"), check=False) == 2
    assert not list(tmp_path.glob("*.tar"))


def test_only_old_copies_of_this_study_are_removed(tmp_path):
    old = time.time() - 40 * 86400
    names = ("trial-2026-01-01.tar", "trial-2026-03-01.tar", "other-2026-01-01.tar", "letter.txt")
    for name in names:
        (tmp_path / name).touch()
        if "03-01" not in name:
            os.utime(tmp_path / name, (old, old))
    shell(prune_command(tmp_path, name="trial"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


def shell(command: str, *, check: bool = True) -> int:
    return subprocess.run(["/bin/sh", "-c", command], check=check, capture_output=True).returncode


def test_command_writes_three_files_and_says_what_to_do(workspace, tmp_path):
    words = ["units", str(workspace.folder), "--user", "vultus", "--backup", str(tmp_path / "b")]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "units")])
    assert result.exit_code == 0, result.output
    told = " ".join(result.stdout.split())
    assert (
        "systemctl enable --now vultus-coordinator-trial.service "
        "vultus-coordinator-backup-trial.timer"
    ) in told
    printed = CliRunner().invoke(app, words).stdout
    files = sorted((tmp_path / "units").iterdir())
    assert len(files) == 3
    for path in files:
        assert path.read_text() in printed


@SYSTEMD
def test_systemd_finds_nothing_wrong(workspace, tmp_path):
    made = make_units(workspace, user="root", backup=tmp_path / "copies")
    paths = write_units(made, tmp_path / "units")
    done = subprocess.run(
        [ANALYZE, "verify", *paths], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@SYSTEMD
@pytest.mark.parametrize(("kind", "most"), [("coordinator-trial", 2.5), ("backup-trial", 1.5)])
def test_systemd_rates_the_units_as_well_protected(workspace, tmp_path, kind, most):
    made = make_units(workspace, user="vultus", backup=tmp_path / "copies")
    paths = write_units(made, tmp_path / "units")
    (path,) = (p for p in paths if kind in p.name and p.suffix == ".service")
    done = subprocess.run(
        [ANALYZE, "security", "--offline=true", path],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze rates no unit files")
    (rating,) = re.findall(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(rating) <= most
