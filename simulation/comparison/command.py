"""``vultus-simulate compare``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared_models.console import InputError, Screen, report_errors
from simulation.options import (
    EffectsOption,
    ModeName,
    TrainableName,
    read_effects,
    require_new,
)

if TYPE_CHECKING:
    from server.intervals import Estimate
    from simulation.comparison.arms import Epsilon
    from simulation.comparison.seeds import Comparison
    from simulation.comparison.setting import Varied


@report_errors()
def compare(  # noqa: PLR0913, PLR0917 - one parameter an option
    sites: Annotated[int, typer.Option(min=1, help="Number of sites.")] = 8,
    subjects: Annotated[int, typer.Option(min=2, help="Subjects at each site.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Training rounds, for every way.")] = 30,
    epsilon: Annotated[
        list[float] | None,
        typer.Option(min=0.01, help="Privacy of the private ways; repeat for more. Default: 3."),
    ] = None,
    mode: Annotated[
        list[ModeName] | None,
        typer.Option(help="Where noise is added; repeat for more. Default: distributed."),
    ] = None,
    leave_one_out: Annotated[
        bool,
        typer.Option("--leave-one-out", help="Also judge on each site a model trained without it."),
    ] = False,
    vary: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT=A,B,...",
            help="Repeat for several sites, subjects, rounds, heterogeneity or epsilon, as "
            "sites=2,4,8 or epsilon=1,3,8.",
        ),
    ] = None,
    heterogeneity: Annotated[
        float, typer.Option(min=0, help="Multiplies all differences between the sites.")
    ] = 1.0,
    trainable: Annotated[
        TrainableName, typer.Option(help="Train the head on the shipped trunk, or everything.")
    ] = TrainableName.HEAD,
    effects: EffectsOption = None,
    vary_effects: Annotated[
        bool,
        typer.Option(
            "--vary-effects",
            help="Draw each cohort's effects from what is not known about them, so that the "
            "intervals hold that too.",
        ),
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Cohorts; intervals are over them.")] = 5,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: one for each core.")
    ] = None,
    out: Annotated[Path, typer.Option(help="New folder for page, numbers and figure.")] = Path(
        "comparison"
    ),
    json: Annotated[bool, typer.Option("--json", help="Last line: one object.")] = False,
) -> None:
    """Compare pooled training, each site alone, federated, and federated with privacy.

    Every way is judged exactly, on the same held-out subjects of the same simulated cohorts.
    """
    screen = Screen(json=json)
    require_new(out)
    modes = mode or [ModeName.DISTRIBUTED]
    if ModeName.OFF in modes:
        msg = "Expected --mode local or distributed: federated without privacy is always compared."
        raise InputError(msg)
    from simulation.comparison.page import write_comparison
    from simulation.comparison.seeds import compare as compare_seeds
    from simulation.comparison.setting import Setting, choose_arms
    from simulation.progress import show_progress

    try:
        base = Setting(
            sites,
            subjects,
            rounds,
            trainable.value,
            heterogeneity,
            effects=read_effects(effects),
            effects_spread=float(vary_effects),
        )
        varied, values, epsilons = _read_sweep(vary, epsilon or [])
        arms = choose_arms(epsilons, [one.value for one in modes], leave_one_out=leave_one_out)
        settings = [base.varied(varied, value) for value in values] if varied else [base]
        for setting in settings:
            setting.check(arms)
    except ValueError as error:
        raise InputError(str(error)) from error
    screen.say(f"{len(arms)} ways x {seeds} cohorts x {len(settings)} settings, into {out}")
    with show_progress(screen) as on_progress:
        found = compare_seeds(
            settings,
            arms,
            seeds=seeds,
            workers=workers or os.cpu_count() or 1,
            on_progress=lambda done, total: on_progress("cohorts", done, total),
        )
    page = write_comparison(found, out, varied=varied).absolute()
    _show_comparison(screen, found)
    screen.next(f"open {page} in a browser; comparison.pdf beside it is a figure for a paper")
    screen.answer(_comparison_answer(found, page))


def _read_sweep(
    vary: str | None, epsilons: list[float]
) -> tuple[Varied | None, list[float], list[float]]:
    """What varies between settings, its values, and the epsilons.

    Epsilons are no settings: only private ways know them, the others are trained once for all.
    """
    from simulation.comparison.setting import read_epsilons, read_sweep

    if vary is None:
        return None, [], epsilons or [3.0]
    if vary.partition("=")[0] != "epsilon":
        return *read_sweep(vary), epsilons or [3.0]
    if epsilons:
        msg = "Expected either --epsilon or --vary epsilon=..., got both."
        raise InputError(msg)
    return None, [], read_epsilons(vary)


def _show_comparison(screen: Screen, found: Sequence[Comparison]) -> None:
    from rich.table import Table

    for comparison in found:
        setting, drawn = comparison.setting, comparison.seeds
        table = Table(
            *("way of training", "AUROC", "against pooled", "MAE", "epsilon"),
            title=f"{setting.sites} sites x {setting.subjects} subjects, {drawn} cohorts",
        )
        for row in comparison.rows:
            told = map(_words, (row.auroc, row.gain, row.mae))
            table.add_row(row.label, *told, _spent(row.epsilon))
        screen.show(table)


def _spent(epsilon: Epsilon | None) -> str:
    if epsilon is None:
        return "no privacy"
    return f"sum {epsilon.sum:.2f}, one site {epsilon.site:.2f}"


def _words(estimate: Estimate) -> str:
    if estimate.value is None:
        return estimate.note
    if estimate.low is None:
        return f"{estimate.value:.4f}"
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def _comparison_answer(found: Sequence[Comparison], page: Path) -> dict[str, object]:
    """The answer of ``compare --json``: the first setting's arms, and all settings."""
    settings = [comparison.to_json() for comparison in found]
    arms = [
        {**row, "mae": row["mae"]["value"], "mae_interval": row["mae"]}
        for row in settings[0]["rows"]  # type: ignore[attr-defined]
    ]
    return {"arms": arms, "settings": settings, "report": str(page)}
