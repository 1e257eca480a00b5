"""``vultus-coordinator run``, ``stop`` and ``status``: one training run and what it waits for."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared_models.console import CommandLine, Screen, report_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.control import Engine
    from server.progress import Progress
    from server.runs import Run, RunEnd
    from server.workspace import Workspace

commands = CommandLine(name="", about="")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")]


@commands.command()
@report_errors()
def run(
    folder: Folder,
    *,
    follow: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Begin nothing: follow this run, or 'latest'. Ctrl-C then ends the following "
            "alone.",
        ),
    ] = None,
    start_from: Annotated[
        int | None,
        typer.Option(
            "--from", metavar="N", min=1, help="Begin with model N of 'models', not what ships."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train once with the sites that are online, and follow it to its end.

    The run goes on if this machine restarts or any program of it ends. Ctrl-C stops it at all
    sites; what they spent until then stays spent. Answers 3 if sites refused by policy or budget.
    """
    from server.deployment import engine_of
    from server.runs import find_run, start_run, summarize

    workspace, screen = _open(folder), Screen(json=json)
    engine = engine_of(workspace)
    if follow is None:
        current = start_run(workspace, engine, model=start_from)
        screen.say(f"Started {current.name}; its folder is {current.folder}.")
    else:
        current = find_run(workspace, None if follow == "latest" else follow)
    end = _follow(screen, current, engine, stops=follow is None)
    _register_models(screen, workspace)
    answer = summarize(current, end)
    _tell_end(screen, workspace, answer)
    screen.answer(answer)
    if end.exit_code:
        raise typer.Exit(end.exit_code)


def _register_models(screen: Screen, workspace: Workspace) -> None:
    from server.models.registration import register_models

    for fault in register_models(workspace).faults:
        screen.warn(fault)


@commands.command()
@report_errors()
def stop(
    folder: Folder,
    run_name: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Name of the run; the latest by default.")
    ] = None,
) -> None:
    """Stop a run for good; what sites spent until now stays spent.

    Also works while the coordinator is down: the run is then not taken up again.
    """
    from server.deployment import engine_of
    from server.runs import find_run

    workspace, screen = _open(folder), Screen()
    chosen = find_run(workspace, run_name)
    if chosen.end:
        screen.say(f"{chosen.name} has ended already: {chosen.end.status}.")
        return
    _stop(screen, chosen, engine_of(workspace))


@commands.command()
@report_errors()
def status(folder: Folder, json: Json = False) -> None:
    """Show which sites are online, how far the run is, and what it waits for."""
    from server.control import NotRunningError
    from server.deployment import engine_of
    from server.roster import site_states
    from server.run_status import describe_run, tell_run, unseen_sites
    from server.runs import latest_run

    workspace, screen = _open(folder), Screen(json=json)
    down: NotRunningError | None = None
    try:
        sites = site_states(workspace, engine_of(workspace))
    except NotRunningError as error:
        down, sites = error, unseen_sites(workspace)
    current = latest_run(workspace)
    described = describe_run(current, is_up=down is None) if current else None
    _show_sites(screen, sites)
    screen.say(tell_run(described) if described else "No run yet.")
    coordinator = "down" if down else "running"
    screen.answer({"coordinator": coordinator, "sites": sites, "run": described})
    if down:
        raise down


def _open(folder: Path) -> Workspace:
    from server.workspace import open_workspace

    return open_workspace(folder)


def _follow(screen: Screen, current: Run, engine: Engine, *, stops: bool) -> RunEnd:
    """Show progress until the run is over; Ctrl-C and SIGTERM stop the run first."""
    from server.runs import RunEnd, follow

    with screen.progress("now") as bar:
        task = bar.add_task("round", total=None, now="waiting for sites")

        def show(progress: Progress) -> None:
            bar.update(
                task,
                total=progress.rounds,
                completed=max(0, progress.server_round - (progress.phase == "training")),
                now=_moment(progress),
            )
            if not screen.console.is_terminal:
                screen.say(f"round {progress.server_round}/{progress.rounds}: {_moment(progress)}")

        try:
            with _interruptible():
                return follow(current, engine, show=show)
        except KeyboardInterrupt:
            if not stops:
                raise
            _stop(screen, current, engine)
            return current.end or RunEnd("stopped", "stopped on request")


def _stop(screen: Screen, current: Run, engine: Engine) -> None:
    from server.runs import stop_run

    if stop_run(current, engine):
        screen.warn(f"stopped {current.name}; what sites spent until now stays spent.")
    else:
        screen.warn(f"the coordinator does not run; {current.name} will not be taken up again.")


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt inside, so that a service manager stops a run as well."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _moment(progress: Progress) -> str:
    waiting = ", ".join(progress.waiting_for)
    return f"{progress.phase}, waiting for {waiting}" if waiting else progress.phase


def _tell_end(screen: Screen, workspace: Workspace, answer: Mapping[str, object]) -> None:
    if answer["status"] != "completed":
        why = answer["detail"] or f"no reason was given; see {workspace.logs}"
        screen.say(f"{answer['run_id']} {answer['status']}: {why}", style="bold red")
        screen.next(f"vultus-coordinator status {workspace.folder}")
        return
    epsilon = answer["epsilon"]
    screen.say(f"{answer['run_id']} completed after {answer['rounds']} rounds.", style="bold green")
    screen.say(f"Weights {answer['weights_digest']}; epsilon {epsilon}.")
    screen.next(f"open {answer['report']}")


def _show_sites(screen: Screen, sites: list[dict[str, object]]) -> None:
    from rich.table import Table

    table = Table("site", "state", "last seen")
    for site in sites:
        seen = "never" if site["last_seen_s"] is None else f"{site['last_seen_s']} s ago"
        table.add_row(str(site["id"]), str(site["state"]), seen)
    screen.show(table)
