"""The columns of OpenFace 2 files: what a frame log fills them with, and how that differs.

Source:
    Baltrusaitis, Zadeh, Lim and Morency 2018, doi:10.1109/FG.2018.00019 (OpenFace 2.0 and its
    output); Ekman, Friesen and Hager 2002 (numbers of the action units).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SUCCESS_COLUMNS = ("frame", "face_id", "timestamp", "confidence", "success")
GAZE_COLUMNS = (
    *(f"gaze_{eye}_{axis}" for eye in (0, 1) for axis in "xyz"),
    "gaze_angle_x",
    "gaze_angle_y",
)
PLACE_COLUMNS = ("pose_Tx", "pose_Ty", "pose_Tz")
TURN_COLUMNS = ("pose_Rx", "pose_Ry", "pose_Rz")
EXTRA_COLUMNS = ("dropped_for", "faces")
PRESENT_FROM = 1.0
"""An AUxx_c is 1 from this intensity on."""


@dataclass(frozen=True)
class ActionUnit:
    """One action unit and what stands in for its intensity.

    Attributes:
        number: Two digits, as in the column names.
        title: What the face does.
        blendshapes: Activations whose mean it is; empty if nothing measures it. A name without
            side stands for the left and the right one.
        minus: Activation taken off before anything else.
    """

    number: str
    title: str
    blendshapes: tuple[str, ...]
    minus: str = ""


ACTION_UNITS = (
    ActionUnit("01", "inner brow raiser", ("browInnerUp",)),
    ActionUnit("02", "outer brow raiser", ("browOuterUp",)),
    ActionUnit("04", "brow lowerer", ("browDown",)),
    ActionUnit("05", "upper lid raiser", ("eyeWide",)),
    ActionUnit("06", "cheek raiser", ("cheekSquint",)),
    ActionUnit("07", "lid tightener", ("eyeSquint",)),
    ActionUnit("09", "nose wrinkler", ("noseSneer",)),
    ActionUnit("10", "upper lip raiser", ("mouthUpperUp",)),
    ActionUnit("12", "lip corner puller", ("mouthSmile",)),
    ActionUnit("14", "dimpler", ("mouthDimple",)),
    ActionUnit("15", "lip corner depressor", ("mouthFrown",)),
    ActionUnit("17", "chin raiser", ("mouthShrugLower",)),
    ActionUnit("20", "lip stretcher", ("mouthStretch",)),
    ActionUnit("23", "lip tightener", ()),
    ActionUnit("25", "lips part", ("jawOpen",), minus="mouthClose"),
    ActionUnit("26", "jaw drop", ("jawOpen",)),
    ActionUnit("28", "lip suck", ("mouthRollLower", "mouthRollUpper")),
    ActionUnit("45", "blink", ("eyeBlink",)),
)
"""In the order of OpenFace, whose AU 28 has a presence but no intensity."""

WITHOUT_INTENSITY = "28"

_NEARLY_DEAD = "This activation hardly moves on real faces: read the geometric columns instead."
_DEAD = {"04", "09", "15"}
_NO_GAZE = {
    "Description": "Always empty.",
    "DiffersFromOpenFace": "No direction of gaze in space is measured; the column is there for "
    "scripts that name it.",
}
_NO_PLACE = {
    "Description": "Always empty.",
    "Units": "mm",
    "DiffersFromOpenFace": "The place of the head is not kept.",
}

SIGNALS: Mapping[str, str] = {
    "corner_elevation": "Height of the mouth corners above the middle of the lips, in the picture.",
    "corner_height": "The same after the turn of the head is taken back.",
    "corner_tilt": "How much higher the corner at the subject's left is than the right one.",
    "brow_gap": "Distance between the inner ends of the brows.",
    "brow_height": "Distance of the brows from the upper lids.",
    "brow_rise": "Height of the brows above the eye corners, turn of the head taken back.",
    "inner_brow_rise": "Height of the inner ends of the brows above the eye corners, likewise.",
    "eye_aspect_ratio": "Height of the eye opening over its width, mean of both eyes.",
    "iris_drop": "How far the irises stand below the line between the eye corners.",
    "mouth_aspect_ratio": "Distance between the inner edges of the lips.",
}


def describe_openface_columns(signal_names: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """What each column holds and how it differs from OpenFace's, in the order of the file.

    Args:
        signal_names: Geometric measures of the frame logs.
    """
    return {
        **_describe_frame(),
        **{name: dict(_NO_GAZE) for name in GAZE_COLUMNS},
        **{name: dict(_NO_PLACE) for name in PLACE_COLUMNS},
        **_describe_turns(),
        **_describe_action_units(),
        **_describe_extras(),
        **{f"vultus_{name}": _describe_signal(name) for name in signal_names},
    }


def intensity_columns() -> tuple[str, ...]:
    """Names of the intensity columns."""
    return tuple(f"AU{one.number}_r" for one in ACTION_UNITS if one.number != WITHOUT_INTENSITY)


def presence_columns() -> tuple[str, ...]:
    """Names of the presence columns."""
    return tuple(f"AU{one.number}_c" for one in ACTION_UNITS)


def _describe_frame() -> dict[str, dict[str, str]]:
    return {
        "frame": {
            "Description": "Number of the decoded frame, the first being 1. Every frame has a row.",
        },
        "face_id": {
            "Description": "Always 0: one subject a recording.",
        },
        "timestamp": {
            "Description": "Time from the start of the video, as the container tells it.",
            "Units": "s",
            "DiffersFromOpenFace": "The true time of each frame also where the rate varies.",
        },
        "confidence": {
            "Description": "1 where success is 1, else 0.",
            "DiffersFromOpenFace": "The tracker tells no confidence, so there is no cut-off to "
            "choose: filter by success.",
        },
        "success": {
            "Description": "1 if the frame was used for measuring, else 0; then dropped_for says "
            "why.",
            "DiffersFromOpenFace": "A face turned aside by more than 30 degrees counts as 0, and "
            "what is not measured is empty instead of 0.",
        },
    }


def _describe_turns() -> dict[str, dict[str, str]]:
    titles = {
        "pose_Rx": "Pitch, chin down positive.",
        "pose_Ry": "Yaw, nose to the left of the picture positive.",
        "pose_Rz": "Roll, clockwise in the picture positive.",
    }
    return {
        name: {
            "Description": f"{titles[name]} Rotation = Rx Ry Rz, in OpenFace's axes (x to the "
            "right of the picture, y down, z away from the camera). Also of a face turned away.",
            "Units": "rad",
            "DiffersFromOpenFace": "The same axes, signs and order, from another face model: its "
            "zero is another (in a rendered face, pitch by about 0.2 rad), so compare deviations "
            "from a recording's median.",
        }
        for name in TURN_COLUMNS
    }


def _describe_action_units() -> dict[str, dict[str, str]]:
    intensities = {
        f"AU{one.number}_r": {
            "Description": f"Intensity of AU {one.number}, {one.title}: {_formula(one)}.",
            "Units": "0 to 5",
            "DiffersFromOpenFace": _difference(one),
        }
        for one in ACTION_UNITS
        if one.number != WITHOUT_INTENSITY
    }
    presences = {
        f"AU{one.number}_c": {
            "Description": f"1 where 5 x {_formula(one, scaled=False)} is {PRESENT_FROM:g} or more."
            if one.blendshapes
            else "Always empty.",
            "DiffersFromOpenFace": "A fixed limit on the intensity, not a classifier of its own.",
        }
        for one in ACTION_UNITS
    }
    return {**intensities, **presences}


def _formula(one: ActionUnit, *, scaled: bool = True) -> str:
    if not one.blendshapes:
        return "always empty, nothing measures it"
    names = " and ".join(one.blendshapes)
    shape = f"{names} less {one.minus}" if one.minus else names
    if not scaled:
        return shape
    return f"5 x {shape} (activation of MediaPipe's face model, 0 to 1, mean of both sides)"


def _difference(one: ActionUnit) -> str:
    if not one.blendshapes:
        return "No activation stands for it."
    plain = "An activation scaled to 0..5, not trained on coded intensities."
    return f"{plain} {_NEARLY_DEAD}" if one.number in _DEAD else plain


def _describe_extras() -> dict[str, dict[str, str]]:
    only_here = "Not in OpenFace."
    return {
        "dropped_for": {
            "Description": "Why the frame was not used: no_face, turned_away (by more than 30 "
            "degrees) or not_analysed (the site analyses fewer frames than the camera took); empty "
            "if it was used.",
            "DiffersFromOpenFace": only_here,
        },
        "faces": {
            "Description": "Faces in the picture at the latest look at the whole of it, about once "
            "a second; 2 stands for more.",
            "DiffersFromOpenFace": only_here,
        },
    }


def _describe_signal(name: str) -> dict[str, str]:
    return {
        "Description": SIGNALS.get(name, "A geometric measure of the face."),
        "Units": "1" if name == "eye_aspect_ratio" else "distance of the outer eye corners",
        "DiffersFromOpenFace": "Not in OpenFace.",
    }
