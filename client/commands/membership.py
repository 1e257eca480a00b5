"""Commands that make a site, look after it and connect it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from client.commands.line import FaceModel, Folder, Json, app, exit_codes
from shared_models.console import DONE, FAILED, InputError, Screen, report_errors


@app.command()
@report_errors(exit_codes)
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    *,
    site_id: Annotated[
        str, typer.Option("--id", help="Short name of this site, such as 'north-hospital'.")
    ],
    consortium: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The study file consortium.toml of the coordinator."),
    ],
    yes: Annotated[
        bool, typer.Option("--yes", help="Agree to a changed study file without being asked.")
    ] = False,
) -> None:
    """Make the site folder: keys, private folders, site.toml with the study pinned.

    Private keys are made here and never leave. Run it again with a newer study file to read what
    changed and agree to it; keys, recordings and your edits stay.
    """
    from client.agreement import agree_to_study
    from client.site import init_site
    from privacy.keys import fingerprint

    screen = Screen()
    agree_to_study(screen, folder, consortium, yes=yes)
    site = init_site(folder, site_id=site_id, consortium_file=consortium)
    public = site.public_key_file
    screen.say(f"Site '{site.id}' is ready in {site.folder}.")
    screen.say(f"Study '{site.consortium.config.study.name}', SHA-256 {site.consortium.digest}.")
    screen.say(f"Public key {fingerprint(public.read_text())}.")
    screen.next(
        f"send {public} to the coordinator (nothing else in this folder is for them).",
        f"fill in {site.paths.recordings}; README.txt beside it explains each column.",
        f"run 'vultus-site check {folder}'.",
    )


@app.command()
@report_errors(exit_codes)
def doctor(
    folder: Folder,
    *,
    face_model: FaceModel = None,
    contact: Annotated[
        bool,
        typer.Option("--contact", help="Also connect to the coordinator and look at who answers."),
    ] = False,
    json: Json = False,
) -> None:
    """Check the machine and the site, and say how to mend what fails.

    Contacts nobody unless asked. Exits with 1 if any check fails.
    """
    from client.doctor import Check, examine

    screen = Screen(json=json)
    checks: list[Check] = []
    for check in examine(folder, face_model=face_model, contact_coordinator=contact):
        checks.append(check)
        if check.passed:
            screen.say(f"passed  {check.name}: {check.detail}")
        else:
            screen.say(f"FAILED  {check.name}\n        {check.remedy}", style="red")
    failed = sum(not check.passed for check in checks)
    if failed:
        screen.next(f"mend the {failed} failed checks above, then run doctor again.")
    else:
        screen.next(f"run 'vultus-site check {folder}'.")
    screen.answer({"checks": [asdict(check) for check in checks]})
    raise typer.Exit(FAILED if failed else DONE)


@app.command()
@report_errors(exit_codes)
def start(folder: Folder) -> None:
    """Connect to the coordinator and take part in its runs until stopped (Ctrl-C).

    Every request is checked against the pinned study, the policy in site.toml and the privacy
    budget before any data is touched.
    """
    from client.service.supernode import serve_site
    from client.site import open_site

    site = open_site(folder)
    if site.config.coordinator is None:
        msg = f"Expected [coordinator] in {site.config_file}: run 'vultus-site join DIR KIT' first."
        raise InputError(msg)
    raise typer.Exit(serve_site(site))


@app.command()
@report_errors(exit_codes)
def units(
    folder: Folder,
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the files there. Default: print them."),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Account to run as. Default: the owner of DIR."),
    ] = None,
    videos_group: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Group that may read the videos: the extraction alone gets it.",
        ),
    ] = None,
) -> None:
    """Print systemd units: the service without videos, the extraction without a network.

    They carry this site's paths and this installation's program. Write them anew when either moves.
    """
    from client.service.units import make_units
    from client.site import open_site
    from shared_models.systemd import write_units

    screen = Screen()
    site = open_site(folder)
    made = make_units(site, user=user or site.folder.owner(), videos_group=videos_group)
    if out is None:
        for unit in made:
            screen.say(f"# {unit.name}\n{unit.text}")
        screen.next(f"write them with 'vultus-site units {folder} --out FOLDER'.")
        return
    for path in write_units(made, out):
        screen.say(str(path))
    service, _, timer = (unit.name for unit in made)
    if site.paths.face_model is None:
        screen.warn(
            "the extraction has no network to fetch the face landmarker bundle: set "
            f"paths.face_model in {site.config_file} and write the units anew."
        )
    screen.next(
        f"as root: cp {out}/vultus-*-{site.id}.* /etc/systemd/system/ && systemctl daemon-reload",
        f"as root: systemctl enable --now {service} {timer}",
    )
