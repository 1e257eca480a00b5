"""Sentences of the site's dashboard that need more than a template."""

from __future__ import annotations

import functools

from client.records.view import describe
from privacy.audit import AuditEntry
from shared_models.web.rendering import wording

PACKAGE = "client.dashboard"


def tell_entry(entry: AuditEntry, language: str) -> str:
    """One entry of the log as a sentence in a language."""
    return describe(entry, wording(PACKAGE, language).gettext)


@functools.cache
def tell_rate(count: int, total: int) -> str:
    r"""A share in percent, with Wilson's 95 % interval.

    >>> tell_rate(1, 10) == "10 % (2 \N{EN DASH} 40 %)"
    True
    """
    from client.inspection.rejection import wilson_interval

    low, high = wilson_interval(count, total)
    return f"{100 * count / total:.0f} % ({100 * low:.0f} \N{EN DASH} {100 * high:.0f} %)"


FUNCTIONS = {"tell_entry": tell_entry, "tell_rate": tell_rate}
