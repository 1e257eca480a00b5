"""Catalogues of messages: read as they are, English where a sentence is missing."""

import sys

import pytest

from shared_models.wording import LANGUAGE_TAGS, LANGUAGES, translations

CATALOGUE = """
msgid ""
msgstr ""
"Content-Type: text/plain; charset=utf-8\\n"
"Plural-Forms: nplurals=1; plural=0;\\n"

msgid "Sites"
msgstr "中心"

msgid "%(num)s round"
msgid_plural "%(num)s rounds"
msgstr[0] "%(num)s 轮"

#, fuzzy
msgid "Limits"
msgstr "也许是局限"
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "worded_package"
    (folder / "locale").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "locale" / "zh.po").write_text(CATALOGUE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.name
    translations.cache_clear()
    sys.modules.pop(folder.name, None)


def test_sentences_and_plurals_come_from_the_catalogue(package):
    words = translations(package, "zh")
    assert words.gettext("Sites") == "中心"
    assert words.ngettext("%(num)s round", "%(num)s rounds", 2) == "%(num)s 轮"


def test_a_sentence_without_a_settled_translation_stays_english(package):
    words = translations(package, "zh")
    assert words.gettext("Nothing like it") == "Nothing like it"
    assert words.gettext("Limits") == "Limits"


def test_english_needs_no_catalogue():
    assert translations("a_package_that_is_not_there", "en").gettext("Sites") == "Sites"


def test_an_unknown_language_is_told_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"of en, zh, got '../../etc/passwd'"):
        translations("server", "../../etc/passwd")


def test_every_language_has_a_tag_for_browsers():
    assert LANGUAGES.keys() == LANGUAGE_TAGS.keys()
