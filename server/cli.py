"""``vultus-coordinator``: define the study, admit sites, run rounds, report."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.comparison.command import compare
from server.dashboard_cli import dashboard_command
from server.models_cli import ListByDefault, models
from server.run_commands import Folder, commands
from shared_models.console import CommandLine, Screen, report_errors

if TYPE_CHECKING:
    from server.roster import Change
    from server.workspace import Workspace


class PageLanguage(StrEnum):
    """Languages that a page can be written in."""

    EN = "en"
    ZH = "zh"


app = CommandLine(
    name="vultus-coordinator",
    about=(
        "Conduct a consortium: define the study, admit sites, train, publish the report.\n\n"
        "The usual order: [bold]init[/], edit consortium.toml, [bold]add-site[/] for every site, "
        "[bold]start[/], [bold]run[/], [bold]report[/]. [bold]status[/] tells what anything waits "
        "for.\n\n"
        "Research software: no output is a diagnosis. "
        "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 refused by policy."
    ),
)
app.add_typer(commands)
app.add_typer(dashboard_command)
app.add_typer(models, name="models", cls=ListByDefault)
app.command()(compare)


@app.command()
@report_errors()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")],
    name: Annotated[str, typer.Option(help="Name of the study: a-z, 0-9 and hyphens.")],
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or address by which sites reach this machine; repeat for more. "
            "Without it only this machine can connect."
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8443,
    instrument: Annotated[
        str, typer.Option(help="Questionnaire that is predicted: phq9, bdi2, hamd17 or madrs.")
    ] = "phq9",
) -> None:
    """Make a coordinator's folder: study file, certificate authority, bundle.

    The study file lists every setting with its default. Edit it before the first site joins:
    each later change means a new kit for every site.
    """
    from server.study_file import new_study
    from server.workspace import create_workspace

    screen = Screen()
    study = new_study(name, instrument=instrument)
    hosts = host or ["127.0.0.1"]
    workspace = create_workspace(folder, consortium_toml=study, name=name, hosts=hosts, port=port)
    screen.say(f"Coordinator's folder of study {name}: {workspace.folder}")
    screen.say(f"Sites will connect to {workspace.settings.address}.")
    screen.say(f"Bundle that sites approve, SHA-256: {workspace.bundle.sha256}")
    if not host:
        screen.warn(
            "without --host this coordinator can be reached from this machine alone; that is "
            "enough to try it out."
        )
    screen.next(
        f"read and edit {workspace.consortium_file}",
        "send that file to each site; the site runs vultus-site init and returns identity.pub",
        f"vultus-coordinator add-site {folder} --id ID --key identity.pub",
    )


@app.command("add-site")
@report_errors()
def add_site(
    folder: Folder,
    site_id: Annotated[str, typer.Option("--id", help="Name of the site: a-z, 0-9, hyphens.")],
    key: Annotated[
        Path, typer.Option(exists=False, help="The file identity.pub that the site sent.")
    ],
    weight: Annotated[
        int, typer.Option(min=1, help="Number of subjects the site is counted with; published.")
    ] = 100,
    face_model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The face landmarker bundle, to be part of this and every later kit.",
        ),
    ] = None,
) -> None:
    """Admit a site: its key enters the roster, its kit is written.

    No other site has to be told: each learns it with its next run, or with the next round of one
    that is under way.
    """
    from server.kits import keep_face_model
    from server.roster import add_site as admit

    workspace, screen = _open(folder), Screen()
    if face_model is not None:
        keep_face_model(workspace, face_model)
    change = admit(workspace, site_id, key_file=key, weight=weight)
    _register_if_up(workspace, screen)
    screen.say(f"Site {change.site_id} admitted; key {change.fingerprint}")
    _tell_kit(screen, workspace, change)


@app.command("remove-site")
@report_errors()
def remove_site(
    folder: Folder,
    site_id: Annotated[str, typer.Argument(metavar="ID", help="The site that leaves.")],
) -> None:
    """Take a site out: it is disconnected, and a run goes on without it from its next round.

    What it gave to earlier rounds stays in the model. It can be admitted again with add-site.
    """
    from server.roster import remove_site as remove

    workspace, screen = _open(folder), Screen()
    change = remove(workspace, site_id)
    _register_if_up(workspace, screen)
    screen.say(f"Site {site_id} removed; roster {change.number} does not name it.")


@app.command("renew-site")
@report_errors()
def renew_site(
    folder: Folder,
    site_id: Annotated[str, typer.Argument(metavar="ID", help="The site with a new key.")],
    renewal: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The file renewal.json that 'vultus-site renew-key' wrote."
        ),
    ],
    *,
    lost: Annotated[
        bool,
        typer.Option(
            "--lost",
            help="The present key is lost: FILE is the new identity.pub. Compare it by telephone.",
        ),
    ] = False,
) -> None:
    """Put a site's new key in the place of its present one; no other site has to be told."""
    from server.roster import renew_site as renew

    workspace, screen = _open(folder), Screen()
    change = renew(workspace, site_id, file=renewal, lost=lost)
    _register_if_up(workspace, screen)
    screen.say(f"Site {site_id} has a new key: {change.fingerprint}; roster {change.number}.")
    _tell_kit(screen, workspace, change)


@app.command("renew-certificate")
@report_errors()
def renew_certificate(
    folder: Folder,
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name or address of this machine; the present ones by default."),
    ] = None,
) -> None:
    """Issue the coordinator's certificate anew, for one more year; sites need nothing."""
    from server.renewal import renew_certificate as renew

    screen = Screen()
    certificate = renew(_open(folder), tuple(host or ()))
    screen.say(f"Certificate for {', '.join(certificate.hosts)}, until {certificate.not_after:%F}.")


@app.command("renew-authority")
@report_errors()
def renew_authority(
    folder: Folder,
    *,
    finish: Annotated[
        bool, typer.Option("--finish", help="Let the new authority take over.")
    ] = False,
) -> None:
    """Replace the certificate authority in two steps, without sending any site anything.

    First both are trusted, which sites learn with their next run. Then, with --finish, the new one
    takes over. A site that had no run in between needs its new kit.
    """
    from server.renewal import begin_authority, finish_authority

    workspace, screen = _open(folder), Screen()
    if finish:
        number = finish_authority(workspace)
        screen.say(f"The new authority has taken over; roster {number} names it alone.")
        return
    number = begin_authority(workspace)
    screen.say(f"Roster {number} names the present authority and the one that is to follow.")
    screen.next(
        "let every site take part in a run, or send it its kit",
        f"vultus-coordinator renew-authority {folder} --finish",
    )


@app.command()
@report_errors()
def kits(folder: Folder) -> None:
    """Write every site's kit anew, after an edit of the study file or of the address.

    After an edit of the study file each site has to agree to it: send every site its kit.
    """
    from server.kits import write_kits
    from server.roster import sign_anew

    workspace, screen = _open(folder), Screen()
    number = sign_anew(workspace)
    write_kits(workspace)
    screen.say(f"Roster {number}; study file, SHA-256: {workspace.consortium.digest}")
    for site in workspace.consortium.config.sites:
        screen.say(f"Kit of {site.id}: {workspace.kit(site.id)}")


@app.command()
@report_errors()
def start(folder: Folder) -> None:
    """Serve the consortium until Ctrl-C: sites connect, runs can be started.

    Two programs run below this one; either is started again when it ends. What they say goes to
    the folder logs/.
    """
    from server.deployment import Deployment

    Deployment(_open(folder), Screen()).serve()


@app.command()
@report_errors()
def report(
    folder: Folder,
    run_name: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Name of the run; the latest by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the page.")] = None,
    language: Annotated[PageLanguage, typer.Option(help="Of the page.")] = PageLanguage.EN,
) -> None:
    """Write the fairness report and model card of a run as one page that can be mailed.

    A run that has not ended gets a page that says so.
    """
    from server.publishing import publish_report
    from server.runs import find_run

    screen = Screen()
    chosen = find_run(_open(folder), run_name)
    page, status = publish_report(chosen, language=language, out=out)
    screen.say(f"Report of {chosen.name} ({status}): {page}")
    screen.next("open it in a browser; it needs no network and can be sent as it is")


@app.command()
@report_errors()
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
    backup: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Copy the folder there every night, keys included."),
    ] = None,
) -> None:
    """Print systemd units: the service, and with --backup a nightly copy of the folder.

    They carry this folder's place and this installation's program. Write them anew when either
    moves.
    """
    from server.units import make_units
    from shared_models.systemd import write_units

    workspace, screen = _open(folder), Screen()
    made = make_units(workspace, user=user or workspace.folder.owner(), backup=backup)
    if out is None:
        for unit in made:
            screen.say(f"# {unit.name}\n{unit.text}")
        screen.next(f"write them with 'vultus-coordinator units {folder} --out FOLDER'.")
        return
    for path in write_units(made, out):
        screen.say(str(path))
    enabled = " ".join(unit.name for unit in (made[0], *made[2:]))
    screen.next(
        f"as root: cp {out}/vultus-coordinator-* /etc/systemd/system/ && systemctl daemon-reload",
        f"as root: systemctl enable --now {enabled}",
    )


def _open(folder: Path) -> Workspace:
    from server.workspace import open_workspace

    return open_workspace(folder)


def _register_if_up(workspace: Workspace, screen: Screen) -> None:
    """Let the engine know at once which keys may connect; else ``start`` does it."""
    from server.deployment import engine_of
    from server.roster import register_sites

    engine = engine_of(workspace)
    if engine.is_up():
        register_sites(workspace, engine)
        screen.say("The running coordinator accepts the roster's sites, and no others.")


def _tell_kit(screen: Screen, workspace: Workspace, change: Change) -> None:
    screen.say(f"Study file, SHA-256:  {change.consortium_digest}")
    screen.say(f"Bundle, SHA-256:      {workspace.bundle.sha256}")
    if change.kit is None:
        return
    screen.next(
        f"compare the key with site {change.site_id} by telephone, then send it {change.kit}",
        f"the site runs: vultus-site join DIR {change.kit.name}",
        f"vultus-coordinator start {workspace.folder}",
    )
