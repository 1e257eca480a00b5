"""The reverse proxy before the engine: what it lets through, and nginx configured to do so.

The engine answers sites, operators and its own helper programs on one port and asks only the sites
who they are. So it listens on loopback, and a proxy shows the outside the ten requests that a site
makes and the health check, each by its exact bytes. Everything else is answered 404 there and never
reaches the engine: other paths, other spellings of the same paths, other methods.

**Limits.** Requests larger than 8 MiB are refused (the engine sends arrays in chunks of 5 MiB), as
are requests that trickle in. Requests and connections of one address are bounded; past the bound
the answer is 503, which sites take as "try again", where 429 would end them.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from privacy.vault import write_atomic
from shared_models.console import CommandError
from shared_models.supervision import Child

FLEET_REQUESTS = (
    "activate-node",
    "confirm-message-received",
    "deactivate-node",
    "get-fab",
    "get-run",
    "pull-messages",
    "pull-object",
    "push-messages",
    "push-object",
    "send-node-heartbeat",
)
"""All that a site asks of the engine, each a POST below ``/v1/fleet/``."""

CIPHERS = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
)
"""What TLS 1.2 may use: forward secrecy and authenticated encryption; TLS 1.3 has no others."""

LARGEST_BODY = "8m"
SYSTEM_FOLDERS = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/sbin:/opt/homebrew/bin"
ANSWERS_WITHIN_S = 3.0

PASSED = """\
    # Exact bytes: another spelling of the same path is another path.
    map "$request_method $request_uri" $passes {
        default 0;
        "~^POST /v1/fleet/(@{requests})$" 1;
        "~^GET /health$" 1;
    }
"""

NGINX = """\
# Written by 'vultus-coordinator start' at each start; changes here are lost.
daemon off;
pid "@{folder}/nginx.pid";
error_log stderr warn;
worker_processes 2;
worker_rlimit_nofile 4096;
@{account}
events {
    worker_connections 1024;
}

http {
    # Who asked what and when; never a body.
    log_format plain '$time_iso8601 $remote_addr "$request" $status $request_length '
                     '$bytes_sent $request_time $ssl_protocol';
    # Nor that this machine looks whether all is well, every few seconds.
    map "$remote_addr $request_uri" $is_logged {
        default 1;
        "127.0.0.1 /health" 0;
    }
    access_log /dev/stdout plain if=$is_logged;
    server_tokens off;
    default_type text/plain;
    types { }

    client_body_temp_path "@{folder}/body";
    proxy_temp_path "@{folder}/proxy";
    fastcgi_temp_path "@{folder}/unused";
    uwsgi_temp_path "@{folder}/unused";
    scgi_temp_path "@{folder}/unused";

    limit_req_zone $binary_remote_addr zone=requests:4m rate=@{requests_per_s}r/s;
    limit_req_status 503;
    limit_conn_zone $binary_remote_addr zone=connections:4m;
    limit_conn_status 503;

@{passed}
    upstream engine {
        server @{upstream};
        keepalive 32;
        # The engine closes idle connections after 5 s; the proxy has to be first.
        keepalive_timeout 3s;
    }

    server {
        listen @{listen} ssl;
        ssl_certificate "@{certificate}";
        ssl_certificate_key "@{key}";
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_ciphers @{ciphers};
        ssl_ecdh_curve X25519:prime256v1:secp384r1;
        ssl_session_cache shared:tls:1m;
        ssl_session_timeout 10m;
        ssl_session_tickets off;

        # The header in all; the body and the answer between two reads or writes.
        client_header_timeout 10s;
        client_body_timeout 15s;
        send_timeout 20s;
        keepalive_timeout 30s;
        reset_timedout_connection on;
        client_max_body_size @{largest};
        large_client_header_buffers 4 8k;

        limit_req zone=requests burst=@{burst} nodelay;
        limit_conn connections @{connections};

        if ($passes = 0) {
            return 404 "not found\\n";
        }

        location / {
            proxy_pass https://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $proxy_host;
            # In place of whatever the outside says of itself.
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto https;
            proxy_set_header Forwarded "";
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate "@{upstream_authority}";
            proxy_ssl_name localhost;
            proxy_ssl_server_name on;
            proxy_ssl_protocols TLSv1.3;
            proxy_connect_timeout 5s;
            proxy_read_timeout 60s;
            proxy_max_temp_file_size 0;
            proxy_next_upstream off;
        }
    }
}
"""


class ProxyError(CommandError):
    """The reverse proxy cannot be set up."""


class _Blanks(Template):
    """Blanks written ``@{name}``, since nginx writes its own variables with a dollar."""

    delimiter = "@"


@dataclass(frozen=True)
class Proxy:
    """A reverse proxy before the engine.

    Attributes:
        listen: Interface that sites reach.
        port: Port that sites reach.
        certificate: The coordinator's certificate, PEM, that sites verify.
        key: Its private key.
        upstream: The engine, ``host:port`` on loopback.
        upstream_authority: What the engine's own certificate is verified with, PEM.
        folder: For the configuration and temporary files.
        requests_per_s: Requests a second from one address; ten times as many may come at once.
        connections: Connections at a time from one address.
    """

    listen: str
    port: int
    certificate: Path
    key: Path
    upstream: str
    upstream_authority: Path
    folder: Path
    requests_per_s: int
    connections: int

    @property
    def configuration(self) -> str:
        """The whole configuration for nginx.

        Raises:
            ProxyError: If a path holds a character that nginx would read as its own.
        """
        blanks = {
            "account": _account_line(),
            "burst": 10 * self.requests_per_s,
            "ciphers": ":".join(CIPHERS),
            "certificate": _quotable(self.certificate),
            "connections": self.connections,
            "folder": _quotable(self.folder),
            "key": _quotable(self.key),
            "largest": LARGEST_BODY,
            "listen": join_address(self.listen, self.port),
            "passed": passed_requests(),
            "requests_per_s": self.requests_per_s,
            "upstream": self.upstream,
            "upstream_authority": _quotable(self.upstream_authority),
        }
        return _Blanks(NGINX).substitute(blanks)

    def child(self, environment: Mapping[str, str], *, log: Path) -> Child:
        """The proxy as a process to keep alive, its configuration written.

        Raises:
            ProxyError: If nginx is not installed.
        """
        nginx = find_nginx()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self.folder / "nginx.conf"
        write_atomic(file, self.configuration.encode())
        command = (str(nginx), "-e", "stderr", "-p", str(self.folder), "-c", str(file))
        return Child("proxy", command, environment, log)


def passed_requests() -> str:
    """The requests that pass, as nginx writes it; for a proxy of one's own, too."""
    return _Blanks(PASSED).substitute(requests="|".join(FLEET_REQUESTS)).rstrip()


def find_nginx() -> Path:
    """The program nginx.

    Raises:
        ProxyError: If it is not installed.
    """
    # An ordinary account's PATH often lacks the folders of system programs.
    if found := shutil.which("nginx") or shutil.which("nginx", path=SYSTEM_FOLDERS):
        return Path(found)
    msg = (
        "Expected the program nginx on this machine, got none: install the package nginx "
        "(Debian, Ubuntu: apt-get install nginx-light; Fedora, RHEL: dnf install nginx), or write "
        'proxy = "none" into coordinator.toml and put a proxy of your own before the engine.'
    )
    raise ProxyError(msg)


def is_healthy(address: tuple[str, int], authorities: str) -> bool:
    """Whether a GET of ``/health`` is answered well over TLS.

    Args:
        address: Host and port on this machine; the certificate has to name ``localhost``.
        authorities: CA certificates, PEM.
    """
    try:
        trust = ssl.create_default_context(cadata=authorities)
        with (
            socket.create_connection(address, timeout=ANSWERS_WITHIN_S) as plain,
            trust.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            secure.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return secure.recv(64).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def join_address(host: str, port: int) -> str:
    """``host:port``, with brackets around IPv6.

    >>> join_address("::", 8443)
    '[::]:8443'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _quotable(path: Path) -> str:
    """A path that may stand between quotes in nginx's configuration."""
    if faults := set(str(path)) & set('"$\\\n'):
        msg = f"Expected a folder without {' '.join(sorted(faults))}, got {path}: nginx cannot."
        raise ProxyError(msg)
    return str(path)


def _account_line() -> str:
    """Under root nginx would give its temporary files to an account that cannot reach them."""
    return f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
