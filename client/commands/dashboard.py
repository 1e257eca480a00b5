"""The command that shows a site on a live page."""

from __future__ import annotations

from client.commands.line import Folder, app, exit_codes
from shared_models.console import Screen, report_errors
from shared_models.web.options import Certificate, Host, Key, Name, Port, SetPassword, WithoutTls

PASSWORD_FILE = "dashboard.json"  # noqa: S105 - the name of a file


@app.command()
@report_errors(exit_codes)
def dashboard(  # noqa: PLR0913 - each is an option of the command
    folder: Folder,
    *,
    port: Port = 8451,
    host: Host = "127.0.0.1",
    name: Name = None,
    certificate: Certificate = None,
    key: Key = None,
    without_tls: WithoutTls = False,
    set_password: SetPassword = False,
) -> None:
    """Show recordings, budget, what left and what waits for approval on a live page.

    This machine alone can open it, with a password that the first start asks for. It changes
    nothing, and asks nothing of anybody: to approve takes the command.
    """
    from shared_models.web.place import Place, choose_place

    screen = Screen()
    place = choose_place(
        Place(host, port, certificate, key, tuple(name or ())), without_tls=without_tls
    )

    from client.dashboard.view import SiteReader
    from client.dashboard.wording import FUNCTIONS, PACKAGE
    from client.site import open_site
    from shared_models.web.pages import Dashboard
    from shared_models.web.serving import ask_password, need_password, serve
    from shared_models.web.snapshot import Snapshot

    site = open_site(folder)
    # Beside the keys: what reads videos and what trains have no need to write there.
    password_file = site.paths.keys / PASSWORD_FILE
    if set_password:
        ask_password(screen, password_file)
        return
    need_password(screen, password_file, f"vultus-site dashboard {folder}")
    snapshot = Snapshot(SiteReader(site.folder).look)
    serve(screen, Dashboard("site", site.id, PACKAGE, password_file, snapshot, FUNCTIONS), place)
