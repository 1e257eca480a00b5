# ruff: noqa: RUF001 - Chinese has its own colon
"""Odd runs: each gives a page in both languages, and the page says what is odd."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import reported_runs
from reported_runs import ODD, exact_tally, judged_by, off_report, tally_of, usual_report
from test_report import Outline, text_of

from server.history import RunReport, evaluation_report
from server.intervals import Estimate
from server.report import render_page
from server.reporting.participation import MOST_COLUMNS, attendance

SAYS = {
    "one group empty": (
        "Without any subject: Sex male, Sex other.",
        "没有受试者：性别 男、性别 其他。",
    ),
    "one class only": (
        "Cannot be said: no subjects on one side of the clinical threshold.",
        "无法判断：临床阈值的一侧没有受试者。",
    ),
    "all predictions equal": ("it separates nobody", "它不能区分任何人"),
    "budget used up before judging": (
        "budget of their subjects was used up: clinic-a, clinic-b.",
        "隐私预算已用尽而拒绝：clinic-a、clinic-b。",
    ),
    "stopped on the way": (
        "This run was stopped before its end. stopped on request",
        "本次运行在结束前被停止。 应要求停止",
    ),
    "no round at all": ("No round was trained.", "未进行任何一轮训练。"),
    "forty age bands": ("39-40", "39-40"),
    "chinese and emoji names": ("上海精神卫生中心 🏥", "微笑研究 2026 🙂"),
    "hundred sites, thousand rounds": ("All 100 groups", "全部 100 个组"),
}


@pytest.fixture(scope="module")
def reports():
    made = {}

    def get(case):
        if case not in made:
            made[case] = RunReport.from_json(ODD[case]().to_json())
        return made[case]

    return get


@pytest.mark.parametrize("case", ODD)
def test_the_page_says_what_is_odd(case, reports):
    for language, said in zip(("en", "zh"), SAYS[case], strict=True):
        text = text_of(render_page(reports(case), language)).replace("\N{NO-BREAK SPACE}", " ")
        assert said in text
        assert "None" not in text
        assert "nan" not in re.findall(r"[a-z]+", text)


def test_every_odd_run_has_its_saying():
    assert SAYS.keys() == ODD.keys()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_four_states_of_a_group_look_and_read_differently(language):
    everyone = exact_tally({9: 40, 11: 20}, {3: 50, 7: 10})
    tallies = [
        everyone,
        replace(everyone, attribute="sex", group="female"),
        exact_tally({}, {}, "sex", "male"),
        exact_tally({9: 2}, {3: 1}, "sex", "other"),
    ]
    judged = evaluation_report(
        30, tallies, score_range=(0, 27, 10), min_cell=5, expected=[("site", "clinic-x")]
    )
    page = render_page(replace(off_report(tallies), evaluations=(judged,)), language)
    cells = re.findall(r'<td class="state-cell (\w+)"[^>]*><span class="state">([^<]+)', page)
    kinds, words = dict(cells), {word for _, word in cells}
    assert set(kinds) == {"suppressed", "zero", "absent"}
    assert len(words) == 3
    assert '<td class="n">0</td><td class="state-cell zero"' in page


def test_a_page_made_meanwhile_says_that_the_run_goes_on():
    report = replace(usual_report(), status="unfinished", status_detail="")
    assert "This run has not ended. What follows holds after 30 rounds" in text_of(
        render_page(report)
    )


def test_a_thousand_rounds_share_columns_and_the_worst_of_them_is_shown(reports):
    report = reports("hundred sites, thousand rounds")
    rows = attendance(report)
    assert len(rows) == 100
    first = rows[0]
    assert sum(s.width for s in first.stretches) == pytest.approx(1)
    assert max(len(row.stretches) for row in rows) <= MOST_COLUMNS
    away = [r.server_round for r in report.rounds if first.site in r.missing]
    shown = sum(s.width for s in first.stretches if s.state == "missing")
    assert shown >= len(away) / len(report.rounds)
    assert len(render_page(report)) < 1_000_000


def test_known_figures_that_other_programs_add_are_shown_with_their_meaning():
    report = judged_by([tally_of(900), tally_of(500, "age_band x sex", "18-39 x female")])
    final = report.final
    slope = final.overall.metrics["auroc"]
    overall = replace(
        final.overall,
        metrics={**final.overall.metrics, "calibration_slope": slope, "ece": slope},
    )
    judged = replace(report.evaluations[-1], fairness=replace(final, overall=overall))
    text = text_of(render_page(replace(report, evaluations=(judged,)), "zh"))
    assert "校准斜率" in text
    assert "预测概率与实际比例的平均差距" in text
    assert "年龄段与性别" in text
    assert "18-39 x 女" in text


def test_markup_and_sentences_in_names_stay_text():
    evil = '<img src=x onerror="alert(1)"> %(num)s {{ 7 * 7 }}'
    report = replace(reported_runs.foreign_names_report(), study_name=evil, status_detail=evil)
    for language in ("en", "zh"):
        page = render_page(report, language)
        assert not [tag for tag, _ in Outline(page).tags if tag == "img"]
        assert text_of(page).count(evil) >= 2


def with_further(**parts):
    """A report whose last evaluation has parts that a study may ask for beyond the usual."""
    report = usual_report()
    for name, part in parts.items():
        object.__setattr__(report.judged, name, part)
    return report


def test_parts_that_a_study_did_not_ask_for_are_not_on_the_page():
    text = text_of(render_page(usual_report()))
    for words in ("Which behaviours moved", "recalibrated", "Released is"):
        assert words not in text


@pytest.mark.parametrize(
    ("language", "said"),
    [("en", ("Smiling 0.40", "slope 0.90")), ("zh", ("微笑 0.40", "斜率 0.90"))],
)
def test_importance_and_recalibration_are_shown_where_they_are_there(language, said):
    behaviour = SimpleNamespace(title="Smiling", share=Estimate(0.4, 0.3, 0.5))
    unsure = SimpleNamespace(title="Head position", share=Estimate(None, 0.0, 0.4, "too few"))
    fitted = SimpleNamespace(
        is_applied=True, slope=0.9, slope_error=0.1, intercept=-0.2, intercept_error=0.05
    )
    importance = SimpleNamespace(state="reported", behaviours=(behaviour, unsure))
    page = render_page(with_further(importance=importance, recalibration=fitted), language)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    for words in said:
        assert words in text


@pytest.mark.parametrize("state", ["suppressed", "zero", "not_reported"])
def test_importance_without_figures_says_why(state):
    bare = SimpleNamespace(state=state, behaviours=())
    text = text_of(render_page(with_further(importance=bare)))
    assert text.split("Which behaviours moved the score")[1][:60].strip()
    assert "Share of each behaviour" not in text


def test_a_group_tells_how_many_subjects_it_would_take():
    report = usual_report()
    power = SimpleNamespace(smallest_n=120)
    object.__setattr__(report.final.groups("sex")[0], "power", power)
    assert "±0.1 takes 120" in text_of(render_page(report))
