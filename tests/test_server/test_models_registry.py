"""The registry of models: numbers, lineage, signatures, parents, and what is current."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric import ec
from ended_runs import EPSILON_SITE, EPSILON_SUM, add_run, copy_hub, make_hub, weights_of
from played_sites import Sites

from privacy import audit
from privacy.vault import write_atomic
from server.models.beginning import START_WEIGHTS, first_network, prepare_beginning
from server.models.entries import RegistryError
from server.models.lineage import START_FILE, begun_with
from server.models.loading import load_model
from server.models.registration import open_registry, register_models, roll_back
from server.models.registry import entry_file
from server.models.verification import verify_registry
from server.signing import SigningKeyError, model_file, open_signing_key
from server.workspace import Workspace
from shared_models.console import InputError
from shared_models.consortium import load_consortium
from shared_models.networks import make_network
from shared_models.roster import Roster, SiteEntry, sign_roster
from shared_models.weights import WeightsError, digest_weights, save_weights


@pytest.fixture(scope="module")
def empty_hub(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_hub(tmp_path_factory.mktemp("empty") / "hub")


@pytest.fixture(scope="module")
def full_hub(empty_hub: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    hub = copy_hub(empty_hub, tmp_path_factory.mktemp("full") / "hub")
    add_run(hub)
    add_run(hub)
    register_models(hub)
    return hub


@pytest.fixture
def hub(empty_hub: Workspace, tmp_path: Path) -> Workspace:
    return copy_hub(empty_hub, tmp_path / "hub")


@pytest.fixture
def two_runs(full_hub: Workspace, tmp_path: Path) -> Workspace:
    return copy_hub(full_hub, tmp_path / "hub")


def journal(hub: Workspace) -> Path:
    return hub.folder / "models" / "journal.jsonl"


def entry_at(hub: Workspace, number: int) -> Path:
    return entry_file(hub.folder / "models", number)


def test_models_are_numbered_over_all_runs_in_order_of_run_and_round(two_runs: Workspace) -> None:
    entries = open_registry(two_runs).entries
    assert [(e.number, e.run, e.server_round, e.is_final) for e in entries] == [
        (1, "run-0001", 1, False), (2, "run-0001", 2, False), (3, "run-0001", 3, True),
        (4, "run-0002", 1, False), (5, "run-0002", 2, False), (6, "run-0002", 3, True),
    ]  # fmt: skip
    assert verify_registry(two_runs).faults == ()


def test_an_entry_tells_the_whole_lineage(hub: Workspace) -> None:
    add_run(hub, absent={2: "south"})
    entry = register_models(hub).registry.entry(3)
    assert entry.weights_digest == digest_weights(weights_of(1, 3))
    assert entry.consortium_digest == hub.consortium.digest
    assert entry.run_id == "701"
    assert entry.sites == {"north": ((1, 3),), "south": ((1, 1), (3, 3))}
    assert (entry.privacy.epsilon_sum, entry.privacy.epsilon_site) == (EPSILON_SUM, EPSILON_SITE)
    assert (entry.privacy.mode, entry.privacy.unit, entry.privacy.delta) == (
        "local",
        "subject",
        1e-3,
    )
    assert entry.versions["torch"] == "2.13.0"
    assert entry.roster_number is None
    assert (entry.server_round, entry.rounds) == (3, 3)


def test_an_early_model_is_not_credited_with_sites_that_came_later(hub: Workspace) -> None:
    add_run(hub, absent={1: "south"})
    assert register_models(hub).registry.entry(1).sites == {"north": ((1, 1),)}


def test_parents_lead_back_to_what_ships(two_runs: Workspace) -> None:
    entries = open_registry(two_runs).entries
    shipped = digest_weights(make_network("behaviour_net", "small", features=24).state_dict())
    assert [e.parent.number for e in entries] == [None, 1, 2, None, 4, 5]
    assert entries[0].parent.weights_digest == entries[3].parent.weights_digest == shipped
    assert entries[1].parent.weights_digest == entries[0].weights_digest


def test_a_run_that_began_with_a_registered_model_names_it(two_runs: Workspace) -> None:
    add_run(two_runs, started_from=3)
    entries = register_models(two_runs).registry.entries
    assert entries[6].parent.number == 3
    assert entries[6].parent.weights_digest == entries[2].weights_digest


def test_a_run_that_claims_an_unknown_beginning_is_not_registered(hub: Workspace) -> None:
    add_run(hub, rounds=1, started_from=9)
    found = register_models(hub)
    assert found.registry.entries == ()
    assert "got 9" in found.faults[0]


def test_a_trunk_of_another_version_is_not_given_a_digest_it_may_not_have(hub: Workspace) -> None:
    report = add_run(hub, rounds=1) / "report.json"
    told = json.loads(report.read_text())
    told["versions"]["vultus"] = "0.0.1"
    report.write_text(json.dumps(told))
    assert register_models(hub).registry.entry(1).parent.weights_digest is None


def test_only_judged_models_have_figures_and_withheld_groups_none(two_runs: Workspace) -> None:
    first, *_, last = open_registry(two_runs).entries
    assert first.evaluation == ()
    groups = {(g.attribute, g.group): g for g in last.evaluation}
    auroc = last.overall["auroc"]
    assert auroc.value is not None
    assert auroc.low is not None
    assert auroc.low < auroc.value
    assert groups["sex", "male"].state == "suppressed"
    assert groups["sex", "male"].figures == {}


def test_the_roster_is_named_by_its_number_if_the_coordinator_signed_it(hub: Workspace) -> None:
    study = load_consortium(hub.consortium_file)
    key = open_signing_key(hub.runs, study)
    roster = Roster(7, study.digest, (SiteEntry("north", 1, study.coordinator_key or ""),), "")
    (add_run(hub, rounds=1) / "roster.json").write_bytes(sign_roster(roster, key))
    stranger = ec.generate_private_key(ec.SECP384R1())
    (add_run(hub, rounds=1) / "roster.json").write_bytes(sign_roster(roster, stranger))
    found = register_models(hub)
    assert [e.roster_number for e in found.registry.entries] == [7]
    assert "not signed" in found.faults[0]


def test_registering_again_adds_nothing(two_runs: Workspace) -> None:
    before = journal(two_runs).read_bytes()
    assert register_models(two_runs).added == ()
    assert journal(two_runs).read_bytes() == before


@pytest.mark.parametrize("writes", range(8))
def test_a_crash_while_registering_loses_and_doubles_nothing(
    hub: Workspace, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    add_run(hub)
    left = [writes]

    def crash_later(real):
        def write(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        return write

    with monkeypatch.context() as broken:
        broken.setattr("server.models.registry.write_atomic", crash_later(write_atomic))
        broken.setattr(audit.AuditLog, "append", crash_later(audit.AuditLog.append))
        if writes < 7:
            with pytest.raises(KeyboardInterrupt):
                register_models(hub)
        else:
            register_models(hub)
    registry = register_models(hub).registry
    assert [(e.number, e.server_round) for e in registry.entries] == [(1, 1), (2, 2), (3, 3)]
    assert [(m.number, m.model) for m in registry.moves] == [(1, 3)]
    assert verify_registry(hub).faults == ()


def test_a_line_that_a_crash_left_torn_is_closed_by_the_next_one(two_runs: Workspace) -> None:
    with journal(two_runs).open("ab") as file:
        file.write(b'{"at": "20')
    add_run(two_runs, rounds=1)
    registry = register_models(two_runs).registry
    assert [e.number for e in registry.entries] == [1, 2, 3, 4, 5, 6, 7]
    assert registry.current == 7
    assert verify_registry(two_runs).faults == ()


def test_a_run_that_has_not_ended_is_left_alone(hub: Workspace) -> None:
    (add_run(hub) / "report.json").unlink()
    assert register_models(hub).registry.entries == ()


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_models_of_a_run_without_a_good_end_are_kept_and_never_final(
    hub: Workspace, status: str
) -> None:
    add_run(hub, rounds=2, status=status)
    registry = register_models(hub).registry
    assert [(e.run_status, e.is_final) for e in registry.entries] == [(status, False)] * 2
    assert registry.current is None


def test_a_model_that_nobody_signed_gets_no_number_and_does_not_stop_the_others(
    hub: Workspace,
) -> None:
    folder = add_run(hub)
    file = model_file(folder, 2)
    file.write_bytes(model_file(folder, 1).read_bytes())
    found = register_models(hub)
    assert [(e.number, e.server_round) for e in found.registry.entries] == [(1, 1), (2, 3)]
    assert found.registry.entry(2).parent.number is None
    assert "round 2" in found.faults[0]


def test_the_right_weights_without_the_right_signature_get_no_number(hub: Workspace) -> None:
    folder = add_run(hub)
    shutil.copyfile(f"{model_file(folder, 1)}.sig", f"{model_file(folder, 2)}.sig")
    found = register_models(hub)
    assert [e.server_round for e in found.registry.entries] == [1, 3]
    assert "not what the coordinator signed" in found.faults[0]


def test_a_signed_model_of_another_round_is_not_taken_for_this_one(hub: Workspace) -> None:
    folder = add_run(hub)
    for suffix in ("", ".sig"):
        source = Path(f"{model_file(folder, 1)}{suffix}")
        shutil.copyfile(source, Path(f"{model_file(folder, 2)}{suffix}"))
    found = register_models(hub)
    assert [e.server_round for e in found.registry.entries] == [1, 3]
    assert "report.json" in found.faults[0]


def test_without_the_signing_key_nothing_is_added_but_what_is_there_can_be_read(
    two_runs: Workspace,
) -> None:
    add_run(two_runs)
    (two_runs.runs / "keys" / "signing").unlink()
    assert len(open_registry(two_runs).entries) == 6
    with pytest.raises(SigningKeyError):
        register_models(two_runs)


def test_a_model_is_loaded_as_it_was_published(two_runs: Workspace) -> None:
    state, expected = load_model(two_runs, 5), weights_of(2, 2)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


def test_a_model_of_another_form_is_refused(two_runs: Workspace) -> None:
    with pytest.raises(RegistryError, match="missing tensor extra"):
        load_model(two_runs, 1, like={**weights_of(1, 1), "extra": torch.zeros(1)})


@pytest.mark.parametrize("number", [0, -1, 7])
def test_an_unknown_number_is_wrong_input(two_runs: Workspace, number: int) -> None:
    with pytest.raises(InputError, match="1 to 6"):
        load_model(two_runs, number)


def test_the_last_completed_run_is_current_until_somebody_goes_back(two_runs: Workspace) -> None:
    assert open_registry(two_runs).current == 6
    roll_back(two_runs, 3, why="site south reported mislabelled recordings")
    moves = open_registry(two_runs).moves
    assert [(m.number, m.model) for m in moves] == [(1, 3), (2, 6), (3, 3)]
    assert moves[-1].why == "site south reported mislabelled recordings"
    assert register_models(two_runs).registry.current == 3
    assert len(open_registry(two_runs).entries) == 6
    add_run(two_runs)
    assert register_models(two_runs).registry.current == 9


def test_going_back_needs_a_reason_and_another_model(two_runs: Workspace) -> None:
    before = journal(two_runs).read_bytes()
    for number, why in ((3, "  "), (6, "it is better"), (99, "it is better")):
        with pytest.raises(InputError):
            roll_back(two_runs, number, why=why)
    assert journal(two_runs).read_bytes() == before


def test_entries_name_no_path_of_the_machine(two_runs: Workspace) -> None:
    for number in range(1, 7):
        content = entry_at(two_runs, number).read_text()
        assert str(two_runs.folder) not in content
        assert json.loads(content)["file"].startswith("runs/run-000")


def test_the_models_of_a_real_run_are_registered(hub: Workspace) -> None:
    sites = Sites(hub.runs)
    report = sites.run()
    sites.folder.rename(hub.runs / "run-0001")
    found = register_models(hub)
    assert found.faults == ()
    first, last = found.registry.entries
    assert last.weights_digest == report.weights_digest
    assert last.is_final
    assert first.parent.number is None
    assert last.sites == dict.fromkeys(("east", "north", "west"), ((1, 2),))
    assert last.privacy.epsilon_site == pytest.approx(3.0, rel=1e-3)
    assert verify_registry(hub).faults == ()


def test_a_run_begins_with_a_registered_model_if_it_is_asked_to(two_runs: Workspace) -> None:
    folder = two_runs.runs / "run-0003"
    folder.mkdir()
    prepare_beginning(two_runs, 2, folder)
    network = first_network(two_runs.consortium, folder)
    expected = load_model(two_runs, 2)
    assert digest_weights(network.state_dict()) == digest_weights(expected)
    assert [name for name, part in network.named_parameters() if part.requires_grad] == [
        "head.weight",
        "head.bias",
    ]
    assert begun_with(folder) == 2


def test_a_run_begins_with_what_ships_unless_it_is_asked_to(two_runs: Workspace) -> None:
    folder = two_runs.runs / "run-0003"
    folder.mkdir()
    network = first_network(two_runs.consortium, folder)
    shipped = make_network("behaviour_net", "small", features=24)
    assert digest_weights(network.state_dict()) == digest_weights(shipped.state_dict())


def test_a_beginning_that_was_exchanged_is_not_followed(two_runs: Workspace) -> None:
    folder = two_runs.runs / "run-0003"
    folder.mkdir()
    prepare_beginning(two_runs, 2, folder)
    save_weights(folder / START_WEIGHTS, load_model(two_runs, 3))
    with pytest.raises(WeightsError, match="not what the coordinator signed"):
        first_network(two_runs.consortium, folder)


def test_a_beginning_on_another_trunk_than_the_sites_hold_is_refused(
    two_runs: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = two_runs.runs / "run-0003"
    folder.mkdir()
    weights = load_model(two_runs, 2)
    name = next(name for name in weights if not name.startswith("head."))
    changed = {**weights, name: weights[name] + 1}
    monkeypatch.setattr("server.models.beginning.read_model", lambda *_: changed)
    with pytest.raises(InputError, match="trunk that this version ships"):
        prepare_beginning(two_runs, 2, folder)
    assert not (folder / START_FILE).exists()
