"""The researcher's notebook runs from top to bottom and draws its figure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from traitlets.config import Config

from simulation.research import Setting, simulate, sweep

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "walkthrough.ipynb"
SMALL = """
SITES, SUBJECTS, ROUNDS = 3, 20, 2
SEEDS, WORKERS = 1, 1
EPSILONS = [3, 8]
DIFFERENCES = [3]
"""


def tagged(notebook, tag: str):
    return next(c for c in notebook.cells if tag in c.metadata.get("tags", []))


def execute(monkeypatch: pytest.MonkeyPatch, parameters: str | None):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    if parameters is not None:
        tagged(notebook, "parameters").source = parameters
    # The kernel is another process: what is tested here has to be what it imports.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    # Sockets of files, which other accounts of the machine cannot reach.
    config = Config({"KernelManager": {"transport": "ipc"}})
    nbclient.NotebookClient(notebook, timeout=550, config=config).execute()
    return notebook


def check(notebook) -> None:
    (figure,) = tagged(notebook, "key-figure").outputs
    assert len(figure["data"]["image/png"]) > 10_000
    drawn = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(drawn) == 4
    text = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))
    for told in ("AUROC as the coordinator sees it", "reachable AUROC 0.9", "comparison.pdf"):
        assert told in text


@pytest.mark.slow
def test_the_walkthrough_runs_and_draws_its_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    check(execute(monkeypatch, SMALL))


@pytest.mark.nightly
def test_the_walkthrough_runs_at_the_size_that_readers_see(monkeypatch: pytest.MonkeyPatch) -> None:
    check(execute(monkeypatch, None))


def test_the_notebook_is_stored_without_outputs() -> None:
    cells = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    assert not [cell for cell in cells if cell.outputs or cell.execution_count]
    assert NOTEBOOK.stat().st_size < 20_000


def test_what_cannot_be_simulated_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(ValueError, match="new or empty folder"):
        simulate(tmp_path, sites=3)
    with pytest.raises(ValueError, match="at least 3 sites"):
        simulate(tmp_path / "new", sites=2, mode="distributed")
    with pytest.raises(ValueError, match="at least 3 sites"):
        sweep("sites", [2, 4], Setting(subjects=20))
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]
