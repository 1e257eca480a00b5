"""Commands that answer to a subject: what was spent, what left, and how one is forgotten."""

from __future__ import annotations

from typing import Annotated

import typer

from client.commands.line import Folder, Json, app, exit_codes
from shared_models.console import FAILED, InputError, Screen, report_errors


@app.command()
@report_errors(exit_codes)
def budget(folder: Folder, *, json: Json = False) -> None:
    """Show the privacy budget: what any subject has spent at most, and what is left."""
    from client.records.budget import read_budget
    from client.site import open_site

    screen = Screen(json=json)
    site = open_site(folder)
    found = read_budget(site)
    found.show(screen)
    screen.answer(found.to_json())


@app.command()
@report_errors(exit_codes)
def audit(
    folder: Folder,
    *,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Check signatures, the privacy ledger and the list of forgotten subjects too.",
        ),
    ] = False,
    limit: Annotated[
        int, typer.Option(min=1, metavar="N", help="Show the last N entries of the log.")
    ] = 20,
    json: Json = False,
) -> None:
    """Show what left this site and what else happened, in plain words, newest last.

    Each message that left has a receipt, signed with the site's key. Nothing is asked over the
    network. Answers 1 if anything was changed, removed or does not fit the ledger.
    """
    from client.records.check import check_records
    from client.records.view import show_report, to_json
    from client.site import open_site

    screen = Screen(json=json)
    report = check_records(open_site(folder), verify=verify)
    show_report(screen, report, limit=limit)
    screen.answer(to_json(report, limit=limit))
    if not report.whole:
        raise typer.Exit(FAILED)


@app.command()
@report_errors(exit_codes)
def forget(
    folder: Folder,
    subject: Annotated[
        str, typer.Argument(metavar="SUBJECT", help="The pseudonym, as in the table's subject_id.")
    ],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Erase without being asked.")] = False,
    json: Json = False,
) -> None:
    """Forget a subject who withdrew: erase, keep out of every later round, write a certificate.

    Shows first what will be erased and what cannot be undone. A site that is serving leaves the
    subject out from its next request on. After a crash, run it again: it finishes the work.
    """
    from client.site import open_site
    from client.withdrawal.erasure import find_traces, forget_subject
    from client.withdrawal.telling import report_erasure, show_traces

    screen = Screen(json=json)
    site = open_site(folder)
    traces = find_traces(site, subject)
    show_traces(screen, traces)
    if not traces.is_forgotten and not yes and not typer.confirm("Erase?", err=json):
        msg = "Nothing was erased, because it was not agreed to."
        raise InputError(msg)
    report_erasure(screen, site, traces, forget_subject(site, subject))
