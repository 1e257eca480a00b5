"""``vultus-site``: the command line of a hospital's site."""

from __future__ import annotations

# Commands join the program as their files are read; help lists them in this order.
from client.commands import (
    dashboard,
    explanations,
    membership,
    partnership,
    recordings,
    subjects,
    uninstallation,
)
from client.commands.line import app

__all__ = [
    "app",
    "dashboard",
    "explanations",
    "membership",
    "partnership",
    "recordings",
    "subjects",
    "uninstallation",
]
