"""Whether what a site has on record fits together: log, receipts, ledger, list of the forgotten.

Everything is checked on this machine alone, without the coordinator and without a network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from client.learning.receipts import SENT, release_name, signed_with, signing_keys
from client.site import Site
from client.withdrawal.exclusion import ExclusionError, open_exclusions
from privacy import audit
from privacy.audit import AuditEntry, AuditVerdict
from privacy.ledger import PrivacyLedger, Reservation

LOG, LEDGER, FORGOTTEN = "audit log", "privacy ledger", "list of forgotten subjects"
ANSWERS = ("ModelUpdate", "TallyReply", "MaskedReply")
"""Kinds of messages that hold what was computed on subjects."""


@dataclass(frozen=True)
class AuditFault:
    """Something that is not as it was written, or that does not fit the rest.

    Attributes:
        where: Which record.
        line: Line of the log, or row of the ledger; None where neither is meant.
        fault: What is wrong.
    """

    where: str
    line: int | None
    fault: str


@dataclass(frozen=True)
class AuditReport:
    """What the log of a site says, and whether it may be believed.

    Attributes:
        entries: Every entry that can be read, by its line in the log.
        verdict: Whether the chain is unbroken.
        verified: Whether more than the chain was checked.
        faults: Every fault found.
        unsent: Releases that were charged and of which nothing left, as after a crash.
    """

    entries: dict[int, AuditEntry]
    verdict: AuditVerdict
    verified: bool = False
    faults: tuple[AuditFault, ...] = ()
    unsent: int = 0

    @property
    def receipts(self) -> int:
        """How many messages left."""
        return sum(entry.event == SENT for entry in self.entries.values())

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong with anything that was checked."""
        return not self.faults

    @property
    def first_broken(self) -> int | None:
        """The first line of the log at fault; None if the fault lies elsewhere, or nowhere."""
        lines = [one.line for one in self.faults if one.where == LOG and one.line is not None]
        return min(lines, default=None)


def check_records(site: Site, *, verify: bool) -> AuditReport:
    """The site's log with its chain checked and, if asked for, all that hangs together with it.

    Args:
        site: The site.
        verify: Check signatures, ledger and the list of the forgotten too.
    """
    entries = audit.read_lines(site.paths.audit)
    verdict = audit.verify(site.paths.audit)
    faults = []
    if not verdict.whole:
        fault = "was changed, removed, inserted or cut off"
        faults.append(AuditFault(LOG, verdict.first_broken, fault))
    if not verify:
        return AuditReport(entries, verdict, faults=tuple(faults))
    rows, ledger_faults = _read_ledger(site)
    receipts = {line: entry for line, entry in entries.items() if entry.event == SENT}
    faults += ledger_faults
    faults += _find_unsigned(site, receipts)
    faults += _find_uncharged(receipts, rows)
    faults += _find_forgotten_faults(site)
    charged = {entry.details.get("ledger_row") for entry in receipts.values()}
    return AuditReport(
        entries,
        verdict,
        verified=True,
        faults=tuple(faults),
        unsent=sum(row not in charged for row in rows),
    )


def _read_ledger(site: Site) -> tuple[dict[int, Reservation], list[AuditFault]]:
    if not site.paths.ledger.exists():
        return {}, []
    with PrivacyLedger(site.paths.ledger, key=site.ledger_key) as ledger:
        broken = ledger.verify()
        rows = {row.sequence: row for row in ledger.releases()}
    return rows, [AuditFault(LEDGER, one.sequence, one.reason) for one in broken]


def _find_unsigned(site: Site, receipts: dict[int, AuditEntry]) -> Iterator[AuditFault]:
    """Receipts of nobody, or of a key that had been replaced by then."""
    keys, latest = signing_keys(site), 0
    for line, entry in receipts.items():
        place = signed_with(site, entry, keys)
        if place is None:
            yield AuditFault(LOG, line, "a receipt that this site did not sign at this place")
        elif place < latest:
            yield AuditFault(LOG, line, "a receipt signed with a key that was retired before")
        else:
            latest = place


def _find_uncharged(
    receipts: dict[int, AuditEntry], rows: dict[int, Reservation]
) -> Iterator[AuditFault]:
    """Answers that left without a row of the ledger that is theirs alone.

    The same bytes may leave again under their row.
    """
    used: dict[int, object] = {}
    for line, entry in receipts.items():
        number = entry.details.get("ledger_row")
        if entry.details.get("kind") not in ANSWERS or number is None:
            continue
        row = rows.get(number) if isinstance(number, int) else None
        if row is None or not _is_charge_of(row, entry):
            yield AuditFault(LOG, line, f"row {number} of the ledger does not belong to it")
        elif used.setdefault(row.sequence, entry.details.get("sha256")) != entry.details.get(
            "sha256"
        ):
            yield AuditFault(LOG, line, f"row {number} of the ledger paid for another message")


def _is_charge_of(row: Reservation, receipt: AuditEntry) -> bool:
    told = receipt.details
    name = release_name(
        told.get("run_id"), told.get("server_round"), told.get("asked"), told.get("attempt")
    )
    return row.release_id == name and row.epsilon_after == told.get("epsilon_spent")


def _find_forgotten_faults(site: Site) -> Iterator[AuditFault]:
    try:
        open_exclusions(site).read()
    except ExclusionError as error:
        yield AuditFault(FORGOTTEN, None, str(error))
