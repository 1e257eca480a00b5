"""Languages, figures and drawings of the dashboards."""

import re
import threading
from importlib.resources import files
from string import Formatter

import pytest
from babel.messages.pofile import read_po
from jinja2 import Environment

from client.records import view
from shared_models.web.drawing import Axes, Point, area, curve, interval_bar, share_bar
from shared_models.web.findings import look_at
from shared_models.web.rendering import choose_language, environment, show_moment, show_number
from shared_models.web.snapshot import Snapshot

PACKAGES = ("shared_models.web", "server.dashboard", "client.dashboard")


def sentences(package: str) -> set[str]:
    """What the templates of a package say."""
    reader = Environment(extensions=["jinja2.ext.i18n"], trim_blocks=True, lstrip_blocks=True)
    found = set()
    for template in (files(package) / "templates").iterdir():
        for _, _, message in reader.extract_translations(template.read_text(encoding="utf-8")):  # type: ignore[attr-defined]
            found.add(message if isinstance(message, str) else message[0])
    return found


def catalogue(package: str) -> dict[str, str]:
    with (files(package) / "locale" / "zh.po").open("rb") as file:
        told = read_po(file, locale="zh")
    keys = ((m.id, m.string) for m in told if m.id)
    return {
        (k if isinstance(k, str) else k[0]): (s if isinstance(s, str) else s[0]) for k, s in keys
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_every_sentence_of_the_templates_is_there_in_chinese(package: str) -> None:
    known = catalogue(package)
    assert sentences(package) - set(known) == set()
    assert [sentence for sentence, text in known.items() if not text] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_translation_has_the_fields_of_its_sentence(package: str) -> None:
    for sentence, text in catalogue(package).items():
        for fields in (lambda t: set(re.findall(r"%\((\w+)\)", t)), _braced):
            assert fields(text) == fields(sentence), sentence


def test_the_log_speaks_chinese() -> None:
    known = catalogue("client.dashboard")
    spoken = {*view._ARRIVALS.values(), *view._WANTED.values(), "Withdrew the approval of {what}."}
    assert spoken <= set(known)


def test_a_reader_gets_the_language_that_is_chosen_then_the_browsers_then_english() -> None:
    assert choose_language("zh", "en") == "zh"
    assert choose_language("xx", "zh-CN,zh;q=0.9,en;q=0.8") == "zh"
    assert choose_language(None, "de;q=0.9,en;q=0.4,zh;q=0.3") == "en"
    assert choose_language(None, "zh;q=oops, fr") == "en"
    assert choose_language(None, None) == "en"


def test_what_templates_are_given_is_escaped() -> None:
    template = environment("server.dashboard", "en").from_string("{{ x }}{{ _('%(a)s', a=x) }}")
    assert "<" not in template.render(x="<script>")


def test_figures_that_are_none_are_no_zero() -> None:
    assert [show_number(value) for value in (None, float("nan"), float("inf"), -1.0)] == [
        "\N{EN DASH}", "\N{EN DASH}", "\N{INFINITY}", "\N{MINUS SIGN}1.00",
    ]  # fmt: skip
    assert show_moment("2026-03-02T09:30:05+08:00") == "2026-03-02 01:30:05"


def test_a_bar_is_as_long_as_its_share() -> None:
    lengths = [re.search(r'fill[^"]*" width="([\d.]+)"', share_bar(s)) for s in (0, 0.25, 3)]
    assert [float(found[1]) for found in lengths if found] == [0.0, 25.0, 100.0]
    assert 'class="fill over"' in share_bar(1.0)
    assert 'class="fill over"' not in share_bar(0.99)


def test_a_curve_leaves_out_what_has_no_figure() -> None:
    points = [Point(1, 0.5, 0.4, 0.6), Point(2, None), Point(3, 1.0, 0.9, 1.0)]
    drawn = curve(points, Axes(3, 0.0, 1.0))
    assert drawn.count("<circle") == 2
    assert "None" not in drawn
    assert "nan" not in area([], Axes(3, 0, 2), limit=1)
    assert "<circle" not in interval_bar(Point(0, None, 0.2, 0.9))


def test_drawings_carry_no_style_that_the_policy_forbids() -> None:
    drawn = curve([Point(1, 0.5), Point(2, 0.6)], Axes(2, 0, 1)) + share_bar(0.5)
    assert "style" not in drawn


def test_many_readers_share_one_look() -> None:
    looks = []
    snapshot = Snapshot(lambda: looks.append(1), every_s=60.0)
    for _ in range(20):
        snapshot.look()
    snapshot.close()
    assert len(looks) == 1


def test_a_slow_look_holds_nobody_up() -> None:
    go, calls = threading.Event(), iter(range(9))

    def collect() -> int:
        number = next(calls)
        if number:
            go.wait(30)
        return number

    snapshot = Snapshot(collect, every_s=0.0)
    first = snapshot.look()
    snapshot._latest = first.__class__(first.value, first.at, 0.0)
    assert snapshot.look().value == 0
    go.set()
    snapshot.close()


@pytest.mark.parametrize("error", [ValueError("x"), OSError(13, "no"), KeyError("k")])
def test_a_part_that_cannot_be_read_becomes_a_sentence(error: Exception) -> None:
    def read() -> None:
        raise error

    found = look_at("the log", read)
    assert found.value is None
    assert "Expected the log to be readable" in found.fault


def test_a_mistake_of_the_program_is_not_taken_for_a_broken_file() -> None:
    with pytest.raises(ZeroDivisionError):
        look_at("the log", lambda: 1 // 0)


def _braced(text: str) -> set[str]:
    if "%(" in text:
        return set()
    return {name for _, name, _, _ in Formatter().parse(text) if name}
