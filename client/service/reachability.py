"""Whether the coordinator can be reached, and if not, which of the usual reasons it is."""

from __future__ import annotations

import http.client
import socket
import ssl
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from shared_models.console import DONE, CommandError

TIMEOUT_S = 10.0
TRIES = 5
PAUSE_S = 3.0


class UnreachableError(CommandError):
    """The coordinator cannot be reached; the message says why and what to do.

    Attributes:
        may_pass: Whether waiting could help; a wrong certificate does not become right.
    """

    def __init__(self, message: str, *, may_pass: bool) -> None:
        super().__init__(message)
        self.may_pass = may_pass


@dataclass(frozen=True)
class Address:
    """Host and port of the coordinator."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """``host:port`` as its parts; IPv6 hosts stand in brackets.

    >>> parse_address("[::1]:8443")
    Address(host='::1', port=8443)
    """
    host, _, port = text.rpartition(":")
    return Address(host.strip("[]"), int(port))


def await_coordinator(
    address: Address, authority: Path, *, stopping: threading.Event, tries: int = TRIES
) -> None:
    """Wait, not for long, until the coordinator answers with a certificate of its authority.

    Args:
        address: Where it should listen.
        authority: CA certificate from the kit, PEM.
        stopping: Ends the wait early.
        tries: How often to try what may pass.

    Raises:
        UnreachableError: If it does not answer, or not as itself.
    """
    for attempt in range(1, tries + 1):
        try:
            probe(address, authority)
        except UnreachableError as error:
            if not error.may_pass or attempt == tries:
                raise
        else:
            return
        if stopping.wait(PAUSE_S):
            return


def probe(address: Address, authority: Path) -> None:
    """Ask the coordinator for its health over TLS, trusting its own authority alone.

    Raises:
        UnreachableError: If it does not answer, or not as itself.
    """
    trust = ssl.create_default_context(cafile=str(authority))
    connection = http.client.HTTPSConnection(
        address.host, address.port, timeout=TIMEOUT_S, context=trust
    )
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except ssl.SSLCertVerificationError as error:
        raise _wrong_certificate(address, error) from error
    except (OSError, http.client.HTTPException) as error:
        raise _no_answer(address, error) from error
    finally:
        connection.close()
    if status != http.client.OK:
        msg = (
            f"Expected the coordinator at {address} to be healthy, got HTTP status {status}: a "
            "proxy may stand in between, or the coordinator is starting. Ask the coordinator."
        )
        raise UnreachableError(msg, may_pass=True)


def _wrong_certificate(address: Address, error: ssl.SSLCertVerificationError) -> UnreachableError:
    msg = (
        f"Expected a certificate of the consortium's authority for {address.host}, got another: "
        f"{error.verify_message}. Either this kit is old (ask the coordinator for a new one and "
        "run 'vultus-site join'), or a device between opens TLS connections (ask your network "
        f"staff to exempt {address})."
    )
    return UnreachableError(msg, may_pass=False)


def _no_answer(address: Address, error: Exception) -> UnreachableError:
    if isinstance(error, socket.gaierror):
        why, remedy = "its name is not known", "check [coordinator] address in site.toml"
    elif isinstance(error, ConnectionRefusedError):
        why, remedy = "nothing listens there", "ask whether the coordinator has been started"
    elif isinstance(error, TimeoutError):
        why, remedy = "no answer", f"ask your network staff to allow outgoing TCP to {address}"
    elif isinstance(error, ssl.SSLError):
        why, remedy = "it does not speak TLS", "check the port in site.toml"
    else:
        why, remedy = str(error) or type(error).__name__, "check the network"
    msg = f"Expected the coordinator at {address} to answer, got: {why}. Please {remedy}."
    return UnreachableError(msg, may_pass=True)


def main(words: list[str]) -> int:
    """Wait for the coordinator in a process of its own; what is wrong goes to stderr."""
    address, authority = words
    try:
        await_coordinator(parse_address(address), Path(authority), stopping=threading.Event())
    except UnreachableError as error:
        sys.stderr.write(str(error))
        return error.exit_code
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
