"""What every command of ``vultus-site`` shares: the program, common options, exit codes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from shared_models.console import (
    FAILED,
    USAGE,
    CommandLine,
)

app = CommandLine(
    name="vultus-site",
    about=(
        "Run one site of a consortium: prepare recordings, extract behaviour features, take part "
        "in training. Videos, faces and subjects never leave this machine.\n\n"
        "The usual order: [bold]init[/], fill in recordings.csv, [bold]check[/], "
        "[bold]extract[/], [bold]inspect[/], [bold]join[/], [bold]start[/]. "
        "[bold]doctor[/] tells what is wrong at any time.\n\n"
        "Research software: no output is a diagnosis. "
        "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 refused by policy."
    ),
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The site folder made by 'init'.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object for machines as the last line.")
]
FaceModel = Annotated[
    Path | None,
    typer.Option(
        "--face-model",
        metavar="FILE",
        help="The face landmarker bundle (face_landmarker.task). Default: paths.face_model in "
        "site.toml, else the account's cache, else a download checked by its hash.",
    ),
]


def exit_codes() -> Mapping[type[Exception], int]:
    """Exit code of each error that carries none itself."""
    from privacy.keys import KeyFileError
    from privacy.ledger import BudgetExceeded, LedgerError
    from privacy.vault import VaultError
    from shared_models.console import REFUSED

    codes: dict[type[Exception], int] = {
        BudgetExceeded: REFUSED,
        LedgerError: FAILED,
        KeyFileError: USAGE,
        VaultError: FAILED,
    }
    try:
        from client.extraction.face_model import FaceModelError
    except ImportError:
        return codes
    return {**codes, FaceModelError: USAGE}
