"""Forgetting a subject whose consent was withdrawn: exclude, erase, certify, in this order.

Each step is durable before the next begins, and each may be done again: after a crash, running it
once more finishes the work.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from client.explanation.place import erase_explanation
from client.learning.outbox import open_outbox
from client.recordings.delimited import read_rows
from client.site import Site
from client.storage.store import FeatureStore, StoreError, open_store
from client.withdrawal.certificate import (
    Certificate,
    Participation,
    Spending,
    find_certificates,
    write_certificate,
)
from client.withdrawal.exclusion import Exclusion, open_exclusions
from privacy import audit
from privacy.accounting import Release, compose
from privacy.ledger import PrivacyLedger, Reservation
from shared_models.console import InputError

ERASED = "subject erased"
FILE_COLUMNS = ("file", "events", "turns")


@dataclass(frozen=True)
class ListedRow:
    """A row of the table that names a subject.

    Attributes:
        line: Line of the table.
        recording_id: Its recording.
        files: Video and notes that it names, absolute, where they exist.
    """

    line: int
    recording_id: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Traces:
    """All that a site holds of one subject.

    Attributes:
        subject_id: The site's pseudonym.
        rows: Rows of the table.
        objects: Names of the sealed files.
        spending: What was released with the subject in it.
        exclusion: The subject's line in the list of forgotten subjects, if there is one.
        certificates: Certificates of earlier erasures, oldest first.
    """

    subject_id: str
    rows: tuple[ListedRow, ...]
    objects: tuple[str, ...]
    spending: Spending
    exclusion: Exclusion | None
    certificates: tuple[Path, ...]

    @property
    def originals(self) -> tuple[Path, ...]:
        """Videos and notes that are still there; nobody but the site can delete them."""
        return tuple(dict.fromkeys(path for row in self.rows for path in row.files))

    @property
    def is_known(self) -> bool:
        """Whether the site ever had anything of the subject."""
        return bool(self.rows or self.objects or self.spending.participations or self.exclusion)

    @property
    def is_forgotten(self) -> bool:
        """Whether nothing is left to be done."""
        return bool(self.certificates) and not self.objects


@dataclass(frozen=True)
class Erasure:
    """What came of forgetting a subject.

    Attributes:
        erased: Sealed files destroyed this time.
        certificate: The newest certificate.
        spending: What was released with the subject before.
    """

    erased: int
    certificate: Path
    spending: Spending


def find_traces(site: Site, subject_id: str) -> Traces:
    """All that a site holds of a subject. A faulty table does not stand in the way.

    Raises:
        InputError: If neither table, store, ledger nor list of the forgotten knows the subject.
        StoreError: If the store cannot be opened.
        ExclusionError: If the list of forgotten subjects is not whole.
    """
    exclusion = open_exclusions(site).find(subject_id)
    subjects = _listed_rows(site)
    traces = Traces(
        subject_id=subject_id,
        rows=tuple(subjects.get(subject_id, ())),
        objects=tuple(open_store(site).names_of(subject_id)),
        spending=read_spending(site, subject_id),
        exclusion=exclusion,
        certificates=tuple(find_certificates(site, exclusion)) if exclusion else (),
    )
    if not traces.is_known:
        near = difflib.get_close_matches(subject_id, subjects, n=3)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        msg = (
            "Expected a subject that the table of recordings, the store or the ledger knows, got "
            f"{subject_id!r}.{hint}"
        )
        raise InputError(msg)
    return traces


def forget_subject(site: Site, subject_id: str) -> Erasure:
    """Exclude a subject for good, erase what is stored, and certify it.

    A subject that was forgotten before is excluded still; what came back to the store, as from a
    backup, is erased again under a certificate of its own.

    Raises:
        StoreError: If the store cannot be opened, or a file cannot be erased.
        ExclusionError: If the list of forgotten subjects is not whole.
        OutboxBusyError: If an answer is being computed for too long: the subject is excluded then,
            and doing it again finishes the work.
    """
    store = open_store(site)
    present = store.names_of(subject_id)
    exclusion = open_exclusions(site).add(subject_id, present)
    # The last replies may hold the subject. They are not told again, and not made anew.
    open_outbox(site).empty()
    erase_explanation(site, subject_id)
    before = find_certificates(site, exclusion)
    # What a crashed attempt had destroyed already stands in the exclusion alone. An extraction
    # may have put more before the exclusion was on record, and none can since.
    planned = present if before else (*exclusion.objects, *present)
    objects = tuple(dict.fromkeys((*planned, *store.names_of(subject_id))))
    erased = _erase(store, subject_id)
    spending = read_spending(site, subject_id)
    if before and not objects:
        path = before[-1]
    else:
        path = _certify(site, subject_id, exclusion, objects=objects, spending=spending)
    _log_once(site, path, files=len(objects))
    return Erasure(erased, path, spending)


def _erase(store: FeatureStore, subject_id: str) -> int:
    erased = store.erase_subject(subject_id)
    if store.names_of(subject_id):
        msg = f"Expected nothing of the subject in {store.folder} any more, got files: try again."
        raise StoreError(msg)
    return erased


def _certify(
    site: Site,
    subject_id: str,
    exclusion: Exclusion,
    *,
    objects: tuple[str, ...],
    spending: Spending,
) -> Path:
    rows = _listed_rows(site).get(subject_id, [])
    certificate = Certificate(
        exclusion=exclusion,
        erased_at=datetime.now(UTC).isoformat(timespec="seconds"),
        objects=objects,
        spending=spending,
        rows=len(rows),
        originals=len({file for row in rows for file in row.files}),
    )
    return write_certificate(site, certificate)


def read_spending(site: Site, subject_id: str) -> Spending:
    """What was ever released with a subject in it, from the ledger."""
    delta = site.consortium.config.privacy.delta
    if not site.paths.ledger.exists():
        return Spending((), 0.0, delta, ledger_is_whole=True)
    with PrivacyLedger(site.paths.ledger, key=site.ledger_key) as ledger:
        return Spending(
            tuple(_participation(one, delta) for one in ledger.participations(subject_id)),
            ledger.spent_by(subject_id, delta),
            delta,
            ledger_is_whole=not ledger.verify(),
        )


def _participation(one: Reservation, delta: float) -> Participation:
    run_id, _, rest = one.release_id.rpartition("/")[0].partition("/")
    server_round = rest.partition("/")[0]
    known = bool(run_id) and server_round.isdigit()
    return Participation(
        run_id=run_id if known else one.release_id,
        server_round=int(server_round) if known else None,
        purpose=one.purpose,
        at=one.reserved_at,
        noise_multiplier=one.noise_multiplier,
        epsilon=compose([Release(one.noise_multiplier, one.steps, one.sample_rate)], delta),
    )


def _listed_rows(site: Site) -> dict[str, list[ListedRow]]:
    """Rows of the table by subject, as far as they can be read."""
    header: list[str] | None = None
    found: dict[str, list[ListedRow]] = {}
    for line, cells in read_rows(site.paths.recordings, []):
        if header is None:
            header = cells
            continue
        row = dict(zip(header, cells, strict=False))
        paths = [site.paths.videos / row[name] for name in FILE_COLUMNS if row.get(name)]
        files = tuple(path for path in paths if path.is_file())
        listed = ListedRow(line, row.get("recording_id", ""), files)
        found.setdefault(row.get("subject_id", ""), []).append(listed)
    return found


def _log_once(site: Site, certificate: Path, *, files: int) -> None:
    """Note an erasure in the audit log, unless that was done before a crash."""
    logged = {one.details.get("certificate") for one in audit.read(site.paths.audit)}
    if certificate.stem not in logged:
        audit.AuditLog(site.paths.audit).append(ERASED, certificate=certificate.stem, files=files)
