"""The report in a real browser: at every width, in print, without sight, without a program."""

import itertools
import re

import pytest
import reported_runs
from reading_browser import NARROWEST_PX, browse, needs_browser, read_page
from reported_runs import ODD, simulated_report

from server.report import render_page

pytestmark = needs_browser

NOTHING = (
    "pale", "paleDrawn", "small", "unnamed", "dangling", "unreachable", "bareTables", "bareHeads",
    "unspoken",
)  # fmt: skip


def check(found):
    assert {name: found[name] for name in NOTHING if found[name]} == {}
    assert found["overflow"] <= 0
    assert found["texts"] > 60
    assert found["styled"], "the page's policy refuses its own style"
    assert (found["fetched"], found["scripts"], found["main"]) == (0, 0, 1)
    assert (found["firstLink"], found["skipShows"]) == ("#summary", True)
    assert found["levels"][0] == 1
    assert found["levels"].count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(found["levels"]))


@pytest.mark.parametrize(
    ("language", "width_px", "dark"),
    [("en", 1200, False), ("zh", NARROWEST_PX, False), ("en", NARROWEST_PX, True)],
)
def test_the_page_is_readable_at_every_width(language, width_px, dark, tmp_path):
    page = render_page(simulated_report(), language)
    found = read_page(page, tmp_path, width_px=width_px, dark=dark)
    check(found)
    assert found["dark"] == dark
    assert found["language"] == {"en": "en", "zh": "zh-Hans"}[language]


@pytest.mark.nightly
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("case", ODD)
def test_odd_runs_are_readable_on_a_phone(case, language, tmp_path):
    check(read_page(render_page(ODD[case](), language), tmp_path))


def test_what_is_looked_for_is_found_when_it_is_there(tmp_path):
    page = render_page(simulated_report())
    spoilt = (
        page.replace("</h2>", "</h2><h4>too deep</h4>", 1)
        .replace("<p>", '<p aria-label=""><svg role="img"></svg>', 1)
        .replace("<caption>", "<caption hidden>", 1)
        .replace('scope="col"', "", 1)
        .replace('href="#groups"', 'href="#nowhere"', 1)
        .replace("<main>", "<main><pre>" + "wide " * 100 + "</pre><script>1</script>")
    )
    found = read_page(spoilt, tmp_path)
    assert found["overflow"] > 0
    assert found["dangling"]
    assert found["bareHeads"]
    assert found["unspoken"]
    assert found["scripts"] == 1
    assert 2 in [b - a for a, b in itertools.pairwise(found["levels"])]
    other = page.replace("--muted: #59646a", "--muted: #a9b4ba")
    assert not read_page(other, tmp_path)["styled"], "the policy lets a changed style through"


def test_a_pale_text_is_noticed(tmp_path, monkeypatch):
    page = render_page(simulated_report())
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    found = read_page(free.replace("--muted: #59646a", "--muted: #a9b4ba"), tmp_path)
    assert found["pale"]


def test_the_page_prints_on_a4(tmp_path):
    page, paper = tmp_path / "page.html", tmp_path / "paper.pdf"
    page.write_text(render_page(reported_runs.usual_report()), encoding="utf-8")
    browse(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={paper}", page.as_uri())
    content = paper.read_bytes()
    assert content.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    assert 4 <= pages <= 9
    boxes = re.findall(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", content)
    assert {(round(float(w)), round(float(h))) for w, h in boxes} <= {(595, 842)}
