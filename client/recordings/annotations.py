"""Notes on a recording beside the video: stimuli, who spoke when, figures of other instruments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Speaker = Literal["subject", "other"]


@dataclass(frozen=True)
class Stimulus:
    """Something shown or said to the subject.

    Attributes:
        onset_s: Start in seconds from the first frame, >= 0.
        duration_s: Length in seconds, >= 0.
        label: What it was, such as ``positive``; ``camera`` marks a stretch in which the subject
            was asked to look into the camera, which calibrates the target of the gaze.
    """

    onset_s: float
    duration_s: float
    label: str


@dataclass(frozen=True)
class Turn:
    """A stretch in which one person speaks.

    Attributes:
        start_s: Start in seconds from the first frame, >= 0.
        end_s: End in seconds, > ``start_s``.
        speaker: The subject or somebody else.
    """

    start_s: float
    end_s: float
    speaker: Speaker


@dataclass(frozen=True)
class Annotations:
    """All notes on one recording.

    Attributes:
        stimuli: In order of onset; empty if nothing was noted.
        turns: In order of start; empty if nothing was noted.
        pupil_mm: Mean pupil diameter in millimetres from another instrument; None if unknown.
    """

    stimuli: tuple[Stimulus, ...] = ()
    turns: tuple[Turn, ...] = ()
    pupil_mm: float | None = None


NO_ANNOTATIONS = Annotations()
