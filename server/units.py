"""systemd units of a coordinator: the service, and a nightly copy of what cannot be made again.

The service runs as an ordinary account that owns the coordinator's folder, the only place it can
write to. The copy holds keys; it sees no network and the folder only to read.

Source:
    systemd.exec(5), systemd.service(5), systemd.timer(5), tar(1).
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from server.workspace import Workspace
from shared_models.console import InputError
from shared_models.supervision import program
from shared_models.systemd import Unit, harden, plain_word, quote_command, quote_paths

KEPT_DAYS = 30
FIRST_OPEN_PORT = 1024
"""Ports below it need a capability."""
MADE_AGAIN = ("./logs", "./engine/state.db*")
"""What a copy leaves out: 'start' makes the engine's database anew, from the roster."""

SERVICE = """\
# Conducts the study "{study}". Made by 'vultus-coordinator units'; make it anew after an upgrade.
[Unit]
Description=Vultus coordinator of the study {study}
Wants=network-online.target
After=network-online.target time-sync.target
StartLimitIntervalSec=0

[Service]
Type=exec
User={user}
ExecStart={start}
Restart=on-failure
RestartSec=15
# Wrong input and refusals need a person.
RestartPreventExitStatus=2 3
TimeoutStopSec=90
LimitNOFILE=65536
ReadWritePaths={folder}
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
PrivateDevices=yes
DevicePolicy=closed
{hardening}{port}
[Install]
WantedBy=multi-user.target
"""

BACKUP = """\
# Copies keys, roster, runs and models. Written by 'vultus-coordinator units'.
[Unit]
Description=Vultus coordinator of the study {study}: nightly copy
RequiresMountsFor={target}

[Service]
Type=oneshot
User={user}
ExecStart={copy}
ExecStartPost={prune}
Nice=10
IOSchedulingClass=idle
PrivateNetwork=yes
RestrictAddressFamilies=AF_UNIX
IPAddressDeny=any
ReadOnlyPaths={folder}
ReadWritePaths={target}
MemoryDenyWriteExecute=yes
PrivateDevices=yes
DevicePolicy=closed
{hardening}"""

TIMER = """\
# Copies the coordinator's folder every night.
[Unit]
Description=Vultus coordinator of the study {study}: nightly copy

[Timer]
OnCalendar=*-*-* 03:15:00
RandomizedDelaySec=20min
Persistent=true

[Install]
WantedBy=timers.target
"""

LOW_PORT = """\
# The proxy listens below port 1024.
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
AmbientCapabilities=CAP_NET_BIND_SERVICE
"""


def make_units(workspace: Workspace, *, user: str, backup: Path | None = None) -> list[Unit]:
    """The service with this folder's places, and the nightly copy if a place for it is named.

    Args:
        workspace: The coordinator's folder.
        user: The account that owns the folder.
        backup: Folder of the copies, outside the coordinator's folder.

    Raises:
        InputError: If a path or name cannot stand in a unit, or ``backup`` lies in the folder.
    """
    script = program("vultus-coordinator")
    folder = workspace.folder
    name = workspace.consortium.config.study.name
    needed = [folder, script, Path(sys.prefix), Path(sys.base_prefix)]
    fields = {
        "study": plain_word(name),
        "user": plain_word(user),
        "folder": quote_paths([str(folder)]),
        "start": quote_command([str(script), "start", str(folder)]),
        "hardening": harden(needed),
        "port": LOW_PORT if workspace.settings.port < FIRST_OPEN_PORT else "",
    }
    service = Unit(f"vultus-coordinator-{name}.service", SERVICE.format(**fields))
    if backup is None:
        return [service]
    target = _outside(backup, folder)
    fields |= {
        "target": quote_paths([str(target)]),
        "copy": quote_command(["/bin/sh", "-c", copy_command(folder, target, name=name)]),
        "prune": quote_command(["/bin/sh", "-c", prune_command(target, name=name)]),
        "hardening": harden([folder, target]),
    }
    return [
        service,
        Unit(f"vultus-coordinator-backup-{name}.service", BACKUP.format(**fields)),
        Unit(f"vultus-coordinator-backup-{name}.timer", TIMER.format(**fields)),
    ]


def copy_command(folder: Path, target: Path, *, name: str) -> str:
    """The shell command that copies a coordinator's folder into a dated archive.

    It appears under its name only when it is whole; logs and the engine's database are left out.
    """
    archive = f"{shlex.quote(str(target))}/{name}-$(date +%F).tar"
    left_out = " ".join(f"--exclude={shlex.quote(part)}" for part in MADE_AGAIN)
    pack = f"tar --create --file {archive}.part --directory {shlex.quote(str(folder))}"
    # tar answers 1 when a file grew while it was read; those are logs of a run alone.
    return f"{pack} {left_out} . || [ $? -eq 1 ] || exit 2; mv {archive}.part {archive}"


def prune_command(target: Path, *, name: str) -> str:
    """The shell command that removes copies older than :data:`KEPT_DAYS`."""
    place = shlex.quote(str(target))
    return (
        f"find {place} -maxdepth 1 -name {shlex.quote(name + '-*.tar')} -mtime +{KEPT_DAYS} -delete"
    )


def _outside(backup: Path, folder: Path) -> Path:
    target = backup.expanduser().absolute()
    if target.resolve().is_relative_to(folder.resolve()):
        msg = (
            f"Expected a folder for copies outside {folder}, got {target}: a copy that lies beside "
            "what it copies is lost with it."
        )
        raise InputError(msg)
    return target
