"""What ``vultus-site import`` does: read the source, take it over, tell what happened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from client.importing.bids import import_bids
from client.importing.imported import Imported
from client.importing.recordings_file import ImportOutcome, take_over
from client.importing.redcap import import_redcap
from client.site import Site
from client.site_config import BidsSection
from shared_models.console import InputError, Screen


def read_source(  # noqa: PLR0913 - each is an option of the command
    site: Site,
    *,
    redcap: Path | None,
    dictionary: Path | None,
    bids: Path | None,
    score_column: str | None,
    timezone: str | None,
) -> Imported:
    """The rows of the one source that was named.

    Raises:
        InputError: If none or both are named, or options belong to the other source.
    """
    if (redcap is None) == (bids is None):
        msg = "Expected either --redcap EXPORT.csv or --bids TREE."
        raise InputError(msg)
    if redcap is not None:
        if score_column:
            msg = "Expected --score-column only with --bids: [redcap] in site.toml names the score."
            raise InputError(msg)
        mapping = site.config.redcap
        if mapping is not None and timezone:
            mapping = replace(mapping, timezone=timezone)
        return import_redcap(redcap, mapping, dictionary=dictionary)
    assert bids is not None  # noqa: S101 - narrows for mypy
    if dictionary:
        msg = "Expected --dictionary only with --redcap: a BIDS tree describes its codes itself."
        raise InputError(msg)
    section = site.config.bids or BidsSection()
    section = replace(
        section, score=score_column or section.score, timezone=timezone or section.timezone
    )
    return import_bids(bids, section, root=site.paths.videos)


def import_into(
    screen: Screen, site: Site, imported: Imported, *, update: bool, skip_missing: bool
) -> ImportOutcome:
    """Take an import over and tell people what came of it."""
    outcome = take_over(site, imported, update=update, skip_missing=skip_missing)
    for fault in outcome.faults:
        screen.say(str(fault), style="red")
    for note in outcome.left_out:
        screen.warn(note)
    if outcome.faults:
        count = "1 fault" if len(outcome.faults) == 1 else f"{len(outcome.faults)} faults"
        screen.say(f"{count}: nothing was written.")
        return outcome
    screen.say(
        f"{len(outcome.added)} recordings added, {len(outcome.updated)} updated, "
        f"{len(outcome.unchanged)} unchanged, {outcome.kept} others kept."
    )
    if outcome.backup:
        screen.say(f"The table before: {outcome.backup}")
    return outcome
