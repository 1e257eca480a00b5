"""The consortium's own certificate authority, and the coordinator's certificate.

Sites trust this authority alone, never the system's list: a certificate that some public authority
or an inspecting proxy issued for the coordinator's name is refused.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFETIME_DAYS = 3652
SERVER_LIFETIME_DAYS = 365
BACKDATED = dt.timedelta(minutes=5)
"""Certificates start a little early, so that a site whose clock is slow accepts a fresh one."""

CA_CERTIFICATE, CA_KEY = "ca.crt", "ca.key"
SERVER_CERTIFICATE, SERVER_KEY = "server.crt", "server.key"
TRUSTED, NEXT = "trusted.crt", "next"

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey


class PkiError(ValueError):
    """Certificate files that cannot be used, or a name that cannot stand in a certificate."""

    exit_code = 2


@dataclass(frozen=True)
class ServerCertificate:
    """Files of the coordinator's certificate.

    Attributes:
        certificate: The certificate, PEM.
        key: Its private key, PEM, readable by the owner alone.
        not_after: End of its validity, UTC.
        hosts: Names and addresses that it is good for, the main one first.
    """

    certificate: Path
    key: Path
    not_after: dt.datetime
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class CertificateAuthority:
    """A consortium's certificate authority: EC P-256, ten years, allowed to sign servers only.

    Attributes:
        folder: Where certificates and keys lie, mode 0700.
        certificate: The authority's own certificate; sites receive it in their kit.
        key: Its private key; it never leaves the folder.
    """

    folder: Path
    certificate: x509.Certificate
    key: PrivateKey

    @classmethod
    def create(cls, folder: Path, *, name: str = "vultus") -> CertificateAuthority:
        """A new authority in an empty folder.

        Args:
            folder: Made if it is missing.
            name: Consortium that the certificate names.

        Raises:
            PkiError: If the folder already holds an authority: replacing it would lock every site
                out.
        """
        if (folder / CA_KEY).exists():
            msg = f"Expected no certificate authority in {folder}, got one; it is never replaced."
            raise PkiError(msg)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"{name} consortium authority")
        certificate = (
            _builder(subject, subject, key.public_key(), days=CA_LIFETIME_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        _write_key(folder / CA_KEY, key)
        _write(folder / CA_CERTIFICATE, _pem(certificate), mode=0o644)
        _write(folder / TRUSTED, _pem(certificate), mode=0o644)
        return cls(folder, certificate, key)

    @classmethod
    def load(cls, folder: Path) -> CertificateAuthority:
        """The authority that lies in a folder.

        Raises:
            PkiError: If files are missing, damaged, or readable by others.
        """
        key_file = folder / CA_KEY
        try:
            _refuse_shared(key_file)
            key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate((folder / CA_CERTIFICATE).read_bytes())
        except OSError as error:
            msg = f"Expected a certificate authority in {folder}, got: {error.strerror}."
            raise PkiError(msg) from error
        except PkiError:
            raise
        except ValueError as error:
            msg = f"Expected PEM files of a certificate authority in {folder}, got damaged ones."
            raise PkiError(msg) from error
        if not isinstance(key, PrivateKey):
            msg = f"Expected an elliptic-curve key in {key_file}, got {type(key).__name__}."
            raise PkiError(msg)
        return cls(folder, certificate, key)

    @property
    def certificate_file(self) -> Path:
        """The certificates that sites and the coordinator's own programs trust, PEM."""
        return self.folder / TRUSTED

    @property
    def next(self) -> CertificateAuthority | None:
        """The authority that is to follow this one; None unless a renewal was begun."""
        folder = self.folder / NEXT
        return CertificateAuthority.load(folder) if folder.is_dir() else None

    def begin_renewal(self, *, name: str) -> None:
        """Make the authority that is to follow, and trust both until it has taken over.

        Raises:
            PkiError: If a renewal was begun before.
        """
        following = CertificateAuthority.create(self.folder / NEXT, name=name)
        both = _pem(self.certificate) + _pem(following.certificate)
        _write(self.folder / TRUSTED, both, mode=0o644)

    def finish_renewal(self) -> CertificateAuthority:
        """Let the following authority take over; the coordinator's certificate is its own then.

        Raises:
            PkiError: If no renewal was begun.
        """
        following = self.next
        if following is None:
            msg = (
                f"Expected a renewal of the authority in {self.folder}, got none: begin one first."
            )
            raise PkiError(msg)
        hosts = self.server().hosts
        # A crash in between leaves both trusted, and is mended by finishing again.
        _write(self.folder / CA_CERTIFICATE, _pem(following.certificate), mode=0o644)
        _write_key(self.folder / CA_KEY, following.key)
        renewed = CertificateAuthority(self.folder, following.certificate, following.key)
        renewed.issue_server(hosts)
        _write(self.folder / TRUSTED, _pem(following.certificate), mode=0o644)
        shutil.rmtree(self.folder / NEXT)
        return renewed

    def issue_server(self, hosts: Sequence[str]) -> ServerCertificate:
        """A certificate for the coordinator, good for one year, replacing an earlier one.

        Args:
            hosts: Host names and IP addresses by which sites and the coordinator's own tools reach
                it.

        Raises:
            PkiError: If there is no host, or one is neither a name nor an address.
        """
        names = _alternative_names(hosts)
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self.certificate.subject
        certificate = (
            _builder(_name(hosts[0]), issuer, key.public_key(), days=SERVER_LIFETIME_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(_authority_identifier(self.key), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        files = self.folder / SERVER_CERTIFICATE, self.folder / SERVER_KEY
        _write_key(files[1], key)
        _write(files[0], _pem(certificate), mode=0o644)
        return ServerCertificate(*files, certificate.not_valid_after_utc, _hosts_of(certificate))

    def server(self) -> ServerCertificate:
        """The coordinator's certificate as issued last.

        Raises:
            PkiError: If there is none.
        """
        file = self.folder / SERVER_CERTIFICATE
        try:
            certificate = x509.load_pem_x509_certificate(file.read_bytes())
        except (OSError, ValueError) as error:
            msg = f"Expected the coordinator's certificate at {file}, got none that can be read."
            raise PkiError(msg) from error
        key = self.folder / SERVER_KEY
        return ServerCertificate(file, key, certificate.not_valid_after_utc, _hosts_of(certificate))


def _alternative_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Every host as the kind of name that TLS clients compare with."""
    faults = [host for host in hosts if not _is_host(host)]
    if faults or not hosts:
        msg = f"Expected host names or IP addresses, got {faults or 'none'}."
        raise PkiError(msg)
    return [_general_name(host) for host in dict.fromkeys(hosts)]


def _hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(name.value) for name in names)


def _general_name(host: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(host)) if _is_address(host) else x509.DNSName(host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_host(host: str) -> bool:
    """Whether TLS could ever match it: an address, or labels of letters, digits and hyphens."""
    label = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
    is_name = len(host) <= 253 and re.fullmatch(rf"{label}(\.{label})*", host) is not None
    return is_name or _is_address(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _authority_identifier(key: PrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    # X.520 allows 64 characters; the names that count stand in the alternative names.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def trusted_authorities(folder: Path) -> str:
    """Certificates, PEM, that sites trust: two while an authority is renewed.

    Raises:
        PkiError: If the folder holds none.
    """
    try:
        return (folder / TRUSTED).read_text(encoding="ascii")
    except OSError as error:
        msg = f"Expected {TRUSTED} in {folder}, got: {error.strerror}."
        raise PkiError(msg) from error


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _refuse_shared(key_file: Path) -> None:
    mode = key_file.stat().st_mode & 0o777
    if mode & 0o077:
        msg = (
            f"Expected mode 0600 of {key_file}, got {mode:04o}: others can use the key. "
            f"Run: chmod 600 {key_file}"
        )
        raise PkiError(msg)


def _write_key(file: Path, key: PrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write(file, pem, mode=0o600)


def _write(file: Path, content: bytes, *, mode: int) -> None:
    """Replace a file at once; it never exists with looser rights than it ends with."""
    draft = file.with_name(f".{file.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
