"""systemd units: their text escaped as systemd reads it, and what every one of them gives up.

Source:
    systemd.exec(5), systemd.syntax(7).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from privacy.vault import write_atomic
from shared_models.console import InputError

_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_SCRATCH = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - places that a unit hides, none is written

_HARDENING = """\
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome={home}
PrivateTmp={private_tmp}
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RemoveIPC=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service landlock_create_ruleset landlock_add_rule landlock_restrict_self
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
"""


@dataclass(frozen=True)
class Unit:
    """One file for ``/etc/systemd/system``."""

    name: str
    text: str


def write_units(units: Sequence[Unit], folder: Path) -> list[Path]:
    """Write units into a folder, readable by all, as systemd wants them."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for unit in units:
        path = folder / unit.name
        write_atomic(path, unit.text.encode())
        path.chmod(0o644)
        written.append(path)
    return written


def quote_command(words: Iterable[str]) -> str:
    r"""Words as ``ExecStart=`` reads them.

    >>> print(quote_command(["/opt/a b/run", "50%", "$HOME"]))
    "/opt/a b/run" "50%%" "$$HOME"
    """
    return " ".join(_quoted(word).replace("$", "$$") for word in words)


def quote_paths(paths: Iterable[str]) -> str:
    r"""Paths as a list such as ``InaccessiblePaths=`` reads them.

    >>> print(quote_paths(['/srv/my "best" videos', "-/srv/b"]))
    "/srv/my \"best\" videos" "-/srv/b"
    """
    return " ".join(_quoted(path) for path in paths)


def plain_word(word: str) -> str:
    """A word without line breaks, with systemd's own placeholders made harmless.

    Raises:
        InputError: If a character of it cannot be printed.
    """
    if not word.isprintable():
        msg = (
            f"Expected a path or name of printable characters for a unit, got {word!r}: rename it."
        )
        raise InputError(msg)
    return word.replace("%", "%%")


def harden(visible: Sequence[Path], *, keep_homes: bool = False) -> str:
    """What every unit gives up; homes and places for temporary files are hidden where possible.

    Args:
        visible: Places that the unit has to see.
        keep_homes: Keep the homes readable, whatever ``visible`` says.
    """
    return _HARDENING.format(
        home="read-only" if keep_homes or _lies_in(_HOMES, visible) else "yes",
        private_tmp="no" if _lies_in(_SCRATCH, visible) else "yes",
    )


def _lies_in(places: Iterable[Path], paths: Iterable[Path]) -> bool:
    return any(path.resolve().is_relative_to(place) for place in places for path in paths)


def _quoted(word: str) -> str:
    escaped = plain_word(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
