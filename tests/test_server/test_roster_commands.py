"""Joining, leaving and renewing, as the coordinator types it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from click.testing import Result
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from typer.testing import CliRunner

from privacy.keys import create_identity_key, public_line
from server.cli import app
from server.pki import CertificateAuthority
from server.workspace import open_workspace
from shared_models.renewal import sign_renewal
from shared_models.roster import Roster


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def new_key(folder: Path) -> Path:
    create_identity_key(folder / "keys" / "identity", folder / "keys" / "identity.pub")
    return folder / "keys" / "identity.pub"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    assert call("init", tmp_path / "hub", "--name", "smiles", "--port", 8443).exit_code == 0
    for site in ("north", "south"):
        key = new_key(tmp_path / site)
        assert call("add-site", tmp_path / "hub", "--id", site, "--key", key).exit_code == 0
    return tmp_path / "hub"


def roster(hub: Path) -> Roster:
    held = open_workspace(hub).consortium.roster
    assert held is not None
    return held


def test_a_removed_site_is_out_of_the_roster_and_its_kit_is_gone(hub: Path) -> None:
    before = open_workspace(hub).consortium.digest
    assert call("remove-site", hub, "south").exit_code == 0
    assert [site.id for site in roster(hub).sites] == ["north"]
    assert roster(hub).number == 3
    assert open_workspace(hub).consortium.digest == before
    assert not (hub / "kits" / "south").exists()


def test_a_site_that_is_not_there_cannot_be_removed(hub: Path) -> None:
    refused = call("remove-site", hub, "west")
    assert refused.exit_code == 2
    assert "north, south" in refused.stderr
    assert roster(hub).number == 2


def test_a_removed_site_can_be_admitted_again(hub: Path, tmp_path: Path) -> None:
    call("remove-site", hub, "south")
    key = tmp_path / "south" / "keys" / "identity.pub"
    assert call("add-site", hub, "--id", "south", "--key", key).exit_code == 0
    assert [site.id for site in roster(hub).sites] == ["north", "south"]


def renewal(hub: Path, tmp_path: Path, *, signed_by: str) -> tuple[Path, str]:
    from privacy.keys import load_identity_key

    new_key(tmp_path / "fresh")
    fresh = load_identity_key(tmp_path / "fresh" / "keys" / "identity")
    present = load_identity_key(tmp_path / signed_by / "keys" / "identity")
    file = tmp_path / "renewal.json"
    file.write_bytes(sign_renewal("south", fresh, present_key=present))
    return file, public_line(fresh)


def test_a_new_key_takes_the_place_of_the_one_that_vouches_for_it(
    hub: Path, tmp_path: Path
) -> None:
    file, line = renewal(hub, tmp_path, signed_by="south")
    assert call("renew-site", hub, "south", file).exit_code == 0
    assert [site.id for site in roster(hub).sites] == ["north", "south"]
    assert roster(hub).sites[1].public_key == line


def test_another_sites_key_cannot_vouch(hub: Path, tmp_path: Path) -> None:
    file, _ = renewal(hub, tmp_path, signed_by="north")
    refused = call("renew-site", hub, "south", file)
    assert refused.exit_code == 2
    assert "--lost" in refused.stderr
    assert roster(hub).number == 2


def test_a_lost_key_is_replaced_on_the_coordinators_word(hub: Path, tmp_path: Path) -> None:
    key = new_key(tmp_path / "fresh")
    assert call("renew-site", hub, "south", key, "--lost").exit_code == 0
    assert roster(hub).sites[1].public_key == " ".join(key.read_text().split()[:2])
    taken = call("renew-site", hub, "south", tmp_path / "north" / "keys" / "identity.pub", "--lost")
    assert "key of site 'north'" in taken.stderr


def test_an_edited_study_needs_a_new_roster_and_says_so(hub: Path) -> None:
    file = hub / "consortium.toml"
    file.write_text(file.read_text().replace("rounds = 30", "rounds = 12"))
    refused = call("remove-site", hub, "south")
    assert refused.exit_code == 2
    assert f"vultus-coordinator kits {hub}" in refused.stderr
    assert call("kits", hub).exit_code == 0
    assert [site.id for site in roster(hub).sites] == ["north", "south"]
    assert roster(hub).number == 3
    kit = hub / "kits" / "north"
    assert (kit / "consortium.toml").read_bytes() == file.read_bytes()
    assert (kit / "roster.json").read_bytes() == (hub / "runs" / "roster.json").read_bytes()


def trusts(authorities: str, server: Path) -> bool:
    """Whether a client that trusts these accepts the coordinator's certificate."""
    certificates = x509.load_pem_x509_certificates(authorities.encode())
    policy = PolicyBuilder().store(Store(certificates)).time(dt.datetime.now(dt.UTC))
    from ipaddress import ip_address

    verifier = policy.build_server_verifier(x509.IPAddress(ip_address("127.0.0.1")))
    try:
        verifier.verify(x509.load_pem_x509_certificate(server.read_bytes()), [])
    except x509.verification.VerificationError:
        return False
    return True


def test_the_authority_changes_in_two_steps_and_each_site_trusts_one_of_them_throughout(
    hub: Path,
) -> None:
    server = hub / "pki" / "server.crt"
    first = roster(hub).authorities
    assert call("renew-authority", hub).exit_code == 0
    both = roster(hub).authorities
    assert both.startswith(first)
    assert trusts(first, server)
    assert trusts(both, server)
    assert "--finish" in call("renew-authority", hub).stderr
    assert call("renew-authority", hub, "--finish").exit_code == 0
    last = roster(hub).authorities
    assert both == first + last
    assert trusts(both, server)
    assert trusts(last, server)
    assert not trusts(first, server)
    assert roster(hub).number == 4


def test_an_authority_takes_over_only_after_it_was_announced(hub: Path) -> None:
    refused = call("renew-authority", hub, "--finish")
    assert refused.exit_code == 2
    assert "begin one first" in refused.stderr


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_crash_while_the_authority_takes_over_is_mended_by_finishing_again(
    hub: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is replaced at once; whatever was replaced, both authorities stay trusted."""
    from server import pki

    assert call("renew-authority", hub).exit_code == 0
    write, done = pki._write, []

    def crash(file: Path, content: bytes, *, mode: int) -> None:
        if len(done) == steps:
            raise KeyboardInterrupt
        done.append(file)
        write(file, content, mode=mode)

    monkeypatch.setattr(pki, "_write", crash)
    with pytest.raises(KeyboardInterrupt):
        CertificateAuthority.load(hub / "pki").finish_renewal()
    monkeypatch.setattr(pki, "_write", write)
    assert call("renew-authority", hub, "--finish").exit_code == 0
    assert trusts(roster(hub).authorities, hub / "pki" / "server.crt")


def test_the_certificate_is_renewed_for_the_same_hosts(hub: Path) -> None:
    before = open_workspace(hub).authority.server()
    serial = x509.load_pem_x509_certificate(before.certificate.read_bytes()).serial_number
    assert call("renew-certificate", hub).exit_code == 0
    after = open_workspace(hub).authority.server()
    assert after.hosts == before.hosts
    assert x509.load_pem_x509_certificate(after.certificate.read_bytes()).serial_number != serial
    assert call("renew-certificate", hub, "--host", "hub.example.org").exit_code == 0
    assert open_workspace(hub).authority.server().hosts[0] == "hub.example.org"
