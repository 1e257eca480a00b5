"""Open files of a simulation: each site of a process keeps its ledger open, as real ones do."""

from __future__ import annotations

import math
import resource

from shared_models.console import InputError

FILES_A_SITE = 4
"""A ledger is a database with a log and an index; one more while a site answers."""
FILES_A_PROCESS = 256


def allow_open_files(sites: int, *, workers: int) -> None:
    """Raise the limit of open files of this process and its workers as far as the sites need it.

    Args:
        sites: Sites of the study, shared out evenly over the workers.
        workers: Processes that answer for sites.

    Raises:
        InputError: If the machine allows fewer.
    """
    needed = FILES_A_PROCESS + FILES_A_SITE * math.ceil(sites / workers)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _is_at_least(soft, needed):
        return
    if not _is_at_least(hard, needed):
        msg = (
            f"Expected to be allowed {needed} open files a process for {sites} sites, got {hard}: "
            f"raise the limit ('ulimit -Hn {needed}' as administrator) or give each process fewer "
            "sites with --workers."
        )
        raise InputError(msg)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _is_at_least(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed
