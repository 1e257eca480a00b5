"""The coordinator's manual: every command in it exists, every message is one of ours."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
import typer

from server.cli import app
from server.study_file import new_study
from server.units import KEPT_DAYS
from server.workspace import create_workspace

ROOT = Path(__file__).resolve().parents[2]
MANUAL = (ROOT / "docs" / "operations_coordinator.md").read_text(encoding="utf-8")


def find_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words call, and the words that are left for it."""
    found: click.Command = typer.main.get_command(app)
    while isinstance(found, click.Group) and words and words[0] in found.commands:
        found, words = found.commands[words[0]], words[1:]
    return found, words


def called() -> list[list[str]]:
    """What stands in a line of its own or in backticks, by words; continued lines are joined."""
    text = MANUAL.replace("\\\n", " ")
    found = re.findall(r"(?<!\.)vultus-coordinator ([a-z][^`\n#]*)", text)
    return [words.split() for words in found if not words.startswith("vultus-coordinator")]


def test_every_command_and_option_in_the_manual_exists():
    seen = set()
    for words in called():
        command, rest = find_command(words)
        if isinstance(command, click.Group):
            assert words[0].startswith("-"), words
            continue
        seen.add(command.name)
        options = {option for one in command.params for option in (*one.opts, "--help")}
        assert {word for word in rest if word.startswith("--")} <= options, words
    assert seen >= {"init", "add-site", "remove-site", "renew-site", "renew-certificate", "units",
                    "renew-authority", "start", "run", "status", "stop", "report", "kits",
                    "rollback", "export", "verify", "list", "show"}  # fmt: skip


def test_every_command_stands_in_the_manual():
    for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert f"vultus-coordinator {name} " in MANUAL, name


def rows() -> list[str]:
    table = MANUAL[MANUAL.index("| message | what it means") :]
    rest = table[: table.index("\n\n")]
    return [line.split("|")[1].strip() for line in rest.splitlines()[2:]]


@pytest.mark.parametrize("message", rows())
def test_every_message_in_the_manual_is_one_of_the_programs(message):
    files = [path for name in ("server", "privacy", "shared_models") for path in
             (ROOT / name).rglob("*.py")]  # fmt: skip
    text = re.sub(r'"\s*\n\s*f?"', "", "\n".join(p.read_text(encoding="utf-8") for p in files))
    assert message in text


def test_settings_in_the_manual_are_those_of_the_files(tmp_path):
    study = new_study("trial", instrument="phq9")
    for setting in re.findall(r"`(?:training|privacy)\.(\w+)`", MANUAL):
        assert f"\n{setting} = " in study
    folder = tmp_path / "hub"
    create_workspace(folder, consortium_toml=study, name="trial", hosts=["127.0.0.1"], port=8443)
    text = (folder / "coordinator.toml").read_text()
    for setting in ("health_port", "requests_per_s", "connections", "port"):
        assert setting in MANUAL
        assert f"\n{setting} = " in text
    assert f"older than {KEPT_DAYS} days" in MANUAL


def test_links_within_the_manual_lead_somewhere():
    headings = re.findall(r"^## (.+)$", MANUAL, re.MULTILINE)
    anchors = {re.sub(r"[^a-z -]", "", title.lower()).replace(" ", "-") for title in headings}
    linked = set(re.findall(r"\]\(#([a-z-]+)\)", MANUAL))
    assert linked == anchors
    for other, _ in re.findall(r"\]\((\w+\.md)(#[a-z-]+)?\)", MANUAL):
        assert (ROOT / "docs" / other).exists()


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_packages_are_signed_and_checked_as_the_manual_says(tmp_path):
    """The manual's own lines, run by a shell: an honest folder passes, an altered one does not."""
    hub, wheels = tmp_path / "hub", tmp_path / "wheelhouse"
    study = new_study("trial", instrument="phq9")
    create_workspace(hub, consortium_toml=study, name="trial", hosts=["127.0.0.1"], port=8443)
    shutil.copyfile(hub / "consortium.toml", tmp_path / "consortium.toml")
    wheels.mkdir()
    (wheels / "vultus-0.1.0-py3-none-any.whl").write_bytes(b"a package")
    shell("cd wheelhouse && sha256sum *.whl > SHA256SUMS", tmp_path)
    assert shell(line("ssh-keygen -Y sign").replace("/srv/vultus/hub", str(hub)), tmp_path) == 0
    checks = [line("sed -n"), line("ssh-keygen -Y verify"), line("(cd wheelhouse")]
    assert [shell(one, tmp_path) for one in checks] == [0, 0, 0]
    (wheels / "vultus-0.1.0-py3-none-any.whl").write_bytes(b"another")
    assert [shell(one, tmp_path) == 0 for one in checks] == [True, True, False]
    shell("cd wheelhouse && sha256sum *.whl > SHA256SUMS", tmp_path)
    assert [shell(one, tmp_path) == 0 for one in checks] == [True, False, True]


def test_coordinator_checks_a_certificate_of_deletion_as_the_manual_says(tmp_path):
    """A site's public key as it was sent, turned into what openssl reads."""
    from privacy.keys import create_identity_key, sign

    key = create_identity_key(tmp_path / "keys" / "identity", tmp_path / "north.pub")
    (tmp_path / "deletion.json").write_bytes(b"{}")
    (tmp_path / "deletion.sig").write_bytes(sign(key, b"{}"))
    lines = [line("ssh-keygen -e -m PKCS8"), line("openssl dgst -sha384 -verify north.pem")]
    assert [shell(one, tmp_path) for one in lines] == [0, 0]
    (tmp_path / "deletion.json").write_bytes(b"{ }")
    assert shell(lines[1], tmp_path) != 0


def line(start: str) -> str:
    (found,) = [one for one in MANUAL.splitlines() if one.startswith(start)]
    return found


def shell(command: str, folder: Path) -> int:
    done = subprocess.run(["/bin/sh", "-c", command], cwd=folder, capture_output=True, check=False)
    return done.returncode
