"""Uninstalling a site: keys go first, the certificate holds, a crash can be gone on from."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from client.cli import app
from client.site import Site, open_site
from client.storage.store import open_store
from client.uninstall import deletion
from client.uninstall.deletion import BEGUN, uninstall_site
from client.uninstall.inventory import NOTE_FILE, take_inventory
from privacy.audit import AuditLog
from privacy.audit import read as read_log
from privacy.ledger import PrivacyLedger
from privacy.vault import Vault, VaultError
from shared_models.console import InputError
from shared_models.supervision import SupervisionError, only_one
from simulation.study import design_study, write_cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    design = design_study(
        sites=1, subjects=4, rounds=1, epsilon=3.0, mode="local",
        network="behaviour_net", trainable="head", seed=5,
    )  # fmt: skip
    return write_cohort(design, tmp_path_factory.mktemp("cohort"), lambda *_: None)[0]


@pytest.fixture
def site(cohort: Path, tmp_path: Path) -> Site:
    found = open_site(shutil.copytree(cohort, tmp_path / "north"))
    AuditLog(found.paths.audit).append("answered", server_round=1)
    with PrivacyLedger(found.paths.ledger, key=found.ledger_key) as ledger:
        ledger.reserve(
            "run/1/train", noise_multiplier=1.0, sample_rate=1.0, steps=1, delta=1e-5,
            subjects=["s001"], cap_epsilon=100.0, purpose="train",
        )  # fmt: skip
    (found.folder / "videos" / "r001.mp4").write_bytes(b"a video of the hospital")
    (found.paths.state / "certificates").mkdir()
    (found.paths.keys / "retired").mkdir(mode=0o700)
    (found.paths.keys / "retired" / "identity-1").write_text("an old key")
    return found


def run(*words: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, ["uninstall", *map(str, words)], input=answer)


def finish(site: Site, out: Path, **options: bool) -> dict:
    done = uninstall_site(site, out, keep_records=options.get("records", False), advance=nothing)
    return json.loads(done.certificate.read_text())


def nothing() -> None: ...


def test_everything_of_ours_goes_and_everything_of_the_hospital_stays(site, tmp_path):
    result = run(site.folder, "--out", tmp_path / "proof", "--yes", "--json")
    assert result.exit_code == 0, result.output
    left = {str(path.relative_to(site.folder)) for path in site.folder.rglob("*")}
    assert left == {"videos", "videos/r001.mp4", "recordings.csv"}
    told = json.loads(result.stdout.strip().splitlines()[-1])
    assert {Path(path).name for path in told["left"]} == {"videos", "recordings.csv"}


def test_empty_site_folder_goes_too(site, tmp_path):
    shutil.rmtree(site.folder / "videos")
    site.paths.recordings.unlink()
    finish(site, tmp_path / "proof")
    assert not site.folder.exists()


def test_certificate_is_signed_by_the_key_that_the_coordinator_knows(site, tmp_path):
    public = site.public_key_file.read_text()
    fingerprint = subprocess.run(
        ["ssh-keygen", "-l", "-f", site.public_key_file], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    document = finish(site, tmp_path / "proof")
    assert document["site_key"] == fingerprint
    assert public.split()[1] not in json.dumps(document)
    command = ["openssl", "dgst", "-sha384", "-verify", "deletion.pem", "-signature",
               "deletion.sig", "deletion.json"]  # fmt: skip
    proof = tmp_path / "proof"
    subprocess.run(command, cwd=proof, capture_output=True, check=True)
    altered = (proof / "deletion.json").read_text().replace('"files":', '"files": 1')
    (proof / "deletion.json").write_text(altered)
    assert subprocess.run(command, cwd=proof, capture_output=True, check=False).returncode != 0


def test_certificate_counts_and_hashes_what_was_there(site, tmp_path):
    stored = len(list(open_store(site).records()))
    with PrivacyLedger(site.paths.ledger, key=site.ledger_key) as ledger:
        rows, head = ledger.head()
    before = take_inventory(site, begun_at="now", advance=nothing)
    document = finish(site, tmp_path / "proof")
    deleted = {one["what"]: one for one in document["deleted"]}
    assert set(deleted) == {"keys", "features", "records", "settings"}
    assert deleted["features"]["files"] == stored + 1  # and the key of the names
    assert deleted["features"]["sha256"] == before.groups[1].sha256
    assert document["ledger"] == {"rows": rows, "head": head} == {"rows": 1, "head": head}
    # The event that begins an uninstall is the last one of the log.
    assert document["log"]["entries"] == before.log_entries + 1


def test_digest_follows_names_and_contents(site):
    def digest() -> str:
        return take_inventory(site, begun_at="now", advance=nothing).groups[1].sha256

    first, (one, *_) = digest(), sorted(site.paths.store.rglob("*.features"))
    assert digest() == first
    one.write_bytes(one.read_bytes() + b"x")
    changed = digest()
    one.rename(one.with_name("0" * 40 + ".features"))
    assert len({first, changed, digest()}) == 3


def test_nothing_in_the_proof_tells_of_a_subject_or_a_path(site, tmp_path):
    subjects = {record.subject_id for record in open_store(site).records()}
    finish(site, tmp_path / "proof", records=True)
    text = b"".join(p.read_bytes() for p in (tmp_path / "proof").rglob("*") if p.is_file())
    assert not [one for one in (*subjects, str(site.folder), "r001") if one.encode() in text]


def test_storage_key_goes_before_any_file_that_it_opens(site, tmp_path, monkeypatch):
    """The order is what makes a half-finished uninstall safe."""
    order: list[str] = []
    record(monkeypatch, lambda path: order.append(path.name))
    finish(site, tmp_path / "proof")
    assert order[0] == "storage.key"
    assert order[-3:] == ["identity", "keys", "keys"]  # then the emptied folder
    assert {"exchange.key", "ledger.pem"} < set(order)


def test_stored_files_are_unreadable_even_with_a_copy_of_the_key(site, tmp_path, monkeypatch):
    """An undeleted block of a stored file opens with no key: its wrapped key was overwritten."""
    key = site.storage_key
    (one, *_) = sorted(site.paths.store.rglob("*.features"))
    twin = tmp_path / "block of the disk"
    twin.hardlink_to(one)
    finish(site, tmp_path / "proof")
    with pytest.raises(VaultError):
        Vault(key).open(twin.read_bytes(), associated=b"")
    assert not any(twin.read_bytes()[:48])


def test_key_files_are_overwritten_before_they_are_removed(site, tmp_path):
    twins = {}
    for name in ("storage.key", "identity", "ledger.pem", "retired/identity-1"):
        twins[name] = tmp_path / f"block-{name.replace('/', '-')}"
        twins[name].hardlink_to(site.paths.keys / name)
    finish(site, tmp_path / "proof")
    assert all(set(twin.read_bytes()) == {0} for twin in twins.values())


def record(monkeypatch: pytest.MonkeyPatch, note: Callable[[Path], None]) -> None:
    """Call ``note`` before each step that destroys or certifies something."""

    def wrap(module: object, name: str) -> None:
        real = getattr(module, name)

        def step(path: Path, *rest: object, **options: object) -> object:
            note(path)
            return real(path, *rest, **options)

        monkeypatch.setattr(module, name, step)

    for name in ("destroy_file", "erase_sealed", "write_signed", "sync_folder"):
        wrap(deletion, name)
    wrap(deletion.shutil, "rmtree")


class KilledError(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def test_uninstall_that_was_killed_anywhere_can_be_gone_on_from(site, tmp_path, monkeypatch):
    """Killed before each of its steps in turn, each time going on from what is left."""
    kept = shutil.copytree(site.folder, tmp_path / "kept")
    total, fatal = 0, -1

    def note(path: Path) -> None:
        nonlocal total
        total += 1
        if total == fatal:
            raise KilledError

    record(monkeypatch, note)
    expected = finish(site, tmp_path / "undisturbed")
    steps = total
    assert steps > 15
    for fatal in range(1, steps + 1):
        total, place = 0, tmp_path / f"killed-{fatal}"
        folder = shutil.copytree(kept, place / "north")
        with pytest.raises(KilledError):
            finish(open_site(folder), place / "proof")
        total = steps
        document = finish(open_site(folder), place / "proof")
        assert sorted(path.name for path in folder.iterdir()) == ["recordings.csv", "videos"]
        assert document["ledger"] == expected["ledger"], fatal
        deleted, wanted = ({d["what"]: d["files"] for d in one["deleted"]}
                           for one in (document, expected))  # fmt: skip
        assert deleted == wanted, fatal


def test_records_can_be_kept_and_are_whole(site, tmp_path):
    finish(site, tmp_path / "proof", records=True)
    records = tmp_path / "proof" / "records"
    names = {path.name for path in records.iterdir()}
    assert names == {"audit.jsonl", "ledger.sqlite", "identity.pub", "ledger.pub.pem",
                     "certificates"}  # fmt: skip
    assert [one.event for one in read_log(records / "audit.jsonl")] == ["answered", BEGUN]
    with PrivacyLedger(records / "ledger.sqlite", key=site.ledger_key) as ledger:
        assert [one.release_id for one in ledger.releases()] == ["run/1/train"]


def test_site_that_is_served_is_left_alone(site, tmp_path):
    with (
        only_one(site.paths.state / "engine" / "lock", what="Site north"),
        pytest.raises(SupervisionError, match="already being served"),
    ):
        finish(site, tmp_path / "proof")
    assert site.storage_key
    assert not (site.folder / NOTE_FILE).exists()


@pytest.mark.parametrize("answer", ["n\n", "y\nsouth\n", "y\n\n\n\nnorth \n"])
def test_without_two_agreements_nothing_happens(site, answer, tmp_path):
    before = {path: path.read_bytes() for path in site.folder.rglob("*") if path.is_file()}
    result = run(site.folder, "--out", tmp_path / "proof", answer=answer)
    if "north" not in answer:
        assert result.exit_code == 2
        assert "Nothing was destroyed" in result.output
    assert before == {path: path.read_bytes() for path in site.folder.rglob("*") if path.is_file()}


def test_two_agreements_destroy(site, tmp_path):
    result = run(site.folder, "--out", tmp_path / "proof", answer=f"y\n{site.id}\n")
    assert result.exit_code == 0, result.output
    assert f"remove-site DIR {site.id}" in " ".join(result.output.split())
    assert not (site.folder / "keys").exists()


def test_certificate_does_not_go_where_it_would_be_deleted(site):
    with pytest.raises(InputError, match="outside"):
        finish(site, site.folder / "proof")
    assert site.storage_key


@pytest.mark.parametrize("place", ["videos", "recordings", "store"])
def test_foreign_files_among_our_own_stop_it(site, tmp_path, place):
    inside = {"videos": site.paths.state / "videos", "recordings": site.paths.store / "table.csv",
              "store": site.folder}  # fmt: skip
    entangled = replace(site, paths=replace(site.paths, **{place: inside[place]}))
    with pytest.raises(InputError, match="move it"):
        finish(entangled, tmp_path / "proof")
    assert site.storage_key
