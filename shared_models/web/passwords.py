"""The password of a dashboard: kept as a scrypt hash in a file that its owner alone can read.

Source:
    Percival and Josefsson 2016, RFC 7914 (scrypt); parameters as OWASP's Password Storage Cheat
    Sheet gives them (N = 2**17, r = 8, p = 1: 128 MiB and some tenths of a second a guess).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import stat
import threading
import unicodedata
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from privacy.vault import write_atomic
from shared_models.console import InputError

SHORTEST = 12
FEWEST_DIFFERENT = 5
LONGEST_BYTES = 1024
SALT_BYTES = 16
_ONE_AT_A_TIME = threading.Lock()
"""A guess takes 128 MiB: many at once must not take all memory."""


@dataclass(frozen=True)
class Cost:
    """How expensive a guess is.

    Attributes:
        n: Memory and time, a power of two; 128 * n * r bytes are used.
        r: Size of a block.
        p: Repetitions.
    """

    n: int = 1 << 17
    r: int = 8
    p: int = 1


@dataclass(frozen=True)
class Password:
    """A password that can be compared with, and not read.

    Attributes:
        cost: Of a guess.
        salt: Random, base64; another one each time a password is set.
        key: scrypt of the password, base64.
    """

    cost: Cost
    salt: str
    key: str

    def matches(self, guess: str) -> bool:
        """Whether a guess is the password; takes as long for a wrong one."""
        if len(guess.encode("utf-8", "replace")) > LONGEST_BYTES:
            return False
        derived = _derive(guess, base64.b64decode(self.salt), self.cost)
        return hmac.compare_digest(derived, base64.b64decode(self.key))


_KIND = TypeAdapter(Password)


def set_password(file: Path, password: str, *, cost: Cost | None = None) -> None:
    """Keep the hash of a password in a file of mode 0600, in place of an earlier one.

    Args:
        file: Where it is kept, in an existing folder.
        password: At least 12 characters, at least 5 of them different.
        cost: Of a guess; the default is for real use.

    Raises:
        InputError: If the password is too short, too uniform or too long.
    """
    _check(password)
    salt, chosen = secrets.token_bytes(SALT_BYTES), cost or Cost()
    made = Password(chosen, _text(salt), _text(_derive(password, salt, chosen)))
    write_atomic(file, _KIND.dump_json(made) + b"\n")


def read_password(file: Path) -> Password:
    """The password that a file keeps.

    Raises:
        InputError: If there is none, others can read it, or it is damaged.
    """
    remedy = "set it anew with --set-password"
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        content = file.read_bytes()
    except OSError as error:
        msg = f"Expected the dashboard's password in {file}, got {error.strerror}: {remedy}."
        raise InputError(msg) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        msg = f"Expected {file} to be closed to other accounts, got mode {mode:o}: {remedy}."
        raise InputError(msg)
    try:
        return _KIND.validate_json(content)
    except ValidationError as error:
        msg = f"Expected the hash of a password in {file}, got something else: {remedy}."
        raise InputError(msg) from error


def _check(password: str) -> None:
    if len(password.encode("utf-8", "replace")) > LONGEST_BYTES:
        msg = f"Expected a password of at most {LONGEST_BYTES} bytes, got a longer one."
        raise InputError(msg)
    if len(password) < SHORTEST:
        msg = f"Expected a password of at least {SHORTEST} characters, got {len(password)}."
        raise InputError(msg)
    if len(set(password)) < FEWEST_DIFFERENT:
        msg = f"Expected at least {FEWEST_DIFFERENT} different characters in the password."
        raise InputError(msg)


def _derive(password: str, salt: bytes, cost: Cost) -> bytes:
    # The same word typed on another keyboard may come as other code points.
    typed = unicodedata.normalize("NFC", password).encode("utf-8", "replace")
    with _ONE_AT_A_TIME:
        return hashlib.scrypt(
            typed, salt=salt, **asdict(cost), maxmem=256 * cost.n * cost.r, dklen=32
        )


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
