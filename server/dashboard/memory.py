"""Files that are read again only after they changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

Stamp = tuple[tuple[str, int, int], ...]


@dataclass
class Remembered(Generic[T]):
    """What some files said when they were read last.

    Attributes:
        read: Reads them.
    """

    read: Callable[[], T]
    _stamp: Stamp | None = field(default=None, init=False)
    _value: T | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def get(self, files: Iterable[Path]) -> T:
        """What the files say; read anew if name, size or time of one of them is another.

        A file that fails to be read is tried again each time.

        Args:
            files: All that the answer depends on.
        """
        with self._lock:
            stamp = stamp_of(files)
            if self._stamp != stamp or self._value is None:
                self._stamp = None
                self._value = self.read()
                self._stamp = stamp
            return self._value


def stamp_of(files: Iterable[Path]) -> Stamp:
    """Name, time of change and size of each file that is there."""
    found = []
    for file in files:
        try:
            state = file.stat()
        except OSError:
            continue
        found.append((str(file), state.st_mtime_ns, state.st_size))
    return tuple(found)
