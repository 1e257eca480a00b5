"""Anchors of the sites' records, kept here because no site can vouch for its own tail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from privacy.keys import verify
from privacy.vault import write_atomic
from shared_models.messages import Anchor, MessageError, anchor_statement

ANCHORS_FILE = "anchors.json"


@dataclass(frozen=True)
class _Signed:
    """An anchor as JSON holds it."""

    ledger_rows: int
    ledger_head: str
    log_entries: int
    log_head: str
    signature: str

    def to_anchor(self) -> Anchor:
        return Anchor(**{**vars(self), "signature": bytes.fromhex(self.signature)})


_KIND = TypeAdapter(dict[str, _Signed])


class AnchorStore:
    """The latest anchor of each site, over all runs of a coordinator.

    Args:
        path: JSON file; made when the first anchor comes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        read = _KIND.validate_json(path.read_bytes()) if path.exists() else {}
        self._anchors = {site: signed.to_anchor() for site, signed in read.items()}

    def latest(self, site_id: str) -> Anchor | None:
        """What the site signed last."""
        return self._anchors.get(site_id)

    def keep(self, anchors: Mapping[str, Anchor]) -> None:
        """Take over newer anchors, durably."""
        newer = {s: a for s, a in anchors.items() if not self._is_older(s, a)}
        if newer:
            self._anchors |= newer
            signed = {
                site: _Signed(**{**vars(anchor), "signature": anchor.signature.hex()})
                for site, anchor in self._anchors.items()
            }
            write_atomic(self._path, _KIND.dump_json(signed, indent=2))

    def _is_older(self, site_id: str, anchor: Anchor) -> bool:
        known = self._anchors.get(site_id)
        return known is not None and (
            anchor.ledger_rows < known.ledger_rows or anchor.log_entries < known.log_entries
        )


def check_signature(anchor: Anchor | None, *, site_id: str, public_key: str) -> Anchor:
    """The anchor, if the site signed it.

    Raises:
        MessageError: If there is none, or the signature is not the site's.
    """
    if anchor is None:
        msg = f"Expected an anchor of {site_id}'s ledger with its answer"
        raise MessageError(msg)
    if not verify(public_key, anchor.signature, anchor_statement(anchor, site_id=site_id)):
        msg = f"The anchor of {site_id} does not carry its signature"
        raise MessageError(msg)
    return anchor
