"""The machine: packages, memory, decoders, clock, device, what stands between it and the world."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from client.checkup.finding import Ailment
from client.site import Site

DISTRIBUTION = "vultus"
MEMORY_BYTES = 4 << 30
WORKER_BYTES = 700 << 20
TRAINING_BYTES = 1 << 30
CLOCK_SLACK_S = 60.0
CLOCK_STEP_S = 0.5
WATCHED_S = 0.1
CLIPS = Path(__file__).with_name("clips")
CLIP_FRAMES = 5
OPTIONAL_CODECS = frozenset({"av1.mkv"})
"""Not every build of OpenCV decodes these, and few cameras write them."""


def packages() -> str:
    """Installed versions against what the distribution asks for."""
    from packaging.requirements import Requirement

    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        msg = f"Expected Python 3.11 or 3.12, got {sys.version.split()[0]}."
        raise Ailment(msg)
    wrong = []
    for line in metadata.requires(DISTRIBUTION) or []:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": "site"}):
            found = _version(wanted.name)
            if found is None or not wanted.specifier.contains(found, prereleases=True):
                wrong.append(f"{wanted.name}{wanted.specifier} (got {found or 'none'})")
    if wrong:
        msg = f"Install with 'pip install vultus[site]'; wrong are {', '.join(wrong)}."
        raise Ailment(msg)
    return f"Vultus {_version(DISTRIBUTION)}, Python {sys.version.split()[0]}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def memory() -> str:
    """Memory of the machine against what a site needs at least."""
    total = memory_bytes()
    if total < MEMORY_BYTES:
        msg = f"Expected at least {MEMORY_BYTES >> 30} GiB of memory, got {total / (1 << 30):.1f}."
        raise Ailment(msg)
    return f"{total / (1 << 30):.1f} GiB"


def memory_bytes() -> int:
    """Memory of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def workers(site: Site) -> str:
    """Extraction processes against cores and memory."""
    wanted, cores = site.config.device.workers, len(os.sched_getaffinity(0))
    fitting = max(1, (memory_bytes() - TRAINING_BYTES) // WORKER_BYTES)
    if wanted > min(cores, fitting):
        msg = (
            f"Expected device.workers of at most {min(cores, fitting)} with {cores} cores and "
            f"{memory_bytes() / (1 << 30):.1f} GiB, got {wanted}: lower it in {site.config_file}."
        )
        raise Ailment(msg)
    return f"{wanted} of {cores} cores extract"


def codecs() -> str:
    """A tiny clip of each container and codec that cameras write, decoded as extraction does."""
    unread = [clip.name for clip in sorted(CLIPS.glob("*_pattern.*")) if not _is_decoded(clip)]
    missing = [name for name in unread if _plain_name(name) not in OPTIONAL_CODECS]
    if missing:
        msg = (
            f"OpenCV here cannot decode {_listed(missing)}: reinstall the wheel opencv-python, or "
            "convert such files with: ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4"
        )
        raise Ailment(msg)
    read = [clip.name for clip in sorted(CLIPS.glob("*_pattern.*")) if clip.name not in unread]
    return f"decodes {_listed(read)}" + (f"; not {_listed(unread)}" if unread else "")


def _listed(names: list[str]) -> str:
    return ", ".join(_plain_name(name) for name in names)


def _plain_name(name: str) -> str:
    return name.replace("_pattern", "")


def _is_decoded(clip: Path) -> bool:
    from client.extraction.video import VideoError, read_frames

    try:
        return sum(1 for _ in read_frames(clip)) == CLIP_FRAMES
    except VideoError:
        return False


def clock(site: Site) -> str:
    """The clock against what was written here, the file system's clock, and its own pace."""
    now = datetime.now(UTC)
    for path in (site.config_file, site.paths.ledger, site.paths.audit):
        if path.exists() and path.stat().st_mtime > now.timestamp() + CLOCK_SLACK_S:
            msg = f"The clock says {now:%Y-%m-%d %H:%M} UTC, but {path} is newer: set the clock."
            raise Ailment(msg)
    _compare_with_files(site.paths.state)
    _compare_with_pace()
    return f"{now:%Y-%m-%d %H:%M:%S} UTC, {_time_service()}"


def _compare_with_files(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        apart_s = Path(file.name).stat().st_mtime - time.time()
    if abs(apart_s) > CLOCK_SLACK_S:
        msg = (
            f"The file system of {folder} is {abs(apart_s):.0f} s "
            f"{'ahead of' if apart_s > 0 else 'behind'} this machine's clock: let file server and "
            "machine take their time from the same NTP server."
        )
        raise Ailment(msg)


def _compare_with_pace() -> None:
    """A clock that leaps while it is watched is being set by two services at once."""
    before = time.time() - time.monotonic()
    time.sleep(WATCHED_S)
    leap_s = time.time() - time.monotonic() - before
    if abs(leap_s) > CLOCK_STEP_S:
        msg = f"The clock leapt by {leap_s:.1f} s while it was watched: let one service set it."
        raise Ailment(msg)


def _time_service() -> str:
    """What systemd knows of the clock; its word is no verdict, for others may keep it."""
    program = shutil.which("timedatectl")
    if program is None:
        return "whether NTP keeps it cannot be told here"
    told = subprocess.run(
        [program, "show", "--property=NTPSynchronized", "--value"],
        capture_output=True, text=True, check=False, timeout=10,
    )  # fmt: skip
    if told.returncode != 0:
        return "whether NTP keeps it cannot be told here"
    if told.stdout.strip() == "yes":
        return "kept by NTP"
    return "not kept by NTP as far as systemd knows; as root: timedatectl set-ntp true"


def device(site: Site) -> str:
    """One convolution with its gradient on the device that will train."""
    import torch

    name = site.config.device.torch
    try:
        convolution = torch.nn.Conv1d(24, 8, 5).to(name)
        convolution(torch.zeros(2, 24, 150, device=name)).sum().backward()
        free = torch.cuda.mem_get_info(name)[0] if name.startswith("cuda") else None
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        msg = f'Expected a usable device.torch, got "{name}" ({reason}): use "cpu" in site.toml.'
        raise Ailment(msg) from error
    if free is None:
        return f"{name}, {torch.get_num_threads()} threads"
    if free < TRAINING_BYTES:
        msg = (
            f'Expected 1 GiB of free memory on "{name}", got {free / (1 << 30):.2f} GiB: end what '
            'uses it, or set device.torch to another device or "cpu".'
        )
        raise Ailment(msg)
    return f"{name}, {torch.cuda.get_device_name(name)}, {free / (1 << 30):.1f} GiB free"


def proxy(site: Site, environment: Mapping[str, str] = os.environ) -> str:
    """Proxies and foreign authorities that this account's environment names."""
    proxies = [
        f"{name} = {_without_password(environment[name])}"
        for name in sorted(environment)
        if name.lower() in {"http_proxy", "https_proxy", "grpc_proxy", "all_proxy"}
        and environment[name]
    ]
    trusted = [name for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE") if environment.get(name)]
    told = []
    if proxies:
        address = site.config.coordinator.address if site.config.coordinator else "the coordinator"
        told.append(
            f"{', '.join(proxies)}: 'start' does not use it and connects to {address} directly; "
            "have outgoing TCP allowed there"
        )
    if trusted:
        told.append(
            f"{' and '.join(trusted)} set, as where TLS is opened on its way: 'start' trusts the "
            "authority of the kit alone; have the coordinator exempted"
        )
    return "; ".join(told) or "none named in the environment"


def _without_password(proxy_url: str) -> str:
    parts = urllib.parse.urlsplit(proxy_url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
