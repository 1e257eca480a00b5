"""Anchors: what the coordinator keeps for a site, so that the site notices a cut tail of its own.

The coordinator learns a count and a hash and can neither forge an anchor nor read anything from
it. It can withhold one, which leaves the site where it was without.
"""

from __future__ import annotations

from dataclasses import replace

from client.renewal import retired_keys
from client.site import Site
from privacy import audit
from privacy.keys import public_line, sign, verify
from privacy.ledger import PrivacyLedger
from shared_models.messages import Anchor, anchor_statement


class AnchorError(Exception):
    """The site's records are behind what it once signed, or the anchor is not the site's own."""


def make_anchor(site: Site, ledger: PrivacyLedger) -> Anchor:
    """How far ledger and audit log have come by now, signed."""
    rows, row_hash = ledger.head()
    entries, chain_hash = audit.head(site.paths.audit)
    anchor = Anchor(rows, row_hash, entries, chain_hash)
    return replace(
        anchor, signature=sign(site.identity_key, anchor_statement(anchor, site_id=site.id))
    )


def check_anchor(anchor: Anchor | None, site: Site, ledger: PrivacyLedger) -> None:
    """Refuse to go on from records that lost what the site once vouched for.

    Args:
        anchor: What the coordinator has kept; None if it has nothing.
        site: The site.
        ledger: Its privacy ledger.

    Raises:
        AnchorError: If the ledger or the log lacks what the anchor names, or the signature is not
            the site's.
    """
    if anchor is None:
        return
    statement = anchor_statement(anchor, site_id=site.id)
    # What an earlier key of the site vouched for holds as long as its records do.
    own = (public_line(site.identity_key), *retired_keys(site))
    if not any(verify(key, anchor.signature, statement) for key in own):
        msg = "The anchor that the coordinator keeps was not signed by this site"
        raise AnchorError(msg)
    if not ledger.extends(anchor.ledger_rows, anchor.ledger_head):
        msg = (
            "The privacy ledger is behind what this site signed before: its tail was cut or an old "
            "copy restored. The site must restore the newest copy before it trains"
        )
        raise AnchorError(msg)
    if not audit.extends(site.paths.audit, anchor.log_entries, anchor.log_head):
        msg = (
            "The audit log is behind what this site signed before: its tail was cut or an old copy "
            "restored. The site must restore the newest copy before it trains"
        )
        raise AnchorError(msg)
