"""``vultus-simulate render``: every option reaches what it names."""

import numpy as np
import pytest
from typer.testing import CliRunner

from simulation import faces
from simulation.cli import app
from simulation.commands import parse_curve, parse_times


@pytest.mark.parametrize(
    ("option", "curve", "value"),
    [("--smile", "smile", 0.5), ("--brow", "brow", -0.5), ("--inner-brow", "inner_brow", 0.5),
     ("--gaze-down", "gaze_down", 0.5), ("--gaze-side", "gaze_side", -0.5), ("--jaw", "jaw", 0.5),
     ("--corner-drop", "corner_drop", 0.5), ("--dimple", "dimple", -0.5),
     ("--pitch", "pitch_deg", 5.0),
     ("--yaw", "yaw_deg", 5.0), ("--roll", "roll_deg", 5.0), ("--occlusion", "occlusion", 0.5),
     ("--away", "away", 0.5), ("--brightness", "brightness", 2.0)],
)  # fmt: skip
def test_an_option_of_render_reaches_its_curve_alone(tmp_path, monkeypatch, option, curve, value):
    told = []
    monkeypatch.setattr(faces, "render_video", lambda command, path: told.append(command) or 1)
    arguments = ["render", "--out", str(tmp_path / "face.mp4"), "--seconds", "0.2"]
    assert CliRunner().invoke(app, [*arguments, option, str(value)]).exit_code == 0
    assert CliRunner().invoke(app, arguments).exit_code == 0
    changed = {
        name for name in told[0].curves if told[0].curves[name][0] != told[1].curves[name][0]
    }
    assert changed == {curve}
    assert told[0].curves[curve].tolist() == [value] * 6


def test_knots_are_joined_by_straight_lines():
    curve = parse_curve("1:0, 2:1", 5, 2.0)
    np.testing.assert_allclose(curve, [0.0, 0.0, 0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("text", "fault"),
    [("1:a", "'1:a'"), ("0:0,1:nan", "knot 2 of 2"), ("1:0,0:1", "increasing"), ("", "got ''")],
)
def test_a_faulty_curve_is_named(text, fault):
    with pytest.raises(ValueError, match=fault):
        parse_curve(text, 3, 30.0)


def test_faulty_times_are_named():
    with pytest.raises(ValueError, match="1,x"):
        parse_times("1,x")
