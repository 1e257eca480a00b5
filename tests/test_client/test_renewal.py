"""A new identity key: vouched for by the old one, which stays good for what it signed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_kit import kit_for, new_coordinator
from typer.testing import CliRunner

from client import renewal
from client.cli import app
from client.learning.anchoring import AnchorError, check_anchor, make_anchor
from client.learning.membership import follow_roster
from client.learning.receipts import Load, is_signed_by, signed_with, signing_keys, write_receipt
from client.records.check import check_records
from client.renewal import adopt_next_key, own_keys, request_renewal, retired_keys
from client.service.identity_link import IdentityLink
from client.service.kit import join_site
from client.service.plan import plan_service
from client.service.supernode import NOT_ACTIVATED, NOT_AUTHENTIC, _Connection
from client.site import Site, SiteError, init_site, open_site
from privacy import audit
from privacy.audit import AuditLog
from privacy.keys import public_line
from privacy.ledger import PrivacyLedger
from server.roster import renew_site
from server.workspace import Workspace
from shared_models.console import CommandError, Screen
from shared_models.renewal import RenewalError, read_renewal
from shared_models.supervision import Child, Death

LOAD = Load((), 0, 0, "0" * 64)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return new_coordinator(tmp_path / "co")


@pytest.fixture
def site(tmp_path: Path, workspace: Workspace) -> Site:
    made = init_site(tmp_path / "a", site_id="a", consortium_file=workspace.consortium_file)
    return join_site(made.folder, kit_for(workspace, made), confirm=lambda _: True)


def line_of(site: Site) -> str:
    return public_line(open_site(site.folder).identity_key)


def let_coordinator_renew(workspace: Workspace, site: Site) -> bytes:
    renew_site(workspace, site.id, file=site.paths.keys / "renewal.json")
    return workspace.consortium.signed_roster


def receipt(site: Site, number: int) -> None:
    write_receipt(AuditLog(site.paths.audit), site, "SiteHello", LOAD, {"number": number})


def test_asking_for_a_new_key_changes_nothing_yet(site):
    before = line_of(site)
    file = request_renewal(site)
    assert line_of(site) == before
    assert (site.paths.keys / "identity.next").stat().st_mode & 0o077 == 0
    assert b"PRIVATE" not in file.read_bytes()
    new = read_renewal(file.read_bytes(), site_id="a", present_key=before)
    assert new == own_keys(open_site(site.folder))[-1] != before


def test_asking_again_gives_the_same_key(site):
    first = request_renewal(site).read_bytes()
    again = request_renewal(open_site(site.folder)).read_bytes()
    keys = [read_renewal(c, site_id="a", present_key=line_of(site)) for c in (first, again)]
    assert keys[0] == keys[1]


def test_renewal_of_a_key_that_was_never_admitted_is_refused(tmp_path, workspace):
    made = init_site(tmp_path / "b", site_id="b", consortium_file=workspace.consortium_file)
    with pytest.raises(SiteError, match="not admitted"):
        request_renewal(made)


def test_renewal_that_another_key_signed_is_refused_at_the_coordinator(site, workspace, tmp_path):
    request_renewal(site)
    other = init_site(tmp_path / "x", site_id="a", consortium_file=workspace.consortium_file)
    content = (site.paths.keys / "renewal.json").read_bytes()
    with pytest.raises(RenewalError):
        read_renewal(content, site_id="a", present_key=public_line(other.identity_key))


def test_site_changes_to_the_key_that_the_roster_names_and_keeps_the_old_public_half(
    site, workspace
):
    old = line_of(site)
    request_renewal(site)
    followed = follow_roster(open_site(site.folder), let_coordinator_renew(workspace, site))
    new = public_line(followed.identity_key)
    assert new != old
    assert line_of(site) == new
    assert retired_keys(followed) == (old,)
    assert followed.identity_key_file.name == "identity"
    assert followed.public_key_file.read_text().strip() == new
    names = {path.name for path in site.paths.keys.iterdir()}
    assert not names & {"identity.next", "renewal.json", "identity.draft"}
    [entry] = [one for one in audit.read(site.paths.audit) if one.event == "key_renewed"]
    assert "renewed" in CliRunner().invoke(app, ["audit", str(site.folder)]).stdout
    assert entry.details["old"] != entry.details["new"]


def test_kit_with_the_new_key_changes_over_too(site, workspace):
    old = line_of(site)
    request_renewal(site)
    let_coordinator_renew(workspace, site)
    joined = join_site(site.folder, workspace.kit("a"), confirm=lambda _: True)
    assert retired_keys(joined) == (old,)
    assert joined.entry is not None
    assert joined.entry.public_key == public_line(joined.identity_key)


def test_where_the_service_may_not_write_among_the_keys_the_new_key_counts_all_the_same(
    site, workspace, monkeypatch
):
    old = line_of(site)
    request_renewal(site)
    roster = let_coordinator_renew(workspace, site)

    def read_only(_site: Site) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(renewal, "_settle", read_only)
    followed = follow_roster(open_site(site.folder), roster)
    assert followed.identity_key_file.name == "identity.next"
    assert line_of(site) != old
    assert retired_keys(followed) == (old,)
    receipt(followed, 1)
    assert check_records(open_site(site.folder), verify=True).whole
    monkeypatch.undo()
    settled = adopt_next_key(open_site(site.folder))
    assert settled.identity_key_file.name == "identity"
    assert retired_keys(settled) == (old,)
    assert len([e for e in audit.read(site.paths.audit) if e.event == "key_renewed"]) == 1


def test_keys_can_be_renewed_again_and_again(site, workspace):
    lines = [line_of(site)]
    for _ in range(3):
        request_renewal(open_site(site.folder))
        follow_roster(open_site(site.folder), let_coordinator_renew(workspace, site))
        lines.append(line_of(site))
    assert retired_keys(open_site(site.folder)) == tuple(lines[:-1])
    assert len(set(lines)) == 4


def test_receipts_of_an_earlier_key_stay_good(site, workspace):
    receipt(site, 1)
    request_renewal(site)
    renewed = follow_roster(open_site(site.folder), let_coordinator_renew(workspace, site))
    receipt(renewed, 2)
    report = check_records(renewed, verify=True)
    assert report.whole
    entries = [e for e in audit.read(site.paths.audit) if e.event == "sent"]
    assert all(is_signed_by(renewed, entry) for entry in entries)
    keys = signing_keys(renewed)
    assert [signed_with(renewed, entry, keys) for entry in entries] == [0, 1]


def test_receipt_signed_with_a_key_that_was_retired_before_is_noticed(site, workspace):
    """As by somebody who stole the old key, for which it was renewed."""
    thief = open_site(site.folder)
    _ = thief.identity_key
    request_renewal(site)
    renewed = follow_roster(open_site(site.folder), let_coordinator_renew(workspace, site))
    receipt(renewed, 1)
    receipt(thief, 2)
    report = check_records(renewed, verify=True)
    assert [fault.fault for fault in report.faults] == [
        "a receipt signed with a key that was retired before"
    ]


def test_receipt_of_a_key_that_was_never_the_sites_is_noticed(site, workspace, tmp_path):
    other = init_site(tmp_path / "x", site_id="a", consortium_file=workspace.consortium_file)
    write_receipt(AuditLog(site.paths.audit), other, "SiteHello", LOAD, {})
    assert not check_records(site, verify=True).whole


def test_anchor_that_an_earlier_key_signed_still_holds_the_site_to_its_records(site, workspace):
    with PrivacyLedger(site.paths.ledger, key=site.ledger_key) as ledger:
        receipt(site, 1)
        anchor = make_anchor(site, ledger)
        request_renewal(site)
        renewed = follow_roster(open_site(site.folder), let_coordinator_renew(workspace, site))
        check_anchor(anchor, renewed, ledger)
        site.paths.audit.write_bytes(b"")
        with pytest.raises(AnchorError, match="audit log is behind"):
            check_anchor(anchor, renewed, ledger)


def test_anchor_of_a_key_that_only_waits_is_not_the_sites(site):
    request_renewal(site)
    waiting = open_site(site.folder)
    with PrivacyLedger(site.paths.ledger, key=site.ledger_key) as ledger:
        other = open_site(site.folder)
        other.__dict__["identity_key"] = renewal.load_identity_key(
            site.paths.keys / "identity.next"
        )
        with pytest.raises(AnchorError, match="not signed by this site"):
            check_anchor(make_anchor(other, ledger), waiting, ledger)


# Killed in the middle.


@pytest.mark.parametrize("stop_at", range(6))
def test_each_step_of_changing_over_leaves_a_site_that_works(site, workspace, monkeypatch, stop_at):
    old = line_of(site)
    request_renewal(site)
    roster = let_coordinator_renew(workspace, site)
    steps = []

    def stopping(function):
        def step(*args, **options):
            if len(steps) == stop_at:
                raise KeyboardInterrupt
            steps.append(function)
            return function(*args, **options)

        return step

    for name in ("write_atomic", "sync_folder"):
        monkeypatch.setattr(renewal, name, stopping(getattr(renewal, name)))
    monkeypatch.setattr(Path, "replace", stopping(Path.replace))
    monkeypatch.setattr(renewal, "_note", stopping(renewal._note))
    try:
        follow_roster(open_site(site.folder), roster)
    except KeyboardInterrupt:
        monkeypatch.undo()
        assert line_of(site) in own_keys(open_site(site.folder))
    monkeypatch.undo()
    followed = adopt_next_key(follow_roster(open_site(site.folder), roster))
    assert followed.entry is not None
    assert public_line(followed.identity_key) == followed.entry.public_key
    assert retired_keys(followed) == (old,)
    assert followed.public_key_file.read_text().strip() == public_line(followed.identity_key)


LIFE = """
import sys
from pathlib import Path
from client.renewal import adopt_next_key, request_renewal
from client.site import open_site
from shared_models.roster import keep_roster
folder, task, roster = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
print("ready", flush=True)
if task == "ask":
    request_renewal(open_site(folder))
else:
    keep_roster(folder / "state" / "roster.json", roster.read_bytes())
    adopt_next_key(open_site(folder))
"""


@pytest.mark.slow
@pytest.mark.parametrize("task", ["ask", "follow"])
def test_a_real_kill_at_any_moment_leaves_a_site_that_works(site, workspace, tmp_path, task):
    roster = tmp_path / "roster.json"
    if task == "follow":
        request_renewal(site)
        roster.write_bytes(let_coordinator_renew(workspace, site))
    for delay_ms in (0, 6, 12, 24):
        process = subprocess.Popen(
            [sys.executable, "-c", LIFE, str(site.folder), task, str(roster)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout
        process.stdout.readline()
        time.sleep(delay_ms / 1000)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert line_of(site) in own_keys(open_site(site.folder))
    if task == "ask":
        request_renewal(open_site(site.folder))
        roster.write_bytes(let_coordinator_renew(workspace, site))
    followed = follow_roster(open_site(site.folder), roster.read_bytes())
    assert followed.entry is not None
    assert public_line(followed.identity_key) == followed.entry.public_key
    assert len(retired_keys(followed)) == 1


# The engine's own sign-in.


UNKNOWN = f"{NOT_ACTIVATED} Failed to activate SuperNode."
WITHDRAWN = f'POST https://hub:8443/v1/fleet/push-object "HTTP/1.1 {NOT_AUTHENTIC}"'
"""What is told of a key at the next sign-in, and in the middle of sending."""


def death(output: str = UNKNOWN) -> Death:
    return Death(Child("supernode", (), {}, Path("x.log")), 1, output)


@pytest.mark.parametrize("told", [UNKNOWN, WITHDRAWN])
def test_refused_site_tries_its_renewed_key_before_it_gives_up(site, told):
    request_renewal(site)
    plan = plan_service(open_site(site.folder))
    link = plan.identity
    link.point(plan.identity_key)
    connection = _Connection(plan, Screen())
    connection.note_death(death(told))
    assert link.path.resolve().name == "identity.next"
    with pytest.raises(CommandError, match=r"identity\.pub|clocks may differ"):
        connection.note_death(death(told))
    assert link.path.resolve().name == "identity"


@pytest.mark.parametrize("told", [UNKNOWN, WITHDRAWN])
def test_site_whose_key_took_over_under_an_open_session_connects_with_the_new_one(
    site, workspace, told
):
    request_renewal(site)
    plan = plan_service(open_site(site.folder))
    plan.identity.point(plan.identity_key)
    connection = _Connection(plan, Screen())
    follow_roster(open_site(site.folder), let_coordinator_renew(workspace, site))
    assert not plan.identity.has_choice
    connection.note_death(death(told))
    with pytest.raises(CommandError, match=r"identity\.pub|clocks may differ"):
        connection.note_death(death(told))


def test_site_without_a_renewed_key_gives_up_at_once(site):
    with pytest.raises(CommandError, match=r"identity\.pub"):
        _Connection(plan_service(site), Screen()).note_death(death())


def test_link_follows_a_key_that_was_put_in_its_place(site, workspace):
    request_renewal(site)
    link = IdentityLink(site.paths.state / "engine" / "identity", site.paths.keys)
    link.point("identity.next")
    follow_roster(open_site(site.folder), let_coordinator_renew(workspace, site))
    assert not link.path.exists()
    link.mend()
    assert renewal.load_identity_key(link.path.resolve())
    assert not link.switch()


def test_command_makes_the_file_and_says_what_to_do_with_it(site):
    told = CliRunner().invoke(app, ["renew-key", str(site.folder)])
    assert told.exit_code == 0
    assert "renewal.json" in told.stdout
    assert "vultus-coordinator renew-site" in told.stdout
    assert "PRIVATE" not in told.output
