"""A site's side of secure sums: whom it sums with, and that it answers once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from played_coordinator import signed

from client.learning.admission import RefusedError
from client.learning.learner import Learner
from client.learning.training import make_items, subject_loss
from client.site import open_site
from privacy import audit
from privacy.audit import AuditLog
from privacy.keys import sign
from privacy.ledger import PrivacyLedger
from privacy.noise import ChaChaNoise
from privacy.secure_sum import add_masked, exchange_key, exchange_statement, public_bytes
from privacy.training import clipped_sum
from shared_models.masking import sum_terms
from shared_models.messages import (
    CohortMember,
    MaskedReply,
    ModelRequest,
    RefusalCode,
    anchor_statement,
)
from shared_models.weights import digest_weights, flatten_state, trainable_state
from simulation.study import design_study, write_cohort

ROUNDS, SITES = 3, 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    design = design_study(
        sites=SITES, subjects=20, rounds=ROUNDS, epsilon=3.0, mode="distributed",
        network="behaviour_net", trainable="head", seed=5,
    )  # fmt: skip
    return write_cohort(design, tmp_path_factory.mktemp("secure"), lambda *_: None)


@pytest.fixture
def learners(folders: list[Path], tmp_path: Path) -> list[Learner]:
    """The sites, each with an empty ledger and log."""
    found = []
    for folder in folders:
        site = open_site(folder)
        state = tmp_path / site.id
        state.mkdir()
        found.append(Learner(replace(site, paths=replace(site.paths, state=state))))
    return found


def member(learner: Learner, run_id: str = "run") -> CohortMember:
    public = public_bytes(exchange_key(learner.site.exchange_secret, run_id))
    statement = exchange_statement(run_id, learner.site.id, public)
    return CohortMember(learner.site.id, public, sign(learner.site.identity_key, statement))


def make_request(learners: list[Learner], **changes: object) -> ModelRequest:
    first = learners[0]
    request = ModelRequest(
        run_id="run",
        server_round=1,
        weights=trainable_state(first.network),
        base_digest=digest_weights(first.network.state_dict()),
        consortium_digest=first.site.consortium.digest,
        plan=first.config.training_plan(),
        cohort=tuple(member(learner) for learner in learners),
    )
    return signed(first.site, replace(request, **changes))  # type: ignore[arg-type]


def exact_sum(learner: Learner) -> np.ndarray:
    network, config = learner.network, learner.config
    items = make_items(
        network.eval(), learner.dataset.training, score_range=config.study.score_range,
        head_only=True,
    )  # fmt: skip
    plan = config.training_plan()
    return flatten_state(
        clipped_sum(network.train(), items, subject_loss, plan=plan, noise=ChaChaNoise())
    )


def test_the_sum_of_the_sites_is_the_clipped_sum_with_one_noise(learners: list[Learner]) -> None:
    request = make_request(learners)
    replies = [learner.train(request) for learner in learners]
    config, plan = learners[0].config, learners[0].config.training_plan()
    expected = sum(exact_sum(learner) for learner in learners)
    cohort = tuple(learner.site.id for learner in learners)
    terms = sum_terms(config, cohort, plan=plan, size=len(expected))
    got = terms.form.decode(add_masked(r.masked for r in replies if isinstance(r, MaskedReply)))
    left = (got - expected) / (plan.released_noise_multiplier * plan.max_grad_norm)
    assert np.abs(left).max() < 6
    assert 0.8 < left.std() < 1.25
    # One site's noise alone would be half of it, and its part is nothing but uniform without masks.
    assert terms.form.noise_stddev * 2 == pytest.approx(terms.total_stddev)


def test_what_the_ledger_charges_is_what_the_sum_reveals(learners: list[Learner]) -> None:
    learners[0].train(make_request(learners))
    (release,) = learners[0].ledger.releases()
    plan = learners[0].config.training_plan()
    assert release.noise_multiplier == pytest.approx(plan.noise_multiplier * np.sqrt(SITES))
    assert release.release_id == "run/1/train/1"


def same(one: object, other: object) -> bool:
    assert isinstance(one, MaskedReply)
    assert isinstance(other, MaskedReply)
    return bool((one.masked == other.masked).all())


def test_a_sum_is_answered_once_even_after_a_restart(learners: list[Learner]) -> None:
    """Asked again, the site tells the same vector; never a second one under the same mask."""
    real = replace(learners[0].site, config=replace(learners[0].site.config, simulation=None))
    request = make_request(learners)
    first = Learner(real).train(request)
    again = Learner(real)
    assert same(first, again.train(request))
    assert same(first, again.train(request))
    assert len(again.ledger.releases()) == 1
    other = replace(request, cohort=renew_a_key(learners, request))
    with pytest.raises(RefusedError) as caught:
        again.train(signed(real, other))
    assert caught.value.code is RefusalCode.REPEATED
    again.train(make_request(learners, attempt=2))
    assert [r.release_id for r in again.ledger.releases()] == ["run/1/train/1", "run/1/train/2"]


def renew_a_key(learners: list[Learner], request: ModelRequest) -> tuple[CohortMember, ...]:
    """The cohort with another exchange key of its last site, signed by that site."""
    site = learners[-1].site
    public = public_bytes(exchange_key(bytes(32), request.run_id))
    signature = sign(site.identity_key, exchange_statement(request.run_id, site.id, public))
    return (*request.cohort[:-1], CohortMember(site.id, public, signature))


def test_attempts_have_noise_of_their_own(learners: list[Learner]) -> None:
    """The same noise twice, under another cohort, would leave one site's share on one site."""
    cohort = tuple(learner.site.id for learner in learners)
    config, plan = learners[0].config, learners[0].config.training_plan()
    sums = []
    for attempt in (1, 2):
        request = make_request(learners, attempt=attempt)
        parts = [learner.train(request) for learner in learners]
        masked = [part.masked for part in parts if isinstance(part, MaskedReply)]
        form = sum_terms(config, cohort, plan=plan, size=len(masked[0])).form
        sums.append(form.decode(add_masked(masked)))
    spread = (sums[0] - sums[1]).std() / (plan.released_noise_multiplier * plan.max_grad_norm)
    assert spread == pytest.approx(np.sqrt(2), rel=0.25)


def test_no_more_sums_are_answered_than_the_study_pays_for(learners: list[Learner]) -> None:
    plan = learners[0].config.training_plan()
    asked = [(r, a) for r in range(1, ROUNDS + 1) for a in (1, 2, 3)]
    assert plan.steps < len(asked)
    for number, (server_round, attempt) in enumerate(asked):
        request = make_request(learners, server_round=server_round, attempt=attempt)
        if number < plan.steps:
            learners[0].train(request)
            continue
        with pytest.raises(RefusedError) as caught:
            learners[0].train(request)
        assert caught.value.code is RefusalCode.BUDGET
    assert learners[0].ledger.spent(plan.delta) == pytest.approx(3.0, rel=1e-3)


def drop_to_two(request: ModelRequest) -> ModelRequest:
    return replace(request, cohort=request.cohort[:2])


def leave_out_this_site(request: ModelRequest) -> ModelRequest:
    return replace(request, cohort=request.cohort[1:])


def name_one_twice(request: ModelRequest) -> ModelRequest:
    return replace(request, cohort=(*request.cohort[:2], request.cohort[1], request.cohort[3]))


def swap_a_key(request: ModelRequest) -> ModelRequest:
    """The coordinator in the middle: its own key under a site's name."""
    own = public_bytes(exchange_key(bytes(32), "run"))
    first, second, *rest = request.cohort
    return replace(request, cohort=(first, replace(second, exchange_key=own), *rest))


def swap_this_sites_key(request: ModelRequest) -> ModelRequest:
    first, second, *rest = request.cohort
    return replace(request, cohort=(replace(second, site_id=first.site_id), second, *rest))


def invent_a_site(request: ModelRequest) -> ModelRequest:
    first, *rest = request.cohort
    return replace(request, cohort=(first, replace(rest[0], site_id="site-99"), *rest[1:]))


def replay_keys_of_another_run(request: ModelRequest) -> ModelRequest:
    return replace(request, run_id="another run")


def try_for_ever(request: ModelRequest) -> ModelRequest:
    return replace(request, attempt=4)


def try_before_the_first(request: ModelRequest) -> ModelRequest:
    return replace(request, attempt=0)


@pytest.mark.parametrize(
    "change",
    [drop_to_two, leave_out_this_site, name_one_twice, swap_a_key, swap_this_sites_key,
     invent_a_site, replay_keys_of_another_run, try_for_ever, try_before_the_first],
)  # fmt: skip
def test_a_cohort_that_could_lay_a_site_open_is_refused_at_no_cost(
    learners: list[Learner], change: Callable[[ModelRequest], ModelRequest]
) -> None:
    with pytest.raises(RefusedError) as caught:
        learners[0].train(signed(learners[0].site, change(make_request(learners))))
    assert caught.value.code is RefusalCode.COHORT
    assert learners[0].ledger.releases() == []


def test_without_the_check_of_signatures_a_coordinator_in_the_middle_reads_one_site(
    learners: list[Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the check is for: keys of its own for all others give the coordinator every mask."""
    middle = {learner.site.id: exchange_key(bytes([i]) * 32, "run") for i, learner in
              enumerate(learners)}  # fmt: skip
    first = learners[0]
    cohort = tuple(
        m if m.site_id == first.site.id
        else replace(m, exchange_key=public_bytes(middle[m.site_id]))
        for m in make_request(learners).cohort
    )  # fmt: skip
    request = make_request(learners, cohort=cohort)
    with pytest.raises(RefusedError):
        first.train(request)
    monkeypatch.setattr("client.learning.secure_sums.verify", lambda *_: True)
    reply = first.train(request)
    assert isinstance(reply, MaskedReply)
    from privacy.secure_sum import Attempt, pairwise_mask

    names = tuple(m.site_id for m in cohort)
    attempt = Attempt("run", 1, "train", 1, names)
    public = {m.site_id: m.exchange_key for m in cohort}
    size = len(reply.masked)
    others = [n for n in names if n != first.site.id]
    masks = [pairwise_mask(attempt, n, middle[n], public, size=size) for n in others]
    form = sum_terms(first.config, names, plan=first.config.training_plan(), size=size)
    bare = form.form.decode(add_masked([reply.masked, *masks]))
    assert np.abs(bare - exact_sum(first)).max() < 7 * form.form.noise_stddev


def anchored(learner: Learner, request: ModelRequest) -> ModelRequest:
    from client.learning.anchoring import make_anchor

    AuditLog(learner.site.paths.audit).append("sent", kind="test")
    return replace(request, anchor=make_anchor(learner.site, learner.ledger))


def cut_the_ledger(learner: Learner) -> None:
    learner.ledger.close()
    learner.site.paths.ledger.unlink()
    with PrivacyLedger(learner.site.paths.ledger, key=learner.site.ledger_key):
        pass


def cut_the_log(learner: Learner) -> None:
    lines = learner.site.paths.audit.read_bytes().splitlines(keepends=True)
    learner.site.paths.audit.write_bytes(b"".join(lines[:-1]))
    assert audit.verify(learner.site.paths.audit).whole, "a chain does not see a cut tail"


@pytest.mark.parametrize("cut", [cut_the_ledger, cut_the_log])
def test_a_site_whose_records_lost_their_tail_refuses(
    learners: list[Learner], cut: Callable[[Learner], None]
) -> None:
    learners[0].train(make_request(learners))
    request = anchored(learners[0], make_request(learners, server_round=2))
    cut(learners[0])
    restarted = Learner(learners[0].site)
    with pytest.raises(RefusedError, match="behind what this site signed") as caught:
        restarted.train(request)
    assert caught.value.code is RefusalCode.LEDGER_BEHIND
    # Without the anchor nobody notices: this is what it is for.
    restarted.train(replace(request, anchor=None))


def test_an_anchor_holds_for_as_long_as_the_records_grow(learners: list[Learner]) -> None:
    learners[0].train(make_request(learners))
    old = anchored(learners[0], make_request(learners, server_round=2)).anchor
    learners[0].train(make_request(learners, server_round=2, anchor=old))
    learners[0].train(make_request(learners, server_round=3, anchor=old))


def test_an_anchor_of_somebody_else_is_refused(learners: list[Learner]) -> None:
    request = anchored(learners[0], make_request(learners))
    assert request.anchor is not None
    statement = anchor_statement(request.anchor, site_id=learners[0].site.id)
    forged = replace(request.anchor, signature=sign(learners[1].site.identity_key, statement))
    with pytest.raises(RefusedError, match="not signed by this site"):
        learners[0].train(replace(request, anchor=forged))
