"""Kits: signed by the coordinator, whole, and what is wrong with one is named at once."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

import pytest
from click.testing import Result
from hostile_bundles import with_entry
from made_kit import kit_for, new_coordinator, repin, sign_again
from packaging.version import Version
from typer.testing import CliRunner

from client.approval.record import approved_bundles
from client.cli import app
from client.service import kit as joining
from client.service.kit import join_site, read_kit
from client.site import Site, SiteError, init_site, open_site
from privacy.keys import create_identity_key, fingerprint
from server import kits
from server.cli import app as coordinator_cli
from server.kits import drop_kit, keep_face_model, write_kits
from server.roster import add_site
from server.workspace import Workspace
from shared_models.console import InputError
from shared_models.kits import find_kit_faults, is_kit_signed

FILES = {"ca.crt", "consortium.toml", "kit.sig", "kit.toml", "roster.json", "vultus.fab"}


def run(*words: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=answer)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return new_coordinator(tmp_path / "co")


@pytest.fixture
def site(tmp_path: Path, workspace: Workspace) -> Site:
    return init_site(tmp_path / "a", site_id="a", consortium_file=workspace.consortium_file)


@pytest.fixture
def kit(workspace: Workspace, site: Site) -> Path:
    return kit_for(workspace, site)


def admit(workspace: Workspace, site_id: str, folder: Path) -> Path:
    create_identity_key(folder / "identity", folder / "identity.pub")
    kit = add_site(workspace, site_id, key_file=folder / "identity.pub", weight=30).kit
    assert kit is not None
    return kit


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# The coordinator's half.


def test_kit_holds_all_that_a_site_needs_and_names_each_file(kit, workspace):
    assert {path.name for path in kit.iterdir()} == FILES
    tables = tomllib.loads((kit / "kit.toml").read_text())
    assert set(tables["files"]) == FILES - {"kit.toml", "kit.sig"}
    assert tables["kit"]["number"] == 1
    assert tables["kit"]["bundle_sha256"] == workspace.bundle.sha256
    text, signature = (kit / "kit.toml").read_bytes(), (kit / "kit.sig").read_bytes()
    key = workspace.consortium.coordinator_key
    assert is_kit_signed(text, signature, public_key=key)
    assert not is_kit_signed(text + b" ", signature, public_key=key)
    assert not is_kit_signed(text, signature, public_key=None)


def test_nothing_in_a_kit_is_secret(kit, workspace):
    secret = (workspace.folder / "engine" / "secret").read_bytes()
    for content in contents(kit).values():
        assert b"PRIVATE KEY" not in content
        assert secret not in content


def test_kit_of_which_nothing_changed_stays_as_it_is(kit, workspace):
    before = contents(kit)
    write_kits(workspace)
    assert contents(kit) == before


def test_changed_kit_gets_the_next_number_and_another_site_its_own(kit, workspace, tmp_path):
    other = admit(workspace, "b", tmp_path / "b")
    numbers = [tomllib.loads((k / "kit.toml").read_text())["kit"]["number"] for k in (kit, other)]
    assert numbers == [2, 1]
    assert not any(find_kit_faults(kit, tomllib.loads((kit / "kit.toml").read_text())["files"]))


@pytest.mark.parametrize("name", sorted(FILES))
def test_kit_that_was_cut_short_is_written_anew(kit, workspace, name):
    (kit / name).unlink()
    write_kits(workspace)
    read_kit(kit)


def test_kit_of_a_site_that_left_is_removed(kit, workspace):
    drop_kit(workspace, "a")
    assert not kit.exists()
    drop_kit(workspace, "a")


def test_face_model_of_another_hash_is_not_sent_to_anyone(kit, workspace, tmp_path):
    (tmp_path / "fake.task").write_bytes(b"fake")
    with pytest.raises(InputError, match="64184e22"):
        keep_face_model(workspace, tmp_path / "fake.task")
    with pytest.raises(InputError, match=r"missing\.task"):
        keep_face_model(workspace, tmp_path / "missing.task")
    write_kits(workspace)
    assert {path.name for path in kit.iterdir()} == FILES


@pytest.mark.needs_model
def test_face_model_in_the_kit_becomes_the_sites(kit, site, workspace, face_model):
    keep_face_model(workspace, face_model)
    write_kits(workspace)
    joined = join_site(site.folder, kit, confirm=lambda _: True)
    assert joined.paths.face_model == site.folder / "face_landmarker.task"
    assert joined.paths.face_model.read_bytes() == face_model.read_bytes()
    assert joined.paths.face_model.stat().st_mode & 0o077 == 0


@pytest.mark.needs_model
def test_site_that_has_a_face_model_keeps_its_own(kit, site, workspace, face_model):
    keep_face_model(workspace, face_model)
    write_kits(workspace)
    text = site.config_file.read_text()
    site.config_file.write_text(text.replace("# face_model = ", "face_model = "))
    join_site(site.folder, kit, confirm=lambda _: True)
    assert not (site.folder / "face_landmarker.task").exists()


# The site's half.


@pytest.mark.parametrize("name", sorted(FILES - {"kit.toml", "kit.sig"}))
def test_altered_file_is_named(kit, name):
    (kit / name).write_bytes((kit / name).read_bytes() + b"\n")
    with pytest.raises(SiteError, match=re.escape(f"{name} was altered")):
        read_kit(kit)


@pytest.mark.parametrize("name", sorted(FILES - {"kit.toml", "kit.sig"}))
def test_missing_file_is_named(kit, name):
    (kit / name).unlink()
    with pytest.raises(SiteError, match=re.escape(f"{name} is missing")):
        read_kit(kit)


def test_added_file_and_link_are_named(kit, tmp_path):
    (kit / "run-me.sh").write_text("#!/bin/sh\n")
    authority = (kit / "ca.crt").read_bytes()
    (tmp_path / "elsewhere").write_bytes(authority)
    (kit / "ca.crt").unlink()
    (kit / "ca.crt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SiteError) as caught:
        read_kit(kit)
    assert "'run-me.sh' was added" in str(caught.value)
    assert "ca.crt is missing" in str(caught.value)


def test_all_faults_of_a_kit_are_told_at_once(kit):
    (kit / "vultus.fab").write_bytes(b"evil")
    (kit / "ca.crt").unlink()
    (kit / "extra").write_text("")
    terms = (kit / "kit.toml").read_text().replace("localhost:8443", "evil.example:8443")
    (kit / "kit.toml").write_text(terms)
    with pytest.raises(SiteError) as caught:
        read_kit(kit)
    for part in ("signature", "vultus.fab was altered", "ca.crt is missing", "'extra' was added"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [("localhost:8443", "evil.example:8443"), ('site_id = "a"', 'site_id = "b"'),
     ("number = 1", "number = 9")],
)  # fmt: skip
def test_terms_that_nobody_signed_are_refused(kit, old, new):
    text = (kit / "kit.toml").read_text()
    assert old in text
    (kit / "kit.toml").write_text(text.replace(old, new))
    with pytest.raises(SiteError, match="signature"):
        read_kit(kit)


@pytest.mark.parametrize("signature", [None, b"", b"short", bytes(103)])
def test_kit_without_its_signature_is_refused(kit, signature):
    (kit / "kit.sig").unlink()
    if signature is not None:
        (kit / "kit.sig").write_bytes(signature)
    with pytest.raises(SiteError, match="signature"):
        read_kit(kit)


def test_files_that_kit_toml_does_not_name_do_not_pass_for_signed(kit, workspace):
    text = (kit / "kit.toml").read_text()
    without = "\n".join(line for line in text.splitlines() if not line.startswith('"ca.crt"'))
    sign_again(kit, workspace, text=without + "\n")
    with pytest.raises(SiteError) as caught:
        read_kit(kit)
    assert "does not name ca.crt" in str(caught.value)
    assert "'ca.crt' was added" in str(caught.value)


def test_signed_path_out_of_the_kit_is_no_file_of_it(kit, workspace):
    text = (kit / "kit.toml").read_text()
    sign_again(kit, workspace, text=f'{text}"../../identity" = "{"0" * 64}"\n')
    with pytest.raises(SiteError, match="no file of a kit"):
        read_kit(kit)


def test_signed_bundle_with_code_is_shown_and_refused(kit, site, workspace):
    (kit / "vultus.fab").write_bytes(with_entry((kit / "vultus.fab").read_bytes(), "client/x.py"))
    sign_again(kit, workspace)
    with pytest.raises(SiteError, match="not the bundle that"):
        read_kit(kit)
    digest = hashlib.sha256((kit / "vultus.fab").read_bytes()).hexdigest()
    text = (kit / "kit.toml").read_text().replace(workspace.bundle.sha256, digest)
    sign_again(kit, workspace, text=text)
    told = run("join", site.folder, kit, "--yes")
    assert told.exit_code == 3
    assert "client/x.py" in told.stdout
    assert "cannot be approved" in told.stderr
    assert approved_bundles(open_site(site.folder)) == ()


def test_authority_that_the_roster_does_not_name_is_refused(kit, workspace, tmp_path):
    other = new_coordinator(tmp_path / "other")
    (kit / "ca.crt").write_bytes(other.authority.certificate_file.read_bytes())
    sign_again(kit, workspace)
    with pytest.raises(SiteError, match="not the authority that the roster names"):
        read_kit(kit)


@pytest.mark.parametrize(
    ("step", "fits"), [((0, 0, 1), True), ((0, 1, 0), False), ((1, 0, 0), False)]
)
def test_only_the_last_number_of_the_version_may_differ(kit, site, workspace, step, fits):
    ours = Version(kits.version("vultus"))
    parts = (ours.major, ours.minor, ours.micro)
    theirs = ".".join(str(a + b) for a, b in zip(parts, step, strict=True))
    text = (kit / "kit.toml").read_text()
    wanted = text.replace(f'vultus_version = "{ours}"', f'vultus_version = "{theirs}"')
    sign_again(kit, workspace, text=wanted)
    told = run("join", site.folder, kit, "--yes")
    assert told.exit_code == (0 if fits else 2)
    if not fits:
        assert str(ours) in told.stderr
        assert theirs in told.stderr
        assert "install" in told.stderr


def test_another_coordinators_key_is_a_question_that_no_script_answers(
    kit, site, workspace, tmp_path
):
    joined = join_site(site.folder, kit, confirm=lambda _: True)
    other = new_coordinator(tmp_path / "other")
    other_kit = kit_for(other, site)
    by_script = run("join", site.folder, other_kit, "--yes")
    assert by_script.exit_code == 3
    keys = [one.consortium.coordinator_key for one in (joined, other)]
    for key in keys:
        assert key
        assert fingerprint(key) in by_script.stderr
    assert open_site(site.folder) == joined
    asked = run("join", site.folder, other_kit, answer="y\n")
    assert asked.exit_code == 0
    assert "ANOTHER COORDINATOR" in asked.stdout
    assert open_site(site.folder).consortium.coordinator_key == keys[1]


def test_older_kit_does_not_bring_back_an_older_roster(kit, site, workspace, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    for name, content in contents(kit).items():
        (old / name).write_bytes(content)
    admit(workspace, "b", tmp_path / "b")
    joined = join_site(site.folder, kit, confirm=lambda _: True)
    assert joined.consortium.roster_number == 2
    with pytest.raises(SiteError, match="roster 2"):
        join_site(site.folder, old, confirm=lambda _: True)


def test_kit_after_a_changed_study_asks_again_and_approves_anew(kit, site, workspace):
    joined = join_site(site.folder, kit, confirm=lambda _: True)
    file = workspace.consortium_file
    file.write_text(file.read_text().replace("rounds = 30", "rounds = 29"))
    CliRunner().invoke(coordinator_cli, ["kits", str(workspace.folder)])
    told = run("join", site.folder, kit, answer="y\n")
    assert told.exit_code == 0, told.output
    for part in ("study: training.rounds: 30 -> 29", "for this study"):
        assert part in told.stdout
    again = open_site(site.folder)
    assert approved_bundles(again) == approved_bundles(joined)
    assert again.consortium.roster_number == workspace.consortium.roster_number
    assert repin(again, workspace).consortium.roster_number == again.consortium.roster_number


@pytest.mark.parametrize("stop_at", range(8))
def test_join_that_was_killed_anywhere_trusts_nothing_more_and_can_be_done_again(
    kit, site, workspace, monkeypatch, stop_at
):
    written: list[Path] = []

    def count(path, data, **options):
        if len(written) == stop_at:
            raise KeyboardInterrupt
        written.append(path)
        real(path, data, **options)

    real = joining.write_atomic
    monkeypatch.setattr(joining, "write_atomic", count)
    try:
        join_site(site.folder, kit, confirm=lambda _: True)
    except KeyboardInterrupt:
        opened = open_site(site.folder)
        assert opened.config.coordinator is None
    monkeypatch.undo()
    joined = join_site(site.folder, kit, confirm=lambda _: True)
    assert joined.config.coordinator is not None
    assert approved_bundles(joined) == (workspace.bundle.sha256,)
