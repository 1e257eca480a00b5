"""The container files: an ordinary account, a base that is named, programs that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(params=["site", "coordinator"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def read(kind: str) -> str:
    text = (ROOT / "deploy" / f"{kind}.Containerfile").read_text(encoding="utf-8")
    return text.replace("\\\n", " ")


def last_stage(kind: str) -> str:
    return read(kind).rpartition("\nFROM ")[2]


def test_processes_run_as_an_ordinary_account(kind):
    users = re.findall(r"^USER (\S+)$", last_stage(kind), re.MULTILINE)
    assert users == ["10001:10001"]
    assert "useradd --uid 10001" in last_stage(kind)


def test_base_is_named_with_registry_and_version(kind):
    (base,) = re.findall(r"^ARG BASE=(\S+)$", read(kind), re.MULTILINE)
    assert re.fullmatch(r"docker\.io/library/python:3\.11-slim-\w+", base)
    froms = re.findall(r"^FROM (\S+)", read(kind), re.MULTILINE)
    assert froms == ["${BASE}"] * 2


def test_extra_and_program_are_those_of_the_project(kind):
    assert kind in PROJECT["optional-dependencies"]
    assert read(kind).count(f"[{kind}]") == 2
    (program,) = re.findall(r'^ENTRYPOINT \["([\w-]+)"\]$', read(kind), re.MULTILINE)
    assert program in PROJECT["scripts"]


def test_packages_of_a_wheelhouse_are_checked_before_they_are_installed(kind):
    text = read(kind)
    assert text.index("sha256sum --check --strict") < text.index("--no-index --find-links")


def test_only_what_a_build_needs_reaches_it():
    lines = (ROOT / ".containerignore").read_text().split()
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert set(packages["targets"]["wheel"]["packages"]) <= allowed
    assert not allowed & {"tests", "docs", ".git", ".venv"}
