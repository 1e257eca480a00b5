"""The page of effects is the file's, and every picture that it names is there."""

import json
import re
from pathlib import Path

import matplotlib as mpl
import pytest
from typer.testing import CliRunner

from simulation.cli import app
from simulation.effect_file import DEPENDENCES, PARAMETERS, shipped_effects
from simulation.effect_pages import page as pages
from simulation.effect_pages.drawing import STYLE, save
from simulation.effect_pages.measured import claimed, observe
from simulation.effect_pages.page import WORDS, render_page
from simulation.effect_pages.parameter_pictures import draw_parameter

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def text():
    return render_page(shipped_effects(), file="`simulation/effects.toml`")


def test_the_page_in_the_manual_is_that_of_the_shipped_file(text):
    assert (DOCS / "cohort.md").read_text(encoding="utf-8") == text


def test_every_picture_is_there_and_none_is_left_over(text):
    named = re.findall(r"\((cohort/\w+\.svg)\)", text)
    there = {f"cohort/{path.name}" for path in (DOCS / "cohort").iterdir()}
    assert set(named) == there
    assert {f"cohort/{name}.svg" for name in PARAMETERS} <= there
    assert all((DOCS / path).stat().st_size < 80_000 for path in there)


def test_the_page_gives_every_source_and_says_what_is_invented(text):
    for source in shipped_effects().sources.values():
        assert f"https://doi.org/{source.doi}" in text
    assert "no claim about patients" in text
    assert text.count("| invented |") > 30
    assert set(WORDS) == set(DEPENDENCES)


def test_a_parameter_has_a_panel_for_each_dependence_and_equal_bytes(tmp_path):
    population = observe(shipped_effects(), persons=600)
    for name in ("smile_rate", "tempo", "brow_lowering"):
        with mpl.rc_context(STYLE):
            for copy in ("a", "b"):
                figure = draw_parameter(population, shipped_effects(), name)
                assert len(figure.axes) == len(claimed(shipped_effects(), name))
                save(figure, tmp_path / f"{name}-{copy}.svg")
        first, second = ((tmp_path / f"{name}-{copy}.svg").read_bytes() for copy in "ab")
        assert first == second


def test_the_command_writes_a_page_of_another_file(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "PERSONS", 400)
    monkeypatch.setattr(pages, "SUBJECTS", 25)
    shipped = (Path(pages.__file__).parents[1] / "effects.toml").read_text(encoding="utf-8")
    mine = tmp_path / "mine.toml"
    mine.write_text(shipped.replace("value = -0.60, sd = 0.35", "value = -0.11, sd = 0.35"))
    out = tmp_path / "told"
    done = CliRunner().invoke(app, ["effects", "--effects", str(mine), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.output.splitlines()[-1])
    told = Path(answer["page"]).read_text(encoding="utf-8")
    assert "`mine.toml`" in told
    assert "-0.11" in told
    assert len(list((out / "cohort").glob("*.svg"))) == len(list((DOCS / "cohort").iterdir()))


def test_a_file_in_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "taken").write_text("")
    done = CliRunner().invoke(app, ["effects", "--out", str(tmp_path / "taken")])
    assert done.exit_code == 2
    assert "Expected a folder for --out" in done.output
