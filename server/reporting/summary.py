"""The page's summary: five questions that a board asks, answered in sentences from the numbers.

Each sentence follows from a figure and its interval. What a figure cannot show is said as well: a
difference that was not found is told with the size that could have been missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp

from server.contrasts import Contrast
from server.fairness import FairnessReport
from server.groups import GroupMetrics
from server.history import RunReport
from server.intervals import Estimate
from server.reporting.heat import ordered
from server.reporting.phrases import N_, Phrases

CHANCE = 0.5
BUDGET_CODE = "budget"
NEARLY_ALL = 0.98
LARGEST_TOLD_ODDS = 12.0
_COMPARED = ("auroc", "equalized_odds", "mae")
_CONTRASTS = {
    "auroc": N_("AUROC"),
    "equalized_odds": N_("equalised odds"),
    "mae": N_("mean absolute error"),
}


@dataclass(frozen=True)
class Answer:
    """One question with its answer.

    Attributes:
        question: The question.
        figure: What is shown large.
        beside: What stands below the figure.
        sentences: The answer.
    """

    question: str
    figure: str
    beside: str
    sentences: tuple[str, ...]


def summarize_run(report: RunReport, phrases: Phrases) -> tuple[Answer, ...]:
    """The questions that the page answers first."""
    return (
        _answer_quality(report, phrases),
        _answer_groups(report, phrases),
        _answer_privacy(report, phrases),
        _answer_comparison(report, phrases),
        _answer_certainty(report, phrases),
    )


def coordinator_epsilon(report: RunReport) -> float | None:
    """What the coordinator could learn of a subject that trained."""
    return report.epsilon_site if report.mode == "local" else report.epsilon_sum


def sites_without_budget(report: RunReport) -> list[str]:
    """Sites that refused because a subject's privacy budget was used up."""
    codes = (refusal for entry in report.rounds for refusal in entry.refusals)
    return list(dict.fromkeys(site for site, code, _ in codes if code == BUDGET_CODE))


def beats_chance(final: FairnessReport | None) -> bool | None:
    """Whether the interval of the AUROC lies above chance; None where there is none."""
    estimate = final.overall.metrics.get("auroc") if final else None
    if estimate is None or estimate.low is None:
        return None
    return estimate.low > CHANCE


def gives_one_answer(final: FairnessReport | None) -> bool:
    """Whether the model flags all subjects alike, or none."""
    estimate = final.overall.metrics.get("selection_rate") if final else None
    if estimate is None or estimate.value is None:
        return False
    return not 1 - NEARLY_ALL < estimate.value < NEARLY_ALL


def _answer_quality(report: RunReport, phrases: Phrases) -> Answer:
    _ = phrases.words.gettext
    final = report.final
    auroc = final.overall.metrics.get("auroc") if final else None
    return Answer(
        _("Is the model good?"),
        _figure(auroc, report, phrases),
        _("AUROC %(interval)s") % {"interval": phrases.bracket(auroc)} if auroc else _("AUROC"),
        tuple(_quality_sentences(report, phrases)),
    )


def _figure(estimate: Estimate | None, report: RunReport, phrases: Phrases) -> str:
    _ = phrases.words.gettext
    if estimate is not None and estimate.value is not None:
        return phrases.number(estimate.value)
    if estimate is not None:
        return _("no point") if estimate.low is not None else _("none")
    if report.final and report.final.overall.state == "suppressed":
        return _("withheld")
    return _("not measured")


def _quality_sentences(report: RunReport, phrases: Phrases) -> Iterator[str]:
    _ = phrases.words.gettext
    final = report.final
    if final is None:
        yield from _unjudged(report, phrases)
        return
    if not final.overall.metrics:
        yield _("All subjects together are too few to publish any figure.")
        return
    yield _ranking(final.overall.metrics["auroc"], phrases)
    mae = final.overall.metrics["mae"]
    if mae.value is not None:
        yield _(
            "Its estimate of severity is off by %(mae)s points on average (%(interval)s), on a "
            "scale from %(low)s to %(high)s."
        ) % {
            "mae": phrases.number(mae.value, 1),
            "interval": phrases.interval(mae, 1),
            "low": phrases.number(report.score_range[0], 0),
            "high": phrases.number(report.score_range[1], 0),
        }
    if gives_one_answer(final):
        yield _(
            "It gives nearly every subject the same answer at the threshold: it separates nobody."
        )


def _unjudged(report: RunReport, phrases: Phrases) -> Iterator[str]:
    _ = phrases.words.gettext
    yield _("Unknown: the run ended before the model was judged.")
    spent = sites_without_budget(report)
    if spent:
        yield _(
            "Sites refused because the privacy budget of their subjects was used up: %(sites)s."
        ) % {"sites": phrases.listed(spent)}


def _ranking(auroc: Estimate, phrases: Phrases) -> str:
    _ = phrases.words.gettext
    if auroc.low is None:
        return _("Cannot be said: %(reason)s.") % {"reason": phrases.told(auroc.note)}
    if auroc.value is None:
        return _(
            "Cannot be said: the interval of the AUROC reaches from %(interval)s, too wide for a "
            "point."
        ) % {"interval": phrases.interval(auroc)}
    told = _(
        "Of two subjects, one at or above the clinical threshold and one below, it ranks the right "
        "one higher in about %(wins)s of 100 pairs (95 %% interval %(low)s to %(high)s). Guessing "
        "would reach 50."
    ) % {
        "wins": phrases.number(100 * auroc.value, 0),
        "low": phrases.number(100 * auroc.low, 0),
        "high": phrases.number(100 * (auroc.high or 1.0), 0),
    }
    return str(told)


def _answer_groups(report: RunReport, phrases: Phrases) -> Answer:
    _, ngettext = phrases.words.gettext, phrases.words.ngettext
    final = report.final
    question = _("For whom?")
    if final is None or not final.by_group:
        return Answer(
            question,
            _("unknown"),
            _("no group was measured"),
            (_("Groups are measured after the last round, and this run did not get there."),),
        )
    told = [group for group in final.by_group if group.state == "reported"]
    total = len(final.by_group)
    beside = ngettext("of %(num)s group has a figure", "of %(num)s groups have figures", total)
    return Answer(
        question,
        str(len(told)),
        beside % {"num": total},
        (
            *(_tell_attribute(final, name, phrases) for name in ordered(final)),
            *_tell_untold(final, phrases),
        ),
    )


def _tell_attribute(final: FairnessReport, attribute: str, phrases: Phrases) -> str:
    _ = phrases.words.gettext
    name = phrases.attribute(attribute)
    found = [c for metric in _COMPARED if (c := final.contrast(attribute, metric))]
    if not found:
        return _("%(attribute)s: fewer than two groups can be compared.") % {"attribute": name}
    sure = [contrast for contrast in found if contrast.difference.low]
    if sure:
        told = phrases.words.gettext("; ").join(_tell_contrast(c, phrases) for c in sure)
        return _("%(attribute)s: groups differ by more than chance explains: %(told)s.") % {
            "attribute": name,
            "told": told,
        }
    auroc = final.contrast(attribute, "auroc")
    if auroc is None or auroc.difference.high is None:
        return _("%(attribute)s: no difference was shown, and little could have been.") % {
            "attribute": name
        }
    return _(
        "%(attribute)s: no difference was shown; one of up to %(most)s in AUROC could have been "
        "missed."
    ) % {"attribute": name, "most": phrases.number(auroc.difference.high)}


def _tell_contrast(contrast: Contrast, phrases: Phrases) -> str:
    _ = phrases.words.gettext
    digits = 1 if contrast.metric == "mae" else 2
    return _("%(metric)s between %(low)s and %(high)s, by at least %(least)s") % {
        "metric": _(_CONTRASTS[contrast.metric]),
        "low": phrases.group(contrast.attribute, contrast.group_min),
        "high": phrases.group(contrast.attribute, contrast.group_max),
        "least": phrases.number(contrast.difference.low, digits),
    }


def _tell_untold(final: FairnessReport, phrases: Phrases) -> Iterator[str]:
    _ = phrases.words.gettext
    for state, told in (
        ("suppressed", _("Withheld to protect small groups: %(groups)s.")),
        ("too_few", _("Too few subjects to say anything: %(groups)s.")),
        ("zero", _("Without any subject: %(groups)s.")),
        ("not_reported", _("Not reported by anybody: %(groups)s.")),
    ):
        groups: list[GroupMetrics] = [g for g in final.by_group if g.state == state]
        if groups:
            yield told % {"groups": phrases.groups(groups, most=6)}


def _answer_privacy(report: RunReport, phrases: Phrases) -> Answer:
    _ = phrases.words.gettext
    question = _("At what privacy?")
    if report.mode == "off":
        return Answer(
            question,
            _("none"),
            _("no noise was added"),
            (_("Nothing bounds what this run reveals about a subject."),),
        )
    seen = coordinator_epsilon(report)
    if seen is None or not report.rounds:
        return Answer(
            question,
            _("none spent"),
            _("no round was trained"),
            (_("Nothing of a training subject was released."),),
        )
    return Answer(
        question,
        f"ε {phrases.epsilon(seen, report.mode)}",
        _("for each subject, δ = %(delta)s") % {"delta": f"{report.delta:g}"},
        tuple(_privacy_sentences(report, seen, phrases)),
    )


def _privacy_sentences(report: RunReport, seen: float, phrases: Phrases) -> Iterator[str]:
    _ = phrases.words.gettext
    if report.mode == "local":
        yield _("The coordinator saw the noised updates of every single site.")
    else:
        yield _("The coordinator saw the noised sum of all sites, and the update of no single one.")
    if seen > LARGEST_TOLD_ODDS:
        yield _("So large an ε bounds little.")
    else:
        yield _(
            "Whatever is done with it, the odds it gives to one person having taken part change by "
            "a factor of at most %(factor)s, except with probability about δ."
        ) % {"factor": phrases.number(exp(seen), 1 if seen < 4 else 0)}


def _answer_comparison(report: RunReport, phrases: Phrases) -> Answer:
    _ = phrases.words.gettext
    better = beats_chance(report.final)
    figure = {True: _("than chance"), False: _("not shown"), None: _("unknown")}[better]
    told = {
        True: _("Better than guessing: the whole interval of the AUROC lies above 0.5."),
        False: _("Better than guessing was not shown: the interval of the AUROC reaches 0.5."),
        None: _("Whether it is better than guessing is unknown."),
    }[better]
    return Answer(
        _("Better than what?"),
        figure,
        _("nothing else was compared"),
        (
            told,
            _(
                "Whether it is better than a model of one site alone, or than pooling all data, "
                "this run did not measure; nor was it held against clinicians."
            ),
        ),
    )


def _answer_certainty(report: RunReport, phrases: Phrases) -> Answer:
    _ = phrases.words.gettext
    final = report.final
    auroc = final.overall.metrics.get("auroc") if final else None
    sentences = [
        _(
            "Every interval covers the true figure in about 95 of 100 such runs. It holds two "
            "doubts: others could have been recorded, and noise protects those who were."
        )
    ]
    width = None
    if auroc and auroc.low is not None and auroc.high is not None:
        width = (auroc.high - auroc.low) / 2
        sentences += _compare_with_truth(report, auroc, phrases)
    return Answer(
        _("How sure is that?"),
        f"± {phrases.number(width)}" if width is not None else phrases.number(None),
        _("half the interval of the AUROC"),
        tuple(sentences),
    )


def _compare_with_truth(report: RunReport, auroc: Estimate, phrases: Phrases) -> list[str]:
    _ = phrases.words.gettext
    exact = report.truth.by_group.get(("overall", "all")) if report.truth else None
    if exact is None or exact[1] is None or auroc.low is None or auroc.high is None:
        return []
    inside = auroc.low <= exact[1] <= auroc.high
    told = (
        _("In this simulation the exact AUROC is known: %(exact)s, inside the interval.")
        if inside
        else _("In this simulation the exact AUROC is known: %(exact)s, outside the interval.")
    )
    return [told % {"exact": phrases.number(exact[1])}]
