"""The report of a run: one page for people, one JSON file for machines, the same numbers.

The page is rendered from the JSON, so it cannot show what the JSON does not hold. It loads nothing
from anywhere: styles and figures are inside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from server.fairness import FairnessReport
from server.groups import GroupMetrics, Metric
from server.history import (
    NOTICE,
    EvaluationReport,
    RoundReport,
    RunReport,
    SitePrivacy,
    Truth,
    evaluation_report,
)
from server.intervals import Estimate
from server.plots import Dot, plot_bars, plot_curve, plot_groups
from shared_models.tallies import largest_error

if TYPE_CHECKING:
    from jinja2 import Environment

LABELS: dict[str, str] = {
    "auroc": "AUROC",
    "tpr": "TPR",
    "fpr": "FPR",
    "selection_rate": "Selection rate",
    "ppv": "PPV",
    "mae": "MAE",
    "rmse": "RMSE",
    "bias": "Bias",
    "equalized_odds": "Equalised odds",
}
ATTRIBUTES = {"age_band": "Age band", "sex": "Sex", "site": "Site", "overall": "All subjects"}
STATE_WORDS = {
    "suppressed": "withheld",
    "too_few": "too few to say",
    "zero": "no subjects",
    "not_reported": "not reported",
}
_TRUTH_FIELDS: dict[Metric, int] = {"auroc": 1, "tpr": 2, "fpr": 3}


def write_report(report: RunReport, folder: Path) -> Path:
    """Path of ``report.html``; ``report.json`` with the same numbers lies beside it.

    Args:
        report: What happened in the run.
        folder: Made if missing; both files are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = report.to_json()
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    page = folder / "report.html"
    page.write_text(render_page(RunReport.from_json(text)), encoding="utf-8")
    return page


def render_page(report: RunReport) -> str:
    """HTML of the page, the same bytes for the same report."""
    template = _environment().get_template("report.html.j2")
    return template.render(
        report=report,
        final=report.final,
        curves=draw_curves(report),
        groups=draw_groups(report),
        spending=draw_spending(report),
        attendance=attendance(report),
        error_limit=largest_error(report.score_range),
    )


def draw_curves(report: RunReport) -> list[str]:
    """AUROC and MAE by round of training."""
    last = max([r.server_round for r in report.rounds] or [1])
    drawings = []
    for place, (metric, label) in enumerate((("auroc", "AUROC"), ("mae", "MAE in points")), 1):
        points = [
            (evaluation.server_round, estimate)
            for evaluation in report.evaluations
            if (estimate := evaluation.fairness.overall.metrics.get(metric))  # type: ignore[call-overload]
        ]
        truth = _truth_curve(report.truth, place)
        if points or truth:
            drawings.append(
                plot_curve(points, truth, name=f"curve-{metric}", label=label, last_round=last)
            )
    return drawings


def draw_groups(report: RunReport) -> dict[str, list[str]]:
    """AUROC, TPR and FPR by attribute; nothing where no group has a figure."""
    final = report.final
    if final is None:
        return {}
    return {
        attribute: [
            _draw_metric(report, final, attribute, metric)
            for metric in _TRUTH_FIELDS
            if any(group.metrics for group in final.groups(attribute))
        ]
        for attribute in final.attributes
    }


def draw_spending(report: RunReport) -> list[str]:
    """Epsilon by site of training and of the tallies, against what was agreed."""
    columns = (
        (
            "training",
            report.target_epsilon,
            [(s.site_id, s.epsilon_training) for s in report.sites],
        ),
        (
            "tallies",
            report.fairness_epsilon,
            [(s.site_id, s.epsilon_tallies) for s in report.sites],
        ),
    )
    drawings = []
    for name, target, spent in columns:
        bars = [(site, epsilon) for site, epsilon in spent if epsilon is not None]
        if target is not None and bars:
            label = f"ε spent on {name}"
            drawings.append(plot_bars(bars, name=f"epsilon-{name}", label=label, target=target))
    return drawings


def attendance(report: RunReport) -> list[dict[str, object]]:
    """For each site: rounds it took part in and missed, refusals by code, privacy spent."""
    spent = {site.site_id: site for site in report.sites}
    return [
        {
            "site": site,
            "took_part": sum(site in r.participants for r in report.rounds),
            "missing": sum(site in r.missing for r in report.rounds),
            "refusals": _refusal_codes(site, report.rounds),
            "spent": spent.get(site),
        }
        for site in dict.fromkeys([*spent, *_seen_sites(report.rounds)])
    ]


def format_number(value: float | None, digits: int = 2) -> str:
    """A number for reading; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    text = f"{value:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text.lstrip("-")


def format_interval(estimate: Estimate | None, digits: int = 2) -> str:
    """The interval of an estimate in words; empty where there is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"{format_number(estimate.low, digits)} to {format_number(estimate.high, digits)}"


def format_epsilon(value: float | None, mode: str, prefix: str = "") -> str:
    """An epsilon; words where there is no bound, or where none was reported."""
    if mode == "off":
        return "no privacy"
    if value is None or not math.isfinite(value):
        return "not reported"
    return f"{prefix}{value:.2f}"


def _environment() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("server"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=format_number, interval=format_interval, epsilon=format_epsilon
    )
    environment.globals.update(
        LABELS=LABELS, ATTRIBUTES=ATTRIBUTES, STATE_WORDS=STATE_WORDS, exp=math.exp
    )
    return environment


def _truth_curve(truth: Truth | None, place: int) -> list[tuple[int, float]]:
    rows = truth.curve if truth else ()
    return [(row[0], value) for row in rows if (value := row[place]) is not None]


def _value(group: GroupMetrics, metric: Metric) -> float | None:
    estimate = group.metrics.get(metric)
    return estimate.value if estimate else None


def _draw_metric(report: RunReport, final: FairnessReport, attribute: str, metric: Metric) -> str:
    return plot_groups(
        [_dot(group, metric, report.truth) for group in final.groups(attribute)],
        name=f"{attribute}-{metric}",
        label=LABELS[metric],
        reference=_value(final.overall, metric),
    )


def _dot(group: GroupMetrics, metric: Metric, truth: Truth | None) -> Dot:
    estimate = group.metrics.get(metric)
    exact = truth.by_group.get((group.attribute, group.group)) if truth else None
    return Dot(
        label=group.group,
        estimate=estimate,
        words=STATE_WORDS.get(group.state, STATE_WORDS["too_few"]),
        truth=exact[_TRUTH_FIELDS[metric]] if exact else None,
    )


def _seen_sites(rounds: Iterable[RoundReport]) -> list[str]:
    seen: dict[str, None] = {}
    for entry in rounds:
        seen.update(dict.fromkeys((*entry.participants, *entry.missing)))
        seen.update(dict.fromkeys(site for site, _, _ in entry.refusals))
    return list(seen)


def _refusal_codes(site: str, rounds: Iterable[RoundReport]) -> dict[str, int]:
    codes: dict[str, int] = {}
    for entry in rounds:
        for refuser, code, _ in entry.refusals:
            if refuser == site:
                codes[code] = codes.get(code, 0) + 1
    return codes


__all__ = [
    "NOTICE",
    "EvaluationReport",
    "RoundReport",
    "RunReport",
    "SitePrivacy",
    "Truth",
    "evaluation_report",
    "render_page",
    "write_report",
]
