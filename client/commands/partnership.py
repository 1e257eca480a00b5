"""Commands by which the people of a site say what may happen there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.line import Folder, Json, app, exit_codes
from shared_models.console import REFUSED, InputError, Screen, report_errors

if TYPE_CHECKING:
    from client.approval.waiting import Waiting
    from client.site import Site

Yes = Annotated[bool, typer.Option("--yes", help="Agree without being asked; for scripts.")]


@app.command()
@report_errors(exit_codes)
def join(
    folder: Folder,
    kit: Annotated[
        Path, typer.Argument(metavar="KIT", help="The kit folder that the coordinator sent.")
    ],
    *,
    yes: Yes = False,
) -> None:
    """Take over the coordinator's kit: address, certificate, study, sites, approved bundle.

    Checks the coordinator's signature under the whole kit, shows in plain words what is asked and
    what would change, and asks before anything is written. Saying yes approves the bundle for this
    study and its privacy, and for no other.
    """
    from client.approval.waiting import find_waiting

    screen = Screen()
    site = _join(screen, folder, kit, yes=yes)
    screen.say(f"Site '{site.id}' has joined with {kit}.")
    if any(find_waiting(site)):
        screen.next(f"run 'vultus-site approve {folder}': something still waits for approval.")
    screen.next(f"run 'vultus-site start {folder}'.")


@app.command()
@report_errors(exit_codes)
def approve(  # noqa: PLR0913 - each is an option of the command
    folder: Folder,
    kit: Annotated[
        Path | None,
        typer.Argument(metavar="[KIT]", help="A kit to read and join with. Default: what waits."),
    ] = None,
    *,
    yes: Yes = False,
    list_only: Annotated[
        bool, typer.Option("--list", help="Show what was approved and what waits; ask nothing.")
    ] = False,
    withdraw: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="Take back an approval: a bundle's SHA-256 (8 or more digits) or a site's id.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Read in plain words what waits for this site's approval, and decide.

    A bundle is approved for the study that is pinned and its privacy plans; after any change it has
    to be approved anew. A bundle with code in it can never be approved. Saying no removes it from
    what waits. A running service takes over what changes.
    """
    from client.site import open_site

    screen = Screen(json=json)
    if kit is not None:
        _join(screen, folder, kit, yes=yes)
    site = open_site(folder)
    hostile = False
    if withdraw is not None:
        _withdraw(screen, site, withdraw)
    elif not list_only:
        hostile = _decide(screen, site, yes=yes)
    _show(screen, site)
    if hostile:
        raise typer.Exit(REFUSED)


@app.command("renew-key")
@report_errors(exit_codes)
def renew_key(folder: Folder) -> None:
    """Make a new identity key, and the file by which the coordinator puts it into force.

    The present key signs that file and goes on counting until the coordinator has taken it over;
    then the site changes to the new one by itself. Features, ledger and log stay as they are.
    """
    from client.renewal import own_keys, request_renewal
    from client.site import open_site
    from privacy.keys import fingerprint

    screen = Screen()
    file = request_renewal(open_site(folder))
    site = open_site(folder)
    screen.say(f"New key of site '{site.id}': {fingerprint(own_keys(site)[-1])}")
    screen.next(
        f"send {file} to the coordinator, who runs 'vultus-coordinator renew-site'.",
        "nothing else: the service takes the new key as soon as the coordinator did.",
        f"then back up {site.paths.keys} anew.",
    )


def _join(screen: Screen, folder: Path, kit: Path, *, yes: bool) -> Site:
    from client.agreement import agree_to_proposal
    from client.service.kit import join_site

    return join_site(
        folder, kit, confirm=lambda proposal: agree_to_proposal(screen, proposal, yes=yes)
    )


def _withdraw(screen: Screen, site: Site, what: str) -> None:
    from client.approval.record import withdraw

    taken_back = withdraw(site, what)
    if not taken_back:
        msg = f"Expected something that was approved, got {what!r}: see 'approve {site.folder}'."
        raise InputError(msg)
    for one in taken_back:
        screen.say(f"Withdrawn: {one}.")
    screen.next("nothing: a running service stops what is no longer approved.")


def _decide(screen: Screen, site: Site, *, yes: bool) -> bool:
    """Ask about each thing that waits; whether something was among it that can never be approved.

    A no leaves it refused and goes on with the next.
    """
    from client.agreement import show_topics
    from client.approval.waiting import find_waiting

    waiting = find_waiting(site)
    for one in waiting:
        show_topics(screen, one.topics)
        if one.fault:
            screen.say(one.fault, style="bold red")
            one.dismiss()
        elif yes or typer.confirm(f"Approve {one.name}?", err=screen.json):
            one.approve()
            screen.say(f"Approved {one.name}.")
        else:
            one.dismiss()
            screen.say(f"Not approved: {one.name}.")
    return any(one.fault for one in waiting)


def _show(screen: Screen, site: Site) -> None:
    from client.approval.record import holds, read_approvals
    from client.approval.waiting import find_waiting

    given = read_approvals(site.folder)
    bundles = [
        {**_short(vars(one)), "in_force": holds(one, site.consortium)} for one in given.bundle
    ]
    waiting: list[Waiting] = find_waiting(site)
    for one in bundles:
        state = "in force" if one["in_force"] else "of another study or other privacy plans"
        screen.say(f"Approved bundle {one['sha256']} ({one['note']}): {state}.")
    for member in given.member:
        screen.say(f"Approved site {member.id}, {member.fingerprint}.")
    for one_waiting in waiting:
        screen.say(f"Waits: {one_waiting.name}.")
    if not waiting:
        screen.say("Nothing waits for approval.")
    screen.answer(
        {
            "bundles": bundles,
            "members": [_short(vars(member)) for member in given.member],
            "waiting": [{"what": w.name, "fault": w.fault} for w in waiting],
        }
    )


def _short(fields: dict[str, object]) -> dict[str, object]:
    """What a machine reads of an approval: all but the study's text."""
    return {name: value for name, value in fields.items() if name != "study"}
