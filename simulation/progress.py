"""Progress of a simulation on the terminal: a bar a phase."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import TaskID

from shared_models.console import Screen
from simulation.study import OnProgress


@contextmanager
def show_progress(screen: Screen) -> Iterator[OnProgress]:
    """A callback that moves the bar of a phase, making it when the phase begins."""
    bars: dict[str, TaskID] = {}
    with screen.progress() as progress:

        def on_progress(phase: str, done: int, total: int) -> None:
            if phase not in bars:
                bars[phase] = progress.add_task(phase, total=total)
            progress.update(bars[phase], completed=done, total=total)

        yield on_progress
