"""Reaching the coordinator: each usual reason for failure is told apart, over real sockets."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.service.reachability import (
    Address,
    UnreachableError,
    await_coordinator,
    parse_address,
    probe,
)
from server.pki import CertificateAuthority


class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def listen() -> Iterator[Callable[..., Address]]:
    """Start health servers on loopback, with or without TLS."""
    servers: list[tuple[http.server.HTTPServer, threading.Thread]] = []

    def start(authority: CertificateAuthority | None, hosts: tuple[str, ...] = ()) -> Address:
        server = http.server.HTTPServer(("127.0.0.1", 0), Healthy)
        if authority:
            issued = authority.issue_server(hosts)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(issued.certificate, issued.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        servers.append((server, thread))
        return Address("127.0.0.1", server.server_address[1])

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def test_coordinator_with_its_own_certificate_is_reached(
    listen: Callable[..., Address], tmp_path: Path
) -> None:
    authority = CertificateAuthority.create(tmp_path)
    probe(listen(authority, ("127.0.0.1",)), authority.certificate_file)


def test_certificate_of_another_authority_is_told_apart_and_not_waited_for(
    listen: Callable[..., Address], tmp_path: Path
) -> None:
    ours = CertificateAuthority.create(tmp_path / "ours")
    theirs = CertificateAuthority.create(tmp_path / "theirs")
    address = listen(theirs, ("127.0.0.1",))
    with pytest.raises(UnreachableError, match="consortium's authority") as caught:
        await_coordinator(address, ours.certificate_file, stopping=threading.Event())
    assert not caught.value.may_pass


def test_certificate_for_another_host_is_refused(
    listen: Callable[..., Address], tmp_path: Path
) -> None:
    authority = CertificateAuthority.create(tmp_path)
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1"):
        probe(listen(authority, ("fl.example.org",)), authority.certificate_file)


def test_closed_port_says_that_nothing_listens(
    listen: Callable[..., Address], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.service.reachability.PAUSE_S", 0.0)
    authority = CertificateAuthority.create(tmp_path)
    with pytest.raises(UnreachableError, match="has been started") as caught:
        await_coordinator(
            Address("127.0.0.1", 1), authority.certificate_file, stopping=threading.Event()
        )
    assert caught.value.may_pass


def test_port_without_tls_is_told_apart(listen: Callable[..., Address], tmp_path: Path) -> None:
    authority = CertificateAuthority.create(tmp_path)
    with pytest.raises(UnreachableError, match="does not speak TLS"):
        probe(listen(None), authority.certificate_file)


@pytest.mark.parametrize("text", ["127.0.0.1:8443", "[::1]:8443", "fl.example.org:443"])
def test_address_reads_back_as_written(text: str) -> None:
    assert str(parse_address(text)) == text
