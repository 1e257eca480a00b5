"""Preflight: everything that can be checked at a site, each passed or with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from client.checkup import boundary, folder, machine, rehearsal
from client.checkup.contact import contact
from client.checkup.finding import Ailment, Check, Examination, check, check_all
from client.site import Site, open_site

__all__ = ["Check", "examine"]


def examine(
    site_folder: Path, *, face_model: Path | None = None, contact_coordinator: bool = False
) -> Iterator[Check]:
    """Every check of a site, in an order in which it makes sense to mend them, as each is done.

    Args:
        site_folder: The site folder.
        face_model: The face landmarker bundle, if not the one that the site names.
        contact_coordinator: Whether to connect to the coordinator; otherwise nobody is contacted.
    """
    yield from check_all(
        (
            ("Python and packages", machine.packages),
            ("memory", machine.memory),
            ("video codecs", machine.codecs),
            ("disk", partial(folder.disk, site_folder)),
        )
    )
    opened: list[Site] = []

    def open_it() -> str:
        site = open_site(site_folder)
        opened.append(site)
        return f"site '{site.id}', study '{site.consortium.config.study.name}'"

    yield check("site folder, site.toml and study", open_it)
    for site in opened:
        yield from check_all(_site_examinations(site, face_model, ask=contact_coordinator))


def _site_examinations(
    site: Site, face_model: Path | None, *, ask: bool
) -> Iterator[tuple[str, Examination]]:
    for name, examine_one in _OF_A_SITE:
        yield name, partial(examine_one, site)
    yield from _of_the_extraction(site, face_model)
    yield (
        "connection to the coordinator",
        partial(contact, site) if ask else lambda: "not asked for; 'doctor --contact' connects",
    )


_OF_A_SITE: tuple[tuple[str, Callable[[Site], str]], ...] = (
    ("permissions", folder.permissions),
    ("keys", folder.keys),
    ("clock", machine.clock),
    ("policy", folder.policy),
    ("kit", folder.kit),
    ("proxy and TLS", machine.proxy),
    ("training device", machine.device),
    ("extraction workers", machine.workers),
    ("quality thresholds", folder.thresholds),
    ("recordings", folder.recordings),
    ("feature store", folder.store),
    ("room for features", folder.room),
    ("privacy ledger", folder.ledger),
    ("audit log", folder.audit),
    ("forgotten subjects", folder.exclusions),
    ("wall before the videos", boundary.wall),
    ("network of the extraction", boundary.network_cut),
)


def _of_the_extraction(
    site: Site, face_model: Path | None
) -> tuple[tuple[str, Examination], tuple[str, Examination]]:
    """The bundle, and what it makes of a known clip."""
    found: list[Path] = []

    def find() -> str:
        found.append(rehearsal.find_bundle(site, face_model))
        return str(found[0])

    def rehearse() -> str:
        if not found:
            msg = "Mend 'face landmarker bundle' first."
            raise Ailment(msg)
        return rehearsal.rehearse(found[0])

    return ("face landmarker bundle", find), ("dry run of the extraction", rehearse)
