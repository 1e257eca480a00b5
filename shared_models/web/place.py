"""Where a dashboard listens: this machine alone, unless somebody decided otherwise."""

from __future__ import annotations

import socket
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared_models.console import InputError
from shared_models.hosts import is_loopback

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
HTTP_PORT, HTTPS_PORT = 80, 443


@dataclass(frozen=True)
class Place:
    """Address and certificate of a dashboard; made by :func:`choose_place`.

    Attributes:
        host: Interface to listen on.
        port: Port; 0 lets the system choose one.
        certificate: PEM chain; None without TLS.
        key: PEM private key of the certificate; None without TLS.
        names: Further names under which browsers reach it.
    """

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None
    names: tuple[str, ...] = ()

    @property
    def is_secure(self) -> bool:
        """Whether it speaks TLS."""
        return self.certificate is not None

    @property
    def is_open(self) -> bool:
        """Whether other machines can reach it."""
        return not is_loopback(self.host)

    def hosts(self, port: int) -> tuple[str, ...]:
        """What a browser may write into the ``Host`` header.

        Args:
            port: The port that is listened on.
        """
        return tuple(dict.fromkeys(self._hosts(port)))

    def _hosts(self, port: int) -> Iterator[str]:
        default = HTTPS_PORT if self.is_secure else HTTP_PORT
        names = [*LOOPBACK_NAMES, *self.names]
        if not _is_wildcard(self.host):
            names.append(f"[{self.host}]" if ":" in self.host else self.host)
        for name in names:
            yield f"{name.lower()}:{port}"
            if port == default:
                yield name.lower()

    def url(self, port: int) -> str:
        """What to open in a browser on this machine."""
        name = self.names[0] if self.names else LOOPBACK_NAMES[0]
        if not self.names and not _is_wildcard(self.host) and self.is_open:
            name = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_secure else 'http'}://{name}:{port}/"

    def bind(self) -> socket.socket:
        """A socket that listens there.

        Raises:
            InputError: If the address is not this machine's or the port is taken.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family, backlog=64)
        except OSError as error:
            msg = (
                f"Expected {self.host} port {self.port} to be free to listen on, got: "
                f"{error.strerror}. Choose another one with --port."
            )
            raise InputError(msg) from error


def choose_place(place: Place, *, without_tls: bool) -> Place:
    """The place as asked for, if it is safe enough.

    Args:
        place: As asked for on the command line.
        without_tls: Whether somebody said that password and page may cross a network unprotected.

    Raises:
        InputError: If other machines could reach it without TLS, or a file of TLS cannot be used.
    """
    if (place.certificate is None) != (place.key is None):
        msg = "Expected --tls-certificate and --tls-key together, got one of them."
        raise InputError(msg)
    if place.certificate is not None and place.key is not None:
        _check_key(place.key)
        _check_pair(place.certificate, place.key)
    if place.is_open and not place.is_secure and not without_tls:
        msg = (
            f"Expected a dashboard that this machine alone can reach, got --host {place.host}: the "
            "password and every figure would cross the network readable by anybody. Name "
            "--tls-certificate and --tls-key, or reach it through an SSH tunnel; --without-tls "
            "accepts the risk."
        )
        raise InputError(msg)
    if _is_wildcard(place.host) and not place.names:
        msg = f"Expected --name with --host {place.host}: the name by which browsers reach it."
        raise InputError(msg)
    return place


def _is_wildcard(host: str) -> bool:
    return host in {"0.0.0.0", "::", ""}  # noqa: S104 - compared with, not listened on


def _check_pair(certificate: Path, key: Path) -> None:
    try:
        # Without a word for it, a key that is encrypted would be asked for on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        msg = (
            f"Expected a certificate in {certificate} and its key, unencrypted, in {key}, both as "
            f"PEM, got: {reason}."
        )
        raise InputError(msg) from error


def _check_key(key: Path) -> None:
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
    except OSError as error:
        msg = f"Expected the private key of the certificate in {key}, got {error.strerror}."
        raise InputError(msg) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        msg = f"Expected {key} to be closed to other accounts, got mode {mode:o}: chmod 600 it."
        raise InputError(msg)
