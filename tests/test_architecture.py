"""The promises of the tree itself: a bundle without code, commands with help, layers, wheels."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import typer

from client.cli import app as site_cli
from server.bundle import build_bundle
from server.cli import app as coordinator_cli
from simulation.cli import app as simulate_cli

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "vultus-site": site_cli,
    "vultus-coordinator": coordinator_cli,
    "vultus-simulate": simulate_cli,
}


def commands() -> list[tuple[str, str]]:
    return [
        (script, str(name))
        for script, app in SCRIPTS.items()
        for name in typer.main.get_command(app).commands  # type: ignore[attr-defined]
    ]


@pytest.mark.parametrize(("script", "name"), commands())
def test_every_command_is_documented_where_a_newcomer_looks(script: str, name: str) -> None:
    command = typer.main.get_command(SCRIPTS[script]).commands[name]  # type: ignore[attr-defined]
    assert command.help
    undocumented = [p.name for p in command.params if not getattr(p, "help", "")]
    assert not undocumented
    assert f"{script} {name}" in (ROOT / "README.md").read_text()


def test_the_bundle_holds_no_code_and_no_data(tmp_path: Path) -> None:
    with zipfile.ZipFile(build_bundle(tmp_path).path) as bundle:
        names = bundle.namelist()
    assert names
    assert not [n for n in names if Path(n).suffix in {".py", ".csv", ".json", ".safetensors"}]


def test_the_bundle_names_the_apps_that_the_project_installs(tmp_path: Path) -> None:
    with zipfile.ZipFile(build_bundle(tmp_path).path) as bundle:
        shipped = tomllib.loads(bundle.read("pyproject.toml").decode())["tool"]["flwr"]["app"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert shipped["components"] == project["components"]
    assert shipped["fab-include"] == project["fab-include"] == ["LICENSE"]


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; import {module}; "
        "print([m for m in ('torch', 'flwr', 'cv2', 'mediapipe', 'opacus', 'scipy', 'pydantic') "
        "if m in sys.modules])"
    )
    for module in ("client.cli", "server.cli", "simulation.cli"):
        done = subprocess.run(
            [sys.executable, "-c", program.format(module=module)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == "[]", module


def test_what_keeps_the_engine_alive_loads_no_torch() -> None:
    program = "import sys; import server.deployment; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_import_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "6 kept, 0 broken" in done.stdout


def test_only_the_named_files_speak_flower() -> None:
    expected = {
        "client/app.py", "client/learning/egress.py", "client/learning/kept_reply.py",
        "server/admission.py", "server/app.py", "server/app_gate.py", "server/app_starter.py",
        "server/bundle.py", "server/control.py", "server/conversation.py", "server/exchange.py",
        "server/model_requests.py", "server/rounds.py",
        "server/secure_sums.py", "server/strategy.py",
        "shared_models/records.py", "shared_models/weights.py", "simulation/engine.py",
        "simulation/array_codec.py", "simulation/ray_engine.py",
    }  # fmt: skip
    found = {
        str(path.relative_to(ROOT))
        for package in ("client", "privacy", "server", "shared_models", "simulation")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"^\s*(from|import) flwr", path.read_text(), re.MULTILINE)
    }
    assert {name for name in found if not name.startswith("client/service/")} == expected


FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def find_dangers(node: ast.AST) -> set[str]:
    """What in a syntax node could turn bytes or text into running code."""
    match node:
        case ast.Import(names=names):
            return FORBIDDEN_MODULES & {name.name.split(".")[0] for name in names}
        case ast.ImportFrom(module=str(module)):
            return FORBIDDEN_MODULES & {module.split(".")[0]}
        case ast.Call(func=ast.Name(id="eval" | "exec")):
            return {"eval or exec"}
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load")):
            return {"torch.load"}
        case ast.keyword(arg="allow_pickle", value=ast.Constant(value=True)):
            return {"allow_pickle"}
    return set()


def test_nothing_is_unpickled_and_no_text_becomes_code() -> None:
    assert find_dangers(ast.parse("torch.load(f)").body[0].value) == {"torch.load"}  # type: ignore[attr-defined]
    offenders = [
        f"{path.name}: {danger}"
        for package in ("client", "privacy", "server", "shared_models", "simulation")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for danger in find_dangers(node)
    ]
    assert offenders == []
