"""Commands that answer to a subject: what was spent on anyone."""

from __future__ import annotations

from client.commands.line import Folder, Json, app, exit_codes
from shared_models.console import Screen, report_errors


@app.command()
@report_errors(exit_codes)
def budget(folder: Folder, *, json: Json = False) -> None:
    """Show the privacy budget: what any subject has spent at most, and what is left."""
    from client.budget import read_budget
    from client.site import open_site

    screen = Screen(json=json)
    site = open_site(folder)
    found = read_budget(site)
    found.show(screen)
    screen.answer(found.to_json())
