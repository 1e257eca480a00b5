"""The languages of pages: English in the templates, others in a message catalogue beside them.

A package keeps ``locale/LANGUAGE.po``, in the form that translators' tools read and write. It is
read as it is; nothing has to be compiled when a sentence changes. A sentence without translation
stays English.
"""

from __future__ import annotations

import functools
import gettext
import io
from importlib.resources import files

LANGUAGES: dict[str, str] = {"en": "English", "zh": "中文"}
"""Languages of pages, each by the name that its readers give it."""

LANGUAGE_TAGS: dict[str, str] = {"en": "en", "zh": "zh-Hans"}
"""What a page's ``lang`` attribute says, by which browsers choose fonts and voices."""


@functools.cache
def translations(package: str, language: str) -> gettext.NullTranslations:
    """Sentences of a package in a language, for Jinja2's i18n extension.

    Args:
        package: Name of the package that holds ``locale/LANGUAGE.po``.
        language: A key of :data:`LANGUAGES`; English needs no catalogue.

    Raises:
        ValueError: If pages are not written in that language.
        FileNotFoundError: If the package has no catalogue of it.

    >>> translations("server", "en").gettext("Sites")
    'Sites'
    """
    if language not in LANGUAGES:
        msg = f"Expected a language of {', '.join(LANGUAGES)}, got {language!r}."
        raise ValueError(msg)
    if language == "en":
        return gettext.NullTranslations()
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    catalogue = files(package) / "locale" / f"{language}.po"
    compiled = io.BytesIO()
    with catalogue.open("rb") as file:
        write_mo(compiled, read_po(file, locale=language))
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)
