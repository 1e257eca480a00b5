"""What may and may not be concluded from models side by side, in sentences."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

from server.comparison.contenders import Contender
from server.comparison.differences import same_outcome
from server.comparison.withholding import Reason
from server.groups import OVERALL, Cell

Contenders = Sequence[Contender]


def state_limits(contenders: Contenders, hidden: Mapping[Cell, Reason]) -> tuple[str, ...]:
    """Sentences that hold for these models, the gravest first.

    Args:
        contenders: The models.
        hidden: Cells that are withheld from the comparison.
    """
    rules: tuple[Callable[[Contenders], Iterable[str]], ...] = (
        _unlike_outcomes,
        _unjudged,
        _overlaps,
        _strangers,
        _held_out,
        _choice,
        _contrasts,
        _noise,
        _budgets,
        _views,
    )
    told = [sentence for rule in rules for sentence in rule(contenders)]
    withheld = _withheld(contenders, hidden)
    return (*withheld, *told) if OVERALL in hidden else (*told, *withheld)


def _unlike_outcomes(contenders: Contenders) -> list[str]:
    first = contenders[0]
    unlike = [one for one in contenders[1:] if not same_outcome(one, first)]
    if not unlike:
        return []
    return [
        f"{_names(unlike)} and {first.name} predict different things (instrument, its range or the "
        "clinical threshold): no figure of one says anything about the other, and no difference "
        "is given."
    ]


def _unjudged(contenders: Contenders) -> list[str]:
    unjudged = [one for one in contenders if one.fairness is None]
    if not unjudged:
        return []
    return [
        f"{_names(unjudged)}: no tallies were asked for after that round, so nothing is known of "
        "its performance. Judging it now would spend privacy of held-out subjects."
    ]


def _overlaps(contenders: Contenders) -> list[str]:
    """Pairs whose held-out subjects may be the same, by the sites that they share."""
    pairs = [(a, b) for a, b in _judged_pairs(contenders) if a.possible_sites & b.possible_sites]
    if not pairs:
        return []
    shared = sorted(frozenset().union(*(a.possible_sites & b.possible_sites for a, b in pairs)))
    told = [
        f"{_pairs(pairs)}: judged on held-out subjects of the same sites ({', '.join(shared)}). "
        "Their figures are not independent, and sums over subjects do not tell how far they move "
        "together. So no 95 % interval of a difference can be given; a range in its place holds "
        "whatever the overlap, and is wider than a comparison subject by subject would need."
    ]
    differing = [(a, b) for a, b in pairs if a.counted_sites != b.counted_sites]
    if differing:
        told.append(
            f"{_pairs(differing)}: not all sites are the same. A difference is partly one of "
            "subjects, and cannot be taken apart into the models' share and the subjects'."
        )
    return told


def _strangers(contenders: Contenders) -> list[str]:
    pairs = [
        (a, b) for a, b in _judged_pairs(contenders) if not a.possible_sites & b.possible_sites
    ]
    if not pairs:
        return []
    return [
        f"{_pairs(pairs)}: judged on subjects of different sites. The figures are independent and "
        "the interval of their difference holds, unless somebody is recorded at two of the sites. "
        "But the subjects differ along with the models: a difference can be the subjects' alone."
    ]


def _held_out(contenders: Contenders) -> list[str]:
    """Whether one model may have been trained on subjects that judge another."""
    pairs = [
        (a, b)
        for a, b in itertools.combinations(contenders, 2)
        if a.possible_sites & b.possible_sites
    ]
    unlike = [(a, b) for a, b in pairs if len(a.divisions | b.divisions) > 1]
    told = []
    if len(unlike) < len(pairs):
        told.append(
            "Who is held out follows from the study's name, its held-out share and the subject's "
            "pseudonym alone. "
            + ("Runs that agree in them hold" if unlike else "These runs agree in them and hold")
            + " out the same subjects: none of these models was trained on those who judge another."
        )
    if unlike:
        told.append(
            f"{_pairs(unlike)}: the studies differ in name or held-out share, so subjects who "
            "judge one model may have trained the other, whose figures say nothing about that."
        )
    return told


def _choice(contenders: Contenders) -> list[str]:
    judged = [one for one in contenders if one.fairness]
    if len(judged) < 2:
        return []
    count = len(judged)
    return [
        f"Choosing the best of {count} models by these figures makes the figure of the chosen one "
        "too good: it was chosen partly for its luck. Each interval holds for one figure taken by "
        f"itself, not for the best of {count}. A range that includes 0 is no proof that models "
        "are equal."
    ]


def _contrasts(contenders: Contenders) -> list[str]:
    if len([one for one in contenders if one.fairness and one.fairness.contrasts]) < 2:
        return []
    return [
        "Differences between groups are given for each model. None is given between models: the "
        "largest of several differences grows with their number and with the noise, so a model "
        "with fewer reported groups looks more even. No figure here says that a model is fair."
    ]


def _noise(contenders: Contenders) -> list[str]:
    if all(one.entry.privacy.mode == "off" for one in contenders):
        return []
    return [
        "Noise was drawn anew in each run, for training and for the tallies: the same weights "
        "judged twice would differ too. The intervals include it."
    ]


def _budgets(contenders: Contenders) -> list[str]:
    runs = list(dict.fromkeys(one.entry.run for one in contenders))
    told = ["Comparing spends nothing: all figures here were out with the reports of the runs."]
    if len(runs) < len(contenders):
        told.append("Models of one run share its epsilon: it covers all of them together.")
    if len(runs) > 1:
        told.append(
            "Epsilons are those of each run. Who took part in several has spent on each of them."
        )
    return told


def _views(contenders: Contenders) -> list[str]:
    modes = {one.entry.privacy.mode for one in contenders}
    told = []
    if len(modes - {"off"}) > 1:
        told.append(
            "The epsilon that binds the coordinator is the site's where each site adds its own "
            "noise (local), and the sum's with secure sums (distributed): compare those two."
        )
    if len({one.entry.privacy.delta for one in contenders}) > 1:
        told.append("Epsilons at different delta are not on one scale; the larger may be safer.")
    if "off" in modes and len(modes) > 1:
        told.append("A run without privacy has no epsilon at all: it is not a small one.")
    return told


def _withheld(contenders: Contenders, hidden: Mapping[Cell, Reason]) -> list[str]:
    runs = ", ".join(dict.fromkeys(one.entry.run for one in contenders))
    sentences: dict[Reason, str] = {
        "differencing": "Some groups are withheld here although each report shows them: side by "
        "side they would tell of fewer subjects than a report may, as those of a single site that "
        f"took part in one run and not in another. Do not hand out the reports of {runs} together; "
        "compare models of the same sites.",
        "suppressed": "What one of the reports withholds is withheld here of every model, or what "
        "another report shows of the same group would stand in for it.",
    }
    told = [(hidden.get(OVERALL) != reason, text) for reason, text in sentences.items()
            if reason in hidden.values()]  # fmt: skip
    return [text for _, text in sorted(told, key=lambda one: one[0])]


def _judged_pairs(contenders: Contenders) -> list[tuple[Contender, Contender]]:
    return list(itertools.combinations([one for one in contenders if one.fairness], 2))


def _pairs(pairs: Sequence[tuple[Contender, Contender]]) -> str:
    told = [f"{a.entry.number} and {b.entry.number}" for a, b in pairs]
    return f"Model{'s' if told else ''} {'; '.join(told)}"


def _names(contenders: Contenders) -> str:
    numbers = ", ".join(str(one.entry.number) for one in contenders)
    return f"Model{'s' if len(contenders) > 1 else ''} {numbers}"
