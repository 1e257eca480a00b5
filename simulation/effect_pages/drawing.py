"""How the pictures look: small, calm, the same bytes for the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE, BAND, DOT, SECOND, MUTED = "#1b6b72", "#cfe3e4", "#1d2b33", "#b4622d", "#7b8a91"
THIRD = "#6a5a9c"

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vultus",
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": DOT,
    "ytick.labelcolor": DOT,
    "lines.linewidth": 1.5,
    "lines.markersize": 3.5,
    "errorbar.capsize": 0,
    "legend.frameon": False,
    "legend.fontsize": 7,
}


def new_figure(panels: int, *, share_y: bool = True) -> tuple[Figure, Sequence[Axes]]:
    """A row of panels on white."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.5 + 1.75 * max(panels, 2), 2.0), layout="constrained")
    row = figure.subplots(1, max(panels, 1), sharey=share_y, squeeze=False)[0]
    return figure, list(row)


def save(figure: Figure, path: Path) -> None:
    """The picture as SVG without a date."""
    figure.savefig(path, metadata={"Date": None, "Creator": None})
