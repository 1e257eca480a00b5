"""Rows of the privacy ledger, how they hang together, and how a broken one is found."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

GENESIS = "0" * 64


@dataclass(frozen=True)
class Reservation:
    """One row of the ledger.

    Attributes:
        sequence: from 1, without gaps.
        release_id: name of the release, unique in this ledger.
        purpose: what it is for, such as a run and round.
        noise_multiplier: noise standard deviation over sensitivity.
        sample_rate: probability that a subject takes part in a step.
        steps: number of equal releases it stands for.
        delta: the delta that ``cap_epsilon`` and ``epsilon_after`` hold at.
        cap_epsilon: the cap it was reserved under.
        epsilon_after: largest epsilon among its subjects, this release included.
        subjects: how many subjects take part.
        cohort: SHA-256 (hex) over the keyed hashes of the subjects.
        reserved_at: ISO 8601 with offset.
        previous: hash of the row before.
        hash: SHA-256 (hex) of all of the above.
    """

    sequence: int
    release_id: str
    purpose: str
    noise_multiplier: float
    sample_rate: float
    steps: int
    delta: float
    cap_epsilon: float
    epsilon_after: float
    subjects: int
    cohort: str
    reserved_at: str
    previous: str
    hash: str = ""

    def terms(self) -> tuple[str | float, ...]:
        """What must agree for two requests of one release_id to be the same request."""
        noise = (self.noise_multiplier, self.sample_rate, self.steps, self.delta)
        return (self.purpose, self.cohort, *noise)

    def row_hash(self) -> str:
        """SHA-256 (hex) of the row's canonical JSON, its own hash left out."""
        values = asdict(self)
        del values["hash"]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class BrokenRow:
    """A row that is not as it was written.

    Attributes:
        sequence: which row; for a gap, the first one missing.
        reason: what does not fit.
    """

    sequence: int
    reason: str


COLUMNS = tuple(field.name for field in fields(Reservation))


def cohort_hash(subject_tags: Iterable[str]) -> str:
    """SHA-256 (hex) over the keyed hashes of a release's subjects, whatever their order."""
    return hashlib.sha256("\n".join(sorted(subject_tags)).encode()).hexdigest()


def find_broken_rows(
    rows: Iterable[tuple[Reservation, bytes]],
    public_key: Ed25519PublicKey,
    *,
    subject_tags_of: Callable[[int], list[str]],
    after: tuple[int, str] = (0, GENESIS),
) -> list[BrokenRow]:
    """Every row that does not fit its content, its place or its signature.

    Args:
        rows: rows with their signatures, by sequence.
        public_key: of the key that signed them.
        subject_tags_of: the keyed hashes on record for a sequence number.
        after: sequence and hash of the row before the first, known to be good.
    """
    broken = []
    sequence, previous = after
    for row, signature in rows:
        sequence += 1
        if row.sequence != sequence:
            broken.append(BrokenRow(sequence, "missing"))
            sequence = row.sequence
        reasons = (
            ("does not follow the row before", row.previous != previous),
            ("content was changed", row.row_hash() != row.hash),
            ("signature is not ours", not _is_signed(public_key, signature, row.hash)),
            ("subjects were changed", cohort_hash(subject_tags_of(sequence)) != row.cohort),
        )
        broken += [BrokenRow(sequence, reason) for reason, wrong in reasons if wrong]
        previous = row.hash
    return broken


def _is_signed(public_key: Ed25519PublicKey, signature: bytes, row_hash: str) -> bool:
    try:
        public_key.verify(signature, row_hash.encode())
    except InvalidSignature:
        return False
    return True
