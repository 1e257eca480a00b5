"""A run in mode distributed: only sums are seen, and a lost site costs an attempt."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from played_sites import FOUR, KEYS, SECRETS, SecureSites, Sites, spoil
from scipy import stats

from privacy.accounting import epsilon_spent
from privacy.keys import sign
from privacy.secure_sum import exchange_key, exchange_statement, public_bytes
from server.history import RunReport
from server.strategy import QuorumError
from shared_models.masking import sum_terms
from shared_models.messages import Refusal, RefusalCode, Reply


@pytest.fixture
def sites(tmp_path: Path) -> SecureSites:
    return SecureSites(tmp_path)


def lose(sites: Sites, site: str, *, attempts: int = 1) -> None:
    """Let a site fail in its first so many answers to training."""
    left = [attempts]

    def fail(reply: Reply) -> Reply:
        if left[0] > 0:
            left[0] -= 1
            raise MemoryError
        return reply

    spoil(sites, "train", site, fail)


def test_the_model_moves_by_the_sum_that_nobody_could_see_apart(sites: SecureSites) -> None:
    report = sites.run()
    assert report.status == "completed"
    assert [r.participants for r in report.rounds] == [FOUR, FOUR]
    config = sites.consortium.config
    size = len(sites.masked[0][3])
    # Each site sends its number 1 to 4 in every entry; the study counts 10 subjects at each.
    expected = np.sqrt(size) * (1 + 2 + 3 + 4) / 40
    terms = sum_terms(config, FOUR, plan=config.training_plan(), size=size)
    spread = terms.total_stddev / 40 * np.sqrt(size)
    assert report.rounds[0].update_norm == pytest.approx(expected, abs=4 * spread)
    assert report.epsilon_sum == pytest.approx(epsilon_of(config, steps=2), rel=1e-6)
    assert report.epsilon_sum < config.privacy.target_epsilon < report.epsilon_site
    for _, _, _, vector in sites.masked:
        assert stats.kstest(vector / 2**32, "uniform").pvalue > 1e-5


def epsilon_of(config, *, steps: int) -> float:
    plan = config.training_plan()
    return epsilon_spent(plan.released_noise_multiplier, plan.delta, steps=steps)


def test_noise_in_the_sum_is_what_the_study_promises_whatever_the_cohort(tmp_path: Path) -> None:
    for tolerated in (0, 1):
        folder = tmp_path / str(tolerated)
        folder.mkdir()
        config = SecureSites(folder, tolerated=tolerated).consortium.config
        plan = config.training_plan()
        promised = plan.released_noise_multiplier * plan.max_grad_norm
        for cohort in (FOUR, FOUR[1:]):
            form = sum_terms(config, cohort, plan=plan, size=130).form
            # Without the shares of those who may tell theirs, the whole noise is still there.
            kept = form.noise_stddev * np.sqrt(len(cohort) - tolerated)
            assert kept >= promised
            assert kept == pytest.approx(promised, rel=1e-4)


def test_tallies_come_as_sums_and_no_site_has_a_row_of_its_own(sites: SecureSites) -> None:
    fairness = sites.run().evaluations[-1].fairness
    by_site = [group for group in fairness.by_group if group.attribute == "site"]
    assert {group.group for group in by_site} == set(FOUR)
    assert {group.state for group in by_site} == {"not_reported"}
    assert fairness.overall.count is not None
    # 8 + 8 bins of 5 subjects at each of 4 sites, with noise.
    assert fairness.overall.count == pytest.approx(320, abs=120)


def test_a_site_lost_in_a_round_is_left_out_by_a_second_sum(sites: SecureSites) -> None:
    lose(sites, "south")
    report = sites.run()
    three = tuple(site for site in FOUR if site != "south")
    assert [r.participants for r in report.rounds] == [three, FOUR]
    assert report.rounds[0].refusals[0][0] == "south"
    attempts = [(r, a) for site, r, a, _ in sites.masked if site == "east" and r == 1]
    assert attempts[:2] == [(1, 1), (1, 2)]
    # Three sums were made for two rounds, and the report says what they cost.
    config = sites.consortium.config
    assert report.epsilon_sum == pytest.approx(epsilon_of(config, steps=3), rel=1e-6)
    assert report.epsilon_sum <= config.privacy.target_epsilon


def test_subtracting_the_sums_of_two_attempts_leaves_full_noise_on_the_lost_site(
    sites: SecureSites,
) -> None:
    """Feigned drop-outs buy nothing: each attempt has noise of its own, and is charged."""
    lose(sites, "south")
    sites.run()
    size = len(sites.masked[0][3])
    first, second = (
        {name: v for name, r, a, v in sites.masked if (r, a) == (1, attempt) and len(v) == size}
        for attempt in (1, 2)
    )
    assert (set(first), set(second)) == (set(FOUR), set(FOUR) - {"south"})
    config = sites.consortium.config
    plan = config.training_plan()
    sums = []
    for rows, cohort in ((first, FOUR), (second, tuple(sorted(second)))):
        form = sum_terms(config, cohort, plan=plan, size=size).form
        sums.append(form.decode(np.sum([rows[s] for s in cohort], axis=0, dtype=np.uint32)))
    left_over = sums[0] - sums[1] - 3.0  # south sends 3 in every entry
    promised = plan.released_noise_multiplier * plan.max_grad_norm
    assert left_over.std() > promised
    # Re-using the first attempt's noise would have left the share of one site only.
    assert promised > 1.5 * sum_terms(config, FOUR, plan=plan, size=size).form.noise_stddev


def test_the_sums_that_were_paid_for_run_out_by_name(tmp_path: Path) -> None:
    sites = SecureSites(tmp_path, retries=0)
    lose(sites, "south")
    with pytest.raises(QuorumError, match="south refused"):
        sites.run()
    report = RunReport.from_json((sites.folder / "report.json").read_bytes())
    assert report.status == "failed"


def test_too_few_sites_left_for_a_sum_end_the_run(sites: SecureSites) -> None:
    for site in ("south", "west"):
        lose(sites, site, attempts=9)
    with pytest.raises(QuorumError, match="needs 3 sites, 2 took part"):
        sites.run()


@pytest.mark.parametrize(
    "change",
    [
        lambda r: replace(r, masked=r.masked[:-1]),
        lambda r: replace(r, masked=np.append(r.masked, r.masked)),
        lambda r: replace(r, attempt=2),
        lambda r: replace(r, base_digest="0" * 64),
        lambda r: replace(r, site_id="west"),
        lambda r: replace(r, server_round=r.server_round, epsilon_spent=float("nan")),
    ],
)
def test_a_wrong_part_costs_an_attempt_and_never_enters_a_sum(
    sites: SecureSites, change: Callable
) -> None:
    spoil(sites, "train", "east", change)
    report = sites.run()
    assert report.rounds[0].participants == FOUR[1:]
    assert report.rounds[0].refusals[0][:2] == ("east", "wrong_message")


def test_a_refusal_is_named_and_the_others_go_on(sites: SecureSites) -> None:
    spoil(sites, "train", "west", lambda r: Refusal("west", RefusalCode.BUDGET, "cap reached"))
    report = sites.run()
    assert [r.participants for r in report.rounds] == [FOUR[:3]] * 2


def test_an_exchange_key_that_its_site_did_not_sign_is_turned_away(sites: SecureSites) -> None:
    own = public_bytes(exchange_key(SECRETS["stranger"], "1"))
    forged = sign(KEYS["stranger"], exchange_statement("1", "east", own))
    spoil(
        sites,
        "hello",
        "east",
        lambda r: replace(r, exchange_key=own, exchange_signature=forged),
    )
    report = sites.run()
    assert report.rounds[0].participants == FOUR[1:]
    assert "not signed" in report.rounds[0].refusals[0][2]
