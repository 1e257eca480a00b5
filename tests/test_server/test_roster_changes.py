"""Sites that join and leave while a run is under way: in and out from the next round on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Message
from played_sites import FOUR, KEYS, SITES, Sites

from privacy.keys import public_line
from server import rounds
from server.run_folder import load_present
from server.signing import open_signing_key
from server.strategy import ConsortiumStrategy
from server.study_file import render_study
from shared_models.consortium import PrivacyConfig, load_consortium
from shared_models.messages import CohortMember, Reply
from shared_models.networks import make_network
from shared_models.records import decode_hello_request
from shared_models.roster import (
    ROSTER_FILE,
    Roster,
    RosterError,
    SiteEntry,
    keep_roster,
    sign_roster,
)
from shared_models.weights import freeze_trunk


class RosterSites(Sites):
    """Sites whose study names none: who takes part stands in a roster beside the runs."""

    def __init__(self, folder: Path, **options: object) -> None:
        super().__init__(folder, rounds=3, **options)  # type: ignore[arg-type]
        config = replace(self.consortium.config, sites=())
        study = self.folder / "consortium.toml"
        study.write_text(render_study(config))
        self.shared = folder / ROSTER_FILE
        self.digest = load_consortium(study).digest
        self.number = 0
        self.sign(SITES)
        self.consortium = load_consortium(study, roster=self.shared)
        self.names = list(FOUR)
        self.rosters: list[bytes] = []
        self.now: Callable[[str, int], None] = lambda *_: None

    def sign(self, sites: tuple[str, ...]) -> None:
        self.number += 1
        entries = tuple(SiteEntry(s, 10, public_line(KEYS[s])) for s in sites)
        roster = Roster(self.number, self.digest, entries, "")
        key = open_signing_key(self.runs, load_consortium(self.folder / "consortium.toml"))
        keep_roster(self.shared, sign_roster(roster, key))

    def hello(self, site: str, message: Message, node_id: int) -> Reply:
        self.rosters.append(decode_hello_request(message.content).roster)
        reply = super().hello(site, message, node_id)
        return replace(reply, roster_number=self.number)  # type: ignore[type-var]

    def train(self, site: str, message: Message, node_id: int) -> Reply:
        reply = super().train(site, message, node_id)
        self.now(site, reply.server_round)  # type: ignore[union-attr]
        return reply


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RosterSites:
    monkeypatch.setattr(rounds, "PATIENCE_S", 0.0)
    return RosterSites(tmp_path)


def change_in_round(sites: RosterSites, server_round: int, to: tuple[str, ...]) -> None:
    """Let somebody sign another roster while the first site of a round is at work."""

    def change(_site: str, at: int) -> None:
        if at == server_round and sites.number == 1:
            sites.sign(to)

    sites.now = change


def test_a_site_that_is_removed_is_out_in_the_next_round(sites: RosterSites) -> None:
    change_in_round(sites, 1, ("east", "west"))
    report = sites.run()
    assert [r.participants for r in report.rounds] == [SITES, ("east", "west"), ("east", "west")]
    # What it spent is still told, and it is neither missing nor waited for.
    assert {s.site_id: s.rounds for s in report.sites} == {"east": 3, "west": 3, "north": 1}
    assert report.rounds[1].missing == ()


def test_a_site_that_is_added_takes_part_from_the_next_round_on(sites: RosterSites) -> None:
    change_in_round(sites, 2, FOUR)
    report = sites.run()
    assert [r.participants for r in report.rounds] == [SITES, SITES, FOUR]
    assert report.rounds[0].refusals[0][2].startswith("'south' is not a site")


def test_everybody_is_shown_the_new_roster(sites: RosterSites) -> None:
    change_in_round(sites, 1, FOUR)
    sites.run()
    first, last = sites.rosters[0], sites.rosters[-1]
    assert first != last
    assert sites.rosters.count(last) == len(FOUR)


def test_the_sums_of_a_run_follow_the_new_membership(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "PATIENCE_S", 0.0)
    sites = RosterSites(tmp_path, privacy=PrivacyConfig(mode="local"))
    shares = []
    honest = rounds.ConsortiumStrategy.follow

    def note(strategy: rounds.ConsortiumStrategy, consortium: object) -> None:
        honest(strategy, consortium)  # type: ignore[arg-type]
        shares.append(len(strategy.sums.config.sites))

    monkeypatch.setattr(rounds.ConsortiumStrategy, "follow", note)
    change_in_round(sites, 1, FOUR)
    sites.run()
    assert shares == [4]


def test_a_run_goes_on_with_its_sites_when_the_study_is_edited_for_later_ones(
    sites: RosterSites,
) -> None:
    load_present(sites.folder)
    sites.digest = "0" * 64
    sites.sign(FOUR)
    assert [entry.id for entry in load_present(sites.folder).config.sites] == list(SITES)
    (sites.folder / ROSTER_FILE).unlink()
    with pytest.raises(RosterError, match="belongs to study"):
        load_present(sites.folder)


def test_an_older_roster_is_not_followed(sites: RosterSites) -> None:
    old = sites.shared.read_bytes()
    sites.sign(FOUR)
    load_present(sites.folder)
    sites.shared.write_bytes(old)
    assert [entry.id for entry in load_present(sites.folder).config.sites] == list(FOUR)


@pytest.mark.parametrize("changes", [True, False])
def test_a_sum_is_not_asked_again_under_its_number_where_the_roster_changed(
    tmp_path: Path, changes: bool
) -> None:
    """Its noise follows the number of sites: under the same number it would be another question."""
    sites = RosterSites(tmp_path, privacy=PrivacyConfig("subject", "distributed"))
    strategy = strategy_of(sites)
    first = strategy._pose_sum(strategy._question("train", 1))
    strategy.sums.sizes["train"].append(3)
    if changes:
        sites.sign(FOUR)
        strategy.follow(load_consortium(sites.folder / "consortium.toml", roster=sites.shared))
        introduce(strategy)
    again = strategy._pose_sum(strategy._question("train", 1))
    assert first.question.attempt == 1
    assert again.question.attempt == (2 if changes else 1)
    assert len(set(again.exchange.asked.values())) == (4 if changes else 3)
    assert strategy.sums.sizes["train"] == ([3] if changes else [])


def strategy_of(sites: RosterSites) -> ConsortiumStrategy:
    schema = sites.consortium.config.features.schema
    network = make_network("behaviour_net", "small", features=len(schema.features))
    freeze_trunk(network, trainable="head")
    key = open_signing_key(sites.runs, sites.consortium)
    strategy = ConsortiumStrategy(
        sites.consortium, network=network, run_id="1", folder=sites.folder, key=key
    )
    introduce(strategy)
    return strategy


def introduce(strategy: ConsortiumStrategy) -> None:
    """Admit every site of the roster."""
    ids = [entry.id for entry in strategy.config.sites]
    strategy.admission.sites = dict(enumerate(ids, start=2))
    strategy.admission.members = {site: CohortMember(site, b"", b"") for site in ids}
