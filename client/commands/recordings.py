"""Commands that turn interview videos into features and look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.commands.line import FaceModel, Folder, Json, app, exit_codes
from shared_models.console import DONE, FAILED, USAGE, InputError, Screen, report_errors


@app.command("import")
@report_errors(exit_codes)
def import_recordings(  # noqa: PLR0913 - each is an option of the command
    folder: Folder,
    *,
    redcap: Annotated[
        Path | None,
        typer.Option(
            metavar="EXPORT", help="CSV export of REDCap; section redcap of site.toml maps it."
        ),
    ] = None,
    dictionary: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="REDCap's data dictionary, for the labels of codes."),
    ] = None,
    bids: Annotated[
        Path | None,
        typer.Option(metavar="TREE", help="A BIDS tree inside the videos folder."),
    ] = None,
    score_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column of the BIDS tree that holds the score."),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(metavar="ZONE", help="Zone of times without offset, such as Europe/Berlin."),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Let the import change rows that are there already.")
    ] = False,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out recordings whose video is not there.")
    ] = False,
    json: Json = False,
) -> None:
    """Fill recordings.csv from a REDCap export or a BIDS tree.

    Rows are matched by recording_id: new ones are added, equal ones stay, differing ones are told
    and refused unless --update is given. Nothing is written if there is any fault. The table before
    is kept beside the new one. While site.toml has no section redcap, the columns of the export are
    shown with a section to paste.
    """
    from client.importing.session import import_into, read_source
    from client.site import open_site

    screen = Screen(json=json)
    site = open_site(folder)
    imported = read_source(
        site,
        redcap=redcap,
        dictionary=dictionary,
        bids=bids,
        score_column=score_column,
        timezone=timezone,
    )
    outcome = import_into(screen, site, imported, update=update, skip_missing=skip_missing)
    if outcome.faults:
        screen.next("correct the source, or its mapping in site.toml, and import again.")
    else:
        screen.next(f"run 'vultus-site check {folder}'.")
    screen.answer(outcome.to_json())
    raise typer.Exit(USAGE if outcome.faults else DONE)


@app.command()
@report_errors(exit_codes)
def check(folder: Folder, *, json: Json = False) -> None:
    """Check recordings.csv and its videos; all faults at once, each with its line.

    Exits with 2 if there is any fault.
    """
    from client.preparation.steps import check_recordings
    from client.site import open_site

    screen = Screen(json=json)
    site = open_site(folder)
    checked = check_recordings(site)
    for fault in checked.faults:
        screen.say(str(fault), style="red")
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
@report_errors(exit_codes)
def extract(  # noqa: PLR0913 - each is an option of the command
    folder: Folder,
    *,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Processes at work. Default: device.workers."),
    ] = None,
    analysis_hz: Annotated[
        float | None,
        typer.Option(
            min=8,
            max=60,
            metavar="HZ",
            help="Frames a second to analyse; 10 to 15 take half the time, but no blink is counted "
            "below 25. Default: extraction.analysis_hz, else every frame.",
        ),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Erase stored recordings that the table lacks.")
    ] = False,
    face_model: FaceModel = None,
    json: Json = False,
) -> None:
    """Turn the videos into encrypted behaviour features; run it again to go on.

    What is done already is skipped; a changed video, changed notes on it or another rate of
    analysis are extracted anew. Ctrl-C loses nothing that was finished. A video that the quality
    gate rejects is kept out of training with its reasons; that is no failure.
    """
    from client.preparation.steps import ExtractionOptions, extract_site
    from client.site import open_site

    screen = Screen(json=json)
    options = ExtractionOptions(workers, face_model, analysis_hz, prune)
    done = extract_site(screen, open_site(folder), options=options)
    if done.tally.failed:
        screen.next(f"run 'vultus-site extract {folder}' again to retry the failed recordings.")
    else:
        screen.next(f"run 'vultus-site inspect {folder}' to see verdicts and indicators.")
    screen.answer(done.to_json())
    raise typer.Exit(FAILED if done.tally.failed else DONE)


@app.command()
@report_errors(exit_codes)
def inspect(
    folder: Folder,
    *,
    export: Annotated[
        str | None,
        typer.Option(
            metavar="csv|parquet|openface",
            help="Write all figures: a table with one row a recording, or a folder with one file "
            "of frames a recording, in the columns of OpenFace.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Where the export goes. Default: DIR/indicators.FORMAT or DIR/openface.",
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write one HTML page with traces over time, quality, indicators and their "
            "definitions. With more than 200 recordings it is an index, and each recording has a "
            "page in a folder beside it (page.html: page_recordings).",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show the quality and the behavioural indicators of every recording.

    Exports and pages hold figures of single subjects: they are written for this site alone, closed
    to other accounts, and nothing sends them anywhere. A table has a dictionary of its columns
    beside it. Files that are not earlier exports are never replaced.
    """
    from client.inspection import inspect_site
    from client.inspection.terminal import next_steps, show_inspection
    from client.inspection.writing import check_words, export_inspection, export_page
    from client.site import open_site

    file_format = check_words(export, out)
    screen = Screen(json=json)
    site = open_site(folder)
    found = inspect_site(site)
    show_inspection(found, screen)
    if file_format:
        export_inspection(found, site, screen, file_format=file_format, out=out)
    if page:
        export_page(found, site, screen, page=page)
    screen.next(*next_steps(found, folder))
    screen.answer(found.to_json())


@app.command()
@report_errors(exit_codes)
def visits(
    folder: Folder,
    *,
    export: Annotated[
        str | None, typer.Option(metavar="csv|parquet", help="Write one row a visit.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the table goes. Default: DIR/visits.FORMAT."),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one HTML page, a table a subject.")
    ] = None,
    json: Json = False,
) -> None:
    """Show each subject's visits in order: time, treatment, indicators, change since the first.

    A reliable-change index sets each change against the error of measurement; it tells neither
    better from worse nor a diagnosis. Visits at different times of day, with another camera or
    frame rate, are named. treatments.csv in the site folder is read if it is there.
    """
    from client.site import open_site
    from client.visits.output import show_visits, write_visits, write_visits_page
    from client.visits.table import read_visits

    if export not in {None, "csv", "parquet"}:
        msg = f"Expected --export csv or --export parquet, got {export!r}."
        raise InputError(msg)
    if out and not export:
        msg = "Expected --export csv or --export parquet together with --out."
        raise InputError(msg)
    screen = Screen(json=json)
    site = open_site(folder)
    table = read_visits(site)
    show_visits(table, screen)
    if export:
        target = out or site.folder / f"visits.{export}"
        write_visits(table, target, file_format=export)
        screen.say(f"Table: {target}")
    if page:
        write_visits_page(table, page, study=site.consortium.config.study.name)
        screen.say(f"Page: {page}")
    screen.next(f"run 'vultus-site visits {folder} --page FILE' to see every indicator.")
    screen.answer(table.to_json())
