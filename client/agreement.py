"""Agreeing: a person sees what is asked and what it changes before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from client.site import CONSORTIUM_FILE, SITE_FILE
from client.site_template import describe_changes
from shared_models.console import InputError, RefusedError, Screen
from shared_models.consortium import load_consortium

if TYPE_CHECKING:
    from client.approval.inspection import BundleView
    from client.approval.question import Topic
    from client.service.kit import Proposal


def agree_to_study(screen: Screen, folder: Path, consortium_file: Path, *, yes: bool) -> None:
    """Show how a study file differs from the one that a site agreed to, and ask.

    A folder that is no site yet has nothing to compare with, and nothing is asked.

    Raises:
        ConfigError: If either study file is faulty.
        InputError: If the person does not agree.
    """
    current = folder / CONSORTIUM_FILE
    new = load_consortium(consortium_file)
    if not (folder / SITE_FILE).exists() or not current.exists():
        return
    old = load_consortium(current)
    if old.digest == new.digest:
        screen.say("The study file is the one that this site agreed to.")
        return
    agree_to_changes(
        screen, describe_changes(old.config, new.config) or ["only wording and layout"], yes=yes
    )


def agree_to_changes(screen: Screen, changes: Sequence[str], *, yes: bool) -> bool:
    """Show what would change at the site, and ask; True once the person agreed.

    Raises:
        InputError: If the person does not agree.
    """
    screen.say("This would change what the site agreed to:" if changes else "Nothing changes.")
    for change in changes:
        screen.say(f"  {change}")
    if changes and not yes and not typer.confirm("Agree?", err=screen.json):
        msg = "Nothing was changed, because it was not agreed to."
        raise InputError(msg)
    return True


def agree_to_proposal(screen: Screen, proposal: Proposal, *, yes: bool) -> bool:
    """Show what a kit asks and changes, and ask once; True once the person agreed.

    Raises:
        InputError: If the person does not agree.
        RefusedError: If the kit's bundle could never be approved, or a script said yes to something
            that a person has to decide.
    """
    if not proposal.changes:
        return agree_to_changes(screen, (), yes=yes)
    show_topics(screen, proposal.topics)
    refuse_unapprovable(proposal.bundle)
    if proposal.alarms and yes:
        listed = "\n".join(proposal.alarms)
        msg = f"{listed}\nNothing was changed: a person has to decide this. Run it without --yes."
        raise RefusedError(msg)
    return agree_to_changes(screen, proposal.changes, yes=yes)


def show_topics(screen: Screen, topics: Sequence[Topic]) -> None:
    """Print what a person has to know before saying yes."""
    for topic in topics:
        screen.say(topic.title, style="bold")
        for line in topic.lines:
            screen.say(f"  {line}")
    screen.say()


def refuse_unapprovable(bundle: BundleView) -> None:
    """Refuse a bundle that nobody may approve.

    Raises:
        RefusedError: With every reason, if there is one.
    """
    if not bundle.is_approvable:
        msg = f"Bundle {bundle.sha256} cannot be approved: {'; '.join(bundle.faults)}."
        raise RefusedError(msg)
