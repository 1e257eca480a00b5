"""``vultus-coordinator models``: which global models there are, and where each comes from."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer
from typer.core import TyperGroup

from shared_models.console import FAILED, CommandLine, InputError, Screen, report_errors

if TYPE_CHECKING:
    from server.models.registration import Registration
    from server.workspace import Workspace

models = CommandLine(
    name="models",
    about=(
        "Every global model: numbered over all runs, signed, with its lineage.\n\n"
        "Ended runs are registered by themselves. One model is the [bold]current[/] one: the last "
        "that was completed, or the one that rollback chose. Without a command, as in "
        "[bold]models DIR[/], the models are listed."
    ),
)


class ListByDefault(TyperGroup):
    """A group whose ``list`` can be left out."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The named command, or ``list`` if the first word names none."""
        if args and args[0] not in self.commands:
            args = ["list", *args]
        return super().resolve_command(ctx, args)


class ModelFormat(StrEnum):
    """Forms in which a model is exported."""

    safetensors = "safetensors"
    onnx = "onnx"


Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder.")]
Number = Annotated[int, typer.Argument(metavar="N", help="Number of the model.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")]


@models.command("list")
@report_errors()
def list_models(
    folder: Folder,
    *,
    rounds: Annotated[
        bool, typer.Option("--all", help="Also the models of single rounds and of failed runs.")
    ] = False,
    json: Json = False,
) -> None:
    """List the final models of all runs, newest last, and say which one is current."""
    from server.models.registration import register_models
    from server.models.tables import summarize_model, tabulate

    workspace, screen = _open(folder), Screen(json=json)
    found = register_models(workspace)
    shown = [entry for entry in found.registry.entries if rounds or entry.is_final]
    if shown:
        screen.show(tabulate(shown, current=found.registry.current))
    else:
        screen.say("No model yet: a run has to be completed first. --all shows single rounds.")
    _tell(screen, found)
    screen.answer(
        {
            "current": found.registry.current,
            "models": [summarize_model(entry) for entry in shown],
            "moves": [vars(move) for move in found.registry.moves],
            "head": str(found.registry.head),
            "faults": list(found.faults),
        }
    )


@models.command()
@report_errors()
def show(folder: Folder, number: Number, *, json: Json = False) -> None:
    """Show the lineage of a model: study, sites, rounds, privacy, figures, versions, parent."""
    from server.models.registration import register_models
    from server.models.tables import list_facts

    screen = Screen(json=json)
    found = register_models(_open(folder))
    entry = found.registry.entry(number)
    for name, text in list_facts(entry):
        screen.say(f"{name:<16}{text}")
    if found.registry.current == number:
        screen.say("This is the current model.", style="bold")
    screen.answer(entry.to_plain())


@models.command()
@report_errors()
def export(
    folder: Folder,
    number: Number,
    out: Annotated[Path, typer.Option(help="File to write; its signature gets .sig beside it.")],
    *,
    form: Annotated[
        ModelFormat,
        typer.Option("--format", help="safetensors holds the weights, onnx the network too."),
    ] = ModelFormat.safetensors,
    json: Json = False,
) -> None:
    """Write a model as one file, with its lineage inside and a signature beside it.

    Research software: no output of the model is a diagnosis, and the file says so.
    """
    from server.models.exports import export_model
    from server.models.registration import register_models

    workspace, screen = _open(folder), Screen(json=json)
    register_models(workspace)
    written = export_model(workspace, number, out, form=form.value)
    screen.say(f"Model {number}: {written.file}")
    screen.say(f"Signature: {written.signature}, of the key {written.key_fingerprint}")
    screen.next(
        "send both files; whoever has signing.pem of a run's folder checks them with\n"
        f"      openssl dgst -sha384 -verify signing.pem -signature {written.signature.name} "
        f"{written.file.name}"
    )
    screen.answer({"number": number, "format": form.value, **vars(written)})


@models.command()
@report_errors()
def verify(
    folder: Folder,
    *,
    head: Annotated[
        str | None,
        typer.Option(metavar="EVENTS:DIGEST", help="Head that an earlier check printed."),
    ] = None,
    json: Json = False,
) -> None:
    """Check every signature, entry and weights file, and that nothing is missing.

    Keep the head that is printed where this disk is not: with --head it shows later whether the end
    of the journal was cut off, or the folder put back from an old copy.
    """
    from server.models.registry import Head
    from server.models.verification import verify_registry

    screen = Screen(json=json)
    verdict = verify_registry(_open(folder), known=None if head is None else Head.parse(head))
    for fault in verdict.faults:
        screen.say(fault, style="bold red")
    if not verdict.faults:
        screen.say(f"{verdict.models} models, all as they were signed.", style="bold green")
    if verdict.head is not None:
        screen.say(f"Head: {verdict.head}")
    screen.answer(
        {
            "whole": not verdict.faults,
            "models": verdict.models,
            "faults": list(verdict.faults),
            "head": str(verdict.head) if verdict.head else None,
        }
    )
    if verdict.faults:
        raise typer.Exit(FAILED)


@models.command()
@report_errors()
def rollback(
    folder: Folder,
    number: Number,
    why: Annotated[str, typer.Option(help="Reason; it stands beside the move for good.")],
    *,
    json: Json = False,
) -> None:
    """Make an earlier model the current one again. Nothing is deleted; the move is signed.

    The next run that is completed becomes the current one again.
    """
    from server.models.registration import roll_back

    screen = Screen(json=json)
    found = roll_back(_open(folder), number, why=why)
    before = found.registry.moves[-2].model if len(found.registry.moves) > 1 else None
    screen.say(f"Model {number} is the current one; before, it was {before or 'none'}.")
    _tell(screen, found)
    screen.answer({"current": number, "previous": before, "move": vars(found.registry.moves[-1])})


@models.command()
@report_errors()
def mlflow(
    folder: Folder,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder of a store on this machine, made if missing.")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(metavar="URI", help="Address of an MLflow tracking server.")
    ] = None,
    json: Json = False,
) -> None:
    """Write runs, figures and last models into an MLflow store; runs that are there stay.

    With --out nothing leaves this machine. MLflow's own reports on its use are switched off.
    """
    from server.models.mlflow_export import ARTIFACTS, export_to_mlflow, local_store
    from server.models.registration import register_models

    if (out is None) == (tracking_uri is None):
        msg = "Expected either --out FOLDER or --tracking-uri URI, got both or none of them."
        raise InputError(msg)
    workspace, screen = _open(folder), Screen(json=json)
    register_models(workspace)
    written = export_to_mlflow(
        workspace,
        tracking_uri=local_store(out) if out else str(tracking_uri),
        artifacts=out / ARTIFACTS if out else None,
    )
    screen.say(
        f"Experiment {written.experiment}: {len(written.written)} runs written, "
        f"{len(written.skipped)} were there."
    )
    screen.next(f"mlflow ui --backend-store-uri {written.tracking_uri}")
    screen.answer(
        {
            "tracking_uri": written.tracking_uri,
            "experiment": written.experiment,
            "runs": list(written.written),
            "skipped": list(written.skipped),
        }
    )


def _open(folder: Path) -> Workspace:
    from server.workspace import open_workspace

    return open_workspace(folder)


def _tell(screen: Screen, found: Registration) -> None:
    for fault in found.faults:
        screen.warn(fault)
    if found.registry.moves:
        move = found.registry.moves[-1]
        screen.say(f"Current: model {move.model}, since {move.at[:16]} UTC ({move.why}).")
