"""A dashboard from the command line: its password, its address, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from shared_models.console import InputError, Screen
from shared_models.web.pages import Dashboard, Door, make_app
from shared_models.web.passwords import SHORTEST, read_password, set_password
from shared_models.web.place import Place

if TYPE_CHECKING:
    import socket

    from starlette.types import ASGIApp

T = TypeVar("T")

MOST_CONNECTIONS = 64
KEEP_ALIVE_S = 15


def ask_password(screen: Screen, file: Path) -> None:
    """Have a person choose the password, or take it from the first line of stdin.

    Raises:
        InputError: If it is too weak.
    """
    if sys.stdin.isatty():
        screen.say(f"The password of this dashboard: at least {SHORTEST} characters.")
        chosen = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        chosen = sys.stdin.readline().rstrip("\r\n")
    set_password(file, chosen)
    screen.say(f"The password's hash is in {file}, closed to other accounts.")


def need_password(screen: Screen, file: Path, command: str) -> None:
    """Have a password: the one that was set, or one that is chosen now.

    Args:
        screen: Where people read.
        file: Holds the hash.
        command: What sets a password, for the message.

    Raises:
        InputError: If there is none and nobody to ask, or it cannot be read.
    """
    if file.exists():
        read_password(file)
        return
    if not sys.stdin.isatty():
        msg = f"Expected a password in {file}, got none: set one with '{command} --set-password'."
        raise InputError(msg)
    ask_password(screen, file)


def serve(screen: Screen, dashboard: Dashboard[T], place: Place) -> None:
    """Answer browsers until Ctrl-C or SIGTERM.

    Raises:
        InputError: If the port is taken.
    """
    with place.bind() as listening:
        port = int(listening.getsockname()[1])
        app = make_app(dashboard, Door(place.hosts(port), place.is_secure))
        dashboard.snapshot.look()
        screen.say(f"Dashboard of {dashboard.heading}: {place.url(port)}")
        screen.say("It shows and changes nothing. Stop with Ctrl-C.")
        if place.is_open and not place.is_secure:
            screen.warn("other machines can reach it without TLS: anybody on the way reads along.")
        screen.next(f"open {place.url(port)} in a browser on this machine")
        with _stopped_by_signals():
            answer_requests(app, place, listening)
    dashboard.snapshot.close()
    screen.say("The dashboard was stopped.")


def answer_requests(app: ASGIApp, place: Place, listening: socket.socket) -> None:
    """Answer until the process is told to end.

    Args:
        app: From :func:`shared_models.web.pages.make_app`.
        place: Gives certificate and key.
        listening: From :meth:`Place.bind`.
    """
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=2,
        ssl_certfile=place.certificate,
        ssl_keyfile=place.key,
    )
    uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and Ctrl-C end the context, and are no failure."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)
