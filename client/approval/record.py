"""What the people of a site approved: bundles, each for one study and its privacy; other sites.

An approval holds for exactly what was shown when it was given. It names the bundle, the study file
and the privacy plans that follow from it; when any of the three is another one, nobody has approved
that yet. The file lies in the site folder, where the service cannot write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import tomlkit
from pydantic import Field
from pydantic.dataclasses import dataclass

from client.site import Site, refuse_readable_by_others
from client.site_config import Sha256
from privacy.audit import AuditLog
from privacy.keys import fingerprint
from privacy.plan import PrivacyPlan
from privacy.vault import write_atomic
from shared_models.consortium import Consortium, ConsortiumConfig
from shared_models.roster import Name, SiteEntry, check_key
from shared_models.toml import STRICT, load_toml

APPROVALS_FILE = "approvals.toml"
SHORTEST_PREFIX = 8
APPROVED, WITHDRAWN = "approved", "approval_withdrawn"
NOTE = (
    "What the people of this site approved; written by 'vultus-site join' and 'approve'. Each",
    "bundle holds for one study file and its privacy plans alone. Stays at the site, mode 600.",
)
NOISE_DIGITS = 6


@dataclass(frozen=True, config=STRICT)
class Approval:
    """``[[bundle]]``: a bundle that may run, for what, and since when.

    Attributes:
        sha256: The bundle.
        consortium_sha256: The study file that it was approved for.
        plans_sha256: See :func:`plans_digest`.
        approved_at: ISO 8601 with offset.
        note: What it was, for people.
        study: The study file's text, so that a later change can be shown.
    """

    sha256: Sha256
    consortium_sha256: Sha256
    plans_sha256: Sha256
    approved_at: str
    note: str
    study: str = ""


@dataclass(frozen=True, config=STRICT)
class ApprovedMember:
    """``[[member]]``: another site with the key by which it was approved."""

    id: Name
    public_key: str
    fingerprint: Annotated[str, Field(pattern=r"^SHA256:\S{43}$")]
    approved_at: str

    def __post_init__(self) -> None:
        """Refuse a key other than the one whose fingerprint people read.

        Raises:
            ValueError: If the two do not belong together, or the line is no key.
        """
        check_key(self.public_key, "the public key of an approved site")
        if fingerprint(self.public_key) != self.fingerprint:
            msg = f"Expected the fingerprint of the key of {self.id!r}, got {self.fingerprint}"
            raise ValueError(msg)


@dataclass(frozen=True, config=STRICT)
class Approvals:
    """All of ``approvals.toml``, in the order in which it was given."""

    bundle: tuple[Approval, ...] = ()
    member: tuple[ApprovedMember, ...] = ()


def read_approvals(folder: Path) -> Approvals:
    """What was approved at a site; nothing where there is no file yet.

    Args:
        folder: The site folder.

    Raises:
        ConfigError: If the file is faulty.
        SiteError: If others can read or write it.
    """
    file = folder / APPROVALS_FILE
    if not file.exists():
        return Approvals()
    refuse_readable_by_others(file)
    return load_toml(file, Approvals)


def approved_bundles(site: Site) -> tuple[str, ...]:
    """SHA-256 of the bundles that may run for the study as it is pinned now, hexadecimal.

    Raises:
        ConfigError: If ``approvals.toml`` is faulty.
        SiteError: If others can read or write it.
    """
    given = read_approvals(site.folder).bundle
    return tuple(dict.fromkeys(one.sha256 for one in given if holds(one, site.consortium)))


def approved_members(site: Site) -> dict[str, str]:
    """OpenSSH lines of the keys of the sites that this site approved, by their id.

    Raises:
        ConfigError: If ``approvals.toml`` is faulty.
        SiteError: If others can read or write it.
    """
    return {member.id: member.public_key for member in read_approvals(site.folder).member}


def holds(approval: Approval, consortium: Consortium) -> bool:
    """Whether an approval was given for this study with these privacy plans."""
    given = (approval.consortium_sha256, approval.plans_sha256)
    return given == (consortium.digest, plans_digest(consortium.config))


def plans_digest(config: ConsortiumConfig) -> str:
    """SHA-256 over what both privacy plans promise, whoever takes part.

    The number of sites decides how a sum's noise is shared out and nothing that is promised, so a
    site that joins or leaves changes nothing here. The noise is in it: another version that derives
    another noise from the same study has to be approved anew.
    """
    alone = replace(config, sites=())
    parts = [_steady(alone.training_plan()).digest(), _steady(alone.tally_plan()).digest()]
    text = "|".join(["vultus plans 1", *parts, str(config.privacy.tolerated_dropouts)])
    return hashlib.sha256(text.encode()).hexdigest()


def add_bundle(site: Site, sha256: str, consortium: Consortium, *, study: str) -> None:
    """Put on record, durably, that a bundle may run for a study.

    Args:
        site: The site.
        sha256: The bundle.
        consortium: The study, which need not be the one that is pinned by now.
        study: The study file's text.
    """
    known = read_approvals(site.folder)
    if any(one.sha256 == sha256 and holds(one, consortium) for one in known.bundle):
        return
    config = consortium.config
    note = (
        f"study {config.study.name}, {config.training.rounds} rounds, epsilon "
        f"{config.privacy.target_epsilon:g} ({config.privacy.mode}), vultus {version('vultus')}"
    )
    plans = plans_digest(config)
    new = Approval(sha256, consortium.digest, plans, _now(), note, study)
    _write(site.folder, replace(known, bundle=(*known.bundle, new)))
    AuditLog(site.paths.audit).append(
        APPROVED, bundle=sha256, consortium=consortium.digest, plans=plans
    )


def add_member(site: Site, entry: SiteEntry) -> None:
    """Put on record, durably, that another site is approved with this key and no other."""
    known = read_approvals(site.folder)
    line = " ".join(entry.public_key.split()[:2])
    new = ApprovedMember(entry.id, line, fingerprint(line), _now())
    others = tuple(member for member in known.member if member.id != entry.id)
    _write(site.folder, replace(known, member=(*others, new)))
    AuditLog(site.paths.audit).append(APPROVED, member=entry.id, key=new.fingerprint)


def withdraw(site: Site, name: str) -> tuple[str, ...]:
    """Take back what was approved; one sentence for each thing that was.

    Args:
        site: The site.
        name: First characters (8 or more) of a bundle's SHA-256, or the id of a site.
    """
    known = read_approvals(site.folder)
    is_prefix = len(name) >= SHORTEST_PREFIX
    bundles = tuple(b for b in known.bundle if is_prefix and b.sha256.startswith(name.lower()))
    members = tuple(m for m in known.member if m.id == name)
    if bundles or members:
        kept = Approvals(
            tuple(b for b in known.bundle if b not in bundles),
            tuple(m for m in known.member if m not in members),
        )
        _write(site.folder, kept)
        AuditLog(site.paths.audit).append(WITHDRAWN, what=name)
    return (*(f"bundle {b.sha256}: {b.note}" for b in bundles), *(f"site {m.id}" for m in members))


def _steady(plan: PrivacyPlan) -> PrivacyPlan:
    """The plan without the digits of its noise that differ between machines."""
    return replace(plan, noise_multiplier=round(plan.noise_multiplier, NOISE_DIGITS))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(folder: Path, approvals: Approvals) -> None:
    document = tomlkit.document()
    for line in NOTE:
        document.add(tomlkit.comment(line))
    for name, entries in (("bundle", approvals.bundle), ("member", approvals.member)):
        if entries:
            document.add(tomlkit.nl())
            tables = tomlkit.aot()
            for entry in entries:
                tables.append(_table(asdict(entry)))
            document.add(name, tables)
    write_atomic(folder / APPROVALS_FILE, tomlkit.dumps(document).encode())


def _table(values: Mapping[str, str]) -> tomlkit.items.Table:
    table = tomlkit.table()
    for name, value in values.items():
        table.add(name, tomlkit.string(value, multiline="\n" in value))
    table.add(tomlkit.nl())
    return table
