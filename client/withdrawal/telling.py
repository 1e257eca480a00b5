"""What ``forget`` shows: what goes, what stays, and what the site has to delete itself."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from client.site import Site
from client.withdrawal.certificate import Spending, how_to_verify
from client.withdrawal.erasure import Erasure, Traces
from shared_models.console import Screen

SHOWN_RELEASES = 20


def show_traces(screen: Screen, traces: Traces) -> None:
    """Print what forgetting a subject means, before anything is done."""
    if traces.is_forgotten:
        screen.say(f"Subject {traces.subject_id!r} was forgotten already; nothing is stored.")
        return
    screen.say(f"Forgetting subject {traces.subject_id!r} will")
    screen.say(f"  erase {len(traces.objects)} recordings from the encrypted store, for good,")
    screen.say("  keep the subject out of every later round, whatever the table says.")
    screen.say("It cannot undo")
    screen.say(f"  {_released(traces.spending)}")
    screen.say("  backups of the store, and tables and pages that were exported from it.")
    if traces.spending.participations:
        screen.show(_release_table(traces.spending))
    if not traces.spending.ledger_is_whole:
        screen.warn("the privacy ledger is not whole: the list of releases may be wrong.")


def report_erasure(screen: Screen, site: Site, traces: Traces, erasure: Erasure) -> None:
    """Print what was done and what is left to do."""
    if not traces.is_forgotten:
        screen.say(f"Erased {erasure.erased} recordings; the subject is excluded.")
    screen.say(f"Certificate: {erasure.certificate}")
    screen.say(f"For the file: {erasure.certificate.with_suffix('.txt')}")
    screen.say(f"To verify it, in its folder: {how_to_verify(erasure.certificate)}")
    screen.next(*_left_to_do(site, traces))
    screen.answer(
        {
            "subject": traces.subject_id,
            "already_forgotten": traces.is_forgotten,
            "erased": erasure.erased,
            "certificate": erasure.certificate,
            "signature": erasure.certificate.with_suffix(".sig"),
            "sheet": erasure.certificate.with_suffix(".txt"),
            "releases": [asdict(one) for one in erasure.spending.participations],
            "epsilon": erasure.spending.epsilon,
            "delta": erasure.spending.delta,
            "originals": [str(path) for path in traces.originals],
            "rows": [row.line for row in traces.rows],
        }
    )


def _released(spending: Spending) -> str:
    count = len(spending.participations)
    if not count:
        return "anything else: no release with the subject is on record;"
    return (
        f"{count} releases that the subject took part in; differential privacy bounds what they "
        f"reveal together by epsilon {spending.epsilon:.3f} at delta {spending.delta:g};"
    )


def _release_table(spending: Spending) -> Table:
    table = Table("when", "run", "round", "what", "epsilon alone")
    for one in spending.participations[-SHOWN_RELEASES:]:
        table.add_row(
            one.at[:19],
            one.run_id,
            "-" if one.server_round is None else str(one.server_round),
            one.purpose,
            f"{one.epsilon:.3f}",
        )
    return table


def _left_to_do(site: Site, traces: Traces) -> list[str]:
    steps = []
    if traces.originals:
        files = "".join(f"\n      {_short(path, site)}" for path in traces.originals)
        steps.append(f"delete the originals, which are still there:{files}")
    if traces.rows:
        lines = ", ".join(str(row.line) for row in traces.rows)
        steps.append(f"remove the subject's rows from {site.paths.recordings} (lines {lines}).")
    steps.append("delete backups and exported tables and pages that hold the subject.")
    return steps


def _short(path: Path, site: Site) -> str:
    return str(path.relative_to(site.folder) if path.is_relative_to(site.folder) else path)
