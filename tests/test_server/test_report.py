"""The report: one self-contained page and its JSON, with nothing in them that must stay inside."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from server.history import (
    RoundReport,
    RunReport,
    SitePrivacy,
    Truth,
    evaluation_report,
)
from server.report import attendance, render_page, write_report
from server.reporting.phrases import format_number
from shared_models.tallies import GroupTally

RANGE = (0.0, 27.0, 10.0)
# Counts that no other number of the report contains.
SMALL, NEXT = 7777, 8888
ERROR_UNIT = 1 / GroupTally("", "", np.ones(19)).errors[0]
SITES = ("clinic-a", "clinic-b", "clinic-c")


def group_of(count, attribute="overall", group="all", stddev=2.0):
    shape = np.array([0, 1, 4, 9, 6, 3, 1, 0, 1, 9, 14, 12, 5, 2, 1, 0], dtype=float)
    sums = count * shape / shape.sum()
    errors = count * np.array([0.15, 0.01, 0.04]) * ERROR_UNIT
    return GroupTally(attribute, group, np.append(sums, errors), stddev)


def tallies():
    return [
        group_of(90_000),
        group_of(60_000, "age_band", "18-39"),
        group_of(SMALL, "age_band", "40-59"),
        group_of(NEXT, "age_band", "60+"),
        group_of(50_000, "sex", "female"),
        group_of(40_000, "sex", "male"),
        group_of(9_000, "site", "clinic-a", stddev=3_000.0),
        group_of(70_000, "site", "clinic-b"),
    ]


def round_of(server_round):
    absent = server_round == 2
    return RoundReport(
        server_round=server_round,
        seconds=1.5,
        participants=SITES[:2] if absent else SITES,
        missing=("clinic-c",) if absent else (),
        refusals=(("clinic-c", "budget_spent", "Expected a plan within the cap"),)
        if server_round == 3
        else (),
        weights_digest=f"{server_round:064x}",
        update_norm=0.25,
    )


def make_report(**changes):
    report = RunReport(
        run_id="run-1",
        study_name="mood",
        instrument="phq9",
        threshold=10.0,
        score_range=RANGE,
        mode="distributed",
        target_epsilon=3.0,
        delta=1e-3,
        noise_multiplier=5.7,
        max_grad_norm=0.5,
        tally_noise_multiplier=2.1,
        fairness_epsilon=2.5,
        epsilon_sum=2.96,
        epsilon_site=9.87,
        rounds=tuple(round_of(r) for r in (1, 2, 3)),
        evaluations=(
            evaluation_report(1, [group_of(90_000)], score_range=RANGE, min_cell=10),
            evaluation_report(
                3, tallies(), score_range=RANGE, min_cell=8000, expected=[("site", "clinic-c")]
            ),
        ),
        sites=tuple(SitePrivacy(site, 2.96, 2.41, 3) for site in SITES),
        min_cell=8000,
        weights_digest="ab" * 32,
        consortium_digest="cd" * 32,
        versions={"vultus": "0.1.0", "torch": "2.13.0"},
        status="completed",
        seconds={"total": 4.5},
    )
    return replace(report, **changes)


def truth():
    groups = {
        ("age_band", "18-39"): (60_000, 0.71, 0.7, 0.3),
        ("age_band", "40-59"): (SMALL, 0.72, 0.7, None),
        ("age_band", "60+"): (NEXT, 0.73, 0.7, 0.3),
    }
    return Truth(((1, 0.6, 5.0), (3, 0.7, None)), groups, "from the generator.")


class Outline(HTMLParser):
    """Tags and text of a page; complains about tags left open."""

    VOID = ("meta", "br", "hr", "img", "link")

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.ids, self.words = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))


def text_of(page):
    return Outline(page).text


@pytest.fixture(scope="module")
def page():
    return render_page(make_report())


def test_page_loads_nothing_from_anywhere(page):
    assert not re.search(r"""(src|href|action|data|poster)\s*=\s*["']?(https?:|//|ftp:)""", page)
    assert not re.search(r"@import|url\((?!#)|cdn\.|<script|<link|<iframe", page)


def test_page_is_well_formed_and_no_two_elements_share_an_id(page):
    ids = Outline(page).ids
    assert len(ids) == len(set(ids))


def test_page_is_accessible_without_colour_or_sight(page):
    outline = Outline(page)
    drawings = [attributes for tag, attributes in outline.tags if tag == "svg"]
    told = [d["aria-labelledby"] for d in drawings if d.get("role") == "img"]
    assert len(told) == 3
    assert set(told) <= set(outline.ids)
    assert all("role" in d or d.get("aria-hidden") == "true" or "x" in d for d in drawings)
    tables = page.count("<table")
    assert tables == page.count("<caption>") == page.count("<thead>") > 6
    assert all("scope" in attributes for tag, attributes in outline.tags if tag == "th")
    assert ("html", {"lang": "en"}) in outline.tags


def test_both_files_are_written_with_the_same_bytes_each_time(tmp_path):
    report = make_report(truth=truth())
    first, second = write_report(report, tmp_path / "a"), write_report(report, tmp_path / "b")
    assert first == tmp_path / "a" / "report.html"
    for name in ("report.html", "report.zh.html", "report.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert second.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_json_reads_back_into_the_same_report_and_page(tmp_path):
    report = make_report(seed=7)
    page = write_report(report, tmp_path)
    again = RunReport.from_json((tmp_path / "report.json").read_bytes())
    assert again == report
    siblings = {"zh": "report.zh.html"}
    assert render_page(again, siblings=siblings) == page.read_text(encoding="utf-8")
    with_truth = make_report(truth=truth())
    once = RunReport.from_json(with_truth.to_json())
    assert RunReport.from_json(once.to_json()) == once


def test_every_headline_figure_is_in_the_json(page):
    report = json.loads(make_report().to_json())
    auroc, mae = (
        report["evaluations"][-1]["fairness"]["overall"]["metrics"][name]
        for name in ("auroc", "mae")
    )
    half = (auroc["high"] - auroc["low"]) / 2
    assert re.findall(r'class="big">([^<]+)<', page) == [
        f"{auroc['value']:.2f}",
        "4",
        f"ε {report['epsilon_sum']:.2f}",
        "than chance",
        f"± {half:.2f}",
    ]
    text = text_of(page)
    assert f"AUROC [{auroc['low']:.2f}, {auroc['high']:.2f}]" in text
    assert f"off by {mae['value']:.1f} points on average" in text
    assert f"could learn{report['epsilon_site']:.2f}" not in text
    tiles = re.findall(r"<dd>([^<]+)<span", page)
    assert tiles == ["2.96", "9.87", "2.50", "0.001"]


def test_counts_of_withheld_groups_are_in_neither_file(tmp_path):
    page = write_report(make_report(truth=truth()), tmp_path)
    for file in (page, tmp_path / "report.zh.html", tmp_path / "report.json"):
        text = file.read_text(encoding="utf-8")
        assert str(SMALL) not in text
        assert str(NEXT) not in text
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    bands = [
        g for g in report["evaluations"][-1]["fairness"]["by_group"] if g["attribute"] == "age_band"
    ]
    assert [(g["state"], g["count"]) for g in bands] == [
        ("reported", 60_000),
        ("suppressed", None),
        ("suppressed", None),
    ]
    assert [row[1] for row in report["truth"]["by_group"]] == ["18-39"]


def test_no_histogram_or_error_sum_leaves_with_the_report():
    text = make_report().to_json()
    assert "sums" not in text
    numbers = {float(n) for n in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text)}
    for tally in tallies():
        assert not numbers & {float(entry) for entry in tally.sums if entry > 1}


def test_groups_without_figures_are_described_in_words(page):
    text = text_of(page)
    assert text.count("Withheld to protect its subjects; this is not zero") == 2
    assert "Withheld to protect small groups: Age band 40-59, Age band 60+." in text
    assert "Too few subjects to say anything: Site clinic-a." in text
    assert "Not reported by anybody: Site clinic-c." in text


def test_names_with_markup_are_shown_as_text():
    evil = "<script>alert(1)</script>&\"'"
    marked = evaluation_report(
        3,
        [group_of(900), group_of(900, "site", evil), group_of(900, "site", "b")],
        score_range=RANGE,
        min_cell=10,
    )
    report = make_report(
        study_name=evil,
        evaluations=(marked,),
        sites=(SitePrivacy(evil, 1.0, 1.0, 1),),
        rounds=(replace(round_of(1), refusals=((evil, evil, evil),), missing=(evil,)),),
        status_detail=evil,
        versions={evil: evil},
    )
    page = render_page(report)
    assert "<script" not in page
    assert "alert(1)" in text_of(page)
    assert not [tag for tag, _ in Outline(page).tags if tag == "script"]


def test_a_failed_run_says_why_and_what_is_unknown():
    detail = "Round 1 needs 3 sites, 1 took part: clinic-b did not answer"
    report = make_report(
        status="failed", status_detail=detail, rounds=(), evaluations=(), epsilon_sum=None
    )
    text = text_of(render_page(report))
    assert f"This run failed. {detail}" in text
    assert "The model was not evaluated in this run." in text
    assert "the run ended before the model was judged" in text
    assert "not measured" in text
    assert "no privacy" not in text
    assert text.count("none spent") == 3


def test_a_run_that_ends_before_the_last_evaluation_claims_nothing_of_groups():
    text = text_of(render_page(make_report(evaluations=make_report().evaluations[:1])))
    assert "Groups are measured once, after the last round." in text
    assert "No group was withheld" not in text


def test_a_withheld_total_is_not_shown_as_unmeasured():
    small = evaluation_report(3, [group_of(6)], score_range=RANGE, min_cell=10)
    text = text_of(render_page(make_report(evaluations=(small,))))
    assert "All subjects together are too few to publish any figure." in text
    assert "withheld" in text
    assert "not measured" not in text


def test_mode_off_says_no_privacy_and_shows_no_epsilon():
    nothing = dict.fromkeys(
        ("target_epsilon", "fairness_epsilon", "epsilon_sum", "epsilon_site"), None
    )
    sites = tuple(SitePrivacy(site, None, None, 3) for site in SITES)
    report = make_report(mode="off", noise_multiplier=0.0, sites=sites, **nothing)
    page = render_page(report)
    assert re.findall(r'class="big">([^<]+)<', page)[2] == "none"
    assert "no privacy The mode of this run is off" in text_of(page)
    assert "ε" not in text_of(page)


@pytest.mark.parametrize(
    ("mode", "seen", "tiles"),
    [
        (
            "local",
            "ε 9.87",
            ["what who sees the sum alone could learn", "what the coordinator could learn"],
        ),
        (
            "distributed",
            "ε 2.96",
            ["what the coordinator could learn", "were the masks of the sum broken"],
        ),
    ],
)
def test_the_page_says_what_the_coordinator_sees_in_each_mode(mode, seen, tiles):
    page = render_page(make_report(mode=mode))
    assert re.findall(r'class="big">([^<]+)<', page)[2] == seen
    assert re.findall(r'<span class="small">([^<]+)</span></dd>', page)[:2] == tiles


def test_a_vast_epsilon_is_not_dressed_up():
    text = text_of(render_page(make_report(epsilon_sum=900.0)))
    assert "So large an ε bounds little." in text


def test_an_infinite_epsilon_is_none_in_the_json():
    text = make_report(mode="off", epsilon_sum=float("inf")).to_json()
    assert json.loads(text)["epsilon_sum"] is None


def test_every_report_says_that_no_output_is_a_diagnosis(page):
    assert "no output is a diagnosis" in text_of(page)
    assert "no output is a diagnosis" in json.loads(make_report().to_json())["notice"]


def test_truth_is_labelled_as_what_only_a_simulation_knows(page):
    assert "simulat" not in text_of(page)
    text = text_of(render_page(make_report(truth=truth(), seed=3)))
    assert "known only because the subjects are simulated." in text
    assert "from the generator." in text
    assert "seed 3 (a simulation" in text


def test_attendance_counts_rounds_and_reasons():
    rows = {row.site: row for row in attendance(make_report())}
    assert (rows["clinic-c"].took_part, rows["clinic-c"].missing) == (2, 1)
    assert rows["clinic-c"].refusals == {"budget_spent": 1}
    assert rows["clinic-a"].refusals == {}


def test_the_page_never_calls_the_model_fair(page):
    assert not re.search(r"\b(is|are|was|proven|certified) fair\b", text_of(page).lower())


def test_numbers_are_written_for_reading():
    assert format_number(-0.04, 1) == "0.0"
    assert format_number(-1.25, 1) == "\N{MINUS SIGN}1.2"
    assert format_number(None) == format_number(float("nan")) == "\N{EN DASH}"
