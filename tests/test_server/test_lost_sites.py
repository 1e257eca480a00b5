"""A secure sum is the plain sum, to the last unit of its rounding, whichever sites it loses.

The parts are made by the function that sites run and summed by the one that the coordinator runs;
they travel in the form in which they cross the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from played_sites import KEYS, SECRETS, SecureSites, Sites, spoil
from scipy import stats

from client.learning import secure_sums as site_side
from privacy import secure_sum
from privacy.keys import public_line, sign
from privacy.noise import SeededNoise
from privacy.secure_sum import Attempt, exchange_key, exchange_statement, public_bytes
from server.exchange import Exchange
from server.secure_sums import SecureSum, SecureSums, SumsUsedUpError
from server.strategy import QuorumError
from shared_models.consortium import (
    ConsortiumConfig,
    PrivacyConfig,
    SiteEntry,
    StudyConfig,
    TrainingConfig,
)
from shared_models.masking import SumTerms, sum_terms
from shared_models.messages import (
    Anchor,
    CohortMember,
    MaskedReply,
    ModelRequest,
    Refusal,
    RefusalCode,
    anchor_statement,
)
from shared_models.records import attach_anchor, decode_model_request, encode_reply

SIZE = 40
WEIGHT = 30
SITES = (3, 4, 7, 20, 50)
LEAST = 3


@cache
def identity_of(site: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


@cache
def exchange_of(site: str) -> Any:
    return exchange_key(site.encode().ljust(32, b"."), "run")


def names(count: int) -> tuple[str, ...]:
    return tuple(f"site-{number:02d}" for number in range(count))


@cache
def make_study(sites: int, *, retries: int = 1) -> ConsortiumConfig:
    return ConsortiumConfig(
        study=StudyConfig("trial", "phq9"),
        training=TrainingConfig(rounds=2),
        privacy=PrivacyConfig(mode="distributed", retries=retries),
        sites=tuple(SiteEntry(s, WEIGHT, public_line(identity_of(s))) for s in names(sites)),
    )


def values_of(site: str) -> np.ndarray:
    generator = np.random.default_rng(int(site[-2:]))
    return generator.uniform(-WEIGHT, WEIGHT, SIZE)


def noise_of(site: str, attempt: int) -> SeededNoise:
    return SeededNoise(1000 * int(site[-2:]) + attempt)


def request_of(config: ConsortiumConfig, cohort: Iterable[str], attempt: int) -> ModelRequest:
    members = []
    for site in sorted(cohort):
        public = public_bytes(exchange_of(site))
        statement = exchange_statement("run", site, public)
        members.append(CohortMember(site, public, sign(identity_of(site), statement)))
    return ModelRequest(
        run_id="run",
        server_round=1,
        weights={},
        base_digest="base",
        consortium_digest="",
        plan=config.training_plan(),
        cohort=tuple(members),
        attempt=attempt,
    )


def mask(config: ConsortiumConfig, request: ModelRequest, site: str) -> np.ndarray:
    return site_side.mask_vector(
        values_of(site),
        request,
        config,
        site_id=site,
        own=exchange_of(site),
        plan=request.plan,
        purpose="train",
        noise=noise_of(site, request.attempt),
    )


def message_of(config: ConsortiumConfig, request: ModelRequest, site: str) -> Any:
    """A part as it arrives, with what the site signs of its records."""
    masked = mask(config, request, site)
    reply = MaskedReply(site, 1, "base", masked, attempt=request.attempt, epsilon_spent=0.5)
    content = encode_reply(reply)
    anchor = Anchor(1, "row", 1, "entry")
    statement = anchor_statement(anchor, site_id=site)
    attach_anchor(content, replace(anchor, signature=sign(identity_of(site), statement)))
    return SimpleNamespace(
        metadata=SimpleNamespace(src_node_id=node_of(site)), has_error=lambda: False,
        content=content,
    )  # fmt: skip


def node_of(site: str) -> int:
    return 100 + int(site[-2:])


@dataclass
class Consortium:
    """Sites of which some fall silent: those named for the first attempt, the second, ..."""

    config: ConsortiumConfig
    lost: tuple[frozenset[str], ...]
    check: bool = False
    known: dict[tuple[str, int], Any] = field(default_factory=dict)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def ask(self, sites: set[str], attempt: int) -> tuple[Exchange, list[Any]]:
        cohort = tuple(sorted(sites))
        self.asked.append(cohort)
        request = request_of(self.config, cohort, attempt)
        silent = self.lost[attempt - 1] if attempt <= len(self.lost) else frozenset()
        keys = {entry.id: entry.public_key for entry in self.config.sites}
        exchange = Exchange({node_of(site): site for site in cohort}, "base", keys)
        return exchange, [self._answer(request, site) for site in cohort if site not in silent]

    def _answer(self, request: ModelRequest, site: str) -> Any:
        if self.check:
            site_side.check_cohort(request, self.config, site_id=site, own=exchange_of(site))
        # The first attempt is the same whichever sites are lost in it.
        if request.attempt > 1:
            return message_of(self.config, request, site)
        if (site, len(request.cohort)) not in self.known:
            self.known[site, len(request.cohort)] = message_of(self.config, request, site)
        return self.known[site, len(request.cohort)]

    def gather(self) -> SecureSum:
        everyone = {entry.id for entry in self.config.sites}
        sums = SecureSums(self.config, lambda *_: None)
        exchange, replies = self.ask(everyone, 1)
        summed = sums.gather(
            "train", exchange, replies, plan=self.config.training_plan(), size=SIZE,
            ask_again=self.ask,
        )  # fmt: skip
        assert sums.sizes["train"] == [len(cohort) for cohort in self.asked]
        return summed


def terms_of(config: ConsortiumConfig, cohort: tuple[str, ...]) -> SumTerms:
    return sum_terms(config, cohort, plan=config.training_plan(), size=SIZE)


def check_against_plain_sum(config: ConsortiumConfig, summed: SecureSum, attempt: int) -> None:
    """The secure sum is that of the same numbers, noise included, added in the open."""
    terms = terms_of(config, summed.sites)
    stddev = terms.form.noise_stddev
    plain = np.sum(
        [
            values_of(site) + noise_of(site, attempt).normal_array((SIZE,), stddev)
            for site in summed.sites
        ],
        axis=0,
    )
    # Each site rounds its vector and its noise, each by at most half a unit.
    assert np.abs(summed.values - plain).max() <= len(summed.sites) * terms.form.step
    assert terms.form.step < 1e-4
    assert summed.noise_stddev == pytest.approx(stddev * len(summed.sites) ** 0.5)


def lose_at_once(sites: int) -> None:
    """Every number of sites that leaves enough for a sum, lost in the first attempt."""
    config, known = make_study(sites), {}
    order = np.random.default_rng(sites).permutation(names(sites)).tolist()
    for count in range(sites - LEAST + 1):
        lost = frozenset(order[:count])
        consortium = Consortium(config, (lost,), check=sites < 7, known=known)
        summed = consortium.gather()
        assert summed.sites == tuple(sorted(set(names(sites)) - lost))
        assert len(consortium.asked) == (2 if lost else 1)
        check_against_plain_sum(config, summed, attempt=len(consortium.asked))


@pytest.mark.parametrize("sites", SITES)
def test_a_sum_that_lost_sites_is_the_plain_sum_of_the_rest(sites: int) -> None:
    lose_at_once(sites)


@pytest.mark.parametrize("sites", SITES)
def test_sites_may_fall_away_one_by_one_as_long_as_attempts_are_paid_for(sites: int) -> None:
    config = make_study(sites, retries=sites - LEAST)
    falling = names(sites)[LEAST:]
    consortium = Consortium(config, tuple(frozenset({site}) for site in falling))
    summed = consortium.gather()
    assert summed.sites == names(LEAST)
    assert [len(cohort) for cohort in consortium.asked] == list(range(sites, LEAST - 1, -1))
    check_against_plain_sum(config, summed, attempt=1 + len(falling))


@pytest.mark.parametrize("sites", [4, 7, 20])
def test_one_more_loss_than_was_paid_for_is_an_end_by_name(sites: int) -> None:
    falling = names(sites)[LEAST:]
    config = make_study(sites, retries=len(falling) - 1)
    consortium = Consortium(config, tuple(frozenset({site}) for site in falling))
    with pytest.raises(SumsUsedUpError):
        consortium.gather()
    # Nobody was asked beyond what the study pays for.
    assert len(consortium.asked) == len(falling)


def test_a_lost_site_whose_mask_is_left_in_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the survivors' masks still those of the first cohort, the sum would be noise."""
    honest = site_side.pairwise_mask

    def mask_with_all(attempt: Attempt, site: str, own: Any, peers: Any, *, size: int) -> Any:
        everyone = {name: public_bytes(exchange_of(name)) for name in names(7)}
        return honest(replace(attempt, cohort=names(7)), site, own, everyone, size=size)

    monkeypatch.setattr(site_side, "pairwise_mask", mask_with_all)
    with pytest.raises(AssertionError):
        lose_at_once(7)


def test_adding_up_what_came_in_spite_of_a_lost_site_gives_noise() -> None:
    config = make_study(7)
    request = request_of(config, names(7), 1)
    rest = secure_sum.add_masked([mask(config, request, site) for site in names(6)])
    summed = SecureSum(terms_of(config, names(6)).form.decode(rest), names(6), 0.0)
    with pytest.raises(AssertionError):
        check_against_plain_sum(config, summed, attempt=1)


def difference_seen_with_the_lost_site(config: ConsortiumConfig) -> np.ndarray:
    """One site's parts of two attempts apart, as far as the lost site's key lays them open."""
    site, lost = names(5)[0], names(5)[-1]
    first = request_of(config, names(5), 1)
    second = request_of(config, names(4), 2)
    public = {name: public_bytes(exchange_of(name)) for name in names(5)}
    stream = secure_sum._keystream(
        Attempt("run", 1, "train", 1, names(5)), exchange_of(lost), public[site],
        pair=[site, lost], size=SIZE,
    )  # fmt: skip
    # The first of a pair adds the stream, and this site is the first.
    return mask(config, first, site) - stream - mask(config, second, site)


def looks_uniform(ring: np.ndarray) -> bool:
    return bool(stats.kstest(ring / 2**32, "uniform").pvalue > 1e-5)


def test_a_second_attempt_shares_no_mask_with_the_first() -> None:
    assert looks_uniform(difference_seen_with_the_lost_site(make_study(5)))


def test_masks_of_the_first_attempt_used_again_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attempt, "salt", property(lambda attempt: attempt.run_id.encode()))
    config = make_study(5)
    seen = difference_seen_with_the_lost_site(config)
    assert not looks_uniform(seen)
    # What is left are two draws of the site's noise on nothing: its vector was laid open.
    assert np.abs(seen.astype(np.int32)).max() < 2**28


class ManySites(SecureSites):
    """Seven sites before a whole coordinator."""

    def __init__(self, folder: Path, *, retries: int) -> None:
        for site in names(7):
            KEYS.setdefault(site, identity_of(site))
            SECRETS.setdefault(site, site.encode().ljust(32, b"."))
        self.masked = []
        privacy = PrivacyConfig("subject", "distributed", retries=retries)
        Sites.__init__(self, folder, privacy=privacy, sites=names(7))

    def train(self, site: str, message: Any, node_id: int) -> Any:
        request = decode_model_request(message.content)
        size = sum(part.numel() for part in request.weights.values())
        return self._mask(site, request, np.full(size, 1.0), "train")


def refuse_always(sites: ManySites, lost: Iterable[str], code: RefusalCode) -> None:
    for site in lost:
        change: Callable[[Any], Any] = lambda _, site=site: Refusal(site, code, "no")  # noqa: E731
        spoil(sites, "train", site, change)


@pytest.mark.parametrize("count", range(5))
def test_a_run_goes_on_without_as_many_sites_as_leave_three(tmp_path: Path, count: int) -> None:
    lost = names(7)[:count]
    sites = ManySites(tmp_path, retries=2)
    refuse_always(sites, lost, RefusalCode.BUDGET)
    report = sites.run()
    assert [r.participants for r in report.rounds] == [names(7)[count:]] * 2
    assert {r[0] for r in report.rounds[0].refusals} == set(lost)


@pytest.mark.parametrize("count", [5, 6, 7])
def test_a_run_that_lost_too_many_sites_says_which(tmp_path: Path, count: int) -> None:
    sites = ManySites(tmp_path, retries=2)
    refuse_always(sites, names(7)[:count], RefusalCode.POLICY)
    with pytest.raises(QuorumError, match=f"needs 3 sites, {7 - count} took part") as refused:
        sites.run()
    for site in names(7)[:count]:
        assert f"{site} refused (policy" in str(refused.value)
