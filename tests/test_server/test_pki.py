"""The certificate authority, tried with real TLS handshakes."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from server.pki import CertificateAuthority, PkiError


def handshake(authority_file: Path, certificate: Path, key: Path, *, host: str) -> str | None:
    """TLS version agreed between a client that knows one authority and a server, in memory."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate, key)
    client_context = ssl.create_default_context(cafile=str(authority_file))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    pending = [client, server]
    for _ in range(10):
        for side in list(pending):
            try:
                side.do_handshake()
                pending.remove(side)
            except ssl.SSLWantReadError:
                continue
    assert not pending
    return client.version()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path_factory.mktemp("pki"), name="north")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "coordinator.example.org"])
def test_client_that_knows_the_authority_accepts_every_named_host(
    authority: CertificateAuthority, host: str
) -> None:
    issued = authority.issue_server(["localhost", "127.0.0.1", "::1", "coordinator.example.org"])
    version = handshake(authority.certificate_file, issued.certificate, issued.key, host=host)
    assert version == "TLSv1.3"


def test_client_refuses_a_host_that_the_certificate_does_not_name(
    authority: CertificateAuthority,
) -> None:
    issued = authority.issue_server(["localhost"])
    with pytest.raises(ssl.SSLCertVerificationError, match=r"127\.0\.0\.1"):
        handshake(authority.certificate_file, issued.certificate, issued.key, host="127.0.0.1")


def test_client_refuses_the_certificate_of_another_authority(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    issued = CertificateAuthority.create(tmp_path / "other", name="north").issue_server(
        ["localhost"]
    )
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(authority.certificate_file, issued.certificate, issued.key, host="localhost")


def test_server_certificate_cannot_sign_another_one(authority: CertificateAuthority) -> None:
    issued = authority.issue_server(["localhost"])
    certificate = x509.load_pem_x509_certificate(issued.certificate.read_bytes())
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert not constraints.ca
    assert not usage.key_cert_sign


def test_lifetimes_are_ten_years_and_one_year(authority: CertificateAuthority) -> None:
    now = dt.datetime.now(dt.UTC)
    left = authority.certificate.not_valid_after_utc - now
    assert 3650 <= left.days <= 3652
    assert (authority.issue_server(["localhost"]).not_after - now).days in {364, 365}


def test_private_keys_are_readable_by_their_owner_alone(authority: CertificateAuthority) -> None:
    authority.issue_server(["localhost"])
    modes = {f.name: f.stat().st_mode & 0o777 for f in authority.folder.glob("*.key")}
    assert modes == {"ca.key": 0o600, "server.key": 0o600}
    assert authority.folder.stat().st_mode & 0o777 == 0o700


def test_loaded_authority_still_signs(authority: CertificateAuthority) -> None:
    issued = CertificateAuthority.load(authority.folder).issue_server(["localhost"])
    assert authority.server() == issued
    handshake(authority.certificate_file, issued.certificate, issued.key, host="localhost")


def test_authority_whose_key_others_can_read_is_refused(tmp_path: Path) -> None:
    CertificateAuthority.create(tmp_path)
    (tmp_path / "ca.key").chmod(0o644)
    with pytest.raises(PkiError, match="chmod 600"):
        CertificateAuthority.load(tmp_path)


def test_authority_is_never_replaced(tmp_path: Path) -> None:
    before = CertificateAuthority.create(tmp_path).certificate
    with pytest.raises(PkiError, match="never replaced"):
        CertificateAuthority.create(tmp_path)
    assert CertificateAuthority.load(tmp_path).certificate == before


@pytest.mark.parametrize("damage", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_damaged_authority_is_named(tmp_path: Path, damage: bytes) -> None:
    CertificateAuthority.create(tmp_path)
    (tmp_path / "ca.key").write_bytes(damage)
    with pytest.raises(PkiError, match="damaged"):
        CertificateAuthority.load(tmp_path)


@pytest.mark.parametrize("hosts", [[], ["two words"], ["-x.org"], ["a" * 64], ["höhe.example"]])
def test_hosts_that_no_client_could_match_are_refused(
    authority: CertificateAuthority, hosts: list[str]
) -> None:
    with pytest.raises(PkiError, match="Expected host names"):
        authority.issue_server(hosts)
