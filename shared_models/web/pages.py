"""The application of a dashboard: sign in, look, choose a language, sign out. Nothing else.

No request changes anything but who is signed in and in which language; no path of a request ever
becomes a path on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import parse_qs

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse

from shared_models.console import InputError
from shared_models.web.guard import Guard
from shared_models.web.passwords import Password, read_password
from shared_models.web.rendering import PACKAGE, choose_language, render
from shared_models.web.sessions import LASTS_S, Sessions, new_token
from shared_models.web.throttle import Throttle
from shared_models.wording import LANGUAGES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp

    from shared_models.web.snapshot import Snapshot

T = TypeVar("T")

LARGEST_FORM_BYTES = 8192
LANGUAGE_LASTS_S = 365 * 24 * 3600
REFRESH_S = 5
REFRESH_WITHOUT_SCRIPT_S = 30
STATIC = {
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Dashboard(Generic[T]):
    """What makes one dashboard another than the next.

    Attributes:
        name: Short name, which its cookies bear: ``coordinator`` or ``site``.
        heading: Name of what is shown, such as the study or the site; as it is, untranslated.
        package: Holds ``templates/content.html.j2`` and ``locale/``.
        password_file: Made by :func:`shared_models.web.passwords.set_password`.
        snapshot: What is shown.
        functions: What its templates call, by name.
    """

    name: str
    heading: str
    package: str
    password_file: Path
    snapshot: Snapshot[T]
    functions: Mapping[str, object] = field(default_factory=dict)

    def password(self) -> Password:
        """The password of now.

        Raises:
            InputError: If it cannot be read.
        """
        return read_password(self.password_file)


@dataclass(frozen=True)
class Door:
    """Who may come in, and how the cookies are named.

    Attributes:
        hosts: Names with port that the ``Host`` header may bear.
        is_secure: Whether cookies are to be sent over TLS alone.
        sessions: Who is signed in.
        throttle: Who has to wait.
    """

    hosts: tuple[str, ...]
    is_secure: bool
    sessions: Sessions = field(default_factory=Sessions)
    throttle: Throttle = field(default_factory=Throttle)


def make_app(dashboard: Dashboard[T], door: Door) -> ASGIApp:
    """The application, behind its guard.

    Args:
        dashboard: What is shown.
        door: Who may see it.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    pages = _Pages(dashboard, door)
    routes: Iterable[tuple[str, str, Callable[..., object]]] = (
        ("GET", "/", pages.show),
        ("GET", "/content", pages.show_content),
        ("GET", "/login", pages.ask),
        ("POST", "/login", pages.sign_in),
        ("POST", "/logout", pages.sign_out),
        ("GET", "/language/{language}", pages.choose),
        ("GET", "/static/{name}", pages.send_file),
    )
    for method, path, answer in routes:
        app.add_api_route(path, answer, methods=[method], response_model=None)
    app.add_exception_handler(404, pages.tell_missing)
    app.add_exception_handler(405, pages.tell_missing)
    app.add_exception_handler(500, pages.tell_failure)
    return Guard(app, hosts=door.hosts)


class _Pages(Generic[T]):
    """The answers of the application."""

    def __init__(self, dashboard: Dashboard[T], door: Door) -> None:
        self._dashboard = dashboard
        self._door = door
        prefix = "__Host-" if door.is_secure else ""
        # Cookies know no ports: two dashboards on one machine must not share a name.
        port = door.hosts[0].rpartition(":")[2]
        self._session, self._visit, self._language = (
            f"{prefix}vultus-{dashboard.name}-{port}-{what}"
            for what in ("session", "visit", "language")
        )

    async def show(self, request: Request) -> Response:
        """The page, or the way to the login."""
        token = await run_in_threadpool(self._signed_in, request)
        if token is None:
            return RedirectResponse("/login", status_code=303)
        context = {**await self._figures(), "proof": self._door.sessions.form_proof(token)}
        return self._page(request, "page.html.j2", context)

    async def show_content(self, request: Request) -> Response:
        """The part of the page that changes."""
        if await run_in_threadpool(self._signed_in, request) is None:
            return Response(status_code=401)
        return self._page(request, "fragment.html.j2", await self._figures())

    async def ask(self, request: Request) -> Response:
        """The form that asks for the password."""
        if await run_in_threadpool(self._signed_in, request) is not None:
            return RedirectResponse("/", status_code=303)
        return self._form(request)

    async def sign_in(self, request: Request) -> Response:
        """Compare the password; a cookie if it is the one."""
        form = await _read_form(request)
        visit = request.cookies.get(self._visit, "")
        if not _is_own(request) or not self._door.sessions.believes(visit, form.get("proof", "")):
            return self._form(request, "stale", status=403)
        address = request.client.host if request.client else ""
        if wait_s := self._door.throttle.claim(address):
            answer = self._form(request, "wait", status=429, wait_s=round(wait_s + 0.5))
            answer.headers["Retry-After"] = str(round(wait_s + 0.5))
            return answer
        return await run_in_threadpool(self._compare, request, form.get("password", ""), address)

    async def sign_out(self, request: Request) -> Response:
        """End the session."""
        form = await _read_form(request)
        token = request.cookies.get(self._session, "")
        if _is_own(request) and self._door.sessions.believes(token, form.get("proof", "")):
            self._door.sessions.end(token)
        answer = RedirectResponse("/login", status_code=303)
        answer.delete_cookie(
            self._session, secure=self._door.is_secure, httponly=True, samesite="strict"
        )
        return answer

    async def choose(self, request: Request, language: str) -> Response:
        """Keep the language that somebody chose; nothing is answered in another one."""
        if language not in LANGUAGES:
            return self._page(request, "missing.html.j2", {}, status=404)
        answer = RedirectResponse("/", status_code=303)
        self._set_cookie(answer, self._language, language, lasts_s=LANGUAGE_LASTS_S)
        return answer

    async def send_file(self, request: Request, name: str) -> Response:
        """Style, script or icon; a name outside the short list is never looked for on the disk."""
        if name not in STATIC:
            return self._page(request, "missing.html.j2", {}, status=404)
        content = (files(PACKAGE) / "static" / name).read_bytes()
        return Response(content, media_type=STATIC[name])

    async def tell_missing(self, request: Request, _error: Exception) -> Response:
        """There is nothing at this address."""
        return self._page(request, "missing.html.j2", {}, status=404)

    async def tell_failure(self, request: Request, _error: Exception) -> Response:
        """Something is wrong that no file explains; the log has it, the page has no detail."""
        return self._page(request, "failure.html.j2", {}, status=500)

    def _compare(self, request: Request, guess: str, address: str) -> Response:
        try:
            password = self._dashboard.password()
        except InputError as error:
            return self._form(request, "unset", status=503, fault=str(error))
        if not password.matches(guess):
            return self._form(request, "wrong", status=403)
        self._door.throttle.forgive(address)
        answer = RedirectResponse("/", status_code=303)
        token = self._door.sessions.begin(password.key)
        self._set_cookie(answer, self._session, token, lasts_s=round(LASTS_S))
        return answer

    def _form(
        self, request: Request, problem: str = "", *, status: int = 200, **more: object
    ) -> Response:
        visit = request.cookies.get(self._visit) or new_token()
        proof = self._door.sessions.form_proof(visit)
        context = {"problem": problem, "proof": proof, "wait_s": 0, "fault": "", **more}
        answer = self._page(request, "login.html.j2", context, status=status)
        self._set_cookie(answer, self._visit, visit)
        return answer

    def _signed_in(self, request: Request) -> str | None:
        """The token of the session that a request belongs to."""
        token = request.cookies.get(self._session, "")
        if not token:
            return None
        try:
            password = self._dashboard.password()
        except InputError:
            return None
        return token if self._door.sessions.holds(token, password.key) else None

    async def _figures(self) -> dict[str, object]:
        moment = await run_in_threadpool(self._dashboard.snapshot.look)
        return {"view": moment.value, "made_at": moment.at}

    def _page(
        self, request: Request, template: str, context: Mapping[str, object], *, status: int = 200
    ) -> HTMLResponse:
        language = choose_language(
            request.cookies.get(self._language), request.headers.get("accept-language")
        )
        shared = {
            "heading": self._dashboard.heading,
            "account": f"vultus-{self._dashboard.name}",
            "refresh_s": REFRESH_S,
            "slow_refresh_s": REFRESH_WITHOUT_SCRIPT_S,
        }
        text = render(
            self._dashboard.package,
            language,
            template,
            {**shared, **self._dashboard.functions, **context},
        )
        return HTMLResponse(text, status_code=status)

    def _set_cookie(
        self, answer: Response, name: str, value: str, *, lasts_s: int | None = None
    ) -> None:
        answer.set_cookie(
            name, value, max_age=lasts_s, path="/", secure=self._door.is_secure,
            httponly=True, samesite="strict",
        )  # fmt: skip


def _is_own(request: Request) -> bool:
    """Whether nothing that the browser says of a form speaks against its being our own.

    Without a referrer, which our pages forbid, browsers call the origin of a form "null".
    """
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site")
    own = f"{request.url.scheme}://{request.headers['host']}"
    return origin in {None, "null", own} and site in {None, "same-origin", "none"}


async def _read_form(request: Request) -> dict[str, str]:
    """The fields of a small form; nothing of one that is larger."""
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > LARGEST_FORM_BYTES:
            return {}
    fields = parse_qs(content.decode("utf-8", "replace"))
    return {name: values[0] for name, values in fields.items()}
