"""``vultus-coordinator compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared_models.console import Screen, report_errors

if TYPE_CHECKING:
    from rich.table import Table

    from server.comparison.differences import Difference
    from server.comparison.side_by_side import Column


@report_errors()
def compare(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder.")],
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Numbers of models, or names of runs; the first is the reference. "
            "Default: the last model of every completed run.",
        ),
    ] = None,
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page that can be mailed.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on the last line.")
    ] = False,
) -> None:
    """Set registered models side by side: performance, privacy, sites, groups.

    It says what may be concluded and what may not, and spends nothing: every figure is out already.
    """
    from server.comparison.contenders import choose_contenders
    from server.comparison.page import render_page
    from server.comparison.side_by_side import set_side_by_side
    from server.models.registration import register_models
    from server.workspace import open_workspace

    workspace, screen = open_workspace(folder), Screen(json=json)
    registration = register_models(workspace)
    for fault in registration.faults:
        screen.warn(fault)
    found = set_side_by_side(choose_contenders(workspace, registration.registry, models or []))
    screen.show(tabulate_models(found.models))
    if found.differences:
        screen.show(tabulate_differences(found.differences))
    screen.say("What may not be concluded:", style="bold")
    for sentence in found.limits:
        screen.say(f"- {sentence}")
    if out is not None:
        out.write_text(render_page(found), encoding="utf-8")
        screen.next(f"open {out} in a browser; it needs no network and can be sent as it is")
    else:
        screen.next(f"vultus-coordinator compare {folder} --out models.html: groups, and a page")
    screen.answer({**found.to_json(), "report": str(out.absolute()) if out else None})


def tabulate_models(models: tuple[Column, ...]) -> Table:
    """A row a model: performance, both epsilons, sites and rounds."""
    from rich.table import Table

    table = Table("model", "AUROC", "MAE", "epsilon", "sites", "round")
    for model in models:
        table.add_row(
            f"{model.number}, {model.run}" + (" (current)" if model.is_current else ""),
            *(_figure(model, metric, digits) for metric, digits in (("auroc", 2), ("mae", 1))),
            _epsilons(model),
            str(len(model.sites)),
            f"{model.server_round}/{model.rounds}",
        )
    return table


def tabulate_differences(differences: tuple[Difference, ...]) -> Table:
    """A row a difference, with what its range is."""
    from rich.table import Table

    table = Table("difference", "", "range", "which holds")
    for one in differences:
        table.add_row(
            f"{one.metric}, model {one.model} - {one.reference}",
            f"{one.value:+.3f}",
            f"{one.low:+.3f} to {one.high:+.3f}",
            "95 %" if one.basis == "independent" else "for any overlap",
        )
    return table


def _figure(model: Column, metric: str, digits: int) -> str:
    figure = model.figures.get(metric)
    if figure is None:
        return "withheld" if model.is_judged else "not judged"
    if figure.low is None or figure.high is None:
        return "none" if figure.value is None else f"{figure.value:.{digits}f}"
    ends = f"{figure.low:.{digits}f} to {figure.high:.{digits}f}"
    return f"too few\n{ends}" if figure.value is None else f"{figure.value:.{digits}f}\n{ends}"


def _epsilons(model: Column) -> str:
    privacy = model.privacy
    if privacy.mode == "off":
        return "no privacy"
    told = (("sum", privacy.epsilon_sum), ("site", privacy.epsilon_site))
    return "\n".join(f"{name} {'not reported' if e is None else f'{e:.2f}'}" for name, e in told)
