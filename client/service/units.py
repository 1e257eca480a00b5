"""systemd units of a site: the service behind its wall, the extraction without a network.

Both run as the same account, which owns the site folder; what separates them is what each unit
takes away. Where a group is named for the videos, only the extraction belongs to it, so that the
account of the service could not read them even without a wall.

Source:
    systemd.exec(5), systemd.service(5), systemd.syntax(7).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.service.wall import find_boundary
from client.site import Site
from privacy.vault import write_atomic
from shared_models.console import InputError
from shared_models.supervision import program

HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
SCRATCH = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - places that a unit hides, none is written

SERVICE = """\
# Takes part in the study "{study}". Written by 'vultus-site units'; write it anew after an upgrade.
[Unit]
Description=Vultus site {site_id}: takes part in the study {study}
Wants=network-online.target
After=network-online.target time-sync.target
# An unreachable coordinator is no reason to give up.
StartLimitIntervalSec=0

[Service]
Type=exec
User={user}
ExecStart={start}
Restart=on-failure
RestartSec=30
# Wrong input and refusals need a person.
RestartPreventExitStatus=2 3
TimeoutStopSec=60
# The service cannot read videos, whatever it runs.
InaccessiblePaths={outside}
ReadWritePaths={state}
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
# No MemoryDenyWriteExecute here: PyTorch generates machine code for its convolutions.
{devices}
{hardening}
[Install]
WantedBy=multi-user.target
"""

EXTRACTION = """\
# Turns new videos into encrypted features. Written by 'vultus-site units'.
[Unit]
Description=Vultus site {site_id}: extracts features from new videos
RequiresMountsFor={mounts}

[Service]
Type=oneshot
User={user}
{group}ExecStart={extract}
Nice=10
IOSchedulingClass=idle
# What opens videos has no network.
PrivateNetwork=yes
RestrictAddressFamilies=AF_UNIX
IPAddressDeny=any
ReadOnlyPaths={outside}
ReadWritePaths={store} {state}
MemoryDenyWriteExecute=yes
PrivateDevices=yes
DevicePolicy=closed
{hardening}"""

TIMER = """\
# Extracts new videos every night.
[Unit]
Description=Vultus site {site_id}: nightly extraction

[Timer]
OnCalendar=*-*-* 01:30:00
RandomizedDelaySec=30min
Persistent=true

[Install]
WantedBy=timers.target
"""

HARDENING = """\
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


def make_units(site: Site, *, user: str, videos_group: str | None = None) -> list[Unit]:
    """Service, extraction and timer with this site's places and this environment's program.

    Args:
        site: The opened site.
        user: The account that owns the site folder.
        videos_group: Group that may read the videos; only the extraction gets it.

    Raises:
        InputError: If a path or name cannot stand in a unit.
    """
    script = program("vultus-site")
    boundary = find_boundary(site.config_file)
    videos = [_optional(path) for path in boundary.outside]
    needed = [site.folder, script, *boundary.needed, Path(sys.prefix), Path(sys.base_prefix)]
    hardening = HARDENING.format(
        # A home that holds the site or this program cannot be hidden; the extraction may also
        # find the face landmarker bundle in the account's cache.
        home="read-only" if _lies_in(HOMES, needed) or not site.paths.face_model else "yes",
        private_tmp="no" if _lies_in(SCRATCH, [*needed, *boundary.outside]) else "yes",
    )
    on_cpu = site.config.device.torch == "cpu"
    fields = {
        "site_id": site.id,
        "study": _plain(site.consortium.config.study.name),
        "user": _plain(user),
        "group": f"SupplementaryGroups={_plain(videos_group)}\n" if videos_group else "",
        "start": quote_command([str(script), "start", str(site.folder)]),
        "extract": quote_command([str(script), "extract", str(site.folder)]),
        "outside": quote_paths(videos),
        "mounts": quote_paths(str(path) for path in boundary.outside),
        "store": quote_paths([str(site.paths.store)]),
        "state": quote_paths([str(site.paths.state)]),
        "devices": "PrivateDevices=yes\nDevicePolicy=closed" if on_cpu else "PrivateDevices=no",
        "hardening": hardening,
    }
    return [
        Unit(f"vultus-site-{site.id}.service", SERVICE.format(**fields)),
        Unit(f"vultus-extract-{site.id}.service", EXTRACTION.format(**fields)),
        Unit(f"vultus-extract-{site.id}.timer", TIMER.format(**fields)),
    ]


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


def _optional(path: Path) -> str:
    """A path that need not exist when the unit starts."""
    return f"-{path}"


def _quoted(word: str) -> str:
    escaped = _plain(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _plain(word: str) -> str:
    """A word without line breaks, with systemd's own placeholders made harmless."""
    if not word.isprintable():
        msg = (
            f"Expected a path or name of printable characters for a unit, got {word!r}: rename it."
        )
        raise InputError(msg)
    return word.replace("%", "%%")


def _lies_in(places: Iterable[Path], paths: Iterable[Path]) -> bool:
    return any(path.resolve().is_relative_to(place) for place in places for path in paths)
