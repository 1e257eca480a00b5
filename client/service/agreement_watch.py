"""Noticing that the people of a site changed what may run while it runs.

What runs was handed its list of approved bundles at its start. When an approval is given or taken
back, or another study is pinned, that list is another one, and what runs has to be begun anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from shared_models.console import RefusedError

SETTLING_S = 10.0
"""Files that are being written fit together again within this."""


class AgreementWatch:
    """Compares what was agreed at the start with what is agreed now, when a file changed.

    Args:
        files: What it is read from.
        read: What is agreed, by those files.
    """

    def __init__(self, files: Sequence[Path], read: Callable[[], object]) -> None:
        self._files = tuple(files)
        self._read = read
        self._seen = self._moments()
        self._agreed = read()
        self._unreadable_since: float | None = None

    def has_changed(self) -> bool:
        """Whether something else is agreed now.

        Raises:
            RefusedError: If nothing may run any more.
            Exception: What reading raised, if the files stay unreadable.
        """
        moments = self._moments()
        if moments == self._seen and self._unreadable_since is None:
            return False
        self._seen = moments
        try:
            agreed = self._read()
        except RefusedError:
            raise
        except Exception:
            began = self._unreadable_since or time.monotonic()
            self._unreadable_since = began
            if time.monotonic() - began > SETTLING_S:
                raise
            return False
        self._unreadable_since = None
        return agreed != self._agreed

    def _moments(self) -> list[tuple[int, int] | None]:
        return [_moment(file) for file in self._files]


def _moment(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns
