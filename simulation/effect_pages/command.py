"""``vultus-simulate effects``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared_models.console import InputError, Screen, report_errors
from simulation.options import EffectsOption, read_effects


@report_errors()
def show_effects(
    out: Annotated[Path, typer.Option(help="Folder for the page and its pictures.")],
    effects: EffectsOption = None,
    json: Annotated[bool, typer.Option("--json", help="Last line: one object.")] = False,
) -> None:
    """Tell and show what moves the made-up patients: each effect, its source and its picture."""
    screen = Screen(json=json)
    if out.exists() and not out.is_dir():
        msg = f"Expected a folder for --out, got the file {out}: name another."
        raise InputError(msg)
    from simulation.effect_pages.page import write_effects
    from simulation.progress import show_progress

    found = read_effects(effects)
    file = "`simulation/effects.toml`" if effects is None else f"`{effects.name}`"
    with show_progress(screen) as on_progress:
        page = write_effects(
            found,
            out,
            file=file,
            on_progress=lambda done, total: on_progress("pictures", done, total),
        ).absolute()
    screen.say(f"Effects {found.digest[:16]} are told in {page}.")
    screen.next(f"vultus-simulate run --effects {effects}" if effects else f"read {page}")
    screen.answer({"effects_digest": found.digest, "page": str(page)})
