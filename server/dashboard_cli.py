"""``vultus-coordinator dashboard``: the state of the consortium on a live page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared_models.console import CommandLine, Screen, report_errors
from shared_models.web.options import Certificate, Host, Key, Name, Port, SetPassword, WithoutTls

dashboard_command = CommandLine(name="", about="")

PASSWORD_FILE = "dashboard.json"  # noqa: S105 - the name of a file

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder.")]


@dashboard_command.command()
@report_errors()
def dashboard(  # noqa: PLR0913 - each is an option of the command
    folder: Folder,
    *,
    port: Port = 8450,
    host: Host = "127.0.0.1",
    name: Name = None,
    certificate: Certificate = None,
    key: Key = None,
    without_tls: WithoutTls = False,
    set_password: SetPassword = False,
) -> None:
    """Show sites, run, budgets, fairness so far and models on a live page, behind a password.

    This machine alone can open it, unless it is given a certificate. It changes nothing and shows
    no more than status, report and models do. The first start asks for a password.
    """
    from shared_models.web.place import Place, choose_place

    screen = Screen()
    place = choose_place(
        Place(host, port, certificate, key, tuple(name or ())), without_tls=without_tls
    )

    from server.dashboard.charts import FUNCTIONS
    from server.dashboard.view import HubReader, study_name
    from server.workspace import open_workspace
    from shared_models.web.pages import Dashboard
    from shared_models.web.serving import ask_password, need_password, serve
    from shared_models.web.snapshot import Snapshot

    workspace = open_workspace(folder)
    password_file = workspace.folder / PASSWORD_FILE
    if set_password:
        ask_password(screen, password_file)
        return
    need_password(screen, password_file, f"vultus-coordinator dashboard {folder}")
    serve(
        screen,
        Dashboard(
            name="coordinator",
            heading=study_name(workspace),
            package="server.dashboard",
            password_file=password_file,
            snapshot=Snapshot(HubReader(workspace.folder).look),
            functions=FUNCTIONS,
        ),
        place,
    )
