"""A site's service: joining by a kit, the processes it starts, what it makes of a refusal."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from made_kit import kit_for, new_coordinator, sign_again

from client.approval.record import approved_bundles, withdraw
from client.service import supernode
from client.service.kit import Proposal, join_site, read_kit
from client.service.plan import plan_service
from client.service.reachability import Address
from client.service.wall import REREAD, find_boundary
from client.service.walled_start import await_coordinator
from client.site import Site, SiteError, init_site, open_site
from server.workspace import Workspace
from shared_models.console import CommandError, InputError, RefusedError, Screen
from shared_models.supervision import Child, Death
from shared_models.toml import ConfigError


def agree(_changes: object) -> bool:
    return True


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return new_coordinator(tmp_path / "co")


@pytest.fixture
def site(tmp_path: Path, workspace: Workspace) -> Site:
    return init_site(tmp_path / "a", site_id="a", consortium_file=workspace.consortium_file)


@pytest.fixture
def kit(site: Site, workspace: Workspace) -> Path:
    return kit_for(workspace, site)


def test_joining_takes_over_study_address_authority_and_bundle(
    site: Site, kit: Path, workspace: Workspace
) -> None:
    joined = join_site(site.folder, kit, confirm=agree)
    assert joined.consortium.digest == workspace.consortium.digest
    assert joined.config.coordinator is not None
    assert joined.config.coordinator.address == "localhost:8443"
    authority = site.folder / joined.config.coordinator.ca_certificate
    assert authority.read_bytes() == workspace.authority.certificate_file.read_bytes()
    assert approved_bundles(joined) == (workspace.bundle.sha256,)
    assert joined.consortium.roster_number == workspace.consortium.roster_number
    assert joined.config_file.stat().st_mode & 0o077 == 0


def test_joining_shows_what_changes_and_changes_nothing_when_declined(
    site: Site, kit: Path, workspace: Workspace
) -> None:
    before = {f: f.read_bytes() for f in site.folder.rglob("*") if f.is_file()}
    shown: list[str] = []

    def decline(proposal: Proposal) -> bool:
        shown.extend(proposal.changes)
        return False

    join_site(site.folder, kit, confirm=decline)
    assert {f: f.read_bytes() for f in site.folder.rglob("*") if f.is_file()} == before
    text = "\n".join(shown)
    for part in (workspace.bundle.sha256, "localhost:8443", "follow roster 1"):
        assert part in text


def test_joining_again_changes_nothing(site: Site, kit: Path) -> None:
    joined = join_site(site.folder, kit, confirm=agree)
    before = joined.config_file.read_bytes()
    shown: list[str] = []
    join_site(site.folder, kit, confirm=lambda p: bool(shown.extend(p.changes)) or True)
    assert shown == []
    assert joined.config_file.read_bytes() == before


def test_joining_keeps_the_sites_own_edits(site: Site, kit: Path) -> None:
    text = site.config_file.read_text().replace("workers = 1", "workers = 3 # night shift")
    site.config_file.write_text(text)
    joined = join_site(site.folder, kit, confirm=agree)
    assert "workers = 3 # night shift" in joined.config_file.read_text()


def test_altered_kit_is_refused(site: Site, kit: Path) -> None:
    study = kit / "consortium.toml"
    study.write_text(study.read_text().replace("target_epsilon = 3.0", "target_epsilon = 300.0"))
    with pytest.raises(SiteError, match="altered"):
        join_site(site.folder, kit, confirm=agree)


def test_kit_of_another_site_is_refused(site: Site, kit: Path, tmp_path: Path) -> None:
    study = kit / "consortium.toml"
    other = init_site(tmp_path / "b", site_id="b", consortium_file=study)
    with pytest.raises(SiteError, match="'b'"):
        join_site(other.folder, kit, confirm=agree)


def test_kit_that_names_another_key_is_refused(
    site: Site, workspace: Workspace, tmp_path: Path
) -> None:
    stranger = init_site(tmp_path / "x", site_id="a", consortium_file=workspace.consortium_file)
    kit = kit_for(workspace, stranger)
    with pytest.raises(SiteError, match="SHA256:"):
        join_site(site.folder, kit, confirm=agree)


@pytest.mark.parametrize(
    ("name", "content"),
    [("kit.toml", b"[kit]\n"), ("consortium.toml", b""), ("ca.crt", b"not a certificate")],
)
def test_damaged_kit_is_refused(kit: Path, name: str, content: bytes) -> None:
    (kit / name).write_bytes(content)
    with pytest.raises((SiteError, ConfigError)):
        read_kit(kit)


def test_kit_for_another_engine_version_is_refused(
    site: Site, kit: Path, workspace: Workspace
) -> None:
    text = (kit / "kit.toml").read_text()
    sign_again(kit, workspace, text=text.replace('flwr_version = "1.', 'flwr_version = "9.'))
    with pytest.raises(SiteError, match="flwr"):
        join_site(site.folder, kit, confirm=agree)


def test_site_that_has_not_joined_does_not_serve(site: Site) -> None:
    with pytest.raises(InputError, match="vultus-site join"):
        plan_service(site)


def test_site_without_an_approved_bundle_does_not_serve(site: Site, kit: Path) -> None:
    joined = join_site(site.folder, kit, confirm=agree)
    withdraw(joined, approved_bundles(joined)[0])
    with pytest.raises(RefusedError, match="vultus-site approve"):
        plan_service(open_site(joined.folder))


def test_processes_get_the_sites_list_key_and_authority_and_no_programs(
    site: Site, kit: Path
) -> None:
    joined = join_site(site.folder, kit, confirm=agree)
    plan = plan_service(joined)
    node, worker = supernode._children(plan)
    for child in (node, worker):
        at = child.command.index("--approve")
        assert child.command[at + 1] == plan.approved[0]
        assert list(Path(child.environment["PATH"]).iterdir()) == []
    at = node.command.index("--auth-supernode-private-key")
    assert Path(node.command[at + 1]).resolve() == joined.identity_key_file
    assert str(site.paths.state / "ca.crt") in node.command
    assert "--insecure" not in node.command
    assert (plan.engine / "secret").stat().st_mode & 0o077 == 0


def test_processes_start_behind_the_wall_and_the_worker_watches_what_it_lives_on(
    site: Site, kit: Path
) -> None:
    plan = plan_service(join_site(site.folder, kit, confirm=agree))
    boundary = find_boundary(plan.site_toml)
    for child in supernode._children(plan, boundary):
        at = child.command.index("client.service.wall")
        assert child.command[at + 1 : at + 3] == (str(plan.site_toml), "--")
    words = child.command
    watched = [after for word, after in itertools.pairwise(words) if word == "--watch"]
    assert watched == [str(path) for path in boundary.needed]
    assert Path(child.environment["TMPDIR"]).is_relative_to(site.paths.state)


def test_site_that_requires_the_wall_refuses_before_it_contacts_anyone(
    site: Site, kit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("somebody was contacted")

    joined = join_site(site.folder, kit, confirm=agree)
    text = joined.config_file.read_text().replace('wall = "if_possible"', 'wall = "required"')
    joined.config_file.write_text(text)
    monkeypatch.setattr("client.service.walled_start.landlock_version", lambda: 0)
    monkeypatch.setattr(supernode, "await_coordinator", fail)
    with pytest.raises(RefusedError, match="Landlock"):
        supernode.serve_site(open_site(joined.folder))


def ask(program: str, stopping: threading.Event) -> None:
    await_coordinator(
        Address("127.0.0.1", 1),
        Path("ca.crt"),
        command=(sys.executable, "-c", program),
        environment={},
        stopping=stopping,
    )


def test_answer_of_the_asking_process_is_passed_on() -> None:
    ask("", threading.Event())
    with pytest.raises(CommandError, match="nothing listens there") as caught:
        ask("import sys; sys.exit('nothing listens there')", threading.Event())
    assert caught.value.exit_code == 1


def test_asking_process_ends_when_the_service_is_stopped() -> None:
    stopping = threading.Event()
    stopping.set()
    ask("import time; time.sleep(60)", stopping)


def test_worker_that_starts_anew_to_read_a_file_is_no_failure(
    site: Site, kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_service(join_site(site.folder, kit, confirm=agree))
    connection = supernode._Connection(plan, Screen(), connected=True)
    child = Child("worker", (), {}, site.paths.state / "x.log")
    connection.note_death(Death(child, REREAD, ""))
    assert connection.connected
    assert "was replaced" in capsys.readouterr().out


def death(site: Site, output: str) -> Death:
    return Death(Child("supernode", (), {}, site.paths.state / "x.log"), 1, output)


def test_refused_key_ends_the_service_unless_an_old_session_may_linger(
    site: Site, kit: Path
) -> None:
    plan = plan_service(join_site(site.folder, kit, confirm=agree))
    connection = supernode._Connection(plan, Screen())
    refusal = death(site, "[code: 2004] Failed to activate SuperNode.")
    with pytest.raises(Exception, match=r"identity\.pub"):
        connection.note_death(refusal)
    plan.session.touch()
    connection.note_death(refusal)
    long_ago = time.time() - supernode.OLD_SESSION_S - 1
    os.utime(plan.session, (long_ago, long_ago))
    with pytest.raises(Exception, match=r"identity\.pub"):
        connection.note_death(refusal)


def test_busy_session_counts_as_one_that_may_linger(site: Site, kit: Path) -> None:
    plan = plan_service(join_site(site.folder, kit, confirm=agree))
    connection = supernode._Connection(plan, Screen())
    plan.contact.touch()
    # The file system's clock ticks coarsely: a plain touch may lie before the start.
    os.utime(plan.contact, (time.time(), time.time()))
    connection.look()
    assert connection.connected
    long_ago = time.time() - 3600
    os.utime(plan.contact, (long_ago, long_ago))
    os.utime(plan.session, (long_ago, long_ago))
    connection.look()
    connection.note_death(death(site, "[code: 2004] Failed to activate SuperNode."))


def test_refused_signature_points_to_the_clock(site: Site, kit: Path) -> None:
    plan = plan_service(join_site(site.folder, kit, confirm=agree))
    with pytest.raises(Exception, match="clock"):
        supernode._Connection(plan, Screen()).note_death(
            death(site, "Client error '401 Unauthorized'")
        )


def test_a_renewed_authority_is_trusted_from_the_moment_that_nothing_is_heard(
    site: Site, kit: Path
) -> None:
    plan = plan_service(join_site(site.folder, kit, confirm=agree))
    connection = supernode._Connection(plan, Screen())
    connection.silent = True
    assert not connection.trusts_too_little
    connection.silent = False
    plan.authority.write_bytes(plan.authority.read_bytes() * 2)
    assert not connection.trusts_too_little, "what is heard is not interrupted"
    connection.silent = True
    assert connection.trusts_too_little
