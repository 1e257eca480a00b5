"""Following the roster: who the other sites are, as the coordinator signed it last.

A roster decides whose keys count in a secure sum and whom the site trusts to be the coordinator's
server, so it is taken over only forwards: never an older one, and never a second one of a number.
"""

from __future__ import annotations

from dataclasses import replace

from client.approval.waiting import PENDING_ROSTER
from client.learning.admission import RefusedError, refuse_strangers
from client.renewal import adopt_next_key, own_keys
from client.site import Site
from privacy.audit import AuditLog
from privacy.vault import write_atomic
from shared_models.consortium import Consortium
from shared_models.messages import RefusalCode
from shared_models.roster import RosterError, keep_roster


def follow_roster(site: Site, content: bytes) -> Site:
    """The site with the sites and authorities of a newer roster, which it keeps.

    Args:
        site: The opened site.
        content: The signed roster of a request; empty in a study whose file fixes its sites.

    Raises:
        RefusedError: If the roster is not the coordinator's for this study, is older than the one
            held or differs from it under one number, does not name this site with its key, or
            names a site that the policy wants approved first.
    """
    if not content and site.consortium.roster is None:
        return site
    try:
        newer = site.consortium.with_roster(content)
    except RosterError as error:
        raise RefusedError(RefusalCode.ROSTER, str(error)) from error
    _refuse_step_back(site.consortium, newer)
    _refuse_without_us(site, newer)
    _refuse_strangers(site, newer)
    if newer.roster == site.consortium.roster:
        return site
    _trust(site, newer)
    _note(site, newer)
    # Last: a roster that is held counts as followed, and nothing of it is looked at again.
    keep_roster(site.paths.roster, content)
    return adopt_next_key(replace(site, consortium=newer))


def _refuse_step_back(held: Consortium, newer: Consortium) -> None:
    if newer.roster_number < held.roster_number:
        msg = f"Roster {newer.roster_number} is older than the one followed, {held.roster_number}"
        raise RefusedError(RefusalCode.ROSTER, msg)
    if newer.roster_number == held.roster_number and newer.roster != held.roster:
        msg = f"The coordinator signed two different rosters with number {held.roster_number}"
        raise RefusedError(RefusalCode.ROSTER, msg)


def _refuse_without_us(site: Site, newer: Consortium) -> None:
    entry = newer.config.site(site.id)
    if entry is None or " ".join(entry.public_key.split()[:2]) not in own_keys(site):
        msg = f"Roster {newer.roster_number} does not name this site with the key that it holds"
        raise RefusedError(RefusalCode.ROSTER, msg)


def _refuse_strangers(site: Site, newer: Consortium) -> None:
    """Refuse sites that nobody here approved, and keep the roster for people to read."""
    try:
        refuse_strangers(replace(site, consortium=newer))
    except RefusedError:
        keep_roster(site.paths.state / PENDING_ROSTER, newer.signed_roster)
        raise


def _trust(site: Site, newer: Consortium) -> None:
    """Write the authorities where the site's next connection reads them."""
    assert newer.roster is not None  # noqa: S101 - follow_roster has just read it
    coordinator = site.config.coordinator
    if coordinator is None:
        return
    file, wanted = site.folder / coordinator.ca_certificate, newer.roster.authorities.encode()
    if not file.is_file() or file.read_bytes() != wanted:
        write_atomic(file, wanted, mode=0o600)


def _note(site: Site, newer: Consortium) -> None:
    """Leave in the site's log who came and who went."""
    before = {entry.id: entry.public_key for entry in site.consortium.config.sites}
    after = {entry.id: entry.public_key for entry in newer.config.sites}
    AuditLog(site.paths.audit).append(
        "roster",
        number=newer.roster_number,
        joined=", ".join(sorted(after.keys() - before.keys())),
        left=", ".join(sorted(before.keys() - after.keys())),
        new_keys=", ".join(sorted(s for s in after if s in before and after[s] != before[s])),
    )
