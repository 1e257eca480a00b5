"""Agreeing: a person sees what a new study file or a kit changes before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from client.site import CONSORTIUM_FILE, SITE_FILE
from client.site_template import describe_changes
from shared_models.console import InputError, Screen
from shared_models.consortium import load_consortium


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
