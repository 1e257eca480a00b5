"""Pages from templates, in the language that their reader chose."""

from __future__ import annotations

import functools
import gettext
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shared_models.web.drawing import share_bar
from shared_models.wording import LANGUAGE_TAGS, LANGUAGES, translations

if TYPE_CHECKING:
    from jinja2 import Environment

PACKAGE = "shared_models.web"
DASH = "\N{EN DASH}"


class _Both(gettext.NullTranslations):
    """Sentences of a dashboard, then those that all dashboards share."""

    def __init__(self, *catalogues: gettext.NullTranslations) -> None:
        super().__init__()
        self._catalogues = catalogues

    def gettext(self, message: str) -> str:
        """The first translation that differs from the sentence, or the sentence."""
        found = (catalogue.gettext(message) for catalogue in self._catalogues)
        return next((text for text in found if text != message), message)

    def ngettext(self, msgid1: str, msgid2: str, n: int) -> str:
        """The same with a number."""
        plain = msgid1 if n == 1 else msgid2
        found = (catalogue.ngettext(msgid1, msgid2, n) for catalogue in self._catalogues)
        return next((text for text in found if text != plain), plain)


def wording(package: str, language: str) -> gettext.NullTranslations:
    """Sentences of a dashboard's package, and of what all dashboards share."""
    return _Both(translations(package, language), translations(PACKAGE, language))


@functools.cache
def environment(package: str, language: str) -> Environment:
    """Templates of a dashboard's package, in a language.

    Args:
        package: Holds ``templates/`` and ``locale/``.
        language: A key of ``LANGUAGES``.
    """
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader(PACKAGE)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    made.install_gettext_translations(wording(package, language), newstyle=True)  # type: ignore[attr-defined]
    made.globals.update(
        LANGUAGES=LANGUAGES,
        LANGUAGE_TAGS=LANGUAGE_TAGS,
        language=language,
        DASH=DASH,
        share_bar=share_bar,
    )
    made.filters.update(number=show_number, moment=show_moment, iso=lambda at: at.isoformat())
    return made


def render(package: str, language: str, template: str, context: Mapping[str, object]) -> str:
    """A page or a part of one."""
    return environment(package, language).get_template(template).render(**context)


def choose_language(cookie: str | None, accepted: str | None) -> str:
    """The language that a reader chose, else the one that the browser asks for, else English.

    Args:
        cookie: What the reader chose before.
        accepted: The header ``Accept-Language``.

    >>> choose_language(None, "fr;q=0.9, zh-CN, en;q=0.5")
    'zh'
    """
    if cookie in LANGUAGES:
        return str(cookie)
    for wish in sorted(_wishes(accepted or ""), reverse=True):
        if wish[2] in LANGUAGES:
            return wish[2]
    return "en"


def show_number(value: float | None, digits: int = 2) -> str:
    """A number for reading; a dash where there is none.

    >>> [show_number(value) for value in (1.5, -0.001, 12)]
    ['1.50', '0.00', '12.00']
    """
    if value is None or value != value:  # noqa: PLR0124 - not a number
        return DASH
    if value in {float("inf"), float("-inf")}:
        return "\N{INFINITY}"
    text = f"{value:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text.lstrip("-")


def show_moment(at: datetime | str) -> str:
    """A time in UTC, to the second.

    >>> show_moment("2026-03-02T09:30:05+01:00")
    '2026-03-02 08:30:05'
    """
    moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _wishes(header: str) -> list[tuple[float, int, str]]:
    """Weight, place (earlier is larger) and language of each wish."""
    found = []
    for place, part in enumerate(header[:200].split(",")):
        tag, _, weight = part.partition(";")
        try:
            wanted = float(weight.partition("=")[2]) if weight else 1.0
        except ValueError:
            continue
        found.append((wanted, -place, tag.strip().split("-")[0].lower()))
    return found
