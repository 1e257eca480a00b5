"""How a site says no: a code, the limits concerned, and a sentence from a fixed list.

Nothing in a refusal is free text, so that nothing of the site can be in it, by whatever way an
error came about. What exactly went wrong stays in the site's own log, with the receipt.
"""

from __future__ import annotations

from collections.abc import Sequence

from privacy.policy import RULES
from shared_models.messages import Refusal, RefusalCode

SENTENCES = {
    RefusalCode.WRONG_CONSORTIUM: "This site agreed to another study file",
    RefusalCode.WRONG_MESSAGE: "The request does not have the agreed form: versions may differ",
    RefusalCode.WRONG_SIGNATURE: (
        "The model is not signed for this request by the coordinator's key in the agreed study"
    ),
    RefusalCode.WRONG_WEIGHTS: (
        "The weights do not fit the agreed network, or are not those announced: versions may differ"
    ),
    RefusalCode.WRONG_PLAN: "The plan or the round is not one of the agreed study",
    RefusalCode.POLICY: "The site's policy does not allow it",
    RefusalCode.BUDGET: "The site's privacy budget does not allow it",
    RefusalCode.TOO_FEW_SUBJECTS: "No subject is there whom it could be computed on",
    RefusalCode.NOT_A_MEMBER: "The agreed study does not name this site",
    RefusalCode.COHORT: "The sites to be summed are not a cohort of the agreed study",
    RefusalCode.REPEATED: "This request, or a later one, was answered before",
    RefusalCode.LEDGER_BEHIND: (
        "The site's ledger or log does not hold what an anchor says it held, or the anchor is not "
        "the site's: the site must restore its newest copy"
    ),
    RefusalCode.ROSTER: (
        "The list of sites is not signed by the coordinator for the agreed study, is older than "
        "the one that this site follows, or names sites that it has not approved"
    ),
    RefusalCode.INTERNAL: "The site could not answer; its own log says why",
}
"""What the coordinator reads, for each code."""

_BEFORE_RULES = ": "


def refuse(site_id: str, code: RefusalCode, rules: Sequence[str] = ()) -> Refusal:
    """A refusal that may leave the site.

    Args:
        site_id: The site.
        code: Why it refuses.
        rules: Names of the site's limits that stand against it.
    """
    named = _BEFORE_RULES + ", ".join(rules) if rules else ""
    return Refusal(site_id, code, SENTENCES[code] + named)


def is_listed(code: object, message: object) -> bool:
    """Whether a refusal says nothing but what :func:`refuse` can say."""
    if not isinstance(code, str) or not isinstance(message, str) or code not in set(RefusalCode):
        return False
    sentence = SENTENCES[RefusalCode(code)]
    if message == sentence:
        return True
    if not message.startswith(sentence + _BEFORE_RULES):
        return False
    named = message.removeprefix(sentence + _BEFORE_RULES).split(", ")
    return len(set(named)) == len(named) and set(named) <= set(RULES)
