"""The two cuts that keep videos and network apart, tried on this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from client.checkup.finding import Ailment
from client.service.wall import find_boundary
from client.service.walled_start import find_gaps
from client.site import Site

PATIENCE_S = 30.0
PEEKED = 3
CUT = """
import sys
from client.extraction.isolation import IsolationError, cut_network
try:
    sys.exit(0 if cut_network(sys.argv[1]) else 3)
except IsolationError as error:
    sys.exit(str(error))
"""
PEEK = """
import os, sys
from pathlib import Path
from client.service.wall import find_boundary, raise_wall
raise_wall(find_boundary(Path(sys.argv[1])))
place = Path(sys.argv[2])
try:
    os.listdir(place) if place.is_dir() else place.open("rb").close()
except PermissionError:
    sys.exit(0)
sys.exit("it could be opened")
"""


def wall(site: Site) -> str:
    """The service cannot read the videos: tried with a process that reads one."""
    boundary = find_boundary(site.config_file)
    gaps = find_gaps(boundary)
    if gaps and site.config.service.wall == "required":
        raise Ailment("\n".join(gaps))
    if boundary.exposed:
        raise Ailment(gaps[-1])
    if gaps:
        return f"not possible here. {gaps[0]}"
    _peek(site, [path for path in boundary.outside if path.exists()])
    return f"Landlock keeps the service from {', '.join(map(str, boundary.outside))}"


def _peek(site: Site, outside: list[Path]) -> None:
    """Let a walled process try what it must not be able to do."""
    for place in outside[:PEEKED]:
        done = _run(PEEK, str(site.config_file), str(place))
        if done.returncode != 0:
            msg = f"Expected the wall to keep a process from {place}, got: {done.stderr.strip()}."
            raise Ailment(msg)


def _run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", program, *words],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip


def network_cut(site: Site) -> str:
    """The extraction's processes can be cut off from the network."""
    mode = site.config.extraction.network
    if mode == "open":
        return 'switched off by [extraction] network = "open" in site.toml'
    done = _run(CUT, mode)
    if done.returncode == 0:
        return "the processes that open videos have no network"
    if mode == "cut":
        raise Ailment(done.stderr.strip())
    return (
        "not possible here: this kernel keeps network namespaces to the privileged. Run the "
        "extraction under the unit of 'vultus-site units'"
    )
