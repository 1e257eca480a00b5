"""What the outside can do to a running coordinator: real requests to real processes."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.server
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from running_coordinator import (
    OUTSIDE_NAME,
    Running,
    free_port,
    make_folder,
    serving,
    wait_for,
)

from server.endpoint import is_free
from server.pki import CertificateAuthority
from server.proxy import CIPHERS, FLEET_REQUESTS, Proxy, ProxyError, find_nginx, is_healthy
from server.workspace import open_workspace
from shared_models.supervision import Supervisor
from shared_models.toml import ConfigError

REQUESTS_PER_S = 10
CONNECTIONS = 6
OURS = b"not found\n"


def nginx_is_missing() -> bool:
    try:
        find_nginx()
    except ProxyError:
        return True
    return False


needs_nginx = pytest.mark.skipif(nginx_is_missing(), reason="nginx is not installed")


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if nginx_is_missing():
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("proxied") / "a folder"
    make_folder(folder, OUTSIDE_NAME, requests_per_s=REQUESTS_PER_S, connections=CONNECTIONS)
    with serving(folder) as running:
        yield running


@pytest.fixture(scope="module")
def slow(coordinator: Running) -> Iterator[dict[str, threading.Thread]]:
    """Clients that never finish what they began; they are waited for at the end of this module."""
    header = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nX-Slow: "
    body = header + b"1\r\nContent-Length: 1000\r\n\r\n"
    clients = {"header": SlowClient(coordinator, header), "body": SlowClient(coordinator, body)}
    for client in clients.values():
        client.start()
    yield dict(clients)
    for client in clients.values():
        client.join(60)


def trust(coordinator: Running) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(coordinator.authority))


@contextlib.contextmanager
def connected(
    coordinator: Running, *, source: str = "127.0.0.1", context: ssl.SSLContext | None = None
) -> Iterator[ssl.SSLSocket]:
    """A TLS connection from an address of its own, since limits count by address."""
    address = ("127.0.0.1", coordinator.port)
    with (
        socket.create_connection(address, timeout=30, source_address=(source, 0)) as plain,
        (context or trust(coordinator)).wrap_socket(plain, server_hostname=OUTSIDE_NAME) as secure,
    ):
        yield secure


def exchange(coordinator: Running, request: bytes, *, source: str = "127.0.0.1") -> bytes:
    """All that is answered to these bytes."""
    with connected(coordinator, source=source) as secure:
        with contextlib.suppress(OSError):
            secure.sendall(request)
        return read_all(secure)


def read_all(secure: ssl.SSLSocket) -> bytes:
    answer = b""
    with contextlib.suppress(OSError):
        while chunk := secure.recv(1 << 16):
            answer += chunk
    return answer


def ask(
    coordinator: Running, method: str, target: str, *more: str, source: str = "127.0.0.1"
) -> tuple[int, bytes]:
    """Status and body of one request whose target travels as it is written."""
    lines = (f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *more)
    raw = exchange(coordinator, "\r\n".join((*lines, "", "")).encode("latin-1"), source=source)
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body


class SlowClient(threading.Thread):
    """Sends a beginning, then a byte now and then, until it is cut off."""

    def __init__(self, coordinator: Running, beginning: bytes) -> None:
        super().__init__(daemon=True)
        self._coordinator, self._beginning = coordinator, beginning
        self.cut_off_after_s = float("inf")

    def run(self) -> None:
        with connected(self._coordinator, source="127.0.0.77") as secure:
            began = time.monotonic()
            secure.sendall(self._beginning)
            secure.settimeout(45)
            with contextlib.suppress(OSError):
                if b"X-Slow: 1" not in self._beginning:
                    self._drip(secure, began)
                secure.recv(1)
            self.cut_off_after_s = time.monotonic() - began

    def _drip(self, secure: ssl.SSLSocket, began: float) -> None:
        while time.monotonic() - began < 30:
            secure.sendall(b"a")
            time.sleep(0.5)


def engine_routes(module: str) -> list[str]:
    import importlib

    routes = importlib.import_module(module).router.routes
    return [route.path for route in routes]


CONTROL = "flwr.superlink.routers.control.router"
RUNTIME = "flwr.supercore.routers.runtime.router"
FLEET = "flwr.superlink.routers.fleet.router"


def test_sites_reach_every_request_of_theirs(coordinator: Running, slow: object) -> None:
    for name in FLEET_REQUESTS:
        status, body = ask(coordinator, "POST", f"/v1/fleet/{name}", "Content-Length: 0")
        # The engine's own answer to a request without content.
        assert (status, body[:1]) == (415, b"{"), (name, status, body)
    assert ask(coordinator, "GET", "/health")[0] == 200


def test_nothing_else_of_the_engine_answers(coordinator: Running) -> None:
    shown = {f"/v1/fleet/{name}" for name in FLEET_REQUESTS}
    routes = {path for module in (CONTROL, RUNTIME, FLEET) for path in engine_routes(module)}
    assert len(routes) > 60
    assert len(shown & routes) == 10
    inside = trust(coordinator)
    inside.load_verify_locations(str(coordinator.folder / "engine" / "tls" / "ca.crt"))
    engine = f"https://127.0.0.1:{coordinator.engine_port}"
    for path in sorted(routes - shown):
        for method in ("POST", "GET"):
            assert ask(coordinator, method, path, source="127.0.0.2") == (404, OURS), path
    with httpx.Client(verify=inside, trust_env=False) as client:
        # The engine itself would have answered, so it was the proxy that did not let them through.
        assert client.post(f"{engine}/v1/control/list-runs").status_code != 404
        assert client.get(f"{engine}/openapi.json").status_code in {200, 404}


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/redoc"),
        ("GET", "/openapi.json"),
        ("POST", "/health"),
        ("HEAD", "/health"),
        ("GET", "/health/"),
        ("GET", "/health?x=1"),
        ("GET", "/health/../v1/control/list-runs"),
        ("GET", "/v1/fleet/pull-messages"),
        ("PUT", "/v1/fleet/pull-messages"),
        ("OPTIONS", "/v1/fleet/pull-messages"),
        ("post", "/v1/fleet/pull-messages"),
        ("POST", "/v1/fleet/pull-messages/"),
        ("POST", "/v1/fleet/pull-messages?x"),
        ("POST", "/v1/fleet/PULL-messages"),
        ("POST", "//v1/fleet/pull-messages"),
        ("POST", "/v1//fleet/pull-messages"),
        ("POST", "/./v1/fleet/pull-messages"),
        ("POST", "/v1/fleet/../control/list-runs"),
        ("POST", "/v1/fleet/%2e%2e/control/list-runs"),
        ("POST", "/v1/fleet/..%2fcontrol/list-runs"),
        ("POST", "/v1/fleet/pull-messages/..%2f..%2fcontrol%2flist-runs"),
        ("POST", "/v1/fleet/..\\control\\list-runs"),
        ("POST", "/v1%2ffleet%2fpull-messages"),
        ("POST", "/v1/fleet/pull%2dmessages"),
        ("POST", "/v1/fleet/pull-messages%00"),
        ("POST", "/v1/fleet/pull-messages;/../../control/list-runs"),
        ("POST", "/v1/fleet/pull-messages#/v1/control/list-runs"),
        ("POST", "https://x/v1/control/list-runs"),
        ("POST", "/v1/control/list-runs"),
        ("TRACE", "/health"),
        ("CONNECT", "127.0.0.1:22"),
    ],
)
def test_other_spellings_and_methods_stop_at_the_proxy(
    coordinator: Running, method: str, target: str
) -> None:
    status, body = ask(coordinator, method, target, "Content-Length: 0", source="127.0.0.3")
    assert status in {400, 404, 405}, (status, body)
    assert not body.startswith(b"{")


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 404, 405, 505}),
        (b"GET /health HTTP/3.7\r\nHost: x\r\n\r\n", {400, 404, 505}),
        (b"GET /v1/control/list-runs\r\n\r\n", {400, 404, 0}),
        (
            b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            {400},
        ),
        (
            b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
            {400, 501},
        ),
        (
            b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
            b"Content-Length: 2\r\n\r\nab",
            {400},
        ),
        (b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", {400}),
        (
            b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"zz\r\n\r\n",
            {400},
        ),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + 40_000 * b"a" + b"\r\n\r\n", {400, 414, 431}),
        (b"\x16\x03\x01\x00\x00", {400, 0}),
    ],
)
def test_malformed_requests_stop_at_the_proxy(
    coordinator: Running, request_bytes: bytes, statuses: set[int]
) -> None:
    raw = exchange(coordinator, request_bytes, source="127.0.0.4")
    status = int(raw.split(b" ", 2)[1]) if raw.startswith(b"HTTP/") else 0
    assert status in statuses, raw[:200]


def test_a_request_behind_another_is_judged_by_itself(coordinator: Running) -> None:
    first = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    second = b"POST /v1/control/list-runs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    raw = exchange(coordinator, first + second + b"Content-Length: 0\r\n\r\n", source="127.0.0.4")
    assert raw.startswith(b"HTTP/1.1 200 ")
    assert raw.endswith(OURS)


def test_an_upgrade_is_not_passed_on(coordinator: Running) -> None:
    for protocol in ("websocket", "h2c"):
        status, _ = ask(coordinator, "GET", "/health", f"Upgrade: {protocol}", source="127.0.0.4")
        assert status == 200


def test_the_engine_saw_none_of_it(coordinator: Running) -> None:
    ask(coordinator, "POST", "/v1/fleet/get-run", "Content-Length: 0", source="127.0.0.3")
    wait_for(lambda: "127.0.0.3:" in coordinator.log("superlink"), seconds=5, what="its line")
    lines = re.findall(r'127\.0\.0\.[2-9]:\d+ - "(\S+ \S+) ', coordinator.log("superlink"))
    assert "POST /v1/fleet/get-run" in lines
    shown = {f"POST /v1/fleet/{name}" for name in FLEET_REQUESTS}
    assert set(lines) - shown <= {"GET /health"}


def test_what_the_outside_says_of_its_address_is_not_believed(coordinator: Running) -> None:
    claim = "X-Forwarded-For: 203.0.113.9"
    ask(coordinator, "POST", "/v1/fleet/get-run", claim, "Content-Length: 0", source="127.0.0.41")
    wait_for(lambda: "127.0.0.41" in coordinator.log("superlink"), seconds=5, what="its line")
    assert "203.0.113.9" not in coordinator.log("superlink") + coordinator.log("proxy")


def test_bodies_past_the_limit_are_refused_and_those_below_it_pass(coordinator: Running) -> None:
    head = b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\n"
    stated = head + f"Content-Length: {9 << 20}\r\n\r\n".encode()
    chunk = b"100000\r\n" + (1 << 20) * b"a" + b"\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n" + 9 * chunk + b"0\r\n\r\n"
    for too_large in (stated, chunked):
        with connected(coordinator) as secure, contextlib.suppress(BrokenPipeError):
            secure.sendall(too_large)
            assert secure.recv(64).startswith(b"HTTP/1.1 413 ")
    url = f"https://127.0.0.1:{coordinator.port}/v1/fleet/push-object"
    with httpx.Client(verify=trust(coordinator), trust_env=False) as client:
        assert client.post(url, content=bytes((8 << 20) - 1)).status_code == 415


def test_answers_tell_no_version_and_logs_no_body(coordinator: Running) -> None:
    marker = "this-stands-in-a-body"
    url = f"https://127.0.0.1:{coordinator.port}/v1/fleet/get-run"
    with httpx.Client(verify=trust(coordinator), trust_env=False) as client:
        answer = client.post(url, content=marker)
    assert answer.headers["server"] == "nginx"
    line = '"POST /v1/fleet/get-run HTTP/1.1" 415'
    wait_for(lambda: line in coordinator.log("proxy"), seconds=5, what="the line of that request")
    assert marker not in coordinator.log("proxy")


def handshake(coordinator: Running, context: ssl.SSLContext) -> str | None:
    """What was agreed on, or None."""
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with connected(coordinator, source="127.0.0.5", context=context) as secure:
            chosen = secure.cipher()
            return chosen[0] if chosen else None
    except OSError:
        return None


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_of_tls_are_refused(coordinator: Running, version: ssl.TLSVersion) -> None:
    def only(version: ssl.TLSVersion) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        return context

    assert handshake(coordinator, only(version)) is None
    assert agrees_on(coordinator, only(version)) == version.name.replace("_", ".")
    assert handshake(coordinator, only(ssl.TLSVersion.TLSv1_2)) in CIPHERS
    assert handshake(coordinator, only(ssl.TLSVersion.TLSv1_3)) is not None


def agrees_on(coordinator: Running, client: ssl.SSLContext) -> str | None:
    """The version that this client would use with a server that allows all: it can speak it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    server.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    server.load_cert_chain(
        *(coordinator.folder / "pki" / f"server.{end}" for end in ("crt", "key"))
    )
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    ours, theirs = socket.socketpair()
    with ours, theirs:
        accepting = threading.Thread(
            target=lambda: server.wrap_socket(theirs, server_side=True).detach(), daemon=True
        )
        accepting.start()
        with client.wrap_socket(ours) as secure:
            agreed = secure.version()
        accepting.join(10)
    return agreed


def test_of_all_ciphers_only_those_with_forward_secrecy_and_authentication_are_agreed_on(
    coordinator: Running,
) -> None:
    everything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    everything.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    names = [c["name"] for c in everything.get_ciphers() if c["protocol"] != "TLSv1.3"]
    assert len(names) > 60
    agreed = set()
    for name in names:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_ciphers(f"{name}:@SECLEVEL=0")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        agreed.add(handshake(coordinator, context))
    assert agreed - {None} == set(CIPHERS)


def test_sessions_are_neither_compressed_nor_ticketed_nor_http2(coordinator: Running) -> None:
    context = trust(coordinator)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2", "http/1.1"])
    with connected(coordinator, context=context) as secure:
        assert secure.compression() is None
        assert secure.session is not None
        assert not secure.session.has_ticket
        assert secure.selected_alpn_protocol() != "h2"


def test_certificate_is_of_the_consortium_for_these_names_and_this_use(
    coordinator: Running,
) -> None:
    with connected(coordinator) as secure:
        shown = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
    authority = x509.load_pem_x509_certificate(coordinator.authority.read_bytes())
    shown.verify_directly_issued_by(authority)
    extensions = shown.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert OUTSIDE_NAME in names.get_values_for_type(x509.DNSName)
    uses = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.SERVER_AUTH]
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert isinstance(shown.public_key(), ec.EllipticCurvePublicKey)
    assert isinstance(shown.signature_hash_algorithm, hashes.SHA256)
    lifetime = shown.not_valid_after_utc - shown.not_valid_before_utc
    assert lifetime <= dt.timedelta(days=398)


@pytest.mark.parametrize("trusted", ["system", "other name", "the engine's own"])
def test_certificate_is_refused_by_whoever_expects_another(
    coordinator: Running, trusted: str
) -> None:
    files = {"the engine's own": coordinator.folder / "engine" / "tls" / "ca.crt"}
    file = files.get(trusted, coordinator.authority)
    context = ssl.create_default_context(cafile=None if trusted == "system" else str(file))
    name = "other.example.org" if trusted == "other name" else OUTSIDE_NAME
    with (
        socket.create_connection(("127.0.0.1", coordinator.port), timeout=10) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(plain, server_hostname=name)


def test_one_address_that_asks_too_much_is_told_to_wait_and_others_are_served(
    coordinator: Running,
) -> None:
    transport = httpx.HTTPTransport(verify=trust(coordinator), local_address="127.0.0.6")
    url = f"https://127.0.0.1:{coordinator.port}/health"
    with httpx.Client(transport=transport, trust_env=False) as client:
        statuses = [client.get(url).status_code for _ in range(12 * REQUESTS_PER_S)]
    assert set(statuses) == {200, 503}
    assert statuses[: 10 * REQUESTS_PER_S] == 10 * REQUESTS_PER_S * [200]
    assert ask(coordinator, "GET", "/health", source="127.0.0.7")[0] == 200


def test_one_address_that_connects_too_often_is_told_to_wait(coordinator: Running) -> None:
    begun = b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS):
            open_one = stack.enter_context(connected(coordinator, source="127.0.0.8"))
            open_one.sendall(begun)
        time.sleep(0.3)
        assert ask(coordinator, "GET", "/health", source="127.0.0.8")[0] == 503
        assert ask(coordinator, "GET", "/health", source="127.0.0.9")[0] == 200


def test_the_engine_is_out_of_reach_of_other_hosts(coordinator: Running) -> None:
    with other_host() as (host_address, run):
        probe = (
            "import socket, sys\n"
            "for port in sys.argv[2:]:\n"
            "    s = socket.socket(); s.settimeout(3)\n"
            "    print(s.connect_ex((sys.argv[1], int(port))) == 0)\n"
        )
        ports = (str(coordinator.port), str(coordinator.engine_port))
        told = run(sys.executable, "-c", probe, host_address, *ports)
    assert told.split() == ["True", "False"]


@contextlib.contextmanager
def other_host() -> Iterator[tuple[str, object]]:
    """A network namespace joined to this one by a cable; skips where that is not allowed."""
    ip = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin")
    name = f"vultus{threading.get_native_id() % 10_000}"
    number = threading.get_native_id() % 250 + 1
    here, there = f"10.213.{number}.1", f"10.213.{number}.2"

    def call(*words: str) -> str:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout

    if ip is None:
        pytest.skip("the program ip is not installed")
    with contextlib.ExitStack() as stack:
        try:
            call(ip, "netns", "add", name)
            stack.callback(call, ip, "netns", "delete", name)
            call(ip, "link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b")
        except (subprocess.CalledProcessError, OSError):
            pytest.skip("network namespaces need root")
        stack.callback(call, ip, "link", "delete", f"{name}a")
        call(ip, "link", "set", f"{name}b", "netns", name)
        call(ip, "addr", "add", f"{here}/24", "dev", f"{name}a")
        call(ip, "link", "set", f"{name}a", "up")
        call(ip, "-n", name, "addr", "add", f"{there}/24", "dev", f"{name}b")
        call(ip, "-n", name, "link", "set", f"{name}b", "up")
        yield here, lambda *words: call(ip, "netns", "exec", name, *words)


def test_clients_that_trickle_are_cut_off(slow: dict[str, SlowClient]) -> None:
    for client in slow.values():
        client.join(60)
    # What nginx was told, and what a busy machine may add.
    assert 9 < slow["header"].cut_off_after_s < 20
    assert 14 < slow["body"].cut_off_after_s < 30


class Healthy(http.server.BaseHTTPRequestHandler):
    """Answers as the engine would."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def pretended_engine(tls: Path) -> Iterator[int]:
    """A server with the certificate in a folder; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls / "server.crt", tls / "server.key")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        serving_it = threading.Thread(target=server.serve_forever, daemon=True)
        serving_it.start()
        yield server.server_address[1]
        server.shutdown()
        serving_it.join(10)


@needs_nginx
@pytest.mark.parametrize(("whose", "status"), [("its own", b"200"), ("another", b"502")])
def test_proxy_speaks_with_no_engine_but_its_own(tmp_path: Path, whose: str, status: bytes) -> None:
    for name in ("outer", "its own", "another"):
        CertificateAuthority.create(tmp_path / name).issue_server(["localhost", "127.0.0.1"])
    outer = tmp_path / "outer"
    port = free_port()
    with pretended_engine(tmp_path / whose) as upstream:
        proxy = Proxy("127.0.0.1", port, outer / "server.crt", outer / "server.key",
                      f"127.0.0.1:{upstream}", tmp_path / "its own" / "ca.crt", tmp_path / "nginx",
                      requests_per_s=1, connections=1)  # fmt: skip
        supervisor = Supervisor([proxy.child({}, log=tmp_path / "proxy.log")])
        supervisor.start()
        try:
            wait_for(lambda: not is_free("127.0.0.1", port), seconds=20, what="nginx")
            context = ssl.create_default_context(cafile=str(outer / "ca.crt"))
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as secure,
            ):
                secure.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                assert secure.recv(64).split()[1] == status
        finally:
            supervisor.stop()


def some_proxy(folder: Path) -> Proxy:
    return Proxy("127.0.0.1", 8443, folder / "c", folder / "k", "127.0.0.1:1", folder / "a", folder,
                 requests_per_s=1, connections=1)  # fmt: skip


@pytest.mark.parametrize("character", ['"', "$", "\\", "\n"])
def test_folder_that_nginx_would_read_as_its_own_language_is_refused(
    tmp_path: Path, character: str
) -> None:
    with pytest.raises(ProxyError, match="folder without"):
        _ = some_proxy(tmp_path / f"a{character}b").configuration


def test_missing_nginx_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.proxy.shutil.which", lambda *_, **__: None)
    with pytest.raises(ProxyError, match="nginx-light"):
        find_nginx()


def test_silence_is_not_health(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = silent.getsockname()
    assert not is_healthy(address, "")


def test_engine_is_never_shown_without_a_proxy(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "co", OUTSIDE_NAME, proxy="none")
    with pytest.raises(ConfigError, match=r"does not ask who calls.*coordinator\.toml"):
        open_workspace(folder)


@pytest.mark.parametrize(("listen", "proxied"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_settings_of_earlier_versions_mean_what_is_safe(
    tmp_path: Path, listen: str, proxied: bool
) -> None:
    folder = make_folder(tmp_path / "co")
    text = f'[coordinator]\naddress = "x:8443"\nlisten = "{listen}"\nport = 8443\n'
    (folder / "coordinator.toml").write_text(text)
    assert open_workspace(folder).settings.behind_nginx is proxied
