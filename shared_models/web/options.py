"""Options that both ``dashboard`` commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Port = Annotated[
    int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes one that is free.")
]
Host = Annotated[
    str,
    typer.Option(
        help="Interface to listen on. Other machines can reach it only with --tls-certificate and "
        "--tls-key."
    ),
]
Name = Annotated[
    list[str] | None,
    typer.Option(
        "--name", help="Name under which browsers reach it; repeat for more. Others are refused."
    ),
]
Certificate = Annotated[
    Path | None,
    typer.Option("--tls-certificate", metavar="FILE", help="Certificate with its chain, PEM."),
]
Key = Annotated[
    Path | None,
    typer.Option(
        "--tls-key", metavar="FILE", help="Private key of the certificate, PEM, mode 600."
    ),
]
WithoutTls = Annotated[
    bool,
    typer.Option(
        "--without-tls",
        help="Let other machines reach it without TLS: password and figures cross the network "
        "readable by anybody.",
    ),
]
SetPassword = Annotated[
    bool,
    typer.Option(
        "--set-password",
        help="Ask for a new password (or read it from the first line of stdin), then end. Signs "
        "everybody out.",
    ),
]
