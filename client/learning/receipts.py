"""Receipts: one signed entry of the site's log for each message that leaves.

Receipts are signed with the site's identity key: its public half stands in the study file, so that
whoever has that file can check a receipt, without the site's help and without any secret of it. The
ledger's key has no such witness. A signature covers the receipt's place in the log, and so all that
was logged before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.renewal import retired_keys
from client.site import Site
from privacy import audit
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


def find_receipt(log: Path, name: str) -> AuditEntry | None:
    """The first receipt of an answer; None if no answer to it was ever about to leave.

    Args:
        log: The site's log.
        name: The release, by :func:`release_name`.
    """
    return next((one for one in audit.read(log) if _answers(one, name)), None)


def _answers(entry: AuditEntry, name: str) -> bool:
    told = entry.details
    # A refusal has no row of the ledger, an answer has one, if only an empty one.
    if entry.event != SENT or "ledger_row" not in told:
        return False
    asked = (told.get("run_id"), told.get("server_round"), told.get("asked"), told.get("attempt"))
    return release_name(*asked) == name


def describe_again(log: Path, name: str) -> Details:
    """What a receipt says beside the rest if its message was told before: where, and its hash.

    Args:
        log: The site's log.
        name: The release, by :func:`release_name`.
    """
    first = find_receipt(log, name)
    if first is None:
        return {}
    return {
        "sent_again": True,
        "first_entry": first.sequence,
        "first_sha256": str(first.details.get("sha256")),
    }


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


def signing_keys(site: Site) -> tuple[str, ...]:
    """OpenSSH lines of the keys that the site has signed with, the present one last."""
    return (*retired_keys(site), public_line(site.identity_key))


def signed_with(site: Site, receipt: AuditEntry, keys: Sequence[str]) -> int | None:
    """Which key the site wrote this receipt with, at this place of its log.

    Args:
        site: The site.
        receipt: An entry of its log.
        keys: As :func:`signing_keys` gives them.

    Returns:
        The key's place in ``keys``; None if no key of the site signed it.
    """
    signature = receipt.signature
    if signature is None or receipt.details.get("site") != site.id:
        return None
    matches = (n for n, key in enumerate(keys) if verify(key, signature, receipt.statement))
    return next(matches, None)


def is_signed_by(site: Site, receipt: AuditEntry) -> bool:
    """Whether the site itself wrote this receipt, at this place of its log."""
    return signed_with(site, receipt, signing_keys(site)) is not None
