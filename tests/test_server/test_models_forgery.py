"""A registry of models that somebody without the coordinator's key has touched."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from ended_runs import add_run, copy_hub, make_hub

from privacy import audit
from privacy.keys import public_line
from server.models.entries import ModelEntry, RegistryError
from server.models.loading import load_model
from server.models.registration import open_registry, register_models
from server.models.registry import RegistryWriter, entry_file
from server.models.verification import verify_registry
from server.signing import model_file
from server.workspace import Workspace


@pytest.fixture(scope="module")
def full_hub(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    hub = make_hub(tmp_path_factory.mktemp("full") / "hub")
    add_run(hub)
    add_run(hub)
    register_models(hub)
    return hub


@pytest.fixture
def two_runs(full_hub: Workspace, tmp_path: Path) -> Workspace:
    return copy_hub(full_hub, tmp_path / "hub")


def journal(hub: Workspace) -> Path:
    return hub.folder / "models" / "journal.jsonl"


def entry_at(hub: Workspace, number: int) -> Path:
    return entry_file(hub.folder / "models", number)


def rewrite(file: Path, content: bytes) -> None:
    file.chmod(0o600)
    file.write_bytes(content)


def test_an_altered_entry_is_caught(two_runs: Workspace) -> None:
    file = entry_at(two_runs, 6)
    told = ModelEntry.from_bytes(file.read_bytes())
    better = replace(told, privacy=replace(told.privacy, epsilon_sum=0.1))
    rewrite(file, better.to_bytes())
    with pytest.raises(RegistryError, match="entry of model 6 was changed"):
        open_registry(two_runs)
    assert "entry of model 6" in verify_registry(two_runs).faults[0]


def test_an_altered_entry_with_a_journal_to_match_is_caught(two_runs: Workspace) -> None:
    """Whoever can write the folder but lacks the key rebuilds everything around the change."""
    registry = open_registry(two_runs)
    stranger = ec.generate_private_key(ec.SECP384R1())
    shutil.rmtree(two_runs.folder / "models")
    (two_runs.folder / "models").mkdir()
    forger = RegistryWriter(two_runs.folder / "models", stranger)
    for entry in registry.entries:
        forger.add(replace(entry, is_final=False))
    assert audit.verify(journal(two_runs)).whole
    faults = verify_registry(two_runs).faults
    assert len(faults) == 6
    assert "not signed by the key that the study names" in faults[0]


def test_a_removed_entry_is_caught(two_runs: Workspace) -> None:
    entry_at(two_runs, 2).unlink()
    assert "entry of model 2 is missing" in verify_registry(two_runs).faults[0]


def test_exchanged_entries_are_caught(two_runs: Workspace) -> None:
    one, two = (entry_at(two_runs, n).read_bytes() for n in (1, 2))
    rewrite(entry_at(two_runs, 1), two)
    rewrite(entry_at(two_runs, 2), one)
    assert len(verify_registry(two_runs).faults) == 2


@pytest.mark.parametrize("line", [0, 3])
def test_a_removed_line_is_caught(two_runs: Workspace, line: int) -> None:
    lines = journal(two_runs).read_bytes().splitlines(keepends=True)
    del lines[line]
    rewrite(journal(two_runs), b"".join(lines))
    assert f"Line {line + 1}" in verify_registry(two_runs).faults[0]


def test_exchanged_lines_are_caught(two_runs: Workspace) -> None:
    lines = journal(two_runs).read_bytes().splitlines(keepends=True)
    lines[1], lines[2] = lines[2], lines[1]
    rewrite(journal(two_runs), b"".join(lines))
    assert "Line 2" in verify_registry(two_runs).faults[0]


def test_a_journal_cut_at_its_end_shows_by_the_models_and_against_a_kept_head(
    two_runs: Workspace,
) -> None:
    kept = verify_registry(two_runs).head
    lines = journal(two_runs).read_bytes().splitlines(keepends=True)
    rewrite(journal(two_runs), b"".join(lines[:-1]))
    assert verify_registry(two_runs).faults == ("Model 6 is final and was never made current.",)
    rewrite(journal(two_runs), b"".join(lines[:-2]))
    assert verify_registry(two_runs).faults == ("The model of run-0002, round 3, has no number.",)
    # Without the weights it shows against the head alone.
    shutil.rmtree(two_runs.runs / "run-0002")
    rewrite(journal(two_runs), b"".join(lines[:4]))
    assert verify_registry(two_runs).faults == ()
    assert "cut off" in verify_registry(two_runs, known=kept).faults[0]


def test_a_registry_that_grew_still_fits_a_kept_head(two_runs: Workspace) -> None:
    kept = verify_registry(two_runs).head
    add_run(two_runs)
    register_models(two_runs)
    assert verify_registry(two_runs, known=kept).faults == ()


@pytest.mark.parametrize("spoil", ["weights", "signature", "gone"])
def test_a_model_file_that_was_touched_is_caught_and_never_loaded(
    two_runs: Workspace, spoil: str
) -> None:
    file = model_file(two_runs.runs / "run-0001", 3)
    other = model_file(two_runs.runs / "run-0001", 2)
    if spoil == "weights":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif spoil == "signature":
        shutil.copyfile(f"{other}.sig", f"{file}.sig")
    else:
        file.unlink()
    [fault] = verify_registry(two_runs).faults
    assert fault.startswith("Model 3")
    with pytest.raises(RegistryError, match="Model 3"):
        load_model(two_runs, 3)


def test_another_signed_model_in_its_place_is_caught(two_runs: Workspace) -> None:
    file = model_file(two_runs.runs / "run-0001", 3)
    other = model_file(two_runs.runs / "run-0001", 2)
    shutil.copyfile(other, file)
    shutil.copyfile(f"{other}.sig", f"{file}.sig")
    with pytest.raises(RegistryError, match="Model 3"):
        load_model(two_runs, 3)


def test_a_forged_move_is_caught(two_runs: Workspace) -> None:
    stranger = ec.generate_private_key(ec.SECP384R1())
    forger = RegistryWriter(two_runs.folder / "models", stranger)
    forger.move(3, model=open_registry(two_runs).entry(1), why="better")
    with pytest.raises(RegistryError, match="not signed"):
        open_registry(two_runs)


def test_a_move_that_nobody_signed_is_caught(two_runs: Workspace) -> None:
    audit.AuditLog(journal(two_runs)).append("current_moved", number=3, model=1, why="better")
    with pytest.raises(RegistryError, match="not signed"):
        open_registry(two_runs)


def test_a_signature_from_another_place_in_the_journal_is_caught(two_runs: Workspace) -> None:
    """The line of an old move, signature and all, does not fit at the end."""
    old = next(e for e in audit.read(journal(two_runs)) if e.event == "current_moved")
    log = audit.AuditLog(journal(two_runs))
    log.append("current_moved", **old.details)  # type: ignore[arg-type]
    with pytest.raises(RegistryError, match="not signed"):
        open_registry(two_runs)


def test_a_study_with_another_key_accepts_no_line(two_runs: Workspace) -> None:
    stranger = ec.generate_private_key(ec.SECP384R1())
    text = two_runs.consortium_file.read_text()
    key = two_runs.consortium.coordinator_key or ""
    two_runs.consortium_file.write_text(text.replace(key, public_line(stranger)))
    faults = verify_registry(two_runs).faults
    assert len(faults) == 8
