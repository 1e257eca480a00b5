"""What a run is doing right now, in one small file that ``status`` and ``run`` read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

PROGRESS_FILE = "progress.json"


@dataclass(frozen=True)
class Progress:
    """A moment of a run.

    Attributes:
        run_id: The run.
        server_round: Round in work, from 1; 0 while sites are being gathered.
        rounds: Rounds in all.
        phase: ``gathering``, ``training``, ``evaluating``, ``completed`` or ``failed``.
        waiting_for: Sites whose answer is still out.
        detail: Why the run failed, or empty.
    """

    run_id: str
    server_round: int
    rounds: int
    phase: str
    waiting_for: tuple[str, ...] = ()
    detail: str = ""


def write_progress(folder: Path, progress: Progress) -> None:
    """Replace the run's progress file; a reader sees the old or the new one, never half."""
    partial = folder / f".{PROGRESS_FILE}.partial"
    partial.write_text(json.dumps(asdict(progress)), encoding="utf-8")
    partial.replace(folder / PROGRESS_FILE)


def read_progress(folder: Path) -> Progress | None:
    """The run's last progress, or None before it has begun."""
    file = folder / PROGRESS_FILE
    if not file.exists():
        return None
    fields = json.loads(file.read_text(encoding="utf-8"))
    return Progress(**{**fields, "waiting_for": tuple(fields["waiting_for"])})
