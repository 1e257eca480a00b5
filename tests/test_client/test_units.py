"""systemd units: what each of them takes away, and that systemd reads them as they were meant."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from agreed_study import STUDY
from typer.testing import CliRunner

from client.cli import app
from client.service.units import make_units
from client.site import Site, init_site, open_site
from shared_models.systemd import write_units

ANALYZE = shutil.which("systemd-analyze")
SYSTEMD = pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze on this machine")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    return init_site(tmp_path / "50% of $HOME", site_id="north", consortium_file=study)


def settings(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def unit(site: Site, kind: str, **options: str) -> dict[str, list[str]]:
    (text,) = (u.text for u in make_units(site, user="vultus", **options) if kind in u.name)
    return settings(text)


def test_service_is_kept_from_the_videos_and_starts_the_site(site):
    service = unit(site, "vultus-site")
    folder = str(site.folder).replace("%", "%%")
    assert service["InaccessiblePaths"] == [f'"-{folder}/videos"']
    assert service["ReadWritePaths"] == [f'"{folder}/state" "{folder}/keys"']
    assert service["ExecStart"][0].endswith(f'"start" "{folder.replace("$", "$$")}"')
    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"] == ["2 3"]
    assert service["User"] == ["vultus"]


def test_extraction_has_no_network_and_changes_no_video(site):
    extraction = unit(site, "extract-north.service")
    folder = str(site.folder).replace("%", "%%")
    assert extraction["PrivateNetwork"] == ["yes"]
    assert extraction["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert extraction["ReadOnlyPaths"] == [f'"-{folder}/videos"']
    assert extraction["ReadWritePaths"] == [f'"{folder}/store" "{folder}/state"']


@pytest.mark.parametrize("kind", ["vultus-site", "extract-north.service"])
def test_both_units_give_up_what_they_do_not_need(site, kind):
    found = unit(site, kind)
    assert found["ProtectSystem"] == ["strict"]
    assert found["NoNewPrivileges"] == ["yes"]
    assert found["CapabilityBoundingSet"] == [""]
    assert "landlock_restrict_self" in found["SystemCallFilter"][0]


def test_group_of_the_videos_goes_to_the_extraction_alone(site):
    assert unit(site, "extract-north.service", videos_group="clips")["SupplementaryGroups"] == [
        "clips"
    ]
    assert "SupplementaryGroups" not in unit(site, "vultus-site", videos_group="clips")


def test_graphics_card_stays_visible_to_the_service_that_trains_on_it(site):
    assert unit(site, "vultus-site")["PrivateDevices"] == ["yes"]
    text = site.config_file.read_text().replace('torch = "cpu"', 'torch = "cuda"')
    site.config_file.write_text(text)
    assert unit(open_site(site.folder), "vultus-site")["PrivateDevices"] == ["no"]


def test_command_writes_three_files_and_says_what_to_do(site, tmp_path):
    words = ["units", str(site.folder), "--out", str(tmp_path / "units"), "--user", "vultus"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    assert "systemctl enable --now vultus-site-north.service" in result.stdout
    assert "paths.face_model" in result.stdout
    assert sorted(path.name for path in (tmp_path / "units").iterdir()) == [
        "vultus-extract-north.service", "vultus-extract-north.timer", "vultus-site-north.service",
    ]  # fmt: skip
    printed = CliRunner().invoke(app, ["units", str(site.folder), "--user", "vultus"]).stdout
    for path in (tmp_path / "units").iterdir():
        assert path.read_text() in printed


@SYSTEMD
def test_systemd_finds_nothing_wrong(site, tmp_path):
    paths = write_units(make_units(site, user="root"), tmp_path / "units")
    done = subprocess.run(
        [ANALYZE, "verify", *paths], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@SYSTEMD
@pytest.mark.parametrize(("kind", "most"), [("vultus-site", 3.0), ("vultus-extract", 2.0)])
def test_systemd_rates_the_units_as_well_protected(site, tmp_path, kind, most):
    paths = write_units(make_units(site, user="vultus"), tmp_path / "units")
    (path,) = (p for p in paths if p.name.startswith(kind) and p.suffix == ".service")
    done = subprocess.run(
        [ANALYZE, "security", "--offline=true", path],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze rates no unit files")
    (rating,) = re.findall(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(rating) <= most
