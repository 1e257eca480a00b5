"""``vultus-site``: the command line of a hospital's site."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from shared_models.console import (
    DONE,
    FAILED,
    USAGE,
    CommandLine,
    InputError,
    Screen,
    report_errors,
)

app = CommandLine(
    name="vultus-site",
    about=(
        "Run one site of a consortium: prepare recordings, extract behaviour features, take part "
        "in training. Videos, faces and subjects never leave this machine.\n\n"
        "The usual order: [bold]init[/], fill in recordings.csv, [bold]check[/], "
        "[bold]extract[/], [bold]inspect[/], [bold]join[/], [bold]start[/]. "
        "[bold]doctor[/] tells what is wrong at any time.\n\n"
        "Research software: no output is a diagnosis. "
        "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 refused by policy."
    ),
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The site folder made by 'init'.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object for machines as the last line.")
]
FaceModel = Annotated[
    Path | None,
    typer.Option(
        "--face-model",
        metavar="FILE",
        help="The face landmarker bundle (face_landmarker.task). Default: paths.face_model in "
        "site.toml, else the account's cache, else a download checked by its hash.",
    ),
]


def _exit_codes() -> Mapping[type[Exception], int]:
    from privacy.keys import KeyFileError
    from privacy.ledger import BudgetExceeded, LedgerError
    from privacy.vault import VaultError
    from shared_models.console import REFUSED

    codes: dict[type[Exception], int] = {
        BudgetExceeded: REFUSED,
        LedgerError: FAILED,
        KeyFileError: USAGE,
        VaultError: FAILED,
    }
    try:
        from client.extraction.face_model import FaceModelError
    except ImportError:
        return codes
    return {**codes, FaceModelError: USAGE}


@app.command()
@report_errors(_exit_codes)
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
@report_errors(_exit_codes)
def doctor(folder: Folder, *, face_model: FaceModel = None, json: Json = False) -> None:
    """Check everything that needs no coordinator, and say how to mend what fails.

    Contacts nobody. Exits with 1 if any check fails.
    """
    from client.doctor import examine

    screen = Screen(json=json)
    checks = examine(folder, face_model=face_model)
    for check in checks:
        screen.say(
            f"{'passed' if check.passed else 'FAILED'}  {check.name}"
            + ("" if check.passed else f"\n        {check.remedy}"),
            style=None if check.passed else "red",
        )
    failed = sum(not check.passed for check in checks)
    if failed:
        screen.next(f"mend the {failed} failed checks above, then run doctor again.")
    else:
        screen.next(f"run 'vultus-site check {folder}'.")
    screen.answer(
        {"checks": [{"name": c.name, "passed": c.passed, "remedy": c.remedy} for c in checks]}
    )
    raise typer.Exit(FAILED if failed else DONE)


@app.command()
@report_errors(_exit_codes)
def check(folder: Folder, *, json: Json = False) -> None:
    """Check recordings.csv and its videos; all faults at once, each with its line.

    Exits with 2 if there is any fault.
    """
    from client.preparation import check_recordings
    from client.site import open_site

    screen = Screen(json=json)
    site = open_site(folder)
    checked = check_recordings(site)
    for fault in checked.faults:
        column = f", {fault.column}" if fault.column else ""
        screen.say(f"line {fault.line}{column}: {fault.fault}", style="red")
    for warning in checked.warnings:
        screen.warn(warning)
    screen.say(f"{checked.recordings} recordings of {checked.subjects} subjects.")
    if checked.faults:
        screen.next(f"correct {site.paths.recordings} and run 'vultus-site check {folder}' again.")
    else:
        screen.next(f"run 'vultus-site extract {folder}'.")
    screen.answer(checked.to_json())
    raise typer.Exit(USAGE if checked.faults else DONE)


@app.command()
@report_errors(_exit_codes)
def extract(
    folder: Folder,
    *,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Processes at work. Default: device.workers."),
    ] = None,
    face_model: FaceModel = None,
    json: Json = False,
) -> None:
    """Turn the videos into encrypted behaviour features; run it again to go on.

    What is done already is skipped, and a changed video is extracted anew. Ctrl-C loses nothing
    that was finished. A video that the quality gate rejects is kept out of training with its
    reasons; that is no failure.
    """
    from client.preparation import extract_site
    from client.site import open_site

    screen = Screen(json=json)
    tally, seconds = extract_site(screen, open_site(folder), workers=workers, face_model=face_model)
    if tally.failed:
        screen.next(f"run 'vultus-site extract {folder}' again to retry the failed recordings.")
    else:
        screen.next(f"run 'vultus-site inspect {folder}' to see verdicts and indicators.")
    screen.answer(
        {
            "extracted": tally.extracted,
            "rejected": tally.rejected,
            "failed": tally.failed,
            "skipped": tally.skipped,
            "frames": tally.frames,
            "seconds": round(seconds, 3),
            "failures": [{"recording_id": name, "error": why} for name, why in tally.failures],
        }
    )
    raise typer.Exit(FAILED if tally.failed else DONE)


@app.command()
@report_errors(_exit_codes)
def inspect(
    folder: Folder,
    *,
    export: Annotated[
        str | None, typer.Option(metavar="csv|parquet", help="Write a table of all figures.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the table goes. Default: DIR/indicators.FORMAT."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write one HTML page with plots over time."),
    ] = None,
    json: Json = False,
) -> None:
    """Show the quality and the behavioural indicators of every recording.

    Tables and pages hold figures of single subjects: they are written for this site alone, and
    nothing sends them anywhere.
    """
    from client.inspection import inspect_site, write_page, write_table
    from client.site import open_site

    if export not in {None, "csv", "parquet"}:
        msg = f"Expected --export csv or --export parquet, got {export!r}."
        raise InputError(msg)
    if out and not export:
        msg = "Expected --export csv or --export parquet together with --out."
        raise InputError(msg)
    screen = Screen(json=json)
    site = open_site(folder)
    found = inspect_site(site)
    found.show(screen)
    if export:
        target = out or site.folder / f"indicators.{export}"
        write_table(found, target, file_format=export)
        screen.say(f"Table: {target}")
    if page:
        write_page(found, page, site=site)
        screen.say(f"Page: {page}")
    screen.next(*found.next_steps(folder))
    screen.answer(found.to_json())


@app.command()
@report_errors(_exit_codes)
def budget(folder: Folder, *, json: Json = False) -> None:
    """Show the privacy budget: what any subject has spent at most, and what is left."""
    from client.budget import read_budget
    from client.site import open_site

    screen = Screen(json=json)
    site = open_site(folder)
    found = read_budget(site)
    found.show(screen)
    screen.answer(found.to_json())


@app.command()
@report_errors(_exit_codes)
def join(
    folder: Folder,
    kit: Annotated[
        Path, typer.Argument(metavar="KIT", help="The kit folder that the coordinator sent.")
    ],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Agree without being asked.")] = False,
) -> None:
    """Take over the coordinator's kit: address, certificate, study, approved bundle.

    Shows what would change in site.toml and asks before anything is written.
    """
    from client.agreement import agree_to_changes
    from client.service.kit import join_site

    screen = Screen()
    site = join_site(
        folder, kit, confirm=lambda changes: agree_to_changes(screen, changes, yes=yes)
    )
    screen.say(f"Site '{site.id}' has joined with {kit}.")
    screen.next(f"run 'vultus-site start {folder}'.")


@app.command()
@report_errors(_exit_codes)
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
