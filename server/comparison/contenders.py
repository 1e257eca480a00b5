"""The models that are compared: the signed entry of each, and the report of its run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from server.fairness import FairnessReport
from server.groups import GroupMetrics
from server.models.entries import ModelEntry, RegistryError
from server.models.lineage import EndedRun, measured_figures, read_ended_run
from server.models.registry import Registry
from server.workspace import Workspace
from shared_models.console import InputError

MOST = 8
"""Models compared at once: more columns are no page, and sums of reports are searched through."""


Division = tuple[str, float]


@dataclass(frozen=True)
class Contender:
    """A registered model and the run that made it.

    Attributes:
        entry: What the registry says, signed.
        run: The run, with its report and study.
        divisions: Name and held-out share of the study of every run in its line;
            they decide which subjects of a site train and which judge.
        is_current: Whether it is the coordinator's current model.
    """

    entry: ModelEntry
    run: EndedRun
    divisions: frozenset[Division]
    is_current: bool = False

    @property
    def name(self) -> str:
        """What a reader calls it."""
        return f"model {self.entry.number}"

    @property
    def fairness(self) -> FairnessReport | None:
        """Figures of this model; None if it was not judged."""
        for evaluation in self.run.report.evaluations:
            if evaluation.server_round == self.entry.server_round:
                return evaluation.fairness
        return None

    @property
    def groups(self) -> tuple[GroupMetrics, ...]:
        """All cells of its evaluation, all subjects first; none if it was not judged."""
        return (self.fairness.overall, *self.fairness.by_group) if self.fairness else ()

    @property
    def possible_sites(self) -> frozenset[str]:
        """Every site whose subjects may be in its figures, or may have trained it."""
        return frozenset((*(site.site_id for site in self.run.report.sites), *self.entry.sites))

    @property
    def counted_sites(self) -> frozenset[str]:
        """Sites whose subjects its figures count, as far as the report tells.

        Where each site's own row came in, those; else the sites of the model's round: secure sums
        do not tell who was in a tally.
        """
        rows = {
            group.group
            for group in self.groups
            if group.attribute == "site" and group.state != "not_reported"
        }
        return frozenset(rows or self.run.round(self.entry.server_round).participants)


def choose_contenders(
    workspace: Workspace, registry: Registry, words: Sequence[str]
) -> tuple[Contender, ...]:
    """The models that are named, in that order; the final ones of all runs by default.

    Args:
        workspace: The coordinator's folder.
        registry: Its models.
        words: Numbers of models, or names of runs for their last models.

    Raises:
        InputError: If there are fewer than two, more than :data:`MOST`, or one that is not known.
        RegistryError: If the report of a run is gone, or is not what the registry signed.
    """
    entries = _named(registry, words) if words else [e for e in registry.entries if e.is_final]
    if not words:
        entries = entries[-MOST:]
    if not 2 <= len(entries) <= MOST:
        told = f"{len(entries)} ({', '.join(f'model {e.number}' for e in entries) or 'none'})"
        msg = (
            f"Expected 2 to {MOST} models to compare, got {told}: name them by number as "
            "'models --all' lists them, or by run."
        )
        raise InputError(msg)
    return tuple(_contender(workspace, entry, registry) for entry in entries)


def _named(registry: Registry, words: Iterable[str]) -> list[ModelEntry]:
    entries = [
        registry.entry(int(word)) if word.isdecimal() else _last_of(registry, word)
        for word in words
    ]
    return list({entry.number: entry for entry in entries}.values())


def _last_of(registry: Registry, run: str) -> ModelEntry:
    made = [entry for entry in registry.entries if entry.run == run]
    if not made:
        known = ", ".join(dict.fromkeys(entry.run for entry in registry.entries)) or "none yet"
        msg = f"Expected the number of a model or the name of a run, got {run!r}: runs with models "
        raise InputError(msg + f"are {known}.")
    return made[-1]


def _contender(workspace: Workspace, entry: ModelEntry, registry: Registry) -> Contender:
    run = _run_of(workspace, entry)
    if measured_figures(run, entry.server_round) != entry.evaluation:
        msg = (
            f"Expected the figures of model {entry.number} as they were signed, got others in "
            f"report.json of {entry.run}: restore the run's folder from a copy."
        )
        raise RegistryError(msg)
    line = {one.run: one for one in _line(entry, registry)}
    configs = [_run_of(workspace, one).config for one in line.values()]
    divisions = frozenset((c.study.name, c.fairness.holdout_fraction) for c in configs)
    return Contender(entry, run, divisions, is_current=entry.number == registry.current)


def _run_of(workspace: Workspace, entry: ModelEntry) -> EndedRun:
    run = read_ended_run(workspace.runs / entry.run)
    if run is None:
        msg = (
            f"Expected the report of {entry.run} to compare model {entry.number}, found none: "
            "restore the run's folder from a copy."
        )
        raise RegistryError(msg)
    return run


def _line(entry: ModelEntry, registry: Registry) -> Iterator[ModelEntry]:
    """A model and all that it was made from."""
    yield entry
    while (number := entry.parent.number) is not None:
        entry = registry.entry(number)
        yield entry
