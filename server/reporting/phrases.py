"""Numbers, intervals and names as people read them, in the language of a page."""

from __future__ import annotations

import gettext
import math
from dataclasses import dataclass

from server.groups import GroupMetrics
from server.history import NOTICE
from server.intervals import Estimate


def N_(message: str) -> str:  # noqa: N802 - the name by which translators' tools find messages
    """A message that is translated where it is shown."""
    return message


ATTRIBUTES: dict[str, str] = {
    "age_band": N_("Age band"),
    "sex": N_("Sex"),
    "site": N_("Site"),
    "age_band x sex": N_("Age band and sex"),
    "site x age_band": N_("Age band within a site"),
    "site x sex": N_("Sex within a site"),
}
STATE_WORDS: dict[str, str] = {
    "suppressed": N_("withheld"),
    "too_few": N_("too few to say"),
    "zero": N_("no subjects"),
    "not_reported": N_("not reported"),
}
"""What stands in place of a figure, by the state of a group."""
SEXES: dict[str, str] = {"female": N_("female"), "male": N_("male"), "other": N_("other")}
TOLD: tuple[str, ...] = (
    N_("Research software: no output is a diagnosis."),
    N_("Exact figures on the held-out subjects of all sites; no coordinator could see them."),
    N_("no subjects to compute it from"),
    N_("too few subjects for the noise"),
    N_("no subjects on one side of the clinical threshold"),
    N_("too few subjects on one side of the clinical threshold"),
    N_("no ratio: the figure has a sign"),
    N_("no ratio: the highest value is 0"),
    N_("predictions lie too close together for the bins"),
    N_("too few subjects: the slope could be anything"),
    N_("stopped on request"),
    N_("Smiling"),
    N_("Lowered brows"),
    N_("Raised brows"),
    N_("Blinks and eyelids"),
    N_("Downward gaze"),
    N_("Mouth movement and speech"),
    N_("Pressed or drooping mouth"),
    N_("Dimples and one-sided smiles"),
    N_("Head position"),
    N_("Pace of head and face"),
)
"""Sentences and names that come with the numbers and are known beforehand."""

assert NOTICE in TOLD  # noqa: S101 - the notice is said in every language


@dataclass(frozen=True)
class Phrases:
    """How one language says numbers and names.

    Attributes:
        words: The catalogue of the language.
    """

    words: gettext.NullTranslations

    def number(self, value: float | None, digits: int = 2) -> str:
        """A number for reading; a dash where there is none."""
        return format_number(value, digits)

    def bracket(self, estimate: Estimate | None, digits: int = 2) -> str:
        """The interval of an estimate for a table; empty where there is none.

        >>> Phrases(gettext.NullTranslations()).bracket(Estimate(None, 0.513, 0.988))
        '[0.51, 0.99]'
        """
        if estimate is None or estimate.low is None or estimate.high is None:
            return ""
        return f"[{format_number(estimate.low, digits)}, {format_number(estimate.high, digits)}]"

    def interval(self, estimate: Estimate | None, digits: int = 2) -> str:
        """The interval of an estimate for a sentence; empty where there is none."""
        if estimate is None or estimate.low is None or estimate.high is None:
            return ""
        return self.words.gettext("%(low)s to %(high)s") % {
            "low": format_number(estimate.low, digits),
            "high": format_number(estimate.high, digits),
        }

    def epsilon(self, value: float | None, mode: str) -> str:
        """An epsilon; words where there is no bound, or where none was reported."""
        return self.words.gettext(format_epsilon(value, mode))

    def attribute(self, name: str) -> str:
        """What groups are made by."""
        return self.words.gettext(ATTRIBUTES.get(name, name)) if name else ""

    def group(self, attribute: str, group: str) -> str:
        """Name of a group."""
        if attribute == "overall":
            return self.words.gettext("All subjects")
        if "sex" not in attribute.split():
            return group
        return " ".join(
            self.words.gettext(SEXES[part]) if part in SEXES else part for part in group.split(" ")
        )

    def groups(self, groups: list[GroupMetrics], most: int = 12) -> str:
        """Names of groups, with what they are groups of; the number of those left out."""
        named = [
            f"{self.attribute(g.attribute)} {self.group(g.attribute, g.group)}" for g in groups
        ]
        return self.listed(named, most=most)

    def listed(self, names: list[str], most: int = 12) -> str:
        """Names one after another; the number of those left out."""
        if len(names) > most:
            more = self.words.gettext("%(num)s more") % {"num": len(names) - most}
            names = [*names[:most], more]
        return self.words.gettext(", ").join(names)

    def told(self, message: str) -> str:
        """A sentence that came with the numbers, translated where it is a known one."""
        return self.words.gettext(message) if message in TOLD else message


def format_epsilon(value: float | None, mode: str) -> str:
    """An epsilon; words where there is no bound, or where none was reported."""
    if mode == "off":
        return N_("no privacy")
    if value is None or not math.isfinite(value):
        return N_("not reported")
    return f"{value:.2f}"


def format_number(value: float | None, digits: int = 2) -> str:
    """A number for reading; a dash where there is none.

    >>> format_number(0.128), format_number(-0.04, 1)
    ('0.13', '0.0')
    """
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    text = f"{value:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text.lstrip("-")
