"""Approvals: bound to bundle, study and privacy plans, and to nothing less."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from agreed_study import STUDY
from click.testing import Result
from hostile_bundles import sound_bundle, with_entry
from made_kit import kit_for, new_coordinator, repin
from typer.testing import CliRunner

from client.approval import record
from client.approval.pending import (
    LARGEST_KEPT_BYTES,
    MOST_KEPT,
    RefusalWatch,
    forget_pending,
    note_refusal,
    pending_bundles,
)
from client.approval.record import (
    add_bundle,
    add_member,
    approved_bundles,
    approved_members,
    plans_digest,
    read_approvals,
    withdraw,
)
from client.approval.waiting import PENDING_ROSTER, find_waiting
from client.cli import app
from client.learning.admission import RefusedError, refuse_strangers
from client.learning.membership import follow_roster
from client.site import Site, SiteError, init_site, open_site
from privacy import audit
from privacy.audit import AuditLog
from privacy.keys import create_identity_key, public_line
from server.roster import add_site
from server.workspace import Workspace
from shared_models.consortium import ConsortiumConfig, PrivacyConfig, StudyConfig
from shared_models.roster import SiteEntry
from shared_models.toml import ConfigError, parse_toml

BUNDLE = "b" * 64


def run(*words: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=answer)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def site(tmp_path: Path, study: Path) -> Site:
    return init_site(tmp_path / "site", site_id="north", consortium_file=study)


@pytest.fixture
def approved(site: Site) -> Site:
    add_bundle(site, BUNDLE, site.consortium, study=STUDY)
    return site


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return new_coordinator(tmp_path / "co")


@pytest.fixture
def joined(site: Site, workspace: Workspace) -> Site:
    result = run("join", site.folder, kit_for(workspace, repin(site, workspace)), "--yes")
    assert result.exit_code == 0, result.output
    return open_site(site.folder)


def new_key(folder: Path) -> str:
    return public_line(create_identity_key(folder / "identity", folder / "identity.pub"))


# What an approval is bound to.


def test_nothing_is_approved_until_somebody_says_so(site):
    assert approved_bundles(site) == ()


def test_approved_bundle_may_run_for_the_study_it_was_approved_for(approved):
    assert approved_bundles(approved) == (BUNDLE,)
    file = approved.folder / "approvals.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    [given] = read_approvals(approved.folder).bundle
    assert given.study == STUDY
    assert "30 rounds" in given.note


def test_another_study_file_lets_every_approval_lapse(approved, study):
    study.write_text(STUDY + "# one more word\n")
    again = init_site(approved.folder, site_id="north", consortium_file=study)
    assert approved_bundles(again) == ()
    study.write_text(STUDY)
    back = init_site(approved.folder, site_id="north", consortium_file=study)
    assert approved_bundles(back) == (BUNDLE,)


def test_other_privacy_plans_from_the_same_study_let_every_approval_lapse(approved, monkeypatch):
    """As after an upgrade that derives less noise from the same file."""
    real = record.replace(approved.consortium.config, sites=()).training_plan()
    weaker = replace(real, noise_multiplier=real.noise_multiplier * 0.99)
    monkeypatch.setattr(ConsortiumConfig, "training_plan", lambda _self: weaker)
    assert approved_bundles(approved) == ()


def test_an_approval_without_one_of_its_three_digests_is_none(approved):
    file = approved.folder / "approvals.toml"
    whole = file.read_text()
    for name in ("sha256", "consortium_sha256", "plans_sha256"):
        lines = [line for line in whole.splitlines() if not line.startswith(f"{name} =")]
        file.write_text("\n".join(lines))
        with pytest.raises(ConfigError, match=name):
            approved_bundles(approved)


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_sites_that_join_or_leave_change_no_plan_that_was_approved(tmp_path, mode):
    config = ConsortiumConfig(
        study=StudyConfig(name="x", instrument="phq9"), privacy=PrivacyConfig(mode=mode)
    )
    keys = [new_key(tmp_path / str(n)) for n in range(6)]
    sites = tuple(SiteEntry(f"s{n}", 10, key) for n, key in enumerate(keys))
    digests = {plans_digest(replace(config, sites=sites[:n])) for n in range(7)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    "line",
    ["target_epsilon = 3.1", "delta = 2e-3", "max_grad_norm = 0.6", 'mode = "distributed"',
     'mode = "distributed"\ntolerated_dropouts = 1', 'mode = "distributed"\nretries = 3'],
)  # fmt: skip
def test_every_term_of_privacy_is_part_of_the_plans(line):
    def digest(text: str) -> str:
        return plans_digest(parse_toml(STUDY + text, ConsortiumConfig, name="x"))

    assert digest(f"\n[privacy]\n{line}\n") != digest("")
    assert digest("\n[training]\nrounds = 31\n") != digest("")
    assert digest("\n[fairness]\nepsilon = 2.9\n") != digest("")
    both = 'mode = "distributed"\n'
    if "\n" in line:
        assert digest(f"\n[privacy]\n{line}\n") != digest(f"\n[privacy]\n{both}")


def test_approvals_that_others_can_write_are_refused(approved):
    (approved.folder / "approvals.toml").chmod(0o620)
    with pytest.raises(SiteError, match="chmod 600"):
        approved_bundles(approved)


def test_the_old_list_of_bundles_is_refused_with_the_remedy(site):
    text = site.config_file.read_text()
    site.config_file.write_text(
        text.replace("approve_members", f'approved_bundles = ["{BUNDLE}"]\napprove_members')
    )
    with pytest.raises(ConfigError, match="vultus-site approve DIR"):
        open_site(site.folder)


def test_approving_twice_is_approving_once(approved):
    add_bundle(approved, BUNDLE, approved.consortium, study=STUDY)
    assert len(read_approvals(approved.folder).bundle) == 1


def test_withdrawing_needs_enough_of_the_hash_and_names_what_it_took(approved):
    assert withdraw(approved, "b" * 7) == ()
    assert withdraw(approved, "c" * 8) == ()
    assert approved_bundles(approved) == (BUNDLE,)
    [told] = withdraw(approved, "b" * 8)
    assert BUNDLE in told
    assert approved_bundles(approved) == ()


def test_what_was_approved_and_withdrawn_stands_in_the_log(approved):
    withdraw(approved, BUNDLE)
    events = [entry.event for entry in audit.read(approved.paths.audit)]
    assert events == ["approved", "approval_withdrawn"]
    assert "Approved the program bundle bbbb" in run("audit", approved.folder).stdout


# Bundles that were refused.


def refuse(site: Site, content: bytes) -> None:
    note_refusal(site.paths.state, AuditLog(site.paths.audit), content)


def test_refused_bundle_is_kept_closed_and_on_record(site):
    refuse(site, b"some bundle")
    [(digest, content)] = pending_bundles(site.paths.state).items()
    assert content == b"some bundle"
    file = site.paths.state / "pending" / f"{digest}.fab"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    [entry] = audit.read(site.paths.audit)
    assert entry.event == "bundle_refused"
    assert entry.details == {"sha256": digest, "bytes": 11, "kept": True}


def test_large_bundle_is_on_record_and_not_kept(site):
    refuse(site, bytes(LARGEST_KEPT_BYTES + 1))
    assert pending_bundles(site.paths.state) == {}
    assert sum(f.stat().st_size for f in (site.paths.state / "pending").iterdir()) == 0
    [entry] = audit.read(site.paths.audit)
    assert entry.details["kept"] is False


def test_a_flood_of_bundles_fills_no_disk(site):
    for number in range(MOST_KEPT + 5):
        refuse(site, str(number).encode())
    assert len(pending_bundles(site.paths.state)) == MOST_KEPT
    assert len(audit.read(site.paths.audit)) == MOST_KEPT + 5


def test_kept_bundle_that_was_altered_is_not_shown(site):
    refuse(site, b"one")
    [file] = (site.paths.state / "pending").iterdir()
    file.write_bytes(b"two")
    assert pending_bundles(site.paths.state) == {}


def test_each_refused_bundle_is_told_once(site):
    refuse(site, b"before")
    watch = RefusalWatch(site.paths.state)
    assert watch.look() == []
    refuse(site, b"new")
    refuse(site, bytes(LARGEST_KEPT_BYTES + 1))
    assert len(watch.look()) == 2
    assert watch.look() == []
    refuse(site, b"new")
    assert watch.look() == []
    for digest in pending_bundles(site.paths.state):
        forget_pending(site.paths.state, digest)
    assert watch.look() == []


# Asking.


def test_everything_is_shown_before_the_question_and_no_leaves_it_refused(joined, tmp_path):
    bundle = sound_bundle(tmp_path / "another") + b""
    other = with_entry(bundle, "LICENSE", b"Another notice.\n")
    refuse(joined, other)
    asked = run("approve", joined.folder, answer="n\n")
    key = joined.consortium.coordinator_key
    assert key
    for part in (
        "SHA256:", "localhost:8443", "LICENSE (16 bytes)", "No code", "client.app of vultus",
        "phq9", "30 rounds", "epsilon 3", "never a video", "by roster 1", "approved last on",
        "bundle: ",
    ):  # fmt: skip
        assert part in asked.stdout, part
    assert "Not approved" in asked.stdout
    assert len(approved_bundles(joined)) == 1
    assert pending_bundles(joined.paths.state) == {}


def test_approving_what_waits_lets_it_run(joined, tmp_path):
    other = with_entry(sound_bundle(tmp_path / "another"), "LICENSE", b"Another notice.\n")
    refuse(joined, other)
    assert run("approve", joined.folder, answer="y\n").exit_code == 0
    assert len(approved_bundles(joined)) == 2
    assert pending_bundles(joined.paths.state) == {}


def test_bundle_with_code_is_shown_and_can_never_be_approved(joined, tmp_path):
    refuse(joined, with_entry(sound_bundle(tmp_path / "another"), "client/app.py"))
    told = run("approve", joined.folder, "--yes")
    assert told.exit_code == 3
    assert "client/app.py" in told.stdout
    assert "CANNOT BE APPROVED" in told.stdout
    assert len(approved_bundles(joined)) == 1


def test_listing_decides_nothing(joined, tmp_path):
    refuse(joined, with_entry(sound_bundle(tmp_path / "another"), "client/app.py"))
    told = run("approve", joined.folder, "--list", "--json")
    assert told.exit_code == 0
    answer = json.loads(told.stdout.splitlines()[-1])
    assert [one["in_force"] for one in answer["bundles"]] == [True]
    assert [bool(one["fault"]) for one in answer["waiting"]] == [True]
    assert len(pending_bundles(joined.paths.state)) == 1


def test_after_a_changed_study_the_kits_bundle_waits_again_and_the_change_is_shown(
    joined, workspace, tmp_path
):
    text = workspace.consortium_file.read_text().replace("rounds = 30", "rounds = 31")
    (tmp_path / "new.toml").write_text(text)
    init_site(joined.folder, site_id="north", consortium_file=tmp_path / "new.toml")
    assert approved_bundles(open_site(joined.folder)) == ()
    told = run("approve", joined.folder, answer="y\n")
    assert "study: training.rounds: 30 -> 31" in told.stdout
    assert "YOUR POLICY REFUSES THIS (max_rounds)" in told.stdout
    assert approved_bundles(open_site(joined.folder)) == (workspace.bundle.sha256,)


def test_withdrawing_on_the_command_line(joined, workspace):
    told = run("approve", joined.folder, "--withdraw", workspace.bundle.sha256[:12])
    assert told.exit_code == 0
    assert approved_bundles(joined) == ()
    assert run("approve", joined.folder, "--withdraw", "f" * 64).exit_code == 2


def test_cost_of_a_secure_sum_is_told_for_the_sum_and_for_broken_masks(tmp_path, site):
    study = tmp_path / "sum.toml"
    keys = [new_key(tmp_path / str(n)) for n in range(9)]
    names = "".join(
        f'[[sites]]\nid = "s{n}"\nweight = 40\npublic_key = "{key}"\n' for n, key in enumerate(keys)
    )
    own = site.public_key_file.read_text().strip()
    text = f'{STUDY}[privacy]\nmode = "distributed"\nretries = 0\n{names}'
    study.write_text(f'{text}[[sites]]\nid = "north"\nweight = 40\npublic_key = "{own}"\n')
    again = init_site(site.folder, site_id="north", consortium_file=study)
    refuse(again, sound_bundle(tmp_path / "b"))
    told = run("approve", again.folder, answer="n\n").stdout
    assert "epsilon 3 in all rounds together" in told
    assert "13.4 were the masks of all sums broken" in told
    assert "require" not in told.split("The other sites")[1]


# Other sites.


@pytest.fixture
def wary(joined: Site) -> Site:
    """A site that wants to approve the others itself."""
    text = joined.config_file.read_text()
    joined.config_file.write_text(text.replace("approve_members = false", "approve_members = true"))
    return open_site(joined.folder)


def admit(workspace: Workspace, site_id: str, folder: Path) -> bytes:
    new_key(folder)
    add_site(workspace, site_id, key_file=folder / "identity.pub", weight=30)
    return workspace.consortium.signed_roster


def test_unknown_site_is_refused_and_waits_until_people_approved_it(wary, workspace, tmp_path):
    roster = admit(workspace, "south", tmp_path / "south")
    with pytest.raises(RefusedError) as caught:
        follow_roster(wary, roster)
    assert caught.value.rules == ("approve_members",)
    assert (wary.paths.state / PENDING_ROSTER).exists()
    assert [one.name for one in find_waiting(open_site(wary.folder))] == ["site south"]
    told = run("approve", wary.folder, answer="y\n")
    assert "telephone" in told.stdout
    assert set(approved_members(wary)) == {"south"}
    followed = follow_roster(open_site(wary.folder), roster)
    assert [entry.id for entry in followed.consortium.config.sites] == ["north", "south"]
    refuse_strangers(followed)


def test_site_that_does_not_ask_for_it_follows_every_signed_roster(joined, workspace, tmp_path):
    roster = admit(workspace, "south", tmp_path / "south")
    refuse_strangers(follow_roster(joined, roster))


def test_approved_site_with_another_key_is_a_stranger(wary, workspace, tmp_path):
    add_member(wary, SiteEntry("south", 30, new_key(tmp_path / "elsewhere")))
    with pytest.raises(RefusedError, match="south"):
        follow_roster(wary, admit(workspace, "south", tmp_path / "south"))
    told = run("approve", wary.folder, answer="n\n")
    assert "APPROVED BEFORE WITH ANOTHER KEY" in told.stdout
    assert [one.name for one in find_waiting(open_site(wary.folder))] == ["site south"]


def test_strangers_that_came_with_the_kit_are_refused_in_every_request(wary, workspace, tmp_path):
    admit(workspace, "south", tmp_path / "south")
    assert run("join", wary.folder, workspace.kit("north"), "--yes").exit_code == 0
    with pytest.raises(RefusedError):
        refuse_strangers(open_site(wary.folder))


def test_withdrawn_site_is_a_stranger_again(wary, workspace, tmp_path):
    roster = admit(workspace, "south", tmp_path / "south")
    with pytest.raises(RefusedError):
        follow_roster(wary, roster)
    run("approve", wary.folder, "--yes")
    assert run("approve", wary.folder, "--withdraw", "south").exit_code == 0
    with pytest.raises(RefusedError):
        follow_roster(open_site(wary.folder), roster)
