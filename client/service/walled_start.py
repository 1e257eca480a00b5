"""Starting programs behind the wall, and saying where it stands."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from client.service.reachability import Address
from client.service.wall import Boundary, find_boundary, landlock_version
from shared_models.console import DONE, CommandError, RefusedError, Screen

POLL_S = 0.1
NAMED = 3
WALL = "client.service.wall"
REACHABILITY = "client.service.reachability"


def decide_wall(boundary: Boundary, screen: Screen, *, required: bool) -> bool:
    """Whether the service runs behind the wall; told to the person who starts it.

    Args:
        boundary: Where the wall has to stand.
        screen: Told what is walled off, or why not.
        required: Whether to refuse what cannot be walled off.

    Raises:
        RefusedError: If the wall is required, and the kernel has none or a video lies where no
            wall can stand.
    """
    gaps = find_gaps(boundary)
    if gaps and required:
        msg = "\n".join(gaps) + '\n[service] wall = "required" in site.toml forbids to start.'
        raise RefusedError(msg)
    for gap in gaps:
        screen.warn(gap)
    if not landlock_version():
        return False
    places = ", ".join(str(path) for path in boundary.outside[:NAMED])
    more = f" and {len(boundary.outside) - NAMED} more" if len(boundary.outside) > NAMED else ""
    screen.say(f"The kernel keeps this service from reading {places}{more}.")
    return True


def find_gaps(boundary: Boundary) -> list[str]:
    """Where the wall cannot stand, one sentence with its remedy each."""
    gaps = []
    if not landlock_version():
        gaps.append(
            "Expected a kernel with Landlock (Linux 5.13 or newer, 'landlock' in "
            "/sys/kernel/security/lsm), got none: the videos are not walled off from this service. "
            "Run it as a user who cannot read them, or under the unit of 'vultus-site units'."
        )
    if boundary.exposed:
        gaps.append(
            f"{len(boundary.exposed)} videos lie in folders that this service lives on, such as "
            f"{boundary.exposed[0].parent}, and cannot be walled off: move them to a folder of "
            "their own and correct the column file."
        )
    return gaps


def module_command(module: str, site_toml: Path, *, walled: bool) -> tuple[str, ...]:
    """Words that start a module of ours, behind the wall of a site if asked."""
    python = (sys.executable, "-m")
    return (*python, WALL, str(site_toml), "--", module) if walled else (*python, module)


def await_coordinator(
    address: Address,
    authority: Path,
    *,
    command: tuple[str, ...],
    environment: Mapping[str, str],
    stopping: threading.Event,
) -> None:
    """Wait, not for long, until the coordinator answers; a process behind the wall asks.

    Args:
        address: Where it should listen.
        authority: CA certificate from the kit, PEM.
        command: What starts :mod:`client.service.reachability`.
        environment: Variables of that process.
        stopping: Ends the wait early.

    Raises:
        CommandError: If it does not answer, or not as itself; with the remedy.
    """
    asking = subprocess.Popen(
        [*command, str(address), str(authority)],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with asking:
        while asking.poll() is None and not stopping.wait(POLL_S):
            pass
        if asking.poll() is None:
            asking.terminate()
            return
        told = asking.stderr.read() if asking.stderr else ""
    if asking.returncode != DONE:
        raise CommandError(told.strip(), exit_code=asking.returncode)


class BoundaryWatch:
    """Notices videos that came to lie in front of a wall that stands already.

    Args:
        site_toml: The site's configuration.
        boundary: Where the wall stands.
    """

    def __init__(self, site_toml: Path, boundary: Boundary) -> None:
        self._site_toml = site_toml
        self._known = set(boundary.outside)
        self._files = (site_toml, *boundary.needed[:3])
        self._changed = self._changes()

    def look(self) -> list[Path]:
        """Places of videos that were named since, each told once."""
        changed = self._changes()
        if changed == self._changed:
            return []
        self._changed = changed
        # A file that is being written is looked at again when it is whole.
        with suppress(OSError, ValueError):
            outside = set(find_boundary(self._site_toml).outside)
            new = sorted(
                p for p in outside - self._known if not self._known.intersection(p.parents)
            )
            self._known |= outside
            return new
        return []

    def _changes(self) -> list[float]:
        return [file.stat().st_mtime if file.exists() else 0.0 for file in self._files]
