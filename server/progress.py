"""What a run is doing right now, in one small file that ``status`` and ``run`` read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from privacy.vault import write_chunks

PROGRESS_FILE = "progress.json"
ENDED = ("completed", "failed", "stopped")
"""Phases after which nothing more happens."""


@dataclass(frozen=True)
class Progress:
    """A moment of a run.

    Attributes:
        run_id: The run.
        server_round: Round in work, from 1; 0 while the first sites are being gathered.
        rounds: Rounds in all.
        phase: ``gathering``, ``training``, ``evaluating``, ``completed``, ``failed`` or
            ``stopped``.
        waiting_for: Sites whose answer is still out.
        detail: Why the run failed, or empty.
        since: When this wait began, ISO 8601 with offset.
        attempt: Of the question; more than 1 where a secure sum lost a site.
        quorum: Fewest sites that a round needs.
        answered: Sites whose answer is there.
        lost: Sites among those waited for that lost their connection.
        missing: Sites of the study that are not connected.
        refused: Site, reason code and sentence of each refusal.
        by_policy: Whether the run failed because sites refused by policy or budget.
    """

    run_id: str
    server_round: int
    rounds: int
    phase: str
    waiting_for: tuple[str, ...] = ()
    detail: str = ""
    since: str = ""
    attempt: int = 1
    quorum: int = 0
    answered: int = 0
    lost: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    refused: tuple[tuple[str, str, str], ...] = ()
    by_policy: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.phase in ENDED


_KIND = TypeAdapter(Progress)


def write_progress(folder: Path, progress: Progress) -> None:
    """Replace the run's progress file; a reader sees the old or the new one, never half.

    The end of a run is written durably: it decides whether the run is taken up again.
    """
    content = _KIND.dump_json(progress)
    write_chunks(folder / PROGRESS_FILE, [content], durable=progress.has_ended)


def read_progress(folder: Path) -> Progress | None:
    """The run's last progress, or None before it has begun."""
    file = folder / PROGRESS_FILE
    return _KIND.validate_json(file.read_bytes()) if file.exists() else None
