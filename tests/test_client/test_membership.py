"""What a site takes over of a roster, and a run whose sites come and go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from rostered_consortium import AUTHORITIES, RosteredConsortium, found_rostered

from client.app import SITE_CONFIG
from client.app import app as site_app
from client.learning.admission import RefusedError
from client.learning.learner import Learner
from client.site import Site, open_site
from privacy.audit import read_lines
from privacy.keys import public_line
from server.app import app as server_app
from server.bundle import RUN_FOLDER
from server.history import RunReport
from shared_models.consortium import (
    ConsortiumConfig,
    PrivacyConfig,
    StudyConfig,
    TrainingConfig,
)
from shared_models.messages import HelloRequest, RefusalCode
from shared_models.roster import SiteEntry, sign_roster
from simulation.engine import run_in_process

NAMES = ("east", "north", "south", "west")


@pytest.fixture
def founded(tmp_path: Path) -> RosteredConsortium:
    training = TrainingConfig(rounds=3, quorum=3, evaluate_every=3, round_timeout_s=0.2)
    config = ConsortiumConfig(StudyConfig("trial", "phq9"), training=training)
    return found_rostered(tmp_path, config, NAMES, subjects=20)


def hear(site: Site, roster: bytes) -> Site:
    """The site after a coordinator's hello, opened anew as it would be."""
    learner = Learner(open_site(site.folder))
    learner.greet(HelloRequest("1", bytes(32), roster), node_id=7)
    return open_site(site.folder)


def refused(site: Site, roster: bytes) -> str:
    before = site.paths.roster.read_bytes() if site.paths.roster.exists() else None
    with pytest.raises(RefusedError) as caught:
        hear(site, roster)
    assert caught.value.code is RefusalCode.ROSTER
    after = site.paths.roster.read_bytes() if site.paths.roster.exists() else None
    assert after == before, "a refused roster must not be kept"
    return str(caught.value)


def with_coordinator(site: Site) -> Site:
    """The site as one that draws its own noise and connects to somebody."""
    text = site.config_file.read_text()
    real = text[: text.index("[simulation]")]
    coordinator = '[coordinator]\naddress = "127.0.0.1:1"\nca_certificate = "ca.crt"\n'
    site.config_file.write_text(real + coordinator)
    return open_site(site.folder)


def test_a_site_follows_the_roster_and_keeps_it(founded: RosteredConsortium) -> None:
    site = hear(founded.sites["north"], founded.sign(4, "east", "north"))
    assert [entry.id for entry in site.consortium.config.sites] == ["east", "north"]
    assert site.consortium.roster_number == 4
    assert site.consortium.digest == founded.consortium.digest


def test_a_site_tells_which_roster_it_follows(founded: RosteredConsortium) -> None:
    learner = Learner(founded.sites["north"])
    said = learner.greet(HelloRequest("1", bytes(32), founded.sign(4, *NAMES)), node_id=7)
    assert said.roster_number == 4


def test_a_site_never_goes_back(founded: RosteredConsortium) -> None:
    site = hear(founded.sites["north"], founded.sign(4, "north", "south"))
    assert "older" in refused(site, founded.sign(3, *NAMES))
    assert "two different rosters" in refused(site, founded.sign(4, *NAMES))
    assert hear(site, founded.sign(4, "north", "south")).consortium.roster_number == 4


def test_a_roster_must_come_with_every_question_once_there_was_one(
    founded: RosteredConsortium,
) -> None:
    site = hear(founded.sites["north"], founded.sign(1, *NAMES))
    assert "signed roster" in refused(site, b"")


def test_a_roster_that_the_coordinator_did_not_sign_is_refused(
    founded: RosteredConsortium,
) -> None:
    stranger = ec.generate_private_key(ec.SECP384R1())
    forged = sign_roster(founded.roster(9, NAMES), stranger)
    assert "not signed" in refused(founded.sites["north"], forged)


def test_a_roster_of_another_study_is_refused(founded: RosteredConsortium) -> None:
    other = replace(founded.roster(9, NAMES), consortium_digest="b" * 64)
    assert "belongs to study" in refused(founded.sites["north"], sign_roster(other, founded.key))


def test_a_roster_that_gives_the_sites_name_to_another_key_is_refused(
    founded: RosteredConsortium,
) -> None:
    stranger = public_line(ec.generate_private_key(ec.SECP384R1()))
    taken = replace(founded.roster(9, ("east",)), sites=(SiteEntry("north", 40, stranger),))
    told = refused(founded.sites["north"], sign_roster(taken, founded.key))
    assert "does not name this site" in told
    assert "does not name this site" in refused(founded.sites["north"], founded.sign(9, "east"))


def test_the_log_says_who_came_and_who_went(founded: RosteredConsortium) -> None:
    site = hear(founded.sites["north"], founded.sign(1, "east", "north"))
    hear(site, founded.sign(2, "north", "west"))
    noted = read_lines(site.paths.audit).values()
    last = [entry.details for entry in noted if entry.event == "roster"][-1]
    assert last == {"number": 2, "joined": "west", "left": "east", "new_keys": ""}


def test_the_authorities_of_the_roster_become_those_of_the_next_connection(
    founded: RosteredConsortium,
) -> None:
    site = with_coordinator(founded.sites["north"])
    both = AUTHORITIES + AUTHORITIES.replace("this", "that")
    site = hear(site, founded.sign(1, *NAMES, authorities=both))
    assert site.config.coordinator is not None
    assert (site.folder / site.config.coordinator.ca_certificate).read_text() == both


def run(founded: RosteredConsortium, on_reply: Callable[[object], None]) -> RunReport:
    folder = founded.folder / "run"
    folder.mkdir()
    (folder / "consortium.toml").write_bytes((founded.folder / "consortium.toml").read_bytes())
    run_in_process(
        server_app,
        site_app,
        node_configs=[{SITE_CONFIG: str(founded.sites[name].config_file)} for name in NAMES],
        run_config={RUN_FOLDER: str(folder)},
        on_reply=on_reply,
    )
    return RunReport.from_json((folder / "report.json").read_bytes())


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_a_run_goes_on_while_one_site_leaves_and_another_joins(tmp_path: Path, mode: str) -> None:
    training = TrainingConfig(rounds=3, quorum=3, evaluate_every=3, round_timeout_s=0.2)
    config = ConsortiumConfig(
        StudyConfig("trial", "phq9"),
        training=training,
        privacy=PrivacyConfig(mode=mode),  # type: ignore[arg-type]
    )
    founded = found_rostered(tmp_path, config, NAMES, subjects=20)
    founded.publish(1, "east", "north", "south")
    changes = iter([("north", "south", "west")])
    trained = 0

    def change(reply: object) -> None:
        nonlocal trained
        if getattr(reply, "metadata").message_type != "train":  # noqa: B009 - any reply
            return
        trained += 1
        if trained == 3:
            founded.publish(2, *next(changes))

    report = run(founded, change)
    assert [r.participants for r in report.rounds] == [
        ("east", "north", "south"),
        ("north", "south", "west"),
        ("north", "south", "west"),
    ]
    assert report.status == "completed"
    assert report.consortium_digest == founded.consortium.digest
    numbers = [open_site(founded.sites[name].folder).consortium.roster_number for name in NAMES]
    assert numbers == [1, 2, 2, 2]


def test_a_crash_while_a_roster_is_taken_over_leaves_it_to_be_taken_over_again(
    founded: RosteredConsortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = with_coordinator(founded.sites["north"])

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("client.learning.membership.keep_roster", crash)
    with pytest.raises(KeyboardInterrupt):
        hear(site, founded.sign(1, *NAMES))
    monkeypatch.undo()
    assert hear(site, founded.sign(1, *NAMES)).consortium.roster_number == 1
    assert (site.folder / "ca.crt").read_text() == AUTHORITIES
