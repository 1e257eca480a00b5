"""The manual for hospital IT: every command in it exists, every message is one of ours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from client.cli import app

ROOT = Path(__file__).resolve().parents[2]
MANUAL = (ROOT / "docs" / "operations_site.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_every_command_and_option_in_the_manual_exists():
    called = re.findall(r"vultus-site ([a-z]+(?:-[a-z]+)*)((?: [^\s`]+)*)", MANUAL)
    assert {name for name, _ in called} >= {
        "init", "doctor", "check", "extract", "units", "forget", "uninstall",
    }  # fmt: skip
    for name, words in called:
        options = {option for one in COMMANDS[name].params for option in one.opts}
        assert set(re.findall(r"--[a-z-]+", words)) <= options, name


def rows() -> list[str]:
    table = MANUAL[MANUAL.index("| message | what it means") :]
    return [line.split("|")[1].strip() for line in table.splitlines()[2:] if line.startswith("|")]


def source_text() -> str:
    """All messages of the source, as they read when their parts are joined."""
    files = [path for name in ("client", "privacy", "shared_models") for path in
             (ROOT / name).rglob("*.py")]  # fmt: skip
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return re.sub(r'"\s*\n\s*f?"', "", text)


@pytest.mark.parametrize("message", rows())
def test_every_message_in_the_manual_is_one_of_the_programs(message):
    text = source_text()
    for part in message.split("…"):
        assert part.strip() in text, part


def test_settings_in_the_manual_are_those_of_the_template(tmp_path):
    template = (ROOT / "client" / "site_template.py").read_text(encoding="utf-8")
    for setting in ('face_model = "face_landmarker.task"', "[extraction]", "[service]", "[policy]"):
        assert setting in MANUAL
        assert setting in template


def test_both_manuals_check_packages_in_the_same_way():
    """That the lines do what they say is shown for the coordinator's manual."""
    other = (ROOT / "docs" / "operations_coordinator.md").read_text(encoding="utf-8")
    starts = ("sed -n", "ssh-keygen -Y verify", "(cd wheelhouse", "/srv/vultus/env/bin/pip install")
    lines = [line for line in MANUAL.splitlines() if line.startswith(starts)]
    assert len([line for line in lines if line in other]) == len(starts)


def test_container_of_the_extractor_has_no_network_and_that_of_the_service_no_videos():
    text = MANUAL.replace("\\\n", " ")
    extractor, service = re.findall(r"podman run [^\n]*vultus-site (?:extract|start) /site", text)
    assert "--network none" in extractor
    assert "/videos" not in service
    for option in ("--read-only", "--cap-drop all", "--security-opt no-new-privileges"):
        assert option in extractor
        assert option in service
    assert ":/videos:ro" in extractor


def test_links_within_the_manual_lead_somewhere():
    headings = re.findall(r"^## (.+)$", MANUAL, re.MULTILINE)
    anchors = {re.sub(r"[^a-z -]", "", title.lower()).replace(" ", "-") for title in headings}
    assert set(re.findall(r"\]\(#([a-z-]+)\)", MANUAL)) <= anchors
