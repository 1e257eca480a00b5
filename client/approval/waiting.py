"""What waits for the people of a site: refused bundles, the kit's own, sites they do not know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from client.approval.inspection import inspect_bundle
from client.approval.pending import forget_pending, pending_bundles
from client.approval.question import Request, Topic, describe_request
from client.approval.record import add_bundle, add_member, approved_bundles, approved_members
from client.site import Site
from privacy.keys import fingerprint
from shared_models.consortium import Consortium
from shared_models.kits import BUNDLE_FILE
from shared_models.roster import RosterError, SiteEntry

PENDING_ROSTER = "roster.pending.json"


@dataclass(frozen=True)
class Waiting:
    """One thing to decide on.

    Attributes:
        name: What it is, for the question.
        topics: What a person should know.
        fault: Why it can never be approved; empty if it can.
        approve: Puts the yes on record.
        dismiss: Forgets that it waited, which leaves it refused.
    """

    name: str
    topics: tuple[Topic, ...]
    fault: str
    approve: Callable[[], None]
    dismiss: Callable[[], None]


def find_waiting(site: Site) -> list[Waiting]:
    """All that waits, bundles first; refused bundles that were approved since are forgotten."""
    for digest in set(approved_bundles(site)) & set(pending_bundles(site.paths.state)):
        forget_pending(site.paths.state, digest)
    return list_waiting(site)


def list_waiting(site: Site) -> list[Waiting]:
    """All that waits, bundles first; only looks."""
    return [*_find_bundles(site), *_find_members(site)]


def _find_bundles(site: Site) -> Iterator[Waiting]:
    """The bundle of the kit, if nobody approved it for the study as it is, and refused ones."""
    approved = approved_bundles(site)
    refused = pending_bundles(site.paths.state)
    kit = site.folder / BUNDLE_FILE
    found = [kit.read_bytes()] if kit.is_file() else []
    views = {view.sha256: view for view in map(inspect_bundle, [*found, *refused.values()])}
    coordinator = site.config.coordinator
    address = coordinator.address if coordinator else None
    for digest, view in views.items():
        if digest in approved:
            continue
        fault = f"Bundle {digest} cannot be approved: {'; '.join(view.faults)}."
        yield Waiting(
            f"bundle {digest}",
            describe_request(Request(site, site.consortium, address, view)),
            "" if view.is_approvable else fault,
            approve=partial(_approve_bundle, site, digest),
            dismiss=partial(forget_pending, site.paths.state, digest),
        )


def _approve_bundle(site: Site, digest: str) -> None:
    study = site.paths.consortium.read_text(encoding="utf-8")
    add_bundle(site, digest, site.consortium, study=study)
    forget_pending(site.paths.state, digest)


def _find_members(site: Site) -> Iterator[Waiting]:
    """Sites of the roster that nobody here approved, where the policy asks for that."""
    if site.policy is None or not site.policy.approve_members:
        return
    known = approved_members(site)
    for entry in _latest(site).config.sites:
        line = " ".join(entry.public_key.split()[:2])
        if entry.id == site.id or known.get(entry.id) == line:
            continue
        yield Waiting(
            f"site {entry.id}",
            (Topic(f"Another site, {entry.id}", tuple(_describe_member(entry, known))),),
            "",
            approve=partial(add_member, site, entry),
            dismiss=_keep_waiting,
        )


def _keep_waiting() -> None:
    """A site that was not approved waits for as long as the coordinator names it."""


def _describe_member(entry: SiteEntry, known: dict[str, str]) -> Iterator[str]:
    yield f"key {fingerprint(entry.public_key)}, counted with {entry.weight} patients"
    if entry.id in known:
        yield f"APPROVED BEFORE WITH ANOTHER KEY, {fingerprint(known[entry.id])}"
    yield "Compare the key with the people of that site by telephone."


def _latest(site: Site) -> Consortium:
    """The study with the sites that the coordinator named last, refused ones too."""
    refused = site.paths.state / PENDING_ROSTER
    try:
        return site.consortium.with_roster(refused.read_bytes())
    except (FileNotFoundError, RosterError):
        return site.consortium
