"""Receipts: one signed entry of the site's log for each message that leaves.

Receipts are signed with the site's identity key: its public half stands in the study file, so that
whoever has that file can check a receipt, without the site's help and without any secret of it. The
ledger's key has no such witness. A signature covers the receipt's place in the log, and so all that
was logged before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from client.site import Site
from privacy.audit import AuditEntry, AuditLog
from privacy.keys import public_line, sign, verify
from privacy.ledger import YEAR, PrivacyLedger, Reservation

SENT = "sent"
STOPPED = "egress refused"
NO_COORDINATOR = "a coordinator on this machine"

Details = dict[str, str | float | bool | None]


@dataclass(frozen=True)
class Load:
    """What a message carries besides its header.

    Attributes:
        arrays: Name, dtype and shape of each array, such as ``head.bias float32 [2]``.
        numbers: How many numbers the arrays hold.
        bytes: Their size.
        sha256: Of everything in the message but the anchor that travels with it, hexadecimal.
    """

    arrays: tuple[str, ...]
    numbers: int
    bytes: int
    sha256: str


def write_receipt(log: AuditLog, site: Site, kind: str, load: Load, details: Details) -> AuditEntry:
    """Put on record, signed, that a message is about to leave.

    Args:
        log: The site's log.
        site: The site.
        kind: Type of the message.
        load: What it carries.
        details: What else is to be remembered of it.
    """
    coordinator = site.config.coordinator
    return log.append(
        SENT,
        signer=lambda statement: sign(site.identity_key, statement),
        site=site.id,
        to=coordinator.address if coordinator else NO_COORDINATOR,
        kind=kind,
        arrays="; ".join(load.arrays),
        numbers=load.numbers,
        bytes=load.bytes,
        sha256=load.sha256,
        **details,
    )


def release_name(run_id: object, server_round: object, asked: object, attempt: object) -> str:
    """Name of a release in the ledger: the same whenever it is asked for, and in its receipt."""
    return f"{run_id}/{server_round}/{asked}/{attempt}"


def describe_spending(
    site: Site, ledger: PrivacyLedger, reservation: Reservation | None
) -> Details:
    """What a release has cost: its row of the ledger, epsilon spent, and what is left of each cap.

    Args:
        site: The site with its policy.
        ledger: Its record of privacy spent.
        reservation: The release's row; None for a study without privacy.
    """
    policy = site.policy
    if reservation is None or policy is None:
        return {"ledger_row": None}
    spent: Details = {
        "ledger_row": reservation.sequence,
        "epsilon_spent": reservation.epsilon_after,
        "epsilon_left": max(0.0, policy.max_epsilon_per_subject - reservation.epsilon_after),
        "delta": reservation.delta,
    }
    if policy.max_epsilon_per_year is not None:
        this_year = ledger.spent(reservation.delta, within=YEAR)
        if math.isfinite(this_year):
            spent["epsilon_left_this_year"] = max(0.0, policy.max_epsilon_per_year - this_year)
    return spent


def is_signed_by(site: Site, receipt: AuditEntry) -> bool:
    """Whether the site itself wrote this receipt, at this place of its log."""
    signature = receipt.signature
    if signature is None or receipt.details.get("site") != site.id:
        return False
    return verify(public_line(site.identity_key), signature, receipt.statement)
