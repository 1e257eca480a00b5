"""The outbox: the same question gets the same bytes, one charge, and never a second release."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import RecordDict
from played_coordinator import signed
from speaking_site import make_reply, speak

from client.learning.admission import RefusedError
from client.learning.allow_list import Question
from client.learning.egress import EgressError, digest_content, release
from client.learning.kept_reply import Answer, digest_question, pack_reply, unpack_reply
from client.learning.learner import Learner
from client.learning.outbox import RUNS_KEPT, Entry, Outbox, OutboxBusyError
from client.learning.receipts import SENT, STOPPED
from client.records.check import check_records
from client.records.view import describe
from client.site import Site, open_site
from client.withdrawal.erasure import forget_subject
from privacy import audit
from privacy.keys import sign
from privacy.secure_sum import exchange_key, exchange_statement, public_bytes
from privacy.vault import Vault
from shared_models.messages import CohortMember, ModelRequest, ModelUpdate, RefusalCode
from shared_models.records import decode_anchor, encode_reply
from shared_models.signed_models import Kind
from shared_models.weights import digest_weights, trainable_state
from simulation.study import design_study, write_cohort

ROUNDS = 4
PROGRAM = Path(__file__).with_name("killed_answer.py")
ROOT = PROGRAM.parents[2]


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The site folders of a study in each mode."""
    found = {}
    for mode in ("local", "distributed", "off"):
        design = design_study(
            sites=4, subjects=12, rounds=ROUNDS, epsilon=3.0, mode=mode,
            network="behaviour_net", trainable="head", seed=5,
        )  # fmt: skip
        found[mode] = write_cohort(design, tmp_path_factory.mktemp(mode), lambda *_: None)
    return found


def real_site(folder: Path, state: Path) -> Site:
    """A site whose noise nobody can draw again, with nothing on record."""
    site = open_site(folder)
    config = replace(site.config, simulation=None)
    return replace(site, config=config, paths=replace(site.paths, state=state))


@pytest.fixture
def site(studies: dict[str, list[Path]], tmp_path: Path) -> Site:
    return real_site(studies["local"][0], tmp_path)


@pytest.fixture
def learner(site: Site) -> Learner:
    return Learner(site)


def make_request(learner: Learner, *, kind: Kind = "train", **changes: object) -> ModelRequest:
    plan = learner.config.training_plan() if kind == "train" else learner.config.tally_plan()
    request = ModelRequest(
        run_id="run",
        server_round=ROUNDS if kind == "evaluate" else 1,
        weights=trainable_state(learner.network),
        base_digest=digest_weights(learner.network.state_dict()),
        consortium_digest=learner.site.consortium.digest,
        plan=plan,
    )
    return signed(learner.site, replace(request, **changes), kind=kind)  # type: ignore[arg-type]


def answer(learner: Learner, request: ModelRequest, kind: Kind = "train") -> Answer:
    return learner.train(request) if kind == "train" else learner.evaluate(request)


def tell(learner: Learner, request: ModelRequest, kind: Kind = "train") -> RecordDict:
    return release(answer(learner, request, kind), Question(kind, request), learner)


def refused(learner: Learner, request: ModelRequest) -> RefusedError:
    charged = len(learner.ledger.releases())
    with pytest.raises(RefusedError) as caught:
        learner.train(request)
    assert len(learner.ledger.releases()) == charged
    return caught.value


def entry_of(learner: Learner, request: ModelRequest) -> Entry:
    return learner._entry(request, "train")


def receipts_of(learner: Learner) -> list[audit.AuditEntry]:
    return [one for one in audit.read(learner.site.paths.audit) if one.event == SENT]


def interrupt(learner: Learner, request: ModelRequest, patch: pytest.MonkeyPatch) -> None:
    """Reserve the release and die before it is made."""

    def die(*_: object, **__: object) -> None:
        raise MemoryError

    with patch.context() as patched:
        patched.setattr("client.learning.learner.site_gradient", die)
        with pytest.raises(MemoryError):
            learner.train(request)
    assert len(learner.ledger.releases()) == 1


# Asked again.


@pytest.mark.parametrize("mode", ["local", "distributed", "off"])
@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_the_same_question_gets_the_same_bytes_and_one_charge(
    studies: dict[str, list[Path]], tmp_path: Path, mode: str, kind: Kind
) -> None:
    site = real_site(studies[mode][0], tmp_path)
    first, restarted = Learner(site), Learner(site)
    cohort = [introduce(open_site(folder)) for folder in studies[mode]]
    changes = {"cohort": tuple(cohort)} if mode == "distributed" else {}
    request = make_request(first, kind=kind, **changes)
    told = [tell(one, request, kind) for one in (first, first, restarted)]
    assert len({pack_reply(answer(one, request, kind)) for one in (first, restarted)}) == 1
    assert len({digest_content(content) for content in told}) == 1
    assert [list(content["arrays"]) for content in told[1:]] == [list(told[0]["arrays"])] * 2
    assert len(first.ledger.releases()) == (mode != "off")
    # The anchor is fresh: it vouches for the newest receipt.
    anchors = [decode_anchor(content) for content in told]
    assert [anchor.log_entries for anchor in anchors if anchor] == [1, 2, 3]
    assert check_records(site, verify=True).whole


def introduce(site: Site, run_id: str = "run") -> CohortMember:
    public = public_bytes(exchange_key(site.exchange_secret, run_id))
    statement = exchange_statement(run_id, site.id, public)
    return CohortMember(site.id, public, sign(site.identity_key, statement))


def test_the_receipt_says_that_it_was_sent_again_and_what_was_first(learner: Learner) -> None:
    request = make_request(learner)
    for _ in range(3):
        tell(learner, request)
    first, *others = receipts_of(learner)
    assert "sent_again" not in first.details
    for one in others:
        assert one.details["sent_again"] is True
        assert one.details["first_entry"] == first.sequence == 1
        assert one.details["first_sha256"] == one.details["sha256"] == first.details["sha256"]
        assert one.details["ledger_row"] == first.details["ledger_row"]
        assert "the same bytes as in entry 1" in describe(one)
    assert "again" not in describe(first)


def test_a_reply_that_was_kept_and_never_told_is_told_for_the_first_time(learner: Learner) -> None:
    request = make_request(learner)
    reply = learner.train(request)
    content = tell(Learner(learner.site), request)
    assert digest_content(content) == digest_content(encode_reply(reply))
    (receipt,) = receipts_of(learner)
    assert "sent_again" not in receipt.details


def test_a_second_answer_under_one_charge_is_found_in_the_records(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken variant: an outbox that finds nothing, and a site that makes it anew."""
    request = make_request(learner)
    tell(learner, request)
    with monkeypatch.context() as patched:
        patched.setattr("client.learning.charging.Charges._refuse_told", lambda *_: None)
        patched.setattr(Outbox, "find", lambda *_: None)
        second = learner.train(request)
    tell_anyway = Question("train", request)
    assert digest_content(release(second, tell_anyway, learner))
    faults = [one.fault for one in check_records(learner.site, verify=True).faults]
    assert faults == ["row 1 of the ledger paid for another message"]


def test_who_asks_again_is_checked_again(learner: Learner) -> None:
    request = make_request(learner)
    tell(learner, request)
    bare = Learner(replace(learner.site, policy=None))
    assert refused(bare, request).code is RefusalCode.POLICY
    unsigned = replace(request, signature=b"")
    assert refused(learner, unsigned).code is RefusalCode.WRONG_SIGNATURE
    swapped = {name: part + 1 for name, part in request.weights.items()}
    assert refused(learner, replace(request, weights=swapped)).code is RefusalCode.WRONG_WEIGHTS
    anchor = decode_anchor(tell(learner, request))
    learner.site.paths.audit.unlink()
    behind = replace(request, anchor=anchor)
    assert refused(Learner(learner.site), behind).code is RefusalCode.LEDGER_BEHIND


# What is another question.


def test_the_digest_of_a_question_covers_all_that_the_answer_depends_on(
    studies: dict[str, list[Path]], tmp_path: Path
) -> None:
    learner = Learner(real_site(studies["distributed"][0], tmp_path))
    config, plan = learner.config, learner.config.training_plan()
    cohort = tuple(introduce(open_site(folder)) for folder in studies["distributed"])
    request = make_request(learner, cohort=cohort)
    other_key = replace(cohort[1], exchange_key=b"k" * 32)
    heavier = replace(config.sites[1], weight=config.sites[1].weight + 1)
    recounted = replace(config, sites=(config.sites[0], heavier, *config.sites[2:]))
    own_heavier = replace(config.sites[0], weight=config.sites[0].weight + 1)
    own_recounted = replace(config, sites=(own_heavier, *config.sites[1:]))

    def digest(asked: ModelRequest = request, **changes: object) -> str:
        options = {"kind": "train", "plan": plan, "config": config, "site_id": learner.site.id}
        return digest_question(asked, **{**options, **changes})  # type: ignore[arg-type]

    others = [
        digest(replace(request, run_id="other")),
        digest(replace(request, server_round=2)),
        digest(replace(request, attempt=2)),
        digest(replace(request, base_digest="0" * 64)),
        digest(replace(request, consortium_digest="0" * 64)),
        digest(replace(request, cohort=cohort[:3])),
        digest(replace(request, cohort=cohort[::-1])),
        digest(replace(request, cohort=(cohort[0], other_key, *cohort[2:]))),
        digest(kind="evaluate"),
        digest(plan=replace(plan, noise_multiplier=plan.noise_multiplier * 2)),
        digest(config=recounted),
        digest(config=own_recounted, asked=replace(request, cohort=())),
        digest(replace(request, cohort=())),
    ]
    assert len({digest(), *others}) == 1 + len(others)
    nudged = replace(request.plan, noise_multiplier=request.plan.noise_multiplier * (1 + 1e-9))
    for same in ({"signature": b""}, {"anchor": None}, {"weights": {}}, {"plan": nudged}):
        assert digest(replace(request, **same)) == digest()


def test_another_question_for_a_release_that_was_reserved_is_refused(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request(learner)
    moved = {name: part + 1 for name, part in request.weights.items()}
    merged = {**learner.network.state_dict(), **moved}
    other = make_request(learner, weights=moved, base_digest=digest_weights(merged))
    interrupt(learner, request, monkeypatch)
    assert refused(learner, other).code is RefusalCode.REPEATED
    tell(learner, request)
    assert "another question" in str(refused(learner, other))


# Interrupted.


def test_an_interrupted_release_is_made_once_more_under_its_charge(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request(learner)
    interrupt(learner, request, monkeypatch)
    spent = learner.ledger.spent(1e-3)
    told = [digest_content(tell(one, request)) for one in (Learner(learner.site), learner)]
    assert len(set(told)) == 1
    assert len(learner.ledger.releases()) == 1
    assert learner.ledger.spent(1e-3) == spent
    assert check_records(learner.site, verify=True).whole


def without_one(learner: Learner) -> Learner:
    other = Learner(learner.site)
    other.__dict__["dataset"] = replace(learner.dataset, training=learner.dataset.training[1:])
    return other


def test_an_interrupted_release_is_not_made_of_other_subjects(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request(learner)
    interrupt(learner, request, monkeypatch)
    error = refused(without_one(learner), request)
    assert error.code is RefusalCode.REPEATED
    assert "subjects or terms" in str(error)
    assert digest_content(tell(learner, request))


def test_an_interrupted_release_in_a_broken_ledger_is_a_fault_not_a_refusal(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(learner, make_request(learner), monkeypatch)
    learner.ledger._database.execute("DROP TRIGGER releases_keep")
    learner.ledger._database.execute("UPDATE releases SET subjects = 99")
    with pytest.raises(Exception, match="whole ledger"):
        Learner(learner.site).train(make_request(learner))


def test_what_was_asked_and_refused_leaves_the_last_reply_where_it_was(learner: Learner) -> None:
    request = make_request(learner)
    told = digest_content(tell(learner, request))
    assert learner.site.policy is not None
    policy = replace(learner.site.policy, max_epsilon_per_subject=learner.ledger.spent(1e-3))
    poor = Learner(replace(learner.site, policy=policy))
    with pytest.raises(RefusedError):
        poor.train(make_request(learner, server_round=2))
    assert digest_content(tell(learner, request)) == told


# Lost, taken away, tampered with.


def drop_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def flip_a_byte(folder: Path) -> None:
    (path,) = folder.glob("*.reply")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("lose", [drop_all, flip_a_byte])
def test_what_was_told_and_is_lost_is_never_made_anew(
    learner: Learner, lose: Callable[[Path], None]
) -> None:
    request = make_request(learner)
    tell(learner, request)
    folder = learner.site.paths.state / "outbox"
    lose(folder)
    assert refused(learner, request).code is RefusalCode.REPEATED
    # Nor if the mark that nothing left has come back: the receipt says otherwise.
    learner.outbox.note_asked(entry_of(learner, request))
    assert "has a receipt" in str(refused(learner, request))


def test_what_does_not_stand_in_the_outbox_stays(learner: Learner) -> None:
    request = make_request(learner)
    reply = learner.train(request)
    learner.outbox.empty()
    with pytest.raises(EgressError, match="does not stand in the outbox"):
        release(reply, Question("train", request), learner)
    assert [one.event for one in audit.read(learner.site.paths.audit)] == [STOPPED]


def test_other_bytes_than_those_in_the_outbox_stay(learner: Learner) -> None:
    request = make_request(learner)
    reply = learner.train(request)
    assert isinstance(reply, ModelUpdate)
    moved = replace(reply, update={name: part + 1 for name, part in reply.update.items()})
    with pytest.raises(EgressError, match="does not stand in the outbox"):
        release(moved, Question("train", request), learner)


def test_an_answer_leaves_only_with_the_word_of_the_outbox(
    studies: dict[str, list[Path]], tmp_path: Path
) -> None:
    speaker = speak(studies["local"][0], tmp_path)
    spoken = make_reply(speaker, ModelUpdate)
    speaker.standing = None
    with pytest.raises(EgressError):
        release(*spoken, speaker)
    speaker.standing = "first"
    release(*spoken, speaker)
    speaker.ledger.close()


def test_a_withdrawal_takes_the_last_replies_back(learner: Learner) -> None:
    told, kept = make_request(learner), make_request(learner, server_round=2)
    tell(learner, told)
    subject = learner.dataset.training[0].subject_id
    on_its_way = learner.train(kept)
    forget_subject(learner.site, subject)
    assert list((learner.site.paths.state / "outbox").iterdir()) == []
    with pytest.raises(EgressError):
        release(on_its_way, Question("train", kept), learner)
    assert refused(learner, kept).code is RefusalCode.REPEATED
    tell(learner, make_request(learner, server_round=3))


# Its files.


def test_the_outbox_holds_one_reply_of_each_purpose_and_of_few_runs(learner: Learner) -> None:
    assert learner.site.policy is not None
    policy = replace(learner.site.policy, max_epsilon_per_subject=100.0)
    rich = Learner(replace(learner.site, policy=policy))
    folder = learner.site.paths.state / "outbox"
    for run in range(RUNS_KEPT + 2):
        for server_round in (1, 2):
            tell(rich, make_request(rich, run_id=f"run {run}", server_round=server_round))
        tell(rich, make_request(rich, kind="evaluate", run_id=f"run {run}"), "evaluate")
        (folder / ".left.by.a.crash").touch()
        assert len(list(folder.glob("*.reply"))) == 2 * min(run + 1, RUNS_KEPT)
    tell(rich, make_request(rich, run_id="last"))
    assert len(list(folder.iterdir())) == 2 * (RUNS_KEPT - 1) + 1
    recent = make_request(rich, run_id=f"run {RUNS_KEPT + 1}", server_round=2)
    tell(rich, recent)
    long_ago = make_request(rich, run_id="run 0", server_round=2)
    assert refused(rich, long_ago).code is RefusalCode.REPEATED


def test_replies_are_sealed_and_closed_to_other_accounts(learner: Learner) -> None:
    reply = learner.train(make_request(learner))
    assert isinstance(reply, ModelUpdate)
    folder = learner.site.paths.state / "outbox"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    raw = next(iter(reply.update.values())).numpy().tobytes()
    for path in [*folder.iterdir(), learner.site.paths.state / "outbox.lock"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert raw not in path.read_bytes()
        assert raw in pack_reply(reply)


def make_outbox(state: Path, **changes: object) -> Outbox:
    options = {"vault": Vault(bytes(32)), "owner": "north", "patience_s": 0.1, **changes}
    return Outbox(state, **options)  # type: ignore[arg-type]


ENTRY = Entry("run", "train", "ab" * 32)


def test_a_reply_opens_for_its_own_question_and_site_only(tmp_path: Path) -> None:
    outbox = make_outbox(tmp_path)
    outbox.keep(ENTRY, b"reply")
    assert outbox.find(ENTRY) == b"reply"
    (file,) = (tmp_path / "outbox").iterdir()
    other = replace(ENTRY, question="ab" * 16 + "cd" * 16)
    assert other.name == ENTRY.name, "the name of the file alone does not tell them apart"
    assert outbox.find(other) is None
    assert make_outbox(tmp_path, owner="south").find(ENTRY) is None
    assert make_outbox(tmp_path, vault=Vault(b"k" * 32)).find(ENTRY) is None
    assert file.exists()


def test_a_real_site_waits_for_the_disk_before_a_reply_may_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def sync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(os, "fsync", sync)
    make_outbox(tmp_path, durable=False).keep(ENTRY, b"reply")
    assert synced == []
    make_outbox(tmp_path).keep(ENTRY, b"reply")
    assert len(synced) == 2
    assert synced[1] == str(tmp_path / "outbox")


@pytest.fixture
def held(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the outbox until it is killed."""
    program = (
        "import fcntl, sys, time\n"
        "file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "outbox.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_process_that_holds_the_outbox_too_long_is_named_and_a_killed_one_holds_nothing(
    tmp_path: Path, held: subprocess.Popen[str]
) -> None:
    outbox = make_outbox(tmp_path)
    with pytest.raises(OutboxBusyError, match=r"within 0\.1 s.*outbox\.lock"), outbox.locked():
        pass
    held.kill()
    held.wait()
    with outbox.locked():
        pass


def test_a_reply_reads_back_as_what_it_was(learner: Learner) -> None:
    reply = learner.train(make_request(learner))
    assert pack_reply(unpack_reply(pack_reply(reply))) == pack_reply(reply)


# Real processes.


@pytest.fixture(scope="module")
def small_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    design = design_study(
        sites=1, subjects=12, rounds=ROUNDS, epsilon=3.0, mode="local",
        network="behaviour_net", trainable="head", seed=5,
    )  # fmt: skip
    return write_cohort(design, tmp_path_factory.mktemp("small"), lambda *_: None)[0]


def kill(site: Path, folder: Path, *words: object) -> dict:
    path = os.pathsep.join(map(str, (ROOT, PROGRAM.parent)))
    done = subprocess.run(
        [sys.executable, PROGRAM, site, folder, *map(str, words)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_site_killed_while_it_answers_answers_the_same_when_asked_again(
    small_site: Path, tmp_path: Path
) -> None:
    assert kill(small_site, tmp_path, "--kills", 8, "--seed", 1)["fault"] is None


@pytest.mark.nightly
@pytest.mark.slow
def test_a_hundred_kills_between_reserving_and_sending_make_no_second_release(
    small_site: Path, tmp_path: Path
) -> None:
    found = kill(small_site, tmp_path, "--kills", 120)
    assert (found["kills"], found["fault"]) == (120, None)
    # Some died between the charge and the receipt, and some after it.
    assert found["ends"]["between"] > 10
    assert found["ends"]["told"] > 10


@pytest.mark.nightly
@pytest.mark.slow
def test_a_kill_before_each_single_statement_makes_no_second_release(
    small_site: Path, tmp_path: Path
) -> None:
    found = kill(small_site, tmp_path)
    assert found["fault"] is None
    assert found["kills"] > 60


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["sent first", "made anew"])
def test_kills_before_each_statement_catch_each_broken_order(
    small_site: Path, tmp_path: Path, variant: str
) -> None:
    assert "answers to one question" in kill(small_site, tmp_path, "--variant", variant)["fault"]


def test_two_processes_that_are_asked_at_once_give_one_answer(
    small_site: Path, tmp_path: Path
) -> None:
    assert kill(small_site, tmp_path, "--pairs", 4) == {"times": 4, "fault": None}


def test_without_the_lock_two_processes_are_caught(small_site: Path, tmp_path: Path) -> None:
    """The broken variant."""
    fault = kill(small_site, tmp_path, "--pairs", 8, "--variant", "no lock")["fault"]
    assert fault is not None
    assert "2 answers" in fault or "refused" in fault or "of two" in fault
