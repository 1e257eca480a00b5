"""What a run does and waits for, for people and for machines."""

from __future__ import annotations

import datetime as dt
from typing import TypedDict

from server.progress import Progress
from server.run_folder import is_held
from server.runs import Run
from server.workspace import Workspace

LATE_S = 30.0
"""A site that takes longer is told as late: a round with a quorum waits no longer for it."""

Refusal = dict[str, str]


class RunStatus(TypedDict):
    """A run as ``status --json`` shows it.

    ``conducted`` is ``running``, ``restarting`` (its server app is gone and is being started),
    ``down`` (the coordinator is) or ``ended``. ``waiting_for`` names the sites that are waited for
    since ``since``; ``lost`` and ``late`` are those among them without connection, and those that
    take longer than a round is patient once it has a quorum. ``missing`` are not connected.
    """

    id: str
    round: int
    rounds: int | None
    waiting_for: list[str]
    phase: str
    conducted: str
    life: int
    attempt: int
    quorum: int
    answered: int
    since: str | None
    waited_s: float | None
    lost: list[str]
    late: list[str]
    missing: list[str]
    refused: list[Refusal]
    detail: str


def describe_run(run: Run, *, is_up: bool) -> RunStatus:
    """A run as it stands.

    Args:
        run: The run.
        is_up: Whether the coordinator's engine answers.
    """
    progress = run.progress or Progress(run.name, 0, 0, "starting")
    has_ended = run.end is not None
    waiting = [] if has_ended else list(progress.waiting_for)
    waited_s = None if has_ended else _waited_s(progress)
    is_late = waited_s is not None and waited_s > LATE_S
    return RunStatus(
        id=run.name,
        round=progress.server_round,
        rounds=progress.rounds or None,
        waiting_for=waiting,
        phase=run.end.status if run.end else progress.phase,
        conducted=_conducted(run, is_up=is_up),
        life=run.life.number,
        attempt=progress.attempt,
        quorum=progress.quorum,
        answered=progress.answered,
        since=None if has_ended else progress.since or None,
        waited_s=waited_s,
        lost=[] if has_ended else list(progress.lost),
        late=[site for site in waiting if site not in progress.lost] if is_late else [],
        missing=list(progress.missing),
        refused=[
            {"site": site, "code": code, "reason": text} for site, code, text in progress.refused
        ],
        detail=run.end.detail if run.end else progress.detail,
    )


def tell_run(status: RunStatus) -> str:
    """The same in sentences."""
    lines = [f"{status['id']}: {status['phase']}, round {status['round']} of {status['rounds']}."]
    lines += _tell_conduct(status)
    if status["conducted"] != "ended":
        lines += _tell_wait(status)
    lines += [f"{r['site']} refused ({r['code']}): {r['reason']}" for r in status["refused"]]
    if status["detail"]:
        lines.append(status["detail"])
    return "\n".join(lines)


def unseen_sites(workspace: Workspace) -> list[dict[str, object]]:
    """The study's sites while the engine cannot be asked about them."""
    return [
        {"id": entry.id, "state": "unknown", "last_seen_s": None}
        for entry in workspace.consortium.config.sites
    ]


def _conducted(run: Run, *, is_up: bool) -> str:
    if run.end:
        return "ended"
    if is_held(run.folder):
        return "running"
    return "restarting" if is_up else "down"


def _tell_conduct(status: RunStatus) -> list[str]:
    if status["conducted"] == "restarting":
        return [f"Its server app is being started (life {status['life']})."]
    if status["conducted"] == "down":
        return ["Nobody conducts it: the coordinator does not run. It goes on once that does."]
    return []


def _tell_wait(status: RunStatus) -> list[str]:
    if not status["waiting_for"]:
        return ["It waits for nobody."]
    since = f" since {status['since']}" if status["since"] else ""
    attempt = f" in attempt {status['attempt']}" if status["attempt"] > 1 else ""
    told = [
        f"{status['answered']} answered{attempt}, {status['quorum']} are needed. "
        f"It waits for {', '.join(status['waiting_for'])}{since}."
    ]
    names = {"lost": "Lost their connection", "late": "Late", "missing": "Not connected"}
    lists = {"lost": status["lost"], "late": status["late"], "missing": status["missing"]}
    return told + [f"{names[key]}: {', '.join(sites)}." for key, sites in lists.items() if sites]


def _waited_s(progress: Progress) -> float | None:
    if not progress.since:
        return None
    since = dt.datetime.fromisoformat(progress.since)
    return round(max(0.0, (dt.datetime.now(dt.UTC) - since).total_seconds()), 1)
