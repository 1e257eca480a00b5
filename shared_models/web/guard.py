"""What every request and every answer of a dashboard goes through, before anything else.

Guarantees:
    A request whose ``Host`` is not one of this dashboard's names is not answered: a page of
    somebody else whose name was pointed at this machine (DNS rebinding) gets nothing. No answer may
    be framed, cached, taken for another type, or load anything from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS: dict[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "X-Robots-Tag": "noindex",
}
_RAW = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in HEADERS.items()]
_NAMES = frozenset(name for name, _ in _RAW)
_MISDIRECTED = (
    b"421 Misdirected Request\nExpected one of the names under which this dashboard was started, "
    b"got another one in the Host header.\n"
)


class Guard:
    """Lets through requests for this host alone, and puts the headers on every answer.

    Args:
        app: What answers.
        hosts: Names with port, as browsers send them.
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower().encode("ascii") for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [pair for pair in message.get("headers", []) if pair[0] not in _NAMES]
                message = {**message, "headers": [*own, *_RAW]}
            await send(message)

        named = [value.lower() for name, value in scope["headers"] if name == b"host"]
        if len(named) == 1 and named[0] in self._hosts:
            await self._app(scope, receive, send_guarded)
        else:
            await _refuse(send_guarded)


async def _refuse(send: Send) -> None:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(_MISDIRECTED)).encode("ascii")),
    ]
    await send({"type": "http.response.start", "status": 421, "headers": headers})
    await send({"type": "http.response.body", "body": _MISDIRECTED})
