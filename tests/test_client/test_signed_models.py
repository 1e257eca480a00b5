"""Whose models a site follows: the coordinator's own, each once, and nobody else's."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric import ec
from played_coordinator import signed, signing_key_file
from safetensors.torch import save_file

from client.learning.admission import RefusedError
from client.learning.learner import Learner
from client.site import open_site
from privacy.keys import load_identity_key
from server.signing import PUBLIC_PEM, model_file, publish_model
from shared_models.messages import CohortMember, ModelRequest, ModelUpdate, RefusalCode
from shared_models.records import decode_model_request, encode_model_request
from shared_models.signed_files import sign_file, signature_file
from shared_models.signed_models import Kind, load_signed_weights, model_statement, sign_request
from shared_models.weights import WeightsError, digest_weights, trainable_state
from simulation.study import StudyDesign, design_study, write_cohort

ROUNDS = 4
OTHER = "other.safetensors"
STRANGER = ec.generate_private_key(ec.SECP384R1())


def make_design(**changes: object) -> StudyDesign:
    options = {
        "sites": 1, "subjects": 24, "rounds": ROUNDS, "epsilon": 3.0, "mode": "local",
        "network": "behaviour_net", "trainable": "head", "seed": 8, **changes,
    }  # fmt: skip
    return design_study(**options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def site_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(make_design(), tmp_path_factory.mktemp("signed"), lambda *_: None)[0]


@pytest.fixture
def learner(site_folder: Path, tmp_path: Path) -> Learner:
    """The site with an empty ledger and log."""
    site = open_site(site_folder)
    return Learner(replace(site, paths=replace(site.paths, state=tmp_path)))


def unsigned_request(learner: Learner, **changes: object) -> ModelRequest:
    request = ModelRequest(
        run_id="run",
        server_round=1,
        weights=trainable_state(learner.network),
        base_digest=digest_weights(learner.network.state_dict()),
        consortium_digest=learner.site.consortium.digest,
        plan=learner.config.training_plan(),
    )
    return replace(request, **changes)  # type: ignore[arg-type]


def make_request(learner: Learner, *, kind: Kind = "train", **changes: object) -> ModelRequest:
    return signed(learner.site, unsigned_request(learner, **changes), kind=kind)


def other_weights(learner: Learner) -> dict[str, object]:
    """A model of somebody's own making, complete with its right digest."""
    weights = {
        name: torch.full_like(w, 7.0) for name, w in trainable_state(learner.network).items()
    }
    digest = digest_weights({**learner.network.state_dict(), **weights})
    return {"weights": weights, "base_digest": digest}


def refusal_of(learner: Learner, request: ModelRequest) -> RefusalCode:
    charged, before = len(learner.ledger.releases()), digest_weights(learner.network.state_dict())
    with pytest.raises(RefusedError) as caught:
        learner.train(request)
    assert len(learner.ledger.releases()) == charged, "a refusal must cost nothing"
    assert digest_weights(learner.network.state_dict()) == before, "nor may it move the network"
    return caught.value.code


def test_a_model_that_the_coordinator_signed_is_followed(learner: Learner) -> None:
    assert learner.train(make_request(learner)).server_round == 1


def leave_unsigned(learner: Learner) -> ModelRequest:
    return unsigned_request(learner)


def sign_with_another_key(learner: Learner) -> ModelRequest:
    return sign_request(unsigned_request(learner), STRANGER, kind="train")


def sign_as_the_site_itself(learner: Learner) -> ModelRequest:
    return sign_request(unsigned_request(learner), learner.site.identity_key, kind="train")


def cut_the_signature(learner: Learner) -> ModelRequest:
    whole = make_request(learner)
    return replace(whole, signature=whole.signature[:-1])


def put_another_model_under_it(learner: Learner) -> ModelRequest:
    return replace(make_request(learner), **other_weights(learner))


def replay_in_another_run(learner: Learner) -> ModelRequest:
    return replace(make_request(learner), run_id="next run")


def replay_in_another_round(learner: Learner) -> ModelRequest:
    return replace(make_request(learner), server_round=2)


def replay_as_another_attempt(learner: Learner) -> ModelRequest:
    return replace(make_request(learner), attempt=2)


def replay_to_another_cohort(learner: Learner) -> ModelRequest:
    return replace(make_request(learner), cohort=(CohortMember("other", b"", b""),))


def deliver_as_another_kind(learner: Learner) -> ModelRequest:
    return make_request(learner, kind="evaluate")


FORGERIES = [
    leave_unsigned, sign_with_another_key, sign_as_the_site_itself, cut_the_signature,
    put_another_model_under_it, replay_in_another_run, replay_in_another_round,
    replay_as_another_attempt, replay_to_another_cohort, deliver_as_another_kind,
]  # fmt: skip


@pytest.mark.parametrize("forge", FORGERIES)
def test_a_model_that_was_not_signed_for_this_is_refused_at_no_cost(
    learner: Learner, forge: Callable[[Learner], ModelRequest]
) -> None:
    assert refusal_of(learner, forge(learner)) is RefusalCode.WRONG_SIGNATURE


def test_a_swapped_tensor_under_a_true_signature_shows_in_the_digest(learner: Learner) -> None:
    """The signature covers the weights by their digest, so the digest is always computed."""
    swapped = replace(make_request(learner), weights=other_weights(learner)["weights"])
    assert refusal_of(learner, swapped) is RefusalCode.WRONG_WEIGHTS


def test_the_signature_is_asked_for_before_weights_are_looked_at(learner: Learner) -> None:
    request = unsigned_request(learner, weights={"nothing": torch.zeros(1)})
    assert refusal_of(learner, request) is RefusalCode.WRONG_SIGNATURE
    right = signed(learner.site, request)
    assert refusal_of(learner, right) is RefusalCode.WRONG_WEIGHTS


def test_a_study_without_a_key_has_no_model_that_a_site_would_follow(learner: Learner) -> None:
    config = replace(learner.config, coordinator=None)
    consortium = replace(learner.site.consortium, config=config)
    bare = Learner(replace(learner.site, consortium=consortium))
    assert refusal_of(bare, make_request(learner)) is RefusalCode.WRONG_SIGNATURE


def test_without_the_check_anybody_has_the_site_train_on_their_model(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the check is for: weights that a stranger chose, an answer computed at them, a charge.

    Chosen weights are how a gradient is made to tell the most about single subjects; only the
    noise is left between the stranger and the subjects, and the stranger spends their budget.
    """
    forged = sign_request(
        unsigned_request(learner, **other_weights(learner)), STRANGER, kind="train"
    )
    assert refusal_of(learner, forged) is RefusalCode.WRONG_SIGNATURE
    monkeypatch.setattr("client.learning.admission.is_signed", lambda *_, **__: True)
    answer = learner.train(forged)
    assert isinstance(answer, ModelUpdate)
    assert answer.base_digest == other_weights(learner)["base_digest"]
    assert digest_weights(learner.network.state_dict()) == answer.base_digest
    assert learner.ledger.spent(learner.config.training_plan().delta) > 0


# Each model once, and in order.


def test_a_round_is_answered_once_even_after_a_restart(learner: Learner) -> None:
    """Asked again, the site tells the same answer; it never makes a second one."""
    real = replace(learner.site, config=replace(learner.site.config, simulation=None))
    request = make_request(learner)
    first = Learner(real).train(request)
    for site in (Learner(real), Learner(real)):
        again = site.train(request)
        assert all(part.equal(first.update[name]) for name, part in again.update.items())
    other = signed(real, replace(request, **other_weights(learner)))
    assert refusal_of(Learner(real), other) is RefusalCode.REPEATED
    assert len(learner.ledger.releases()) == 1


def test_an_old_round_that_was_never_answered_is_too_late(learner: Learner) -> None:
    held_back = make_request(learner, server_round=1)
    learner.train(make_request(learner, server_round=2))
    for site in (learner, Learner(learner.site)):
        assert refusal_of(site, held_back) is RefusalCode.REPEATED
    learner.train(make_request(learner, server_round=3))
    learner.train(make_request(learner, run_id="next run", server_round=1))


def test_training_and_judging_keep_their_own_order(learner: Learner) -> None:
    plan = learner.config.tally_plan()
    learner.train(make_request(learner, server_round=ROUNDS))
    learner.evaluate(make_request(learner, kind="evaluate", server_round=2, plan=plan))
    learner.evaluate(make_request(learner, kind="evaluate", server_round=ROUNDS, plan=plan))
    with pytest.raises(RefusedError) as caught:
        learner.evaluate(make_request(learner, kind="evaluate", server_round=2, plan=plan))
    assert caught.value.code is RefusalCode.REPEATED


def test_a_study_without_privacy_asks_for_signature_and_order_too(tmp_path: Path) -> None:
    (folder,) = write_cohort(make_design(mode="off"), tmp_path, lambda *_: None)
    learner = Learner(open_site(folder))
    assert refusal_of(learner, leave_unsigned(learner)) is RefusalCode.WRONG_SIGNATURE
    request = make_request(learner)
    told = learner.train(request)
    assert digest_weights(learner.train(request).update) == digest_weights(told.update)
    other = signed(learner.site, replace(request, **other_weights(learner)))
    assert refusal_of(learner, other) is RefusalCode.REPEATED


def test_without_the_order_a_replay_spends_the_subjects_budget(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.learning.charging.Charges.refuse_passed", lambda *_, **__: None)
    learner.train(make_request(learner, server_round=2))
    learner.train(make_request(learner, server_round=1))
    assert len(learner.ledger.releases()) == 2


# Over the wire, and as a file.


def test_the_signature_survives_the_way_to_the_site(learner: Learner) -> None:
    content = encode_model_request(make_request(learner))
    learner.train(decode_model_request(content))
    del content["request"]["signature"]
    assert refusal_of(learner, decode_model_request(content)) is RefusalCode.WRONG_SIGNATURE


def test_no_two_requests_have_one_statement(learner: Learner) -> None:
    """Names that hold separators must not read as other names."""
    base = unsigned_request(learner)
    statements = [
        model_statement(replace(base, run_id=run_id, server_round=server_round), kind=kind)
        for run_id, server_round, kind in [
            ("1", 12, "train"), ("11", 2, "train"), ("1", 12, "evaluate"), ('1", 1', 2, "train"),
        ]
    ]  # fmt: skip
    assert len(set(statements)) == len(statements)


@pytest.fixture
def published(learner: Learner, tmp_path: Path) -> Path:
    path = model_file(tmp_path, 3)
    key = load_identity_key(signing_key_file(learner.site))
    publish_model(path, learner.network.state_dict(), key)
    other = tmp_path / OTHER
    save_file({"w": torch.zeros(1)}, other)
    sign_file(other, key)
    return path


def load(learner: Learner, path: Path) -> dict[str, torch.Tensor]:
    like = learner.network.state_dict()
    return load_signed_weights(path, like, public_key=learner.site.consortium.coordinator_key)


def test_a_published_model_loads_with_its_signature(learner: Learner, published: Path) -> None:
    state = load(learner, published)
    assert digest_weights(state) == digest_weights(learner.network.state_dict())


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def drop_the_signature(path: Path) -> None:
    signature_file(path).unlink()


def take_another_files_signature(path: Path) -> None:
    shutil.copyfile(signature_file(path.with_name(OTHER)), signature_file(path))


@pytest.mark.parametrize(
    "change", [change_a_byte, drop_the_signature, take_another_files_signature]
)
def test_a_published_model_that_was_changed_is_not_loaded(
    learner: Learner, published: Path, change: Callable[[Path], None]
) -> None:
    change(published)
    with pytest.raises(WeightsError, match=r"signature|signed"):
        load(learner, published)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
def test_openssl_checks_a_published_model(published: Path) -> None:
    command = [
        "openssl", "dgst", "-sha384", "-verify", published.with_name(PUBLIC_PEM),
        "-signature", signature_file(published), published,
    ]  # fmt: skip
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.stdout.strip() == "Verified OK", told.stderr
    change_a_byte(published)
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
