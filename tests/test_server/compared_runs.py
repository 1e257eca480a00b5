"""Ended runs whose figures come from made-up subjects of named sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ended_runs import RANGE, add_run

from server.history import RoundReport, RunReport, SitePrivacy, evaluation_report
from server.workspace import Workspace
from shared_models.tallies import GroupTally, SubjectScores, count_tally, largest_error

BINS = 8
BANDS, SEXES = ("18-39", "40-59", "60+"), ("female", "male")
CELLS = [
    ("overall", "all"),
    *(("age_band", band) for band in BANDS),
    *(("sex", sex) for sex in SEXES),
]
MIN_CELL = 10


@dataclass(frozen=True)
class SiteSubjects:
    """Held-out subjects of a site: how many of each sex."""

    female: int
    male: int


def subjects_of(site: str, size: SiteSubjects, *, skill: float = 1.0) -> SubjectScores:
    """The same subjects for the same site and size, scored by a model of some skill."""
    count = size.female + size.male
    draws = np.random.default_rng([ord(letter) for letter in site])
    positive = np.arange(count) % 2 == 0
    score = np.where(positive, 14.0, 5.0)
    logit = skill * np.where(positive, 0.6, -0.6) + draws.normal(0, 0.7, count)
    return SubjectScores(
        logit=logit,
        predicted=score + draws.normal(0, 4, count),
        score=score,
        positive=positive,
        groups={
            "sex": np.array(["female"] * size.female + ["male"] * size.male),
            "age_band": np.array([BANDS[i % 3] for i in range(count)]),
        },
    )


def tallies_of(
    sites: Mapping[str, SiteSubjects], *, skill: float, noise: float, seed: int, rows: bool
) -> list[GroupTally]:
    """Tallies of all sites, noised by site; with ``rows`` also each site's own."""
    draws = np.random.default_rng(seed)
    found = []
    for site, size in sites.items():
        scores = subjects_of(site, size, skill=skill)
        for attribute, group in CELLS:
            exact = count_tally(
                scores, attribute, group, bins=BINS, error_limit=largest_error(RANGE)
            )
            sums = exact.sums + draws.normal(0, noise, len(exact.sums)) if noise else exact.sums
            found.append(GroupTally(attribute, group, sums, noise))
            if rows and attribute == "overall":
                found.append(GroupTally("site", site, sums, noise))
    return found


def add_measured_run(
    hub: Workspace,
    sites: Mapping[str, SiteSubjects],
    *,
    skill: float = 1.0,
    noise: float = 0.0,
    rows: bool = True,
    status: str = "completed",
    **changes: object,
) -> Path:
    """An ended run of one round, judged on these subjects."""
    folder = add_run(hub, rounds=1)
    file = folder / "report.json"
    report = RunReport.from_json(file.read_bytes())
    number = int(folder.name[-4:])
    tallies = tallies_of(sites, skill=skill, noise=noise, seed=number, rows=rows)
    first = report.rounds[0]
    told = RoundReport(1, 1.5, tuple(sites), (), (), first.weights_digest, 0.25)
    evaluation = evaluation_report(
        1,
        tallies,
        score_range=report.score_range,
        min_cell=MIN_CELL,
        expected=[("site", site) for site in sites],
    )
    private = {} if noise else {"mode": "off", "epsilon_sum": None, "epsilon_site": None}
    report = replace(
        report,
        rounds=(told,),
        evaluations=(evaluation,) if status == "completed" else (),
        sites=tuple(SitePrivacy(site, 2.5, 2.5, 1) for site in sites),
        min_cell=MIN_CELL,
        status=status,  # type: ignore[arg-type]
        **(private | changes),  # type: ignore[arg-type]
    )
    file.write_text(report.to_json())
    return folder
