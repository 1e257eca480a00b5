"""Who takes part in a run, and what happens to answers that are wrong."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import Message
from played_sites import KEYS, SITES, Sites, spoil
from safetensors.torch import load_file

from privacy.keys import sign
from server.anchors import AnchorStore
from server.app import conduct_run
from server.history import RunReport
from server.progress import read_progress
from server.quorum import too_few
from server.signing import KEY_FOLDER, SigningKeyError, model_file
from server.strategy import QuorumError
from shared_models.messages import Anchor, Refusal, RefusalCode, Reply, SiteHello, anchor_statement
from shared_models.signed_files import signature_file
from shared_models.signed_models import load_signed_weights
from shared_models.weights import WeightsError, digest_weights


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path)


def test_a_run_of_honest_sites_ends_in_a_model_and_a_report(sites: Sites) -> None:
    report = sites.run()
    assert report.status == "completed"
    assert [r.participants for r in report.rounds] == [SITES, SITES]
    assert report.epsilon_site == pytest.approx(3.0, rel=1e-3)
    assert report.epsilon_sum is not None
    assert report.epsilon_sum < report.epsilon_site
    assert {s.site_id: s.epsilon_tallies for s in report.sites} == dict.fromkeys(SITES, 2.0)
    progress = read_progress(sites.folder)
    assert progress is not None
    assert progress.phase == "completed"


def test_the_model_of_every_round_is_published_with_its_signature(sites: Sites) -> None:
    report = sites.run()
    key = sites.consortium.coordinator_key
    for server_round in (1, 2):
        path = model_file(sites.folder, server_round)
        state = load_signed_weights(path, load_file(path), public_key=key)
    assert digest_weights(state) == report.weights_digest
    shutil.copyfile(signature_file(model_file(sites.folder, 1)), signature_file(path))
    with pytest.raises(WeightsError, match="signed"):
        load_signed_weights(path, state, public_key=key)


def test_a_run_whose_requests_carry_another_signature_finds_no_site(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.app.open_signing_key", lambda *_: KEYS["stranger"])
    with pytest.raises(QuorumError, match="not signed"):
        sites.run()


def test_a_run_without_the_key_that_the_study_names_asks_nobody(sites: Sites) -> None:
    shutil.rmtree(sites.folder.parent / KEY_FOLDER)
    with pytest.raises(SigningKeyError, match="cannot be used"):
        sites.run()
    assert not sites.asked


def test_a_node_with_a_key_outside_the_study_is_never_sent_weights(sites: Sites) -> None:
    sites.names.append("stranger")
    report = sites.run()
    assert {site for kind, site in sites.asked if kind != "hello"} == set(SITES)
    assert "not a site of the study" in report.rounds[0].refusals[0][2]


def test_a_node_that_claims_to_be_another_site_is_turned_away(sites: Sites) -> None:
    def impersonate(reply: Reply) -> Reply:
        assert isinstance(reply, SiteHello)
        return replace(reply, site_id="east")

    sites.names = ["stranger", "north", "west"]
    spoil(sites, "hello", "stranger", impersonate)
    report = sites.run()
    assert [r.participants for r in report.rounds] == [("north", "west")] * 2
    assert report.rounds[0].missing == ("east",)


def test_an_old_signature_cannot_be_played_again(sites: Sites) -> None:
    first: list[Reply] = []

    def replay(reply: Reply) -> Reply:
        first.append(reply)
        return first[0]

    spoil(sites, "hello", "east", replay)
    sites.run()
    again = sites.run_again()
    assert again.rounds[0].participants == ("north", "west")


def test_a_second_connection_of_one_site_is_turned_away(sites: Sites) -> None:
    sites.names.append("east")
    report = sites.run()
    assert report.rounds[0].participants == SITES
    assert "connected twice" in report.rounds[0].refusals[0][2]


def test_a_site_that_agreed_to_another_study_is_turned_away(sites: Sites) -> None:
    spoil(sites, "hello", "west", lambda reply: replace(reply, consortium_digest="0" * 64))
    report = sites.run()
    assert report.rounds[0].participants == ("east", "north")
    assert "new kit" in report.rounds[0].refusals[0][2]


@pytest.mark.parametrize(
    "change",
    [
        lambda r: replace(r, update={"head.bias": torch.zeros(2)}),
        lambda r: replace(r, update={**r.update, "extra": torch.zeros(1)}),
        lambda r: replace(r, update={n: t * float("nan") for n, t in r.update.items()}),
        lambda r: replace(r, update={n: t.double() for n, t in r.update.items()}),
        lambda r: replace(r, base_digest="0" * 64),
        lambda r: replace(r, site_id="north"),
    ],
)
def test_a_wrong_update_is_left_out_and_named(sites: Sites, change: Callable) -> None:
    spoil(sites, "train", "east", change)
    report = sites.run()
    assert [r.participants for r in report.rounds] == [("north", "west")] * 2
    assert report.rounds[0].refusals[0][:2] == ("east", "wrong_message")


def test_fewer_sites_than_the_quorum_end_the_run_by_name(sites: Sites) -> None:
    for site in ("east", "west"):
        spoil(sites, "train", site, lambda r: Refusal(r.site_id, RefusalCode.BUDGET, "cap reached"))
    with pytest.raises(QuorumError, match="needs 2 sites, 1 took part") as caught:
        sites.run()
    assert "east refused (budget: cap reached)" in str(caught.value)
    report = RunReport.from_json((sites.folder / "report.json").read_bytes())
    assert report.status == "failed"
    assert "cap reached" in report.status_detail


@pytest.mark.parametrize(
    ("codes", "by_policy"),
    [
        ([RefusalCode.BUDGET, RefusalCode.POLICY], True),
        ([RefusalCode.BUDGET, RefusalCode.INTERNAL], True),
        ([RefusalCode.INTERNAL, RefusalCode.LEDGER_BEHIND], False),
    ],
)
def test_a_run_that_would_have_had_its_quorum_but_for_policy_says_so(
    sites: Sites, codes: list[RefusalCode], by_policy: bool
) -> None:
    for site, code in zip(("east", "west"), codes, strict=True):
        spoil(sites, "train", site, lambda r, code=code: Refusal(r.site_id, code, "no"))
    with pytest.raises(QuorumError) as caught:
        sites.run()
    assert caught.value.exit_code == (3 if by_policy else 1)
    progress = read_progress(sites.folder)
    assert progress is not None
    assert (progress.phase, progress.by_policy) == ("failed", by_policy)
    assert {site for site, _, _ in progress.refused} == {"east", "west"}


def test_refusals_by_policy_do_not_stand_for_sites_that_were_missing() -> None:
    refusals = [("east", "budget", "cap reached"), ("west", "internal", "no")]
    lacking = {"least": 4, "present": 2, "refusals": refusals, "silent": ["south"]}
    assert not too_few(1, **lacking).by_policy
    assert too_few(1, **{**lacking, "least": 3}).by_policy


def test_a_site_whose_app_breaks_is_named_with_the_reason_it_gave(sites: Sites) -> None:
    def break_down(reply: Reply) -> Reply:
        raise MemoryError

    spoil(sites, "train", "east", break_down)
    report = sites.run()
    assert report.rounds[0].participants == ("north", "west")
    site, code, reason = report.rounds[0].refusals[0]
    assert (site, code) == ("east", "internal")
    assert "MemoryError" in reason


def test_a_quorum_that_the_study_cannot_reach_is_told_before_anyone_is_asked(
    tmp_path: Path,
) -> None:
    sites = Sites(tmp_path, quorum=4)
    with pytest.raises(QuorumError, match="admit more sites or lower the quorum"):
        sites.run()
    assert sites.asked == []


def test_each_site_is_shown_the_latest_anchor_it_signed_over_all_runs(sites: Sites) -> None:
    sites.run()
    sites.run_again()
    for site in SITES:
        shown = [anchor and anchor.ledger_rows for name, anchor in sites.kept if name == site]
        # Two rounds and one evaluation a run; before its first answer there is nothing to show.
        assert shown == [None, 1, 2, 3, 4, 5]


def forge(anchor: Anchor, site: str) -> Anchor:
    return replace(anchor, ledger_rows=anchor.ledger_rows + 1)


def sign_for_another(anchor: Anchor, site: str) -> Anchor:
    signature = sign(KEYS["north"], anchor_statement(anchor, site_id=site))
    return replace(anchor, signature=signature)


@pytest.mark.parametrize("change", [forge, sign_for_another])
def test_an_answer_whose_anchor_the_site_did_not_sign_does_not_count(
    sites: Sites, change: Callable
) -> None:
    honest = sites.anchor

    def anchor(site: str, message: Message) -> Anchor:
        return change(honest(site, message), site) if site == "east" else honest(site, message)

    sites.anchor = anchor  # type: ignore[method-assign]
    report = sites.run()
    assert report.rounds[0].participants == ("north", "west")
    assert "signature" in report.rounds[0].refusals[0][2]


def test_an_older_anchor_never_replaces_a_newer_one(tmp_path: Path) -> None:
    store = AnchorStore(tmp_path / "anchors.json")
    store.keep({"east": Anchor(5, "e", 9, "l")})
    store.keep({"east": Anchor(4, "d", 9, "l")})
    assert AnchorStore(tmp_path / "anchors.json").latest("east") == Anchor(5, "e", 9, "l")
    assert store.latest("north") is None


def test_a_node_whose_gate_refuses_the_bundle_is_named_with_its_reason(sites: Sites) -> None:
    def gate(reply: Reply) -> Reply:
        msg = "bundle_not_approved"
        raise PermissionError(msg)

    spoil(sites, "hello", "east", gate)
    report = sites.run()
    assert report.rounds[0].participants == ("north", "west")
    assert "bundle_not_approved" in report.rounds[0].refusals[0][2]


def test_without_any_node_the_run_ends_within_its_bound(sites: Sites) -> None:
    sites.names = []
    with pytest.raises(QuorumError, match="east did not answer"):
        sites.run()


def test_the_same_answers_give_the_same_model_in_any_order(tmp_path: Path) -> None:
    digests = set()
    for index, names in enumerate((SITES, SITES[::-1])):
        folder = tmp_path / str(index)
        folder.mkdir()
        own = Sites(folder)
        own.names = list(names)
        digests.add(own.run().weights_digest)
    assert len(digests) == 1


def test_a_run_needs_its_study_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"consortium\.toml"):
        conduct_run(None, tmp_path, run_id="r")  # type: ignore[arg-type]
