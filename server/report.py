"""The report of a run: a page for people in each language, and one JSON file with the same numbers.

The pages are rendered from the JSON, so they cannot show what the JSON does not hold. They load
nothing from anywhere and run no program: style and figures are inside, and the page's own policy
forbids everything else.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.history import (
    NOTICE,
    EvaluationReport,
    RoundReport,
    RunReport,
    SitePrivacy,
    Truth,
    evaluation_report,
)
from server.reporting.figures import (
    PLOT_SIZE,
    across,
    draw_calibration,
    draw_curves,
    place_in,
)
from server.reporting.heat import axis_of, heat_row, heat_rows, ordered, shown_columns
from server.reporting.participation import attendance, rounds_per_column
from server.reporting.phrases import (
    ATTRIBUTES,
    N_,
    STATE_WORDS,
    Phrases,
    format_epsilon,
    format_number,
)
from server.reporting.summary import sites_without_budget, summarize_run
from shared_models.tallies import largest_error
from shared_models.wording import LANGUAGE_TAGS, LANGUAGES, translations

if TYPE_CHECKING:
    from jinja2 import Environment

LABELS: dict[str, str] = {
    "auroc": N_("AUROC"),
    "tpr": N_("TPR"),
    "fpr": N_("FPR"),
    "selection_rate": N_("Selection"),
    "ppv": N_("PPV"),
    "mae": N_("MAE"),
    "rmse": N_("RMSE"),
    "bias": N_("Bias"),
    "calibration_slope": N_("Slope"),
    "ece": N_("ECE"),
    "equalized_odds": N_("Equalised odds"),
}
"""Metrics and contrasts by their short names."""
_NOT_COMPARED = ("ppv", "rmse")
CATALOGUE = "server.reporting"
FOLD = 45
"""Tables with more rows can be folded away."""


def page_name(language: str, stem: str = "report") -> str:
    """File name of the page in a language.

    >>> page_name("en"), page_name("zh")
    ('report.html', 'report.zh.html')
    """
    return f"{stem}.html" if language == "en" else f"{stem}.{language}.html"


def write_report(report: RunReport, folder: Path) -> Path:
    """Path of ``report.html``; the pages in other languages and ``report.json`` lie beside it.

    Args:
        report: What happened in the run.
        folder: Made if missing; the files are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = report.to_json()
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    return write_pages(RunReport.from_json(text), folder)


def write_pages(report: RunReport, folder: Path, *, stem: str = "report") -> Path:
    """Path of the English page; each page links to those in other languages beside it.

    Args:
        report: What happened in the run.
        folder: Where the pages go.
        stem: How their names begin.
    """
    for language in LANGUAGES:
        siblings = {other: page_name(other, stem) for other in LANGUAGES if other != language}
        page = render_page(report, language, siblings=siblings)
        (folder / page_name(language, stem)).write_text(page, encoding="utf-8")
    return folder / page_name("en", stem)


def render_page(
    report: RunReport, language: str = "en", *, siblings: Mapping[str, str] | None = None
) -> str:
    """HTML of the page, the same bytes for the same report.

    Args:
        report: What happened in the run.
        language: A key of :data:`shared_models.wording.LANGUAGES`.
        siblings: Files of the same page in other languages, to link to.

    Raises:
        ValueError: If pages are not written in that language.
    """
    phrases = Phrases(translations(CATALOGUE, language))
    environment = _environment(language)
    page = environment.get_template("report.html.j2").render(
        report=report,
        siblings=siblings or {},
        tag=LANGUAGE_TAGS[language],
        **_style(environment),
        **_figures_of_groups(report),
        **_figures_of_sites(report, phrases),
        answers=summarize_run(report, phrases),
        curves=draw_curves(report),
        calibration=draw_calibration(report.judged.reliability) if report.judged else [],
        error_limit=report.final.error_limit if report.final else largest_error(report.score_range),
    )
    # A number and its sign stay on one line.
    return page.replace("95 %", "95\N{NO-BREAK SPACE}%")


def _figures_of_groups(report: RunReport) -> dict[str, Any]:
    final = report.final
    if final is None:
        return {"final": None, "columns": (), "total": None, "heat": {}}
    return {
        "final": final,
        "columns": shown_columns(final),
        "total": heat_row(final.overall, final),
        "heat": {attribute: heat_rows(final, attribute) for attribute in ordered(final)},
    }


def _figures_of_sites(report: RunReport, phrases: Phrases) -> dict[str, Any]:
    spent = report.sites
    training = [s.epsilon_training for s in spent if s.epsilon_training is not None]
    tallies = [s.epsilon_tallies for s in spent if s.epsilon_tallies is not None]
    return {
        "attendance": attendance(report),
        "per_column": rounds_per_column(len(report.rounds)),
        "out_of_budget": phrases.listed(sites_without_budget(report)),
        # A little beyond the bound, so that its mark can be seen.
        "most_training": 1.08 * max([report.target_epsilon or 1.0, *training]),
        "most_tallies": 1.08 * max([report.fairness_epsilon or 1.0, *tallies]),
    }


def _style(environment: Environment) -> dict[str, str]:
    """The page's style, and the policy that allows this style and nothing else."""
    style = environment.get_template("report.css").render()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return {"style": style, "policy": policy}


@functools.cache
def _environment(language: str) -> Environment:
    import jinja2

    phrases = Phrases(translations(CATALOGUE, language))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("server"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    environment.policies["ext.i18n.trimmed"] = True
    environment.install_gettext_translations(phrases.words)  # type: ignore[attr-defined]
    environment.filters.update(
        number=phrases.number,
        bracket=phrases.bracket,
        epsilon=phrases.epsilon,
        place=place_in,
    )
    environment.globals.update(
        told=phrases.told,
        attribute_name=phrases.attribute,
        group_name=phrases.group,
        names=functools.partial(phrases.groups, most=60),
        axis_of=axis_of,
        across=across,
        contrast_names={m: label for m, label in LABELS.items() if m not in _NOT_COMPARED},
        plot_size=PLOT_SIZE,
        fold=FOLD,
        STATE_WORDS=STATE_WORDS,
        tags=LANGUAGE_TAGS,
        languages=LANGUAGES,
    )
    return environment


__all__ = [
    "ATTRIBUTES",
    "LABELS",
    "NOTICE",
    "STATE_WORDS",
    "EvaluationReport",
    "RoundReport",
    "RunReport",
    "SitePrivacy",
    "Truth",
    "attendance",
    "evaluation_report",
    "format_epsilon",
    "format_number",
    "page_name",
    "render_page",
    "write_pages",
    "write_report",
]
