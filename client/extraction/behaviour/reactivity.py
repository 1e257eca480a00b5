"""Indicators of the reaction to stimuli whose times an events file tells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.definition import EPISODE_FPS, indicator
from client.extraction.behaviour.gaze import CAMERA
from client.extraction.behaviour.measures import Figure, MissingInput, Session, Unsupported
from client.extraction.behaviour.signals import stretches
from client.recordings.annotations import Stimulus

FloatArray = NDArray[np.float64]

BEFORE_S = 5.0
AFTER_S = 10.0
EVENTS = "an events file that says when each stimulus was shown"
_LEAST_SEEN = 0.5
LEAST_S = _LEAST_SEEN * (BEFORE_S + AFTER_S)
_RISE_SD = 2.0
_LEAST_SD = 0.005
_LEAST_RISE_S = 0.3


@dataclass(frozen=True)
class Response:
    """A signal around one stimulus.

    Attributes:
        before: Samples of the 5 s before the onset, those measured.
        after: Samples of the 10 s from the onset, NaN where not measured.
    """

    before: FloatArray
    after: FloatArray

    @property
    def change(self) -> float:
        """Mean after minus mean before."""
        return float(np.nanmean(self.after) - self.before.mean())

    @property
    def samples(self) -> int:
        """Samples that were measured."""
        return len(self.before) + int(np.isfinite(self.after).sum())

    def latency_s(self, rate_hz: float) -> float | None:
        """Seconds until the signal rises for good; None if it does not."""
        spread = max(float(self.before.std()), _LEAST_SD)
        above = self.after - (float(self.before.mean()) + _RISE_SD * spread)
        for start, stop in stretches(above, on=0.0, off=0.0):
            if stop - start >= _LEAST_RISE_S * rate_hz - 1e-9:
                return start / rate_hz
        return None


@dataclass(frozen=True)
class Responses:
    """The stimuli that count, and how many do not.

    Attributes:
        found: One for each that counts.
        given: Stimuli that were asked for.
        crowded: Of those, too close to an edge of the recording or to another stimulus.
    """

    found: tuple[Response, ...]
    given: int
    crowded: int

    @property
    def note(self) -> str:
        """How many counted, and why others did not."""
        hidden = self.given - self.crowded - len(self.found)
        reasons = {
            "too close to an edge or to another stimulus": self.crowded,
            "with the face out of view": hidden,
        }
        lost = [f"{count} {reason}" for reason, count in reasons.items() if count]
        text = f"{len(self.found)} of {self.given} stimuli counted"
        return f"{text}; {', '.join(lost)}" if lost else text


def _responses(session: Session, samples: FloatArray, label: str | None = None) -> Responses:
    shown = [one for one in session.annotations.stimuli if one.label != CAMERA]
    asked = [one for one in shown if label in (None, one.label)]
    if not asked:
        msg = f"Needs {EVENTS}" if not shown else f"The events file has no stimulus {label!r}"
        raise MissingInput(msg)
    apart = [one for one in asked if _stands_apart(one, shown, session.series.duration_s)]
    around = [_around(session, samples, one) for one in apart]
    found = tuple(one for one in around if one is not None)
    responses = Responses(found, len(asked), len(asked) - len(apart))
    if not found:
        raise Unsupported(responses.note)
    return responses


def _stands_apart(stimulus: Stimulus, shown: list[Stimulus], duration_s: float) -> bool:
    start_s, end_s = stimulus.onset_s - BEFORE_S, stimulus.onset_s + AFTER_S
    if start_s < 0.0 or end_s > duration_s:
        return False
    # Another one must neither begin in the response nor still work in the baseline.
    return not any(
        other.onset_s < end_s and other.onset_s + max(other.duration_s, AFTER_S) > start_s
        if other.onset_s < stimulus.onset_s
        else other.onset_s < end_s
        for other in shown
        if other is not stimulus
    )


def _around(session: Session, samples: FloatArray, stimulus: Stimulus) -> Response | None:
    rate_hz = session.series.rate_hz
    first, onset, last = (
        round((stimulus.onset_s + shift_s) * rate_hz) for shift_s in (-BEFORE_S, 0.0, AFTER_S)
    )
    before, after = samples[first:onset], samples[onset:last]
    if min(np.isfinite(before).mean(), np.isfinite(after).mean()) < _LEAST_SEEN:
        return None
    return Response(before[np.isfinite(before)], after)


def _figure(session: Session, responses: Responses, value: float, note: str = "") -> Figure:
    observed_s = sum(one.samples for one in responses.found) / session.series.rate_hz
    coverage = min(observed_s / (responses.given * (BEFORE_S + AFTER_S)), 1.0)
    return Figure(value, coverage, observed_s, f"{responses.note}{note}")


def _mean_change(session: Session, samples: FloatArray, label: str | None = None) -> Figure:
    responses = _responses(session, samples, label)
    return _figure(session, responses, float(np.mean([one.change for one in responses.found])))


@indicator("reactivity", unit="1", min_fps=EPISODE_FPS, min_s=LEAST_S)
def reactivity(session: Session) -> Figure:
    """Mean change of expression after a stimulus.

    Mean activity of the face (as in expressivity) from the onset to 10 s after it, minus its mean
    over the 5 s before; mean over all stimuli of the events file except stretches labelled
    camera.

    Needs:
        An events file that says when each stimulus was shown.

    Baseline:
        The five seconds before each stimulus.

    Coverage:
        Share of the fifteen seconds around every stimulus that was measured and counted. A
        stimulus does not count within 5 s of the start or 10 s of the end, if another begins in
        its ten seconds or still lasts in its five, or if half of either was out of view; the note
        says how many counted.

    Evidence:
        Reduced with depression to positive (d = -0.53) and to negative stimuli (d = -0.25) in a
        meta-analysis of 19 studies (Bylsma 2008), in which experience, behaviour and physiology
        agreed.

    Limits:
        Few stimuli make a mean of few. A difference of two means falls when the face is already
        active before.

    Source:
        Bylsma et al. 2008, doi:10.1016/j.cpr.2007.10.001.
    """
    return _mean_change(session, session.activity)


@indicator("reactivity_positive", unit="1", min_fps=EPISODE_FPS, min_s=LEAST_S)
def reactivity_positive(session: Session) -> Figure:
    """Mean change of expression after positive stimuli.

    As reactivity, over the stimuli labelled positive.

    Needs:
        An events file that says when each stimulus was shown.

    Baseline:
        The five seconds before each stimulus.

    Coverage:
        Share of the fifteen seconds around every such stimulus that was measured and counted.

    Evidence:
        Reduced with depression, d = -0.53 over 19 studies (Bylsma 2008).

    Limits:
        As for reactivity; the label is the experimenter's, not the subject's.

    Source:
        Bylsma et al. 2008, doi:10.1016/j.cpr.2007.10.001.
    """
    return _mean_change(session, session.activity, "positive")


@indicator("reactivity_negative", unit="1", min_fps=EPISODE_FPS, min_s=LEAST_S)
def reactivity_negative(session: Session) -> Figure:
    """Mean change of expression after negative stimuli.

    As reactivity, over the stimuli labelled negative.

    Needs:
        An events file that says when each stimulus was shown.

    Baseline:
        The five seconds before each stimulus.

    Coverage:
        Share of the fifteen seconds around every such stimulus that was measured and counted.

    Evidence:
        Reduced with depression, d = -0.25 over 19 studies (Bylsma 2008), against the older view
        that negative reactions are stronger.

    Limits:
        As for reactivity; the label is the experimenter's, not the subject's.

    Source:
        Bylsma et al. 2008, doi:10.1016/j.cpr.2007.10.001.
    """
    return _mean_change(session, session.activity, "negative")


@indicator(
    "smile_reactivity_positive", unit="1", action_unit="12", min_fps=EPISODE_FPS, min_s=LEAST_S
)
def smile_reactivity_positive(session: Session) -> Figure:
    """Mean change of smiling after positive stimuli.

    As reactivity_positive, of the smile activation (mean of mouthSmileLeft and mouthSmileRight).

    Needs:
        An events file that says when each stimulus was shown.

    Baseline:
        The five seconds before each stimulus.

    Coverage:
        Share of the fifteen seconds around every such stimulus that was measured and counted.

    Evidence:
        Reduced reactions to positive stimuli with depression, d = -0.53 over 19 studies
        (Bylsma 2008); fewer laughs at a comedy in 25 patients (Mergl 2005).

    Limits:
        As for reactivity.

    Source:
        Bylsma et al. 2008, doi:10.1016/j.cpr.2007.10.001; Mergl et al. 2005,
        J Neurol Neurosurg Psychiatry 76:138.
    """
    return _mean_change(session, session.column("smile"), "positive")


@indicator("reactivity_latency_s", unit="s", min_fps=EPISODE_FPS, min_s=LEAST_S)
def reactivity_latency(session: Session) -> Figure:
    """Median time from a stimulus to the reaction of the face.

    Seconds from the onset until the activity of the face passes its mean over the 5 s before by
    two of their standard deviations (of 0.005 at least) and stays there for 0.3 s; median over
    the stimuli that were followed by such a rise. No value without one.

    Needs:
        An events file that says when each stimulus was shown.

    Baseline:
        The five seconds before each stimulus.

    Coverage:
        Share of the fifteen seconds around every stimulus that was measured and counted.

    Evidence:
        Slowing of the face is reported with depression (Mergl 2005 for the onset of a movement);
        for its latency no study is known to us.

    Limits:
        Steps of 0.1 s. Stimuli without a reaction are left out, so read it beside reactivity.

    Source:
        Mergl et al. 2005, J Neurol Neurosurg Psychiatry 76:138.
    """
    responses = _responses(session, session.activity)
    latencies = [one.latency_s(session.series.rate_hz) for one in responses.found]
    risen = [latency for latency in latencies if latency is not None]
    if not risen:
        msg = f"No stimulus was followed by a rise; {responses.note}"
        raise Unsupported(msg)
    note = f"; {len(risen)} followed by a rise"
    return _figure(session, responses, float(np.median(risen)), note)
