"""The site's log in plain words, for whoever has to answer for what left the building."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.table import Table
from rich.text import Text

from client.approval.pending import REFUSED_EVENT
from client.approval.record import APPROVED, WITHDRAWN
from client.learning.receipts import SENT, STOPPED
from client.records.check import LOG, AuditFault, AuditReport
from client.renewal import KEY_RENEWED
from client.withdrawal.erasure import ERASED
from client.withdrawal.exclusion import EXCLUDED
from privacy.audit import AuditEntry
from shared_models.console import Screen

Details = Mapping[str, object]

_ARRIVALS = {
    ("ModelUpdate", "train"): "one noised model update of {numbers} ({size}) for {round}",
    ("TallyReply", "evaluate"): "noised counts, {numbers} ({size}), on the model after {round}",
    ("MaskedReply", "train"): "one masked vector of {numbers} ({size}) for {round}",
    ("MaskedReply", "evaluate"): (
        "one masked vector of counts, {numbers} ({size}), on the model after {round}"
    ),
}


def show_report(screen: Screen, report: AuditReport, *, limit: int) -> None:
    """Print the last entries, newest last, and whether they may be believed.

    Args:
        screen: Where to.
        report: What was found.
        limit: How many entries at most.
    """
    shown = list(report.entries.values())[-limit:]
    if shown:
        screen.show(_table(shown))
    left_out = len(report.entries) - len(shown)
    more = f", the first {left_out} of them not shown (--limit)" if left_out else ""
    screen.say(f"{len(report.entries)} entries{more}; {report.receipts} messages left this site.")
    for fault in report.faults:
        screen.say(f"BROKEN: {_place(fault)}: {fault.fault}", style="bold red")
    _conclude(screen, report)


def to_json(report: AuditReport, *, limit: int) -> dict[str, object]:
    """The object for machines."""
    return {
        "entries": len(report.entries),
        "whole": report.whole,
        "first_broken": report.first_broken,
        "verified": report.verified,
        "receipts": report.receipts,
        "unsent": report.unsent,
        "faults": [vars(fault) for fault in report.faults],
        "shown": [
            {"line": line, "at": one.at, "event": one.event, "text": describe(one)}
            for line, one in list(report.entries.items())[-limit:]
        ],
    }


def describe(entry: AuditEntry) -> str:
    """One entry of the log as a sentence."""
    tell = _SENTENCES.get(entry.event)
    text = _list(entry.event, entry.details) if tell is None else tell(entry.details)
    # Some words come from the coordinator: they must not steer the terminal.
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _table(entries: list[AuditEntry]) -> Table:
    table = Table("when (UTC)", "what happened", show_lines=True)
    for entry in entries:
        table.add_row(Text(entry.at[:16].replace("T", " "), "bold"), Text(describe(entry)))
    return table


def _place(fault: AuditFault) -> str:
    if fault.line is None:
        return fault.where
    return f"{'line' if fault.where == LOG else 'row'} {fault.line} of the {fault.where}"


def _conclude(screen: Screen, report: AuditReport) -> None:
    if not report.whole:
        screen.say("The records are NOT whole: stop the site, keep the files, find out by whom.")
    elif report.verified:
        screen.say(
            "Whole: the chain is unbroken, every receipt is signed by this site, every answer is "
            "paid for in the ledger, and the list of forgotten subjects is as it was written."
        )
        screen.say(
            "A tail that was cut off shows only against the coordinator's anchor, which the site "
            "checks before every answer."
        )
    else:
        screen.say("The chain is unbroken. Signatures and ledger: see --verify.")
    if report.unsent:
        screen.say(f"{report.unsent} releases were paid for and nothing of them left.")


def _list(event: str, details: Details) -> str:
    told = ", ".join(f"{name} {value}" for name, value in details.items())
    return f"{event.replace('_', ' ')}: {told}" if told else event.replace("_", " ")


def _sent(details: Details) -> str:
    kind, asked = str(details.get("kind")), str(details.get("asked"))
    if kind == "SiteHello":
        return (
            f"Told {details.get('to')} which site this is, with version and public key, for run "
            f"{details.get('run_id')}. Nothing of any subject."
        )
    if kind == "Refusal":
        return _refused(details)
    form = _ARRIVALS.get((kind, asked), f"{kind} of {{numbers}} ({{size}}) for {{round}}")
    what = form.format(
        numbers=f"{details.get('numbers')} numbers",
        size=f"{details.get('bytes')} bytes",
        round=f"round {details.get('server_round')} of run {details.get('run_id')}",
    )
    alone = _alone(details) if kind == "MaskedReply" else ""
    again = ""
    if details.get("sent_again") is True:
        again = (
            f" Sent again: the same bytes as in entry {details.get('first_entry')}, which nobody "
            "learns more from, and nothing more was spent."
        )
    return f"Sent {what} to {details.get('to')}{alone}. {_cost(details)}{again}"


def _alone(details: Details) -> str:
    sites = details.get("sites_in_sum")
    others = f"the {sites - 1} other sites" if isinstance(sites, int) else "the other sites"
    return f"; without {others} it is noise"


def _cost(details: Details) -> str:
    if details.get("ledger_row") is None:
        return "It had NO noise: the study gives no privacy, and this site's policy allowed that."
    text = (
        f"Privacy spent so far on anyone in it: epsilon {_number(details, 'epsilon_spent')}; left: "
        f"{_number(details, 'epsilon_left')}"
    )
    if "epsilon_left_this_year" in details:
        text += f", this year {_number(details, 'epsilon_left_this_year')}"
    return f"{text}."


def _refused(details: Details) -> str:
    wanted = {"train": "training", "evaluate": "an evaluation", "hello": "a greeting"}
    asked = wanted.get(str(details.get("asked")), "a request")
    place = ""
    if "server_round" in details:
        place = f" in round {details['server_round']} of run {details.get('run_id')}"
    kept = f" (Not told: {details['kept_here']})" if details.get("kept_here") else ""
    return f"Refused {asked}{place} and told {details.get('to')}: {details.get('message')}.{kept}"


def _number(details: Details, name: str) -> str:
    value = details.get(name)
    return f"{value:.3f}" if isinstance(value, int | float) else str(value)


_SENTENCES: dict[str, Callable[[Details], str]] = {
    SENT: _sent,
    STOPPED: lambda told: (
        f"Stopped before it left: a message ({told.get('kind')}) that is not on the list of what "
        f"may leave. {told.get('faults')}."
    ),
    REFUSED_EVENT: lambda told: (
        f"Refused to run the coordinator's program bundle {str(told.get('sha256'))[:12]}: this "
        "site has not approved it."
    ),
    KEY_RENEWED: lambda told: (
        f"This site's key was renewed: from now on it signs with {told.get('new')} in place of "
        f"{told.get('old')}."
    ),
    APPROVED: lambda told: (
        f"Approved the site {told.get('member')} with key {told.get('key')}."
        if "member" in told
        else f"Approved the program bundle {str(told.get('bundle'))[:12]} for the study "
        f"{str(told.get('consortium'))[:12]}."
    ),
    WITHDRAWN: lambda told: f"Withdrew the approval of {told.get('what')}.",
    EXCLUDED: lambda told: (
        f"A subject was excluded for good: number {told.get('exclusions')} on the list of "
        "forgotten subjects."
    ),
    ERASED: lambda told: (
        f"Stored files of a forgotten subject were destroyed: {told.get('files')} files, "
        f"certificate {told.get('certificate')}."
    ),
    "torn_line_closed": lambda _told: "A crash had cut off an entry; it was closed.",
}
