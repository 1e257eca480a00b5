"""The learning half of a site: what it refuses, what it charges, what it lets out."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from played_coordinator import signed

from client.app import SITE_CONFIG
from client.app import app as site_app
from client.learning.admission import RefusedError
from client.learning.dataset import is_held_out
from client.learning.evaluation import add_tally_noise, score_subjects, tally_table
from client.learning.learner import Learner, open_learner
from client.learning.training import make_items, site_gradient, subject_loss
from client.site import open_site
from privacy.noise import ChaChaNoise, SeededNoise
from shared_models.messages import HelloRequest, ModelRequest, RefusalCode
from shared_models.records import (
    decode_refusal,
    decode_update,
    encode_hello_request,
    encode_model_request,
)
from shared_models.signed_models import Kind
from shared_models.weights import digest_weights, trainable_state
from simulation.study import StudyDesign, design_study, write_cohort

ROUNDS = 4


def make_design(**changes: object) -> StudyDesign:
    options = {
        "sites": 2, "subjects": 30, "rounds": ROUNDS, "epsilon": 3.0, "mode": "local",
        "network": "behaviour_net", "trainable": "head", "seed": 5, **changes,
    }  # fmt: skip
    return design_study(**options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def site_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learner")
    return write_cohort(make_design(), folder, lambda *_: None)[0]


@pytest.fixture
def learner(site_folder: Path, tmp_path: Path) -> Learner:
    """The site with an empty ledger and log of its own."""
    site = open_site(site_folder)
    return Learner(replace(site, paths=replace(site.paths, state=tmp_path)))


def make_request(
    learner: Learner, *, server_round: int = 1, kind: Kind = "train", **changes: object
) -> ModelRequest:
    """A request of the site's coordinator, signed whatever it says."""
    request = ModelRequest(
        run_id="run",
        server_round=server_round,
        weights=trainable_state(learner.network),
        base_digest=digest_weights(learner.network.state_dict()),
        consortium_digest=learner.site.consortium.digest,
        plan=learner.config.training_plan(),
    )
    changed = replace(request, **changes)  # type: ignore[arg-type]
    return signed(learner.site, changed, kind=kind)


def refusal_of(learner: Learner, request: ModelRequest) -> RefusalCode:
    with pytest.raises(RefusedError) as caught:
        learner.train(request)
    assert learner.ledger.releases() == [], "a refusal must cost nothing"
    return caught.value.code


def test_a_round_is_charged_to_every_training_subject_before_anything_is_computed(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr("client.learning.learner.site_gradient", fail)
    with pytest.raises(MemoryError):
        learner.train(make_request(learner))
    (charged,) = learner.ledger.releases()
    assert charged.subjects == len(learner.dataset.training)
    assert learner.ledger.spent(1e-3) == charged.epsilon_after > 0


def test_the_rounds_of_the_study_spend_the_target_and_one_more_is_refused(learner: Learner) -> None:
    for server_round in range(1, ROUNDS + 1):
        update = learner.train(make_request(learner, server_round=server_round))
    assert update.epsilon_spent == pytest.approx(3.0, rel=1e-3)
    with pytest.raises(RefusedError) as caught:
        learner.train(make_request(learner, run_id="next"))
    assert caught.value.code is RefusalCode.BUDGET
    assert len(learner.ledger.releases()) == ROUNDS


def test_held_out_subjects_never_train_and_pay_only_for_tallies(learner: Learner) -> None:
    data = learner.dataset
    training = {subject.subject_id for subject in data.training}
    held_out = {subject.subject_id for subject in data.held_out}
    assert training
    assert held_out
    assert not training & held_out
    reply = learner.evaluate(
        make_request(
            learner, kind="evaluate", server_round=ROUNDS, plan=learner.config.tally_plan()
        )
    )
    (charged,) = learner.ledger.releases()
    assert charged.subjects == len(held_out)
    assert reply.tallies.shape == learner.tally_shape(ROUNDS)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"consortium_digest": "0" * 64}, RefusalCode.WRONG_CONSORTIUM),
        ({"server_round": ROUNDS + 1}, RefusalCode.WRONG_PLAN),
        ({"server_round": 0}, RefusalCode.WRONG_PLAN),
        ({"base_digest": "0" * 64}, RefusalCode.WRONG_WEIGHTS),
        ({"weights": {}}, RefusalCode.WRONG_WEIGHTS),
        ({"weights": {"head.weight": torch.zeros(2, 64)}}, RefusalCode.WRONG_WEIGHTS),
    ],
)
def test_what_was_not_agreed_is_refused_at_no_cost(
    learner: Learner, changes: dict, code: RefusalCode
) -> None:
    assert refusal_of(learner, make_request(learner, **changes)) is code


def test_a_plan_with_less_noise_than_the_study_gives_is_refused(learner: Learner) -> None:
    plan = learner.config.training_plan()
    weaker = replace(plan, noise_multiplier=plan.noise_multiplier * 0.99)
    assert refusal_of(learner, make_request(learner, plan=weaker)) is RefusalCode.WRONG_PLAN


def test_the_last_digits_of_another_machine_do_not_make_another_plan(learner: Learner) -> None:
    plan = learner.config.training_plan()
    nudged = replace(plan, noise_multiplier=plan.noise_multiplier * (1 + 1e-9))
    assert learner.train(make_request(learner, plan=nudged)).epsilon_spent > 0
    (charged,) = learner.ledger.releases()
    assert charged.noise_multiplier == plan.noise_multiplier


@pytest.mark.parametrize("change", [{"delta": 1e-2}, {"steps": 3}, {"max_grad_norm": 5.0}])
def test_a_plan_that_differs_in_anything_else_is_refused(learner: Learner, change: dict) -> None:
    plan = replace(learner.config.training_plan(), **change)
    assert refusal_of(learner, make_request(learner, plan=plan)) is RefusalCode.WRONG_PLAN


def test_weights_that_are_not_finite_are_refused(learner: Learner) -> None:
    weights = trainable_state(learner.network)
    weights["head.bias"][0] = float("nan")
    digest = digest_weights({**learner.network.state_dict(), **weights})
    request = make_request(learner, weights=weights, base_digest=digest)
    assert refusal_of(learner, request) is RefusalCode.WRONG_WEIGHTS


def test_a_site_without_a_policy_refuses_everything(learner: Learner) -> None:
    bare = Learner(replace(learner.site, policy=None))
    assert refusal_of(bare, make_request(bare)) is RefusalCode.POLICY


def test_a_study_without_privacy_needs_the_policy_to_allow_it(tmp_path: Path) -> None:
    folder = write_cohort(make_design(mode="off", sites=1), tmp_path, lambda *_: None)[0]
    open_learner = Learner(open_site(folder))
    assert open_learner.train(make_request(open_learner)).epsilon_spent == float("inf")
    policy = replace(open_learner.site.policy, allow_no_privacy=False)
    strict = Learner(replace(open_learner.site, policy=policy))
    assert refusal_of(strict, make_request(strict)) is RefusalCode.POLICY


def test_a_site_that_the_study_does_not_name_refuses(learner: Learner) -> None:
    training = replace(learner.config.training, quorum=1)
    config = replace(learner.config, sites=learner.config.sites[1:], training=training)
    consortium = replace(learner.site.consortium, config=config)
    stranger = Learner(replace(learner.site, consortium=consortium))
    assert refusal_of(stranger, make_request(stranger)) is RefusalCode.NOT_A_MEMBER


def test_a_site_without_subjects_refuses_and_is_charged_nothing(learner: Learner) -> None:
    empty = Learner(learner.site)
    empty.__dict__["dataset"] = replace(learner.dataset, training=())
    assert refusal_of(empty, make_request(empty)) is RefusalCode.TOO_FEW_SUBJECTS


def test_the_noise_of_a_simulated_site_repeats_and_that_of_a_real_one_does_not(
    learner: Learner,
) -> None:
    request = make_request(learner)
    assert isinstance(learner._noise(request, "train"), SeededNoise)
    real = Learner(replace(learner.site, config=replace(learner.site.config, simulation=None)))
    assert isinstance(real._noise(request, "train"), ChaChaNoise)
    rounds = [
        learner._noise(make_request(learner, server_round=r), purpose).normal((4,), 1.0)
        for r in (1, 2)
        for purpose in ("train", "evaluate")
    ]
    assert len({tuple(drawn.tolist()) for drawn in rounds}) == 4


def test_training_the_head_on_kept_embeddings_is_training_the_head(learner: Learner) -> None:
    torch.nn.init.normal_(learner.network.head.weight, std=0.1)
    options = {"score_range": learner.config.study.score_range}
    subjects = learner.dataset.training[:3]
    for head_only in (True, False):
        items = make_items(learner.network, subjects, head_only=head_only, **options)
        losses = [subject_loss(learner.network, item) for item in items]
        gradient = torch.autograd.grad(sum(losses), learner.network.head.parameters())
        if head_only:
            kept = gradient
    for one, other in zip(kept, gradient, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_with_and_without_privacy_a_gradient_has_the_same_fixed_denominator(
    learner: Learner,
) -> None:
    items = learner.head_items
    learner.network.train()
    loose = replace(learner.config.training_plan(), max_grad_norm=1e6, noise_multiplier=1e-12)
    off = replace(loose, mode="off", noise_multiplier=0.0, target_epsilon=None)
    for expected in (len(items), 3 * len(items)):
        private, plain = (
            site_gradient(
                learner.network, items, plan=plan, expected_subjects=expected, noise=SeededNoise(0)
            )
            for plan in (loose, off)
        )
        for name, part in plain.items():
            torch.testing.assert_close(part, private[name], rtol=1e-4, atol=1e-5)


def test_tally_noise_reaches_every_number_and_has_the_promised_spread(learner: Learner) -> None:
    plan = learner.config.tally_plan()
    scores = score_subjects(learner.network, (), learner.config.study.score_range)
    empty = tally_table(scores, learner.config, server_round=ROUNDS)
    assert not empty.any()
    drawn = np.stack([add_tally_noise(empty, plan, SeededNoise(seed)) for seed in range(300)])
    spread = drawn.std(axis=0) / (plan.noise_multiplier * plan.max_grad_norm)
    assert (np.abs(spread - 1) < 0.2).all()
    assert abs(drawn.std() / (plan.noise_multiplier * plan.max_grad_norm) - 1) < 0.02


def test_two_folders_that_share_state_and_keys_share_one_budget(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    first, second = (write_cohort(make_design(sites=1), f, lambda *_: None)[0] for f in folders)
    before = Learner(open_site(first))
    before.train(make_request(before, run_id="first study"))
    for name in ("state", "keys"):
        text = (second / "site.toml").read_text()
        shared = text.replace(f'{name} = "{name}"', f'{name} = "{first / name}"')
        assert shared != text
        (second / "site.toml").write_text(shared)
    other = Learner(open_site(second))
    assert other.ledger.verify() == []
    subject = before.dataset.training[0].subject_id
    assert other.ledger.spent_by(subject, 1e-3) == before.ledger.spent_by(subject, 1e-3) > 0


def test_the_split_is_stable_and_close_to_its_fraction() -> None:
    ids = [f"s{i}" for i in range(4000)]
    held = {i for i in ids if is_held_out(i, study="a", fraction=0.4)}
    assert abs(len(held) / 4000 - 0.4) < 0.03
    assert held == {i for i in ids if is_held_out(i, study="a", fraction=0.4)}
    assert held != {i for i in ids if is_held_out(i, study="b", fraction=0.4)}


# The app as Flower calls it.


@pytest.fixture
def context(site_folder: Path) -> Iterator[Context]:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    config = {SITE_CONFIG: str(site_folder / "site.toml")}
    yield Context(1, 2, config, RecordDict(), {})
    TaskIdentity._task_id = TaskIdentity._run_id = TaskIdentity._node_id = None


def ask(content: RecordDict, kind: str, context: Context) -> Message:
    return site_app(Message(content, 2, kind), context)


def test_the_app_answers_a_round_with_the_tensors_of_the_study(
    learner: Learner, context: Context
) -> None:
    content = encode_model_request(make_request(learner))
    update = decode_update(ask(content, "train", context).content)
    shapes = {name: tuple(part.shape) for name, part in update.update.items()}
    assert shapes == {"head.weight": (2, 64), "head.bias": (2,)}


def test_a_change_of_the_policy_counts_from_the_next_run_on(
    learner: Learner, context: Context, site_folder: Path
) -> None:
    file = site_folder / "site.toml"
    before = file.read_text()
    content = encode_model_request(make_request(learner, run_id="before"))
    try:
        file.write_text(before.replace("max_rounds = 4", "max_rounds = 1"))
        assert decode_refusal(ask(content, "train", context).content) is None
        ask(encode_hello_request(HelloRequest("next", b"0" * 32)), "query.hello", context)
        refusal = decode_refusal(ask(content, "train", context).content)
    finally:
        file.write_text(before)
        open_learner.cache_clear()
    assert refusal is not None
    assert refusal.code is RefusalCode.POLICY


def test_a_malformed_message_is_refused_by_the_app_not_raised(context: Context) -> None:
    refusal = decode_refusal(ask(RecordDict(), "train", context).content)
    assert refusal is not None
    assert refusal.code is RefusalCode.WRONG_MESSAGE


def test_an_unexpected_fault_tells_the_coordinator_nothing_of_the_site(
    learner: Learner, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "/srv/patients/s0012.csv"

    def fail(*args: object) -> None:
        raise OSError(secret)

    monkeypatch.setattr(Learner, "train", fail)
    content = encode_model_request(make_request(learner))
    refusal = decode_refusal(ask(content, "train", context).content)
    assert refusal is not None
    assert refusal.code is RefusalCode.INTERNAL
    assert "s0012" not in refusal.message
