"""What the site's dashboard shows, from the functions that the commands use; only read.

Each part is read by itself: a broken file of one takes nothing from the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from client.approval.question import Topic
from client.approval.record import Approval, ApprovedMember, holds, read_approvals
from client.approval.waiting import list_waiting
from client.inspection.recordings import Inspection, inspect_site
from client.inspection.rejection import GroupRejection, tell_unlike, unlike_groups
from client.preparation.steps import load_manifest
from client.records.budget import Budget, read_budget
from client.records.check import AuditReport, check_records
from client.site import Site, open_site
from client.storage.folder import NAMES_KEY
from client.storage.stored_recording import StoredRecording
from privacy.keys import KeyFileError
from privacy.ledger import LedgerError
from privacy.vault import VaultError
from shared_models.web.findings import Finding, look_at

MOST_RECORDINGS = 500

_look_at = partial(look_at, known=(KeyFileError, LedgerError, VaultError))


@dataclass(frozen=True)
class Recordings:
    """The recordings of the site.

    Attributes:
        accepted: How many the quality gate let through.
        shown: Recordings, rejected ones first, at most :data:`MOST_RECORDINGS`.
        extracted: Recordings that were judged.
        missing: Recordings that were not extracted yet.
        withdrawn: Recordings left out because consent was withdrawn.
        groups: Rejections by group.
        unlike: Sentences on groups that are rejected unlike each other.
    """

    accepted: int
    shown: tuple[StoredRecording, ...]
    extracted: int
    missing: tuple[str, ...]
    withdrawn: int
    groups: tuple[GroupRejection, ...]
    unlike: tuple[str, ...]

    @property
    def rejected(self) -> int:
        """How many the quality gate kept out."""
        return self.extracted - self.accepted


@dataclass(frozen=True)
class Pending:
    """One thing that waits for a decision; to decide takes the command.

    Attributes:
        name: What it is.
        topics: What a person should know.
        fault: Why it can never be approved; empty if it can.
    """

    name: str
    topics: tuple[Topic, ...]
    fault: str


@dataclass(frozen=True)
class Approvals:
    """What may run here, and what waits.

    Attributes:
        bundles: Each approved bundle, and whether it may run for the study as it is now.
        members: Other sites that were approved.
        waiting: What waits.
    """

    bundles: tuple[tuple[Approval, bool], ...]
    members: tuple[ApprovedMember, ...]
    waiting: tuple[Pending, ...]

    @property
    def in_force(self) -> int:
        """How many bundles may run."""
        return sum(is_in_force for _, is_in_force in self.bundles)


@dataclass(frozen=True)
class SiteParts:
    """All of a site that could be opened.

    Attributes:
        site: The site.
        recordings: What was measured.
        budget: What was spent.
        audit: What left.
        approvals: What may run.
    """

    site: Site
    recordings: Finding[Recordings]
    budget: Finding[Budget]
    audit: Finding[AuditReport]
    approvals: Finding[Approvals]


@dataclass(frozen=True)
class SiteReader:
    """Looks at a site folder again and again.

    Attributes:
        folder: The site folder.
    """

    folder: Path

    def look(self) -> Finding[SiteParts]:
        """The folder as it is now."""
        return _look_at("the site", self._read)

    def _read(self) -> SiteParts:
        site = open_site(self.folder)
        return SiteParts(
            site,
            recordings=_look_at("the recordings", lambda: _read_recordings(site)),
            budget=_look_at("the privacy ledger", lambda: read_budget(site)),
            audit=_look_at("the audit log", lambda: check_records(site, verify=True)),
            approvals=_look_at("the approvals", lambda: _read_approvals(site)),
        )


def _read_recordings(site: Site) -> Recordings:
    found = inspect_site(site) if (site.paths.store / NAMES_KEY).exists() else _untouched(site)
    stored = [one for _, one in found.rows]
    return Recordings(
        accepted=len(stored) - len(found.rejected),
        shown=tuple(sorted(stored, key=lambda one: one.verdict == "accepted")[:MOST_RECORDINGS]),
        extracted=len(stored),
        missing=found.missing,
        withdrawn=found.withdrawn,
        groups=tuple(found.rejections),
        unlike=tuple(tell_unlike(*pair) for pair in unlike_groups(found.rejections)),
    )


def _untouched(site: Site) -> Inspection:
    """A site without a store: to open one would make it."""
    manifest = load_manifest(site, require_files=False)
    return Inspection(
        site_id=site.id,
        study=site.consortium.config,
        rows=(),
        missing=tuple(recording.recording_id for recording in manifest.recordings),
        withdrawn=len(manifest.withdrawn),
    )


def _read_approvals(site: Site) -> Approvals:
    given = read_approvals(site.folder)
    return Approvals(
        bundles=tuple((one, holds(one, site.consortium)) for one in given.bundle),
        members=given.member,
        waiting=tuple(Pending(one.name, one.topics, one.fault) for one in list_waiting(site)),
    )
