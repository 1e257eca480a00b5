"""An explanation in plain words: what was compared with what, and what moved the score most."""

from __future__ import annotations

from client.explanation.subject import ExplainedBehaviour, Explanation

MOST_NAMED = 3

_SMALL = 0.05
"""Part of all that moved the score below which a behaviour is not worth a sentence."""

PARTS = {
    "training": "Recordings of this subject helped to train the model, so its score may fit them "
    "better than those of somebody new.",
    "held_out": "This subject was held out: the model never trained on these recordings.",
    "neither": "No recording of this subject has a score, so none trained or judged the model.",
}

LIMITS = (
    (
        "Attribution, not cause.",
        "The page says what this model's arithmetic made of the recorded movement. It does not say "
        "why somebody smiled or looked down, and changing a behaviour would not change how "
        "somebody feels.",
    ),
    (
        "No diagnosis.",
        "A score is an estimate from a few minutes of one face. Nothing here may decide on the "
        "care of anybody.",
    ),
    (
        "Compared with what.",
        "The zero of every bar is a set of 16 clips of simulated faces of middling severity, the "
        "same at every site. Another comparison gives other bars. Where a camera, an age or a face "
        "differs from those clips, the difference is in the bars too.",
    ),
    (
        "Behaviours overlap.",
        "Talking moves lips and lids, a lowered head lowers the gaze. What several columns share "
        "is divided among them by the method, not by nature.",
    ),
    (
        "Moments are rough.",
        "The model looks at about three seconds at a time, and at how much changes within a clip; "
        "a moment stands for what lies around it.",
    ),
)
"""What a reader must know: heading and sentence."""


def tell(explanation: Explanation) -> list[str]:
    """Sentences for people, the most important first."""
    if not any(one.points for one in explanation.behaviours):
        return [
            f"The model gives everybody {show_points(explanation.score)} points: no behaviour "
            "moves its scores. It has not learned anything yet."
        ]
    return [_compare(explanation), _name(explanation), *_outside(explanation)]


def show_points(value: float) -> str:
    """Points with one digit behind the point, two below 1.

    >>> show_points(12.34), show_points(-0.456)
    ('12.3', '\N{MINUS SIGN}0.46')
    """
    text = f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text.lstrip("-")


def show_signed(value: float) -> str:
    """Points with their sign.

    >>> show_signed(1.2), show_signed(-0.456), show_signed(0.001)
    ('+1.2', '\N{MINUS SIGN}0.46', '0.00')
    """
    text = show_points(value)
    return f"+{text}" if float(f"{value:.2f}") > 0 else text


def show_measured(one: ExplainedBehaviour) -> str:
    """What was measured of a behaviour beside what is typical."""
    column = one.group.columns[0].replace("_", " ")
    unit = f" {one.unit}" if one.unit else ""
    own = "not measured" if one.measured is None else f"{_number(one.measured)}{unit}"
    return f"{column} {own}, typical {_number(one.typical)}{unit}"


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _compare(explanation: Explanation) -> str:
    difference = explanation.difference
    side = "above" if difference > 0 else "below"
    return (
        f"The model gives {explanation.subject_id} {show_points(explanation.score)} points, "
        f"{show_points(abs(difference))} {side} the {show_points(explanation.typical_score)} that "
        "it gives typical faces."
    )


def _name(explanation: Explanation) -> str:
    large = [b for b in explanation.behaviours if abs(b.points) >= _SMALL * explanation.moved]
    up = [one for one in large if one.points > 0][:MOST_NAMED]
    down = [one for one in large if one.points < 0][:MOST_NAMED]
    said = [
        f"{_list(found)} {verb} the score"
        for found, verb in ((up, "raised"), (down, "lowered"))
        if found
    ]
    sentence = "; ".join(said)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _list(found: list[ExplainedBehaviour]) -> str:
    named = [f"{one.group.title.lower()} ({show_signed(one.points)})" for one in found]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def _outside(explanation: Explanation) -> list[str]:
    low, high, _ = explanation.study.study.score_range
    if low <= explanation.score <= high:
        return []
    return [
        f"The instrument ends at {low:g} and {high:g} points; where scores are counted, this one "
        "is cut there."
    ]
