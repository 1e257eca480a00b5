"""A running service notices what the people of its site decide meanwhile."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from made_kit import kit_for, new_coordinator

from client.approval.pending import note_refusal
from client.approval.record import (
    APPROVALS_FILE,
    add_bundle,
    add_member,
    approved_bundles,
    withdraw,
)
from client.service import agreement_watch, supernode
from client.service.agreement_watch import AgreementWatch
from client.service.kit import join_site
from client.service.plan import plan_service
from client.site import Site, SiteError, init_site, open_site
from privacy.audit import AuditLog
from server.workspace import Workspace
from shared_models.console import InputError, RefusedError, Screen
from shared_models.supervision import Death, Supervisor


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return new_coordinator(tmp_path / "co")


@pytest.fixture
def site(tmp_path: Path, workspace: Workspace) -> Site:
    made = init_site(tmp_path / "a", site_id="a", consortium_file=workspace.consortium_file)
    return join_site(made.folder, kit_for(workspace, made), confirm=lambda _: True)


@pytest.fixture
def watch(site: Site) -> AgreementWatch:
    return supernode._Connection(plan_service(site), Screen()).agreement


def approve_another(site: Site) -> None:
    add_bundle(site, "c" * 64, site.consortium, study=site.paths.consortium.read_text())


def test_nothing_has_changed_while_nobody_decides_anything(site: Site, watch) -> None:
    assert not watch.has_changed()
    site.config_file.write_text(site.config_file.read_text() + "# a remark\n")
    assert not watch.has_changed()


def test_what_is_approved_or_taken_back_is_noticed(site: Site, watch) -> None:
    approve_another(site)
    assert watch.has_changed()
    withdraw(site, "c" * 64)
    assert not watch.has_changed()


def test_another_site_that_is_approved_is_noticed(site: Site, watch) -> None:
    assert site.entry is not None
    add_member(site, replace(site.entry, id="south"))
    assert watch.has_changed()


def test_service_whose_last_approval_was_taken_back_ends_as_refused(site: Site, watch) -> None:
    withdraw(site, approved_bundles(site)[0])
    with pytest.raises(RefusedError) as caught:
        watch.has_changed()
    assert caught.value.exit_code == 3


def test_study_that_was_pinned_without_approval_ends_the_service(
    site: Site, watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement_watch, "SETTLING_S", 0.0)
    study = tmp_path / "new.toml"
    study.write_text(site.paths.consortium.read_text().replace("rounds = 30", "rounds = 29"))
    init_site(site.folder, site_id="a", consortium_file=study)
    with pytest.raises(InputError, match="join"):
        _ = [watch.has_changed() for _ in range(3)]


def test_files_that_are_just_being_written_are_waited_for_but_not_for_ever(
    site: Site, watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = site.config_file.read_text()
    site.config_file.write_text(whole.replace(site.consortium.digest, "0" * 64))
    assert not watch.has_changed()
    assert not watch.has_changed()
    monkeypatch.setattr(agreement_watch, "SETTLING_S", 0.0)
    with pytest.raises(SiteError):
        watch.has_changed()
    site.config_file.write_text(whole)
    assert not watch.has_changed()


class IdleSupervisor(Supervisor):
    def poll(self) -> list[Death]:
        return []


def test_watching_ends_so_that_the_service_begins_anew(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = supernode._Connection(plan_service(site), Screen())
    approve_another(site)
    supernode._watch(connection, IdleSupervisor(()), threading.Event(), wall=None)
    assert "beginning anew" in capsys.readouterr().out
    assert len(plan_service(open_site(site.folder)).approved) == 2


def test_refused_bundle_is_told_in_one_line_with_the_command_to_read_it(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = supernode._Connection(plan_service(site), Screen())
    note_refusal(site.paths.state, AuditLog(site.paths.audit), b"hostile")
    connection.look()
    connection.look()
    [line] = capsys.readouterr().out.splitlines()
    assert "refused bundle " in line
    assert line.endswith(f"read: vultus-site approve {site.folder}")


def test_changed_approvals_file_is_closed_to_others(site: Site) -> None:
    assert (site.folder / APPROVALS_FILE).stat().st_mode & 0o077 == 0
