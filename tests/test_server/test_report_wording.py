"""The report's sentences: each has a Chinese one, with the same figures in it."""

import re
from pathlib import Path

import pytest
from babel.messages.extract import extract_from_file
from babel.messages.pofile import read_po

import server
from server.reporting.phrases import Phrases
from shared_models.wording import translations

SERVER = Path(server.__file__).parent
CATALOGUE = SERVER / "reporting" / "locale" / "zh.po"
KEYWORDS = {"_": None, "N_": None, "gettext": None, "ngettext": (1, 2)}
JINJA = {"trimmed": "true", "silent": "false", "trim_blocks": "true", "lstrip_blocks": "true"}


def messages():
    """Every message of the page's templates and programs; plurals as pairs."""
    templates = sorted((SERVER / "templates").glob("report*.j2"))
    programs = [SERVER / "report.py", *sorted((SERVER / "reporting").glob("*.py"))]
    found = [
        m
        for file in templates
        for m in extract_from_file("jinja2.ext:babel_extract", file, KEYWORDS, options=JINJA)
    ]
    found += [m for file in programs for m in extract_from_file("python", file, KEYWORDS)]
    return {m[1] for m in found}


@pytest.fixture(scope="module")
def catalogue():
    with CATALOGUE.open("rb") as file:
        return read_po(file, locale="zh")


def ids(message):
    return message if isinstance(message, str) else message[0]


def fields(text):
    return sorted(re.findall(r"%\((\w+)\)", text))


def test_every_message_has_a_chinese_one(catalogue):
    known = {ids(m.id): m for m in catalogue if m.id}
    missing = sorted(ids(m) for m in messages() if ids(m) not in known)
    assert missing == []
    assert [m.id for m in catalogue if m.id and (m.fuzzy or not all(_strings(m)))] == []


def test_the_catalogue_holds_nothing_that_no_page_says(catalogue):
    said = {ids(m) for m in messages()}
    assert [ids(m.id) for m in catalogue if m.id and ids(m.id) not in said] == []


def test_a_translation_has_the_figures_of_its_message(catalogue):
    for message in catalogue:
        for text in _strings(message) if message.id else ():
            wanted = fields(message.id if isinstance(message.id, str) else message.id[1])
            assert fields(text) == wanted, text


def test_the_search_for_messages_finds_all_kinds_of_them():
    said = {ids(m) for m in messages()}
    assert {"In short", "%(num)s round", "of %(num)s group has a figure", "AUROC"} <= said
    assert len(said) > 150


def test_names_of_sexes_are_translated_and_other_names_are_not():
    phrases = Phrases(translations("server.reporting", "zh"))
    assert phrases.group("sex", "female") == "女"
    assert phrases.group("site", "female") == "female"
    assert phrases.group("age_band x sex", "18-39 x male") == "18-39 x 男"
    assert phrases.group("overall", "all") == "全部受试者"


def _strings(message):
    return [message.string] if isinstance(message.string, str) else list(message.string)
