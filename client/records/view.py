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
Say = Callable[[str], str]
"""Gives a sentence in the reader's language; its fields are filled in afterwards."""

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


def in_english(sentence: str) -> str:
    """The sentence as it is."""
    return sentence


def describe(entry: AuditEntry, say: Say = in_english) -> str:
    """One entry of the log as a sentence.

    Args:
        entry: The entry.
        say: Gives each sentence in the reader's language.
    """
    tell = _SENTENCES.get(entry.event)
    text = _list(entry.event, entry.details) if tell is None else tell(entry.details, say)
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


def _sent(details: Details, say: Say) -> str:
    kind, asked = str(details.get("kind")), str(details.get("asked"))
    if kind == "SiteHello":
        return say(
            "Told {to} which site this is, with version and public key, for run {run}. Nothing of "
            "any subject."
        ).format(to=say(str(details.get("to"))), run=details.get("run_id"))
    if kind == "Refusal":
        return _refused(details, say)
    form = _ARRIVALS.get((kind, asked), "{kind} of {numbers} ({size}) for {round}")
    what = say(form).format(
        kind=kind,
        numbers=say("{count} numbers").format(count=details.get("numbers")),
        size=say("{count} bytes").format(count=details.get("bytes")),
        round=say("round {number} of run {run}").format(
            number=details.get("server_round"), run=details.get("run_id")
        ),
    )
    alone = _alone(details, say) if kind == "MaskedReply" else ""
    sent = say("Sent {what} to {to}{alone}.").format(
        what=what, to=say(str(details.get("to"))), alone=alone
    )
    again = ""
    if details.get("sent_again") is True:
        again = " " + say(
            "Sent again: the same bytes as in entry {entry}, which nobody learns more from, and "
            "nothing more was spent."
        ).format(entry=details.get("first_entry"))
    return f"{sent} {_cost(details, say)}{again}"


def _alone(details: Details, say: Say) -> str:
    sites = details.get("sites_in_sum")
    if isinstance(sites, int):
        return say("; without the {count} other sites it is noise").format(count=sites - 1)
    return say("; without the other sites it is noise")


def _cost(details: Details, say: Say) -> str:
    if details.get("ledger_row") is None:
        return say(
            "It had NO noise: the study gives no privacy, and this site's policy allowed that."
        )
    text = say("Privacy spent so far on anyone in it: epsilon {spent}; left: {left}").format(
        spent=_number(details, "epsilon_spent"), left=_number(details, "epsilon_left")
    )
    if "epsilon_left_this_year" in details:
        left = _number(details, "epsilon_left_this_year")
        text += say(", this year {left}").format(left=left)
    return text + say(".")


def _refused(details: Details, say: Say) -> str:
    wanted = _WANTED.get(str(details.get("asked")), "a request")
    place = ""
    if "server_round" in details:
        place = say(" in round {number} of run {run}").format(
            number=details["server_round"], run=details.get("run_id")
        )
    told = say("Refused {what}{place} and told {to}: {message}.").format(
        what=say(wanted),
        place=place,
        to=say(str(details.get("to"))),
        message=details.get("message"),
    )
    kept = details.get("kept_here")
    return told + (" " + say("(Not told: {kept})").format(kept=kept) if kept else "")


def _approved(details: Details, say: Say) -> str:
    if "member" in details:
        return say("Approved the site {site} with key {key}.").format(
            site=details.get("member"), key=details.get("key")
        )
    return say("Approved the program bundle {bundle} for the study {study}.").format(
        bundle=str(details.get("bundle"))[:12], study=str(details.get("consortium"))[:12]
    )


def _number(details: Details, name: str) -> str:
    value = details.get(name)
    return f"{value:.3f}" if isinstance(value, int | float) else str(value)


_WANTED = {"train": "training", "evaluate": "an evaluation", "hello": "a greeting"}

_SENTENCES: dict[str, Callable[[Details, Say], str]] = {
    SENT: _sent,
    STOPPED: lambda told, say: say(
        "Stopped before it left: a message ({kind}) that is not on the list of what may leave. "
        "{faults}."
    ).format(kind=told.get("kind"), faults=told.get("faults")),
    REFUSED_EVENT: lambda told, say: say(
        "Refused to run the coordinator's program bundle {bundle}: this site has not approved it."
    ).format(bundle=str(told.get("sha256"))[:12]),
    KEY_RENEWED: lambda told, say: say(
        "This site's key was renewed: from now on it signs with {new} in place of {old}."
    ).format(new=told.get("new"), old=told.get("old")),
    APPROVED: _approved,
    WITHDRAWN: lambda told, say: say("Withdrew the approval of {what}.").format(
        what=told.get("what")
    ),
    EXCLUDED: lambda told, say: say(
        "A subject was excluded for good: number {number} on the list of forgotten subjects."
    ).format(number=told.get("exclusions")),
    ERASED: lambda told, say: say(
        "Stored files of a forgotten subject were destroyed: {files} files, certificate "
        "{certificate}."
    ).format(files=told.get("files"), certificate=told.get("certificate")),
    "torn_line_closed": lambda _told, say: say("A crash had cut off an entry; it was closed."),
}
