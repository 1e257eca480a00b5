"""Who is signed in, in memory alone; a restart, a new password or eight hours end a session."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

LASTS_S = 8 * 3600.0
MOST_OPEN = 64
TOKEN_BYTES = 32


@dataclass(frozen=True)
class _Session:
    until_s: float
    password: str


class Sessions:
    """Open sessions, by the hash of their token.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(TOKEN_BYTES)
        self._open: OrderedDict[str, _Session] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, password: str) -> str:
        """The token of a new session; the oldest ends if there are too many.

        Args:
            password: What tells this password from a later one.
        """
        token = new_token()
        with self._lock:
            self._open[_digest(token)] = _Session(self._clock() + LASTS_S, password)
            while len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        return token

    def holds(self, token: str, password: str) -> bool:
        """Whether a token belongs to a session that is open, under the password of now."""
        with self._lock:
            session = self._open.get(_digest(token))
        return (
            session is not None and session.until_s > self._clock() and session.password == password
        )

    def end(self, token: str) -> None:
        """Sign out."""
        with self._lock:
            self._open.pop(_digest(token), None)

    def form_proof(self, cookie: str) -> str:
        """What a form must carry to be believed to come from a page that this process made.

        Args:
            cookie: Token in the cookie of whoever was shown the form.
        """
        return hmac.new(self._secret, cookie.encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    def believes(self, cookie: str, proof: str) -> bool:
        """Whether a form carries the proof that belongs to the cookie."""
        expected = self.form_proof(cookie).encode("ascii")
        return bool(cookie) and hmac.compare_digest(expected, proof.encode("utf-8", "replace"))


def new_token() -> str:
    """A random token for a cookie."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
