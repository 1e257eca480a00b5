"""The key that the engine signs in with: a link, so that a renewed key takes over by itself.

While a renewal is under way nobody at the site can know when the coordinator puts the new key into
the roster: the roster comes over a connection that the old key opens no more. So the site tries its
other key when it is refused. Which key it signs with otherwise is decided by the roster alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.site import IDENTITY_KEY, IDENTITY_NEXT


@dataclass(frozen=True)
class IdentityLink:
    """A link to one of the site's private keys.

    Attributes:
        path: The link; what the engine opens at each start.
        keys: Folder of the private keys.
    """

    path: Path
    keys: Path

    @property
    def has_choice(self) -> bool:
        """Whether a renewed key waits beside the present one."""
        return (self.keys / IDENTITY_NEXT).exists()

    def point(self, name: str = IDENTITY_KEY) -> None:
        """Lead to a key of that name, at once."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self.path.with_name(f"{self.path.name}.new")
        draft.unlink(missing_ok=True)
        draft.symlink_to(self.keys / name)
        draft.replace(self.path)

    def mend(self) -> None:
        """Lead to the key where it lies now, should it have been put in its place meanwhile."""
        if not self.path.exists():
            self.point()

    def stamp(self) -> tuple[int, int] | None:
        """Tells whether the link leads to another key than before; None if it leads nowhere.

        A key that is only put in another place keeps its stamp.
        """
        try:
            key = self.path.stat()
        except FileNotFoundError:
            return None
        return key.st_ino, key.st_mtime_ns

    def switch(self) -> bool:
        """Lead to the other key; False if there is none."""
        self.mend()
        if not self.has_choice:
            return False
        is_next = self.path.readlink().name == IDENTITY_NEXT
        self.point(IDENTITY_KEY if is_next else IDENTITY_NEXT)
        return True
