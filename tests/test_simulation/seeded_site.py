"""Serves a simulated site to a real coordinator. For tests alone.

A real site refuses to do so: whoever knows the seed can subtract the noise. Here the subjects are
made up, and with the seed known a run that was disturbed can be held against one that was not.

    python seeded_site.py DIR HOST:PORT
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from client.service import supernode
from client.service.kit import CA_FILE
from client.site import Site, open_site
from client.site_config import CoordinatorSection
from shared_models.console import CommandError

CLOCK_IS_WRONG_BY_S = "CLOCK_IS_WRONG_BY_S"
"""Variable of the seconds by which the site's processes see another time of day."""
SKEWED_CLOCK = Path(__file__).with_name("skewed_clock.py")


def under_skewed_clock(seconds: str, command: tuple[str, ...]) -> tuple[str, ...]:
    """The words that start a module, under a clock that is wrong."""
    python, _, *rest = command
    return (python, str(SKEWED_CLOCK), seconds, *rest)


def open_joined(site_toml: Path, address: str) -> Site:
    """The site as if it had joined: where the two sections are read, together they are refused."""
    site = open_site(site_toml)
    joined = replace(site.config, simulation=None, coordinator=CoordinatorSection(address, CA_FILE))
    return replace(site, config=joined)


def main(folder: str, address: str) -> int:
    if shift := os.environ.get(CLOCK_IS_WRONG_BY_S):
        honest = supernode.module_command
        supernode.module_command = lambda *words, **options: under_skewed_clock(
            shift, honest(*words, **options)
        )
    # The worker, a process of its own, opens the site itself and finds the seed.
    supernode.open_site = lambda file: open_joined(file, address)
    try:
        return supernode.serve_site(supernode.open_site(Path(folder)))
    except CommandError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
