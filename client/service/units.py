"""systemd units of a site: the service behind its wall, the extraction without a network.

Both run as the same account, which owns the site folder; what separates them is what each unit
takes away. Where a group is named for the videos, only the extraction belongs to it, so that the
account of the service could not read them even without a wall.

Source:
    systemd.exec(5), systemd.service(5), systemd.syntax(7).
"""

from __future__ import annotations

import sys
from pathlib import Path

from client.service.wall import find_boundary
from client.site import Site
from shared_models.supervision import program
from shared_models.systemd import Unit, harden, plain_word, quote_command, quote_paths

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
# A renewed identity key takes the place of the old one when the roster names it.
ReadWritePaths={state} {keys}
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
    hardening = harden(
        [*needed, *boundary.outside],
        # The extraction may also find the face landmarker bundle in the account's cache.
        keep_homes=not site.paths.face_model,
    )
    on_cpu = site.config.device.torch == "cpu"
    fields = {
        "site_id": site.id,
        "study": plain_word(site.consortium.config.study.name),
        "user": plain_word(user),
        "group": f"SupplementaryGroups={plain_word(videos_group)}\n" if videos_group else "",
        "start": quote_command([str(script), "start", str(site.folder)]),
        "extract": quote_command([str(script), "extract", str(site.folder)]),
        "outside": quote_paths(videos),
        "mounts": quote_paths(str(path) for path in boundary.outside),
        "store": quote_paths([str(site.paths.store)]),
        "state": quote_paths([str(site.paths.state)]),
        "keys": quote_paths([str(site.paths.keys)]),
        "devices": "PrivateDevices=yes\nDevicePolicy=closed" if on_cpu else "PrivateDevices=no",
        "hardening": hardening,
    }
    return [
        Unit(f"vultus-site-{site.id}.service", SERVICE.format(**fields)),
        Unit(f"vultus-extract-{site.id}.service", EXTRACTION.format(**fields)),
        Unit(f"vultus-extract-{site.id}.timer", TIMER.format(**fields)),
    ]


def _optional(path: Path) -> str:
    """A path that need not exist when the unit starts."""
    return f"-{path}"
