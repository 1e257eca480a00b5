"""The command that explains a score to the people of the site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.commands.line import Folder, Json, app, exit_codes
from shared_models.console import Screen, report_errors


@app.command()
@report_errors(exit_codes)
def explain(
    folder: Folder,
    subject: Annotated[
        str, typer.Argument(metavar="SUBJECT", help="The pseudonym, as in the table's subject_id.")
    ],
    *,
    recording: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Only this recording. Default: all of the subject's."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A published model, its signature FILE.sig beside it. Default: the last global "
            "model that this site judged.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Explain a subject's score: behaviours and moments that moved it, on a page for this site.

    Integrated gradients against typical faces; whether the parts add up is checked and shown. An
    attribution is not a cause, and no output is a diagnosis. Only a model that the coordinator of
    the agreed study signed is explained. The page is closed to other accounts and sent nowhere;
    'forget' deletes it.
    """
    from datetime import UTC, datetime

    from client.explanation.model import open_model
    from client.explanation.page import write_explanation
    from client.explanation.subject import explain_subject
    from client.explanation.words import show_signed, tell
    from client.site import open_site

    screen = Screen(json=json)
    site = open_site(folder)
    chosen = open_model(site, model)
    with screen.progress() as bar:
        task = bar.add_task("Looking at every moment", total=None)
        explanation = explain_subject(
            site,
            chosen,
            subject,
            recording_id=recording,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    page = write_explanation(explanation, site, now=datetime.now(UTC).astimezone())
    for sentence in tell(explanation):
        screen.say(sentence)
    for one in explanation.behaviours:
        screen.say(f"  {show_signed(one.points):>6}  {one.group.title}")
    if not explanation.is_complete:
        screen.warn("the parts do not add up to the difference: do not rely on single bars.")
    screen.say("Attribution, not cause. Research software: no output is a diagnosis.")
    screen.say(f"Page: {page}")
    screen.next("open the page in a browser; it stays at this site.")
    screen.answer({**explanation.to_json(), "page": page})
