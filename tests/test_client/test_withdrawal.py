"""Forgetting a subject: excluded first, erased then, certified last, and absent ever after."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from played_coordinator import signed
from typer.testing import CliRunner

from client.app import SITE_CONFIG
from client.app import app as site_app
from client.cli import app
from client.learning.admission import RefusedError
from client.learning.learner import Learner, open_learner
from client.preparation.steps import check_recordings, load_manifest
from client.site import Site, open_site
from client.storage.store import StoreError, open_store
from client.storage.stored_recording import StoredRecording
from client.withdrawal.erasure import find_traces, forget_subject
from client.withdrawal.exclusion import open_exclusions
from privacy.accounting import epsilon_spent
from privacy.audit import read as read_audit
from privacy.audit import verify as verify_audit
from privacy.keys import verify
from privacy.ledger import PrivacyLedger
from server.signing import KEY_FOLDER
from shared_models.messages import ModelRequest, RefusalCode
from shared_models.records import decode_update, encode_model_request
from shared_models.signed_models import Kind
from shared_models.weights import digest_weights, trainable_state
from simulation.study import design_study, write_cohort

ROUNDS = 4


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    design = design_study(
        sites=1, subjects=30, rounds=ROUNDS, epsilon=3.0, mode="local",
        network="behaviour_net", trainable="head", seed=5,
    )  # fmt: skip
    return write_cohort(design, tmp_path_factory.mktemp("cohort"), lambda *_: None)[0]


@pytest.fixture
def site(cohort: Path, tmp_path: Path) -> Site:
    study = tmp_path / "study"
    shutil.copytree(cohort.parents[1] / KEY_FOLDER, study / KEY_FOLDER)
    return open_site(shutil.copytree(cohort, study / "sites" / "site"))


@pytest.fixture
def learner(site: Site) -> Learner:
    return Learner(site)


@pytest.fixture
def subject(learner: Learner) -> str:
    """A subject that trains."""
    return learner.dataset.training[0].subject_id


def run(*words: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=answer)


def told(result: Result) -> dict:
    return json.loads(result.stdout.strip().splitlines()[-1])


def make_request(
    learner: Learner, *, server_round: int = 1, kind: Kind = "train", **changes: object
) -> ModelRequest:
    request = ModelRequest(
        run_id="run-7",
        server_round=server_round,
        weights=trainable_state(learner.network),
        base_digest=digest_weights(learner.network.state_dict()),
        consortium_digest=learner.site.consortium.digest,
        plan=learner.config.training_plan(),
    )
    changed = replace(request, **changes)  # type: ignore[arg-type]
    return signed(learner.site, changed, kind=kind)


def tally_request(learner: Learner, **changes: object) -> ModelRequest:
    return make_request(
        learner, server_round=ROUNDS, kind="evaluate", plan=learner.config.tally_plan(), **changes
    )


def participations(site: Site, subject_id: str) -> list[str]:
    with PrivacyLedger(site.paths.ledger, key=site.ledger_key) as ledger:
        return [one.purpose for one in ledger.participations(subject_id)]


def everything_in(folder: Path) -> bytes:
    return b"".join(
        path.name.encode() + path.read_bytes() for path in folder.rglob("*") if path.is_file()
    )


# The learner.


def assert_absent_from_the_next_round(learner: Learner, subject_id: str) -> None:
    """A learner that has trained on a subject does so no more once the subject is forgotten."""
    site = learner.site
    learner.train(make_request(learner))
    subjects, items = len(learner.dataset.training), len(learner.head_items)
    assert participations(site, subject_id) == ["train"]
    forget_subject(site, subject_id)
    learner.train(make_request(learner, server_round=2))
    assert participations(site, subject_id) == ["train"]
    assert learner.ledger.releases()[-1].subjects == subjects - 1
    assert len(learner.head_items) == items - 1
    assert subject_id not in {one.subject_id for one in learner.dataset.training}


def test_a_subject_forgotten_while_the_site_serves_is_absent_from_the_next_round(learner, subject):
    assert_absent_from_the_next_round(learner, subject)


def test_a_learner_that_keeps_its_old_data_is_caught(learner, subject, monkeypatch):
    """The broken variant."""
    monkeypatch.setattr(Learner, "_without_forgotten", lambda self: nullcontext())
    with pytest.raises(AssertionError):
        assert_absent_from_the_next_round(learner, subject)


def test_the_update_without_the_subject_is_that_of_a_site_that_never_had_it(
    learner, subject, tmp_path
):
    learner.train(make_request(learner))
    forget_subject(learner.site, subject)
    after = learner.train(make_request(learner, server_round=2)).update
    rows = list(csv.reader(learner.site.paths.recordings.read_text().splitlines()))
    kept = [row for row in rows if subject not in row]
    assert len(kept) < len(rows)
    with learner.site.paths.recordings.open("w", newline="") as file:
        csv.writer(file).writerows(kept)
    paths = replace(learner.site.paths, state=tmp_path)
    never = Learner(replace(learner.site, paths=paths))
    expected = never.train(make_request(never, server_round=2)).update
    assert all(part.equal(expected[name]) for name, part in after.items())


def test_a_forgotten_held_out_subject_is_absent_from_the_next_tallies(site):
    assert site.policy is not None
    generous = replace(site.policy, max_epsilon_per_subject=10.0)
    learner = Learner(replace(site, policy=generous))
    subject_id = learner.dataset.held_out[0].subject_id
    learner.evaluate(tally_request(learner))
    embedded = learner.held_out_embeddings
    assert embedded is not None
    before = learner.score_held_out()
    forget_subject(learner.site, subject_id)
    learner.evaluate(tally_request(learner, run_id="run-8"))
    assert participations(site, subject_id) == ["evaluate"]
    assert len(learner.held_out_embeddings or ()) == len(embedded) - 1
    assert len(learner.score_held_out().score) == len(before.score) - 1


def test_too_few_subjects_left_are_refused_by_the_policy(site):
    total = len(load_manifest(site).subjects)
    assert site.policy is not None
    strict = Learner(replace(site, policy=replace(site.policy, min_subjects=total)))
    strict.train(make_request(strict))
    forget_subject(site, strict.dataset.training[0].subject_id)
    with pytest.raises(RefusedError) as caught:
        strict.train(make_request(strict, server_round=2))
    assert caught.value.code is RefusalCode.POLICY
    assert len(strict.ledger.releases()) == 1


def test_a_list_of_the_forgotten_that_is_not_whole_stops_the_learner(learner, subject):
    forget_subject(learner.site, subject)
    (learner.site.paths.state / "exclusions.jsonl").write_bytes(b"")
    with pytest.raises(Exception, match="not as it was written"):
        learner.train(make_request(learner))
    assert learner.ledger.releases() == []


def test_nobody_is_forgotten_between_the_check_and_the_entry_in_the_ledger(learner, subject):
    thread = threading.Thread(target=forget_subject, args=(learner.site, subject))
    with learner._without_forgotten():
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert not open_exclusions(learner.site).holds(subject)
    thread.join(30)
    assert not thread.is_alive()
    assert open_exclusions(learner.site).holds(subject)


@pytest.fixture
def context(site: Site) -> Iterator[Context]:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    yield Context(1, 2, {SITE_CONFIG: str(site.config_file)}, RecordDict(), {})
    TaskIdentity._task_id = TaskIdentity._run_id = TaskIdentity._node_id = None
    open_learner.cache_clear()


def test_the_serving_app_leaves_the_subject_out_without_a_restart(learner, subject, context):
    def ask(server_round: int) -> None:
        content = encode_model_request(make_request(learner, server_round=server_round))
        decode_update(site_app(Message(content, 2, "train"), context).content)

    ask(1)
    assert run("forget", learner.site.folder, subject, "--yes").exit_code == 0
    ask(2)
    assert participations(learner.site, subject) == ["train"]
    assert len(learner.ledger.releases()) == 2


# Store and table.


def test_everything_stored_of_the_subject_is_gone_and_of_others_nothing(site, subject):
    store = open_store(site)
    total = len(list(store.records()))
    own = len(list(store.records_of(subject)))
    assert own > 0
    assert forget_subject(site, subject).erased == own
    assert len(list(store.records())) == total - own
    assert store.names_of(subject) == []
    assert store.find_damaged() == []


def test_rows_that_are_still_in_the_table_count_as_withdrawn_even_without_their_video(
    site, subject
):
    real = replace(site, config=replace(site.config, simulation=None))
    rows = list(csv.DictReader(site.paths.recordings.read_text().splitlines()))
    own = [row for row in rows if row["subject_id"] == subject]
    forget_subject(site, subject)
    own[0]["file"] = "videos/deleted.mp4"
    with site.paths.recordings.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(own)
    manifest = load_manifest(real)
    assert manifest.recordings == ()
    assert {one.subject_id for one in manifest.withdrawn} == {subject}
    assert "the subject was forgotten. Remove the row" in "".join(check_recordings(real).warnings)


def test_an_extraction_that_ends_after_the_erasure_keeps_nothing(site, subject):
    store = open_store(site)
    forget_subject(site, subject)
    with pytest.raises(StoreError, match="forgotten meanwhile"):
        store.put(StoredRecording("late", subject, "rejected"), features=None)
    assert store.names_of(subject) == []
    assert not list(store.folder.rglob(".*"))


# Certificate and log.


def test_the_certificate_says_what_was_erased_released_and_remains(learner, subject):
    site = learner.site
    learner.train(make_request(learner))
    names = open_store(site).names_of(subject)
    answer = told(run("forget", site.folder, subject, "--yes", "--json"))
    document = json.loads(Path(answer["certificate"]).read_bytes())
    assert document["erased"]["objects"] == names
    assert document["erased"]["count"] == len(names) == answer["erased"]
    (release,) = document["releases"]
    assert (release["run_id"], release["server_round"]) == ("run-7", 1)
    assert release["purpose"] == "train"
    plan = learner.config.training_plan()
    spent = epsilon_spent(plan.noise_multiplier, plan.delta, steps=1)
    assert document["epsilon"] == release["epsilon"] == pytest.approx(spent)
    assert document["delta"] == plan.delta
    assert document["ledger_is_whole"]
    assert "research software" in document["about"]
    assert any(f"epsilon {spent:.3f}" in one["why"] for one in document["remains"])
    sheet = Path(answer["sheet"]).read_text()
    for text in (*names, "run run-7, round 1, train", f"epsilon {spent:.3f}", "no output is a"):
        assert text in sheet


def test_neither_certificate_nor_log_names_the_subject(learner, subject):
    learner.train(make_request(learner))
    forget_subject(learner.site, subject)
    assert subject.encode() not in everything_in(learner.site.paths.state)
    events = [entry.event for entry in read_audit(learner.site.paths.audit)]
    assert events == ["subject excluded", "subject erased"]
    assert verify_audit(learner.site.paths.audit).whole


def test_the_signature_is_the_sites_and_covers_every_byte(site, subject):
    path = forget_subject(site, subject).certificate
    data, signature = path.read_bytes(), path.with_suffix(".sig").read_bytes()
    public = site.public_key_file.read_text()
    assert verify(public, signature, data)
    assert not verify(public, signature, data.replace(b'"count":', b'"count": '))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
def test_openssl_verifies_the_certificate_as_the_sheet_says(site, subject):
    path = forget_subject(site, subject).certificate
    (command,) = [
        line.split()
        for line in path.with_suffix(".txt").read_text().splitlines()
        if "openssl" in line
    ]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "Verified OK")
    path.write_bytes(path.read_bytes().replace(b'"count":', b'"count": '))
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 1


# Crashes, repetition and mistakes.


@pytest.mark.parametrize(
    "step",
    [
        "client.storage.store.FeatureStore.erase_subject",
        "client.withdrawal.erasure.write_certificate",
        "client.withdrawal.certificate.sign",
        "client.withdrawal.erasure._log_once",
        "privacy.audit.AuditLog.append",
    ],
)
def test_after_a_crash_at_any_step_the_same_command_finishes_the_work(
    site, subject, monkeypatch, step
):
    names = open_store(site).names_of(subject)

    def crash(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(step, crash)
    with pytest.raises(KeyboardInterrupt):
        forget_subject(site, subject)
    monkeypatch.undo()
    assert open_exclusions(site).holds(subject), "excluded before anything else"
    done = forget_subject(site, subject)
    assert json.loads(done.certificate.read_bytes())["erased"]["objects"] == names
    assert len(list(done.certificate.parent.glob("*.json"))) == 1
    events = [entry.event for entry in read_audit(site.paths.audit)]
    assert events == ["subject excluded", "subject erased"]
    assert open_store(site).names_of(subject) == []
    assert find_traces(site, subject).is_forgotten


def test_a_subject_already_forgotten_is_said_to_be_and_the_certificate_shown(site, subject):
    first = told(run("forget", site.folder, subject, "--yes", "--json"))
    again = run("forget", site.folder, subject)
    assert again.exit_code == 0
    assert "was forgotten already" in again.stdout
    assert first["certificate"] in again.stdout
    answer = told(run("forget", site.folder, subject, "--json"))
    assert (answer["already_forgotten"], answer["erased"]) == (True, 0)
    assert len(list(Path(first["certificate"]).parent.iterdir())) == 4
    assert len(read_audit(site.paths.audit)) == 2


def test_what_a_backup_brought_back_is_not_learned_from(learner, subject, tmp_path):
    site = learner.site
    shutil.copytree(site.paths.store, tmp_path / "backup")
    forget_subject(site, subject)
    shutil.copytree(tmp_path / "backup", site.paths.store, dirs_exist_ok=True)
    assert open_store(site).names_of(subject)
    again = Learner(site)
    assert len(again.dataset.training) == len(learner.dataset.training) - 1
    again.train(make_request(again))
    assert participations(site, subject) == []


def test_what_a_backup_brought_back_is_erased_again_under_a_new_certificate(
    site, subject, tmp_path
):
    shutil.copytree(site.paths.store, tmp_path / "backup")
    first = forget_subject(site, subject)
    shutil.rmtree(site.paths.store)
    shutil.copytree(tmp_path / "backup", site.paths.store)
    assert not find_traces(site, subject).is_forgotten
    second = forget_subject(site, subject)
    assert second.erased == first.erased > 0
    assert second.certificate.name == f"{first.certificate.stem}-2.json"
    third = forget_subject(site, subject)
    assert (third.erased, third.certificate) == (0, second.certificate)


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_without_agreement_nothing_happens(site, subject, answer):
    before = everything_in(site.paths.store)
    result = run("forget", site.folder, subject, answer=answer)
    assert result.exit_code != 0
    assert "for good" in result.stdout
    assert everything_in(site.paths.store) == before
    assert not open_exclusions(site).holds(subject)


def test_agreement_on_the_terminal_is_enough(site, subject):
    assert run("forget", site.folder, subject, answer="y\n").exit_code == 0
    assert find_traces(site, subject).is_forgotten


def test_a_subject_that_nobody_knows_is_wrong_input_with_near_names(site, subject):
    result = run("forget", site.folder, subject + "x", "--yes")
    assert result.exit_code == 2
    assert f"Did you mean '{subject}'" in result.stderr
    assert not (site.paths.state / "exclusions.jsonl").exists()


def test_a_subject_known_to_the_ledger_alone_can_be_forgotten(learner, subject):
    site = learner.site
    learner.train(make_request(learner))
    open_store(site).erase_subject(subject)
    site.paths.recordings.write_text(site.paths.recordings.read_text().replace(subject, "other"))
    answer = told(run("forget", site.folder, subject, "--yes", "--json"))
    assert (answer["erased"], len(answer["releases"])) == (0, 1)
    assert open_exclusions(site).holds(subject)


def test_a_faulty_table_does_not_stand_in_the_way_and_originals_are_listed(site, subject):
    text = site.paths.recordings.read_text().splitlines()
    header = text[0].split(",")
    cells = dict.fromkeys(header, "?") | {"subject_id": subject, "file": "videos/one.mp4"}
    (site.folder / "videos" / "one.mp4").write_bytes(b"a video")
    row = ",".join(cells[name] for name in header)
    site.paths.recordings.write_text("\n".join([text[0], row, "too,few", ""]))
    result = run("forget", site.folder, subject, "--yes", "--json")
    assert result.exit_code == 0
    answer = told(result)
    assert answer["originals"] == [str(site.folder / "videos" / "one.mp4")]
    assert answer["rows"] == [2]
    assert "delete the originals" in result.stderr
    assert "videos/one.mp4" in result.stderr
    document = json.loads(Path(answer["certificate"]).read_bytes())
    assert document["originals_still_there"] == 1


def test_what_a_subject_spent_is_its_own_history(tmp_path, learner):
    with PrivacyLedger(tmp_path / "l.sqlite", key=learner.site.ledger_key) as ledger:
        terms = {"noise_multiplier": 5.0, "sample_rate": 1.0, "delta": 1e-3, "purpose": "train"}
        for number, subjects in enumerate((["a", "b"], ["b"], ["b", "c"])):
            ledger.reserve(f"r/{number}/train/x", subjects, steps=2, cap_epsilon=9.0, **terms)
        assert [one.sequence for one in ledger.participations("b")] == [1, 2, 3]
        assert [one.sequence for one in ledger.participations("c")] == [3]
        assert ledger.participations("d") == []
        for name, steps in (("a", 2), ("b", 6), ("c", 2)):
            expected = epsilon_spent(5.0, 1e-3, steps=steps)
            assert ledger.spent_by(name, 1e-3) == pytest.approx(expected)
        assert ledger.spent_by("d", 1e-3) == 0.0
        assert ledger.verify() == []
