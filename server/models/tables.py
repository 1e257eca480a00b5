"""A model of the registry in words: a row of a table, an object for machines, its whole lineage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from server.models.entries import ModelEntry

if TYPE_CHECKING:
    from rich.table import Table


def tabulate(entries: Iterable[ModelEntry], *, current: int | None) -> Table:
    """A table of models, the current one marked."""
    from rich.table import Table

    table = Table("", "N", "run", "round", "AUROC", "epsilon", "weights", "registered")
    for entry in entries:
        table.add_row(
            "*" if entry.number == current else "",
            str(entry.number),
            entry.run + ("" if entry.run_status == "completed" else " (failed)"),
            f"{entry.server_round}/{entry.rounds}",
            _figure(entry, "auroc"),
            _epsilon(entry),
            entry.weights_digest[:12],
            entry.created_at[:16],
        )
    return table


def summarize_model(entry: ModelEntry) -> dict[str, object]:
    """What ``models list --json`` says of a model."""
    auroc, mae = entry.overall.get("auroc"), entry.overall.get("mae")
    return {
        "number": entry.number,
        "run": entry.run,
        "round": entry.server_round,
        "rounds": entry.rounds,
        "final": entry.is_final,
        "run_status": entry.run_status,
        "auroc": vars(auroc) if auroc else None,
        "mae": mae.value if mae else None,
        "epsilon": {"sum": entry.privacy.epsilon_sum, "site": entry.privacy.epsilon_site},
        "weights_digest": entry.weights_digest,
        "created_at": entry.created_at,
    }


def list_facts(entry: ModelEntry) -> list[tuple[str, str]]:
    """Name and text of everything that a model's entry says."""
    privacy, parent = entry.privacy, entry.parent
    sites = "; ".join(
        f"{site}: " + ", ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in parts)
        for site, parts in entry.sites.items()
    )
    return [
        ("Model", f"{entry.number}, {entry.run}, round {entry.server_round} of {entry.rounds}"),
        ("Run", f"{entry.run_id}, {entry.run_status}"),
        ("Study", f"{entry.study}, {entry.instrument}; SHA-256 {entry.consortium_digest}"),
        ("Sites by round", sites or "none"),
        ("Roster", str(entry.roster_number or "not recorded")),
        ("Privacy", f"{_epsilon(entry)}; mode {privacy.mode}, per {privacy.unit}, "
                    f"delta {privacy.delta:g}; of the whole run"),
        ("AUROC", _figure(entry, "auroc")),
        ("MAE, points", _figure(entry, "mae")),
        ("Calibration", _calibration(entry)),
        ("Weights", entry.weights_digest),
        ("File", f"{entry.file}, SHA-256 {entry.file_sha256}"),
        ("Made from", f"model {parent.number}" if parent.number else
                      f"what ships with the package, SHA-256 {parent.weights_digest or 'unknown'}"),
        ("Versions", ", ".join(f"{name} {number}" for name, number in entry.versions.items())),
        ("Registered", entry.created_at),
    ]  # fmt: skip


def _figure(entry: ModelEntry, metric: str) -> str:
    figure = entry.overall.get(metric)
    if figure is None or figure.value is None:
        return "not measured"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.2f}"
    return f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f})"


def _calibration(entry: ModelEntry) -> str:
    known = entry.recalibration
    if known is None:
        return "as trained"
    if known.slope_error is None or known.intercept_error is None:
        return f"as trained: {known.why}"
    fit = (
        f"slope {known.slope:.2f} (SE {known.slope_error:.2f}), intercept {known.intercept:.2f} "
        f"(SE {known.intercept_error:.2f})"
    )
    applied = "exports carry it" if known.is_applied else "not applied"
    return f"{fit}; {applied}: {known.why}"


def _epsilon(entry: ModelEntry) -> str:
    privacy = entry.privacy
    if privacy.mode == "off":
        return "no privacy"
    told = [
        f"{name} {value:.2f}"
        for name, value in (("sum", privacy.epsilon_sum), ("site", privacy.epsilon_site))
        if value is not None
    ]
    return ", ".join(told) or "not reported"
