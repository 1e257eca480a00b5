"""Privacy ledger of a site: what every subject has spent, written before anything is computed.

A release is reserved before training, in one durable transaction, so that a crash costs budget
and never hides spending. Rows are never changed: each is bound to the one before by its hash and
signed. Subjects appear as keyed hashes, each with a history of their own, so that a new name for
a cohort resets nothing and new subjects start fresh.

Guarantees:
    Unit: the subject. For every subject, all reserved releases together stay within the cap, and
    those of any 365 days within the yearly cap if there is one, also with several processes at
    work. A clock set back gives nothing back: rows never carry an earlier time than the one before,
    and rows from the future count. A clock set forward does, which only the cap over everything
    stops: that cap knows no clock. A changed, removed or forged row is found by ``verify``; a
    cut tail or a ledger restored from an old copy only by comparing ``head`` with a copy kept
    elsewhere (``extends``). Not covered: whoever holds the ledger's private key.
"""

import hmac
import json
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.accounting import Release, compose
from privacy.ledger_chain import (
    COLUMNS,
    GENESIS,
    BrokenRow,
    Reservation,
    cohort_hash,
    find_broken_rows,
)
from privacy.ledger_file import open_ledger_file
from privacy.ledger_limits import (
    YEAR,
    AlreadyReservedError,
    BudgetExceeded,
    Cap,
    LedgerError,
    check_terms,
)

__all__ = [
    "YEAR",
    "AlreadyReservedError",
    "BrokenRow",
    "BudgetExceeded",
    "LedgerError",
    "PrivacyLedger",
    "Reservation",
]

# One row for each distinct history; releases with everyone in add up as squared mu. Releases of the
# same cohort have the same subjects, as their hash tells, so that one list stands for all of them.
_HISTORIES = """
WITH cohorts AS MATERIALIZED (
    SELECT MIN(sequence) AS sequence,
        SUM(CASE WHEN sample_rate = 1 THEN steps / (noise_multiplier * noise_multiplier) ELSE 0 END)
            AS squared_mu,
        GROUP_CONCAT(CASE WHEN sample_rate < 1 THEN sequence END) AS sampled
    FROM releases WHERE ?2 IS NULL OR reserved_at >= ?2 GROUP BY cohort
)
SELECT DISTINCT SUM(squared_mu), GROUP_CONCAT(sampled)
FROM cohorts CROSS JOIN participation USING (sequence)
WHERE ?1 IS NULL OR subject IN (SELECT value FROM json_each(?1)) GROUP BY subject
"""
_SELECT = f"SELECT {', '.join(COLUMNS)}, signature FROM releases"  # noqa: S608 - fixed names
_INSERT = (
    f"INSERT INTO releases ({', '.join(COLUMNS)}, signature) "  # noqa: S608 - fixed names
    f"VALUES ({', '.join('?' * (len(COLUMNS) + 1))})"
)


class PrivacyLedger:
    """Durable, append-only record of this site's releases.

    Args:
        path: SQLite file, created with mode 0600 if absent, in an existing folder.
        key: signs the rows, and gives the key under which subjects are hashed.
        clock: the present moment, with offset.
    """

    def __init__(
        self,
        path: Path,
        *,
        key: Ed25519PrivateKey,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._key = key
        self._clock = clock
        self._subject_key = HKDF(
            algorithm=hashes.SHA256(), length=32, salt=None, info=b"vultus ledger subject v1"
        ).derive(key.private_bytes_raw())
        self._lock = threading.Lock()
        self._verified = (0, GENESIS)
        self._database = open_ledger_file(path)
        # A connection is part of a cycle of its own and would stay open until some collection.
        weakref.finalize(self, self._database.close)

    def reserve(  # noqa: PLR0913 - one release has this many terms
        self,
        release_id: str,
        subjects: Sequence[str],
        *,
        noise_multiplier: float,
        sample_rate: float,
        steps: int,
        delta: float,
        purpose: str,
        cap_epsilon: float,
        cap_epsilon_per_year: float | None = None,
        once: bool = False,
    ) -> Reservation:
        """Write down a release before it is computed; durable when this returns.

        Args:
            release_id: name of the release; asking again with the same terms charges nothing.
            subjects: ids of all subjects that may take part, whether sampled or not.
            noise_multiplier: noise standard deviation over sensitivity, > 0.
            sample_rate: probability that a subject takes part in a step, in (0, 1].
            steps: number of equal releases, >= 1.
            delta: in (0, 1).
            purpose: what it is for, such as a run and round; nothing of a subject.
            cap_epsilon: epsilon that no subject may pass at ``delta``, > 0.
            cap_epsilon_per_year: the same over the last 365 days; None for no such cap.
            once: refuse a release that was reserved before, whoever else asks at the same moment.

        Returns:
            The reservation, new or as it was made before.

        Raises:
            BudgetExceeded: some subject would pass a cap.
            AlreadyReservedError: ``once`` was asked for, and it is not the first time.
            LedgerError: a value is out of range, the release_id stands for something else, or the
                ledger is not whole.
        """
        tags = sorted({self._tag(subject) for subject in subjects})
        wanted = Reservation(
            sequence=0,
            release_id=release_id,
            purpose=purpose,
            noise_multiplier=float(noise_multiplier),
            sample_rate=float(sample_rate),
            steps=steps,
            delta=float(delta),
            cap_epsilon=float(cap_epsilon),
            epsilon_after=0.0,
            subjects=len(tags),
            cohort=cohort_hash(tags),
            reserved_at="",
            previous="",
        )
        check_terms(wanted, cap_epsilon_per_year)
        with self._transaction():
            self._check_new_rows()
            made_before = self._find(release_id)
            if made_before is None:
                return self._write(wanted, tags, cap_epsilon_per_year)
        if once:
            msg = f"Release {release_id!r} was reserved before and may be made only once."
            raise AlreadyReservedError(msg)
        if made_before.terms() != wanted.terms():
            msg = (
                f"Release {release_id!r} was reserved with other terms: "
                "give a new release its own name."
            )
            raise LedgerError(msg)
        return made_before

    def spent(self, delta: float, *, within: timedelta | None = None) -> float:
        """Largest epsilon spent on any subject so far, at the given delta; 0 for none.

        Args:
            delta: in (0, 1).
            within: count only releases of this long ago at most, such as :data:`YEAR`.
        """
        since = None if within is None else self._clock() - within
        with self._lock:
            return self._worst_epsilon(delta, since=since)

    def releases(self) -> list[Reservation]:
        """Every reservation made, oldest first."""
        with self._lock:
            return [row for row, _ in self._rows()]

    def releases_of(self, name_start: str) -> list[Reservation]:
        """Every reservation whose release_id begins with this, oldest first."""
        with self._lock:
            found = self._database.execute(
                f"{_SELECT} WHERE substr(release_id, 1, length(?1)) = ?1 ORDER BY sequence",
                (name_start,),
            ).fetchall()
        return [Reservation(*row[:-1]) for row in found]

    def participations(self, subject: str) -> list[Reservation]:
        """Every release that a subject was charged for, oldest first."""
        with self._lock:
            found = self._database.execute(
                f"{_SELECT} JOIN participation USING (sequence) WHERE subject = ? "
                "ORDER BY sequence",
                (self._tag(subject),),
            ).fetchall()
        return [Reservation(*row[:-1]) for row in found]

    def spent_by(self, subject: str, delta: float) -> float:
        """Epsilon spent on one subject so far, at the given delta; 0 for none."""
        with self._lock:
            return self._worst_epsilon(delta, tags=[self._tag(subject)])

    def head(self) -> tuple[int, str]:
        """Number of rows and hash of the last, to be kept where this ledger's disk is not."""
        with self._lock:
            return self._head()

    def extends(self, count: int, row_hash: str) -> bool:
        """Whether this ledger still holds everything it held when its head was ``(count, hash)``.

        Args:
            count: number of rows then.
            row_hash: hash of the last row then.
        """
        with self._lock:
            return self._holds(count, row_hash)

    def verify(self) -> list[BrokenRow]:
        """Every row that is not as it was written; empty means whole (but see ``extends``)."""
        with self._lock:
            return self._broken_rows((0, GENESIS))

    def close(self) -> None:
        """Give the file back; what was reserved is on disk already."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tag(self, subject: str) -> str:
        return hmac.digest(self._subject_key, subject.encode(), "sha256").hex()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def _write(
        self, wanted: Reservation, tags: list[str], cap_per_year: float | None
    ) -> Reservation:
        now = self._clock()
        after = self._within_cap(Cap("max_epsilon_per_subject", wanted.cap_epsilon), wanted, tags)
        if cap_per_year is not None:
            self._within_cap(Cap("max_epsilon_per_year", cap_per_year, now - YEAR), wanted, tags)
        count, previous = self._head()
        row = replace(
            wanted,
            sequence=count + 1,
            epsilon_after=after,
            reserved_at=max(_moment(now), self._latest_moment()),
            previous=previous,
        )
        row = replace(row, hash=row.row_hash())
        signature = self._key.sign(row.hash.encode())
        values = [getattr(row, name) for name in COLUMNS]
        self._database.execute(_INSERT, (*values, signature))
        self._database.executemany(
            "INSERT INTO participation VALUES (?, ?)", ((tag, row.sequence) for tag in tags)
        )
        return row

    def _within_cap(self, cap: Cap, wanted: Reservation, tags: list[str]) -> float:
        """Largest epsilon among the subjects once the release is made, if the cap allows it."""
        release = Release(wanted.noise_multiplier, wanted.steps, wanted.sample_rate)
        delta = wanted.delta
        after = self._worst_epsilon(delta, tags=tags, extra=[release], since=cap.since)
        if not after <= cap.epsilon:
            spent = self._worst_epsilon(delta, tags=tags, since=cap.since)
            raise BudgetExceeded(cap, spent=spent, requested=after, delta=delta)
        return after

    def _latest_moment(self) -> str:
        found = self._database.execute("SELECT MAX(reserved_at) FROM releases").fetchone()
        return str(found[0] or "")

    def _worst_epsilon(
        self,
        delta: float,
        *,
        tags: list[str] | None = None,
        extra: Sequence[Release] = (),
        since: datetime | None = None,
    ) -> float:
        """Largest epsilon among the subjects (all if not given), with ``extra`` on top."""
        wanted = None if tags is None else json.dumps(tags)
        start = None if since is None else _moment(since)
        # Among subjects with the same subsampled releases the largest mu decides.
        largest: dict[str, float] = {"": 0.0}
        for squared_mu, subsampled in self._database.execute(_HISTORIES, (wanted, start)):
            kind = ",".join(sorted((subsampled or "").split(",")))
            largest[kind] = max(largest.get(kind, 0.0), squared_mu)
        return max(
            compose([*self._history(kind, squared_mu), *extra], delta)
            for kind, squared_mu in largest.items()
        )

    def _history(self, subsampled: str, squared_mu: float) -> list[Release]:
        found = self._database.execute(
            "SELECT noise_multiplier, steps, sample_rate FROM releases "
            "WHERE sequence IN (SELECT value FROM json_each(?))",
            (f"[{subsampled}]",),
        )
        history = [Release(*row) for row in found]
        if squared_mu > 0:
            history.append(Release(1 / math.sqrt(squared_mu), 1))
        return history

    def _rows(self, after: int = 0) -> Iterator[tuple[Reservation, bytes]]:
        found = self._database.execute(f"{_SELECT} WHERE sequence > ? ORDER BY sequence", (after,))
        return ((Reservation(*row[:-1]), row[-1]) for row in found.fetchall())

    def _find(self, release_id: str) -> Reservation | None:
        found = self._database.execute(f"{_SELECT} WHERE release_id = ?", (release_id,)).fetchone()
        return None if found is None else Reservation(*found[:-1])

    def _head(self) -> tuple[int, str]:
        found = self._database.execute(
            "SELECT sequence, hash FROM releases ORDER BY sequence DESC LIMIT 1"
        ).fetchone()
        return (0, GENESIS) if found is None else (found[0], found[1])

    def _holds(self, count: int, row_hash: str) -> bool:
        if count == 0:
            return row_hash == GENESIS
        found = self._database.execute("SELECT hash FROM releases WHERE sequence = ?", (count,))
        return bool(found.fetchone() == (row_hash,))

    def _check_new_rows(self) -> None:
        """Build on whole rows only; those that this object has seen are not read again."""
        broken = self._broken_rows(self._verified)
        count, row_hash = self._verified
        if not self._holds(count, row_hash):
            broken.append(BrokenRow(count, "was here and is gone"))
        if broken:
            msg = (
                f"Expected a whole ledger, got {len(broken)} faults, the first at row "
                f"{broken[0].sequence} ({broken[0].reason}): restore the ledger, do not train."
            )
            raise LedgerError(msg)
        self._verified = self._head()

    def _broken_rows(self, after: tuple[int, str]) -> list[BrokenRow]:
        broken = find_broken_rows(
            self._rows(after[0]),
            self._key.public_key(),
            subject_tags_of=self._tags_of,
            after=after,
        )
        stray = self._database.execute(
            "SELECT DISTINCT sequence FROM participation "
            "WHERE sequence > ? AND sequence NOT IN (SELECT sequence FROM releases)",
            (after[0],),
        )
        return broken + [BrokenRow(row[0], "subjects without a release") for row in stray]

    def _tags_of(self, sequence: int) -> list[str]:
        found = self._database.execute(
            "SELECT subject FROM participation WHERE sequence = ?", (sequence,)
        )
        return [row[0] for row in found]


def _moment(moment: datetime) -> str:
    """ISO 8601 in UTC, of one length, so that text sorts as time does."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
