"""``vultus-simulate render``: every option reaches what it names."""

import pytest
from typer.testing import CliRunner

from simulation import faces
from simulation.cli import app


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
