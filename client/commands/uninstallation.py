"""The command that ends a site for good."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.line import Folder, Json, app, exit_codes
from shared_models.console import InputError, Screen, report_errors

if TYPE_CHECKING:
    from client.site import Site
    from client.uninstall.deletion import Uninstalled


@app.command()
@report_errors(exit_codes)
def uninstall(
    folder: Folder,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the certificate goes. Default: beside the site folder.",
        ),
    ] = None,
    keep_records: Annotated[
        bool,
        typer.Option(
            "--keep-records",
            help="Copy the privacy ledger, the log and certificates beside the certificate first.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Destroy without being asked.")] = False,
    json: Json = False,
) -> None:
    """Destroy all that Vultus made at this site, keys first, and certify it.

    Videos and the table of recordings stay: they are the hospital's. It asks twice, and refuses
    while the site is being served. After a crash, run it again: it finishes the work.
    """
    from client.site import open_site
    from client.uninstall.deletion import uninstall_site
    from client.uninstall.inventory import count_files

    screen = Screen(json=json)
    site = open_site(folder)
    chosen = out or site.folder.with_name(f"{site.folder.name}-uninstalled")
    _show_plan(screen, site, chosen, keep_records=keep_records)
    if not yes:
        _ask_twice(site, to_stderr=json)
    with screen.progress() as bar:
        task = bar.add_task("counting", total=count_files(site))
        done = uninstall_site(
            site, chosen, keep_records=keep_records, advance=lambda: bar.advance(task)
        )
    _tell(screen, site, done)


def _show_plan(screen: Screen, site: Site, out: Path, *, keep_records: bool) -> None:
    from client.uninstall.inventory import left_behind, own_places

    screen.say(f"Uninstalling site {site.id!r} will destroy, for good:")
    for what, paths in own_places(site).items():
        places = [str(path) for path in paths if path.exists()]
        screen.say(f"  {what}: {', '.join(places) or 'nothing'}")
    screen.say("It leaves where it is:")
    for path in left_behind(site):
        screen.say(f"  {path}")
    if not keep_records:
        screen.warn("the privacy ledger and the log go too; --keep-records makes a copy of them.")
    screen.say(f"A signed certificate will lie in {out}.")


def _ask_twice(site: Site, *, to_stderr: bool) -> None:
    if typer.confirm("Destroy it?", err=to_stderr):
        typed = typer.prompt(f"Type the site's name, {site.id}, to confirm", err=to_stderr)
        if typed == site.id:
            return
    msg = "Nothing was destroyed, because it was not agreed to."
    raise InputError(msg)


def _tell(screen: Screen, site: Site, done: Uninstalled) -> None:
    from dataclasses import asdict

    from client.uninstall.certificate import NO_LEDGER
    from client.withdrawal.certificate import how_to_verify

    files = sum(group.files for group in done.deletion.inventory.groups)
    screen.say(f"Destroyed {files} files of site {site.id}.", style="bold green")
    screen.say(f"Certificate: {done.certificate}")
    screen.say(f"For the file: {done.certificate.with_suffix('.txt')}")
    screen.say(f"To verify it, in its folder: {how_to_verify(done.certificate)}")
    screen.warn(NO_LEDGER)
    screen.next(
        f"send the coordinator {done.certificate} and its .sig; they run "
        f"vultus-coordinator remove-site DIR {site.id}",
        "remove the systemd units, backups of keys/ and state/, exported tables and pages",
        *([f"decide on what stayed: {', '.join(map(str, done.left))}"] if done.left else []),
    )
    screen.answer(
        {
            "certificate": done.certificate,
            "signature": done.certificate.with_suffix(".sig"),
            "sheet": done.certificate.with_suffix(".txt"),
            "destroyed": [asdict(group) for group in done.deletion.inventory.groups],
            "left": [str(path) for path in done.left],
            "records_kept": done.deletion.records_kept,
        }
    )
