"""Reports of made-up runs, usual and odd, as pages get to show them."""

from dataclasses import replace

import numpy as np

from server.history import RoundReport, RunReport, SitePrivacy, Truth, evaluation_report
from shared_models.tallies import GroupTally

RANGE = (0.0, 27.0, 10.0)
BINS = 16
CENTRES = np.linspace(-1.875, 1.875, BINS)
ERROR_UNIT = 1 / GroupTally("", "", np.ones(2 * BINS + 3)).errors[0]
ROUNDS = 30
BUDGET = ("budget", "The site's privacy budget does not allow it")


def tally_of(  # noqa: PLR0917
    count, attribute="overall", group="all", stddev=2.0, shift=0.9, seed=1
):
    """Noised sums of subjects of whom half reach the threshold."""
    positives, negatives = (np.exp(-((CENTRES - way * shift) ** 2)) for way in (0.5, -0.5))
    exact = count / 2 * np.concatenate([positives / positives.sum(), negatives / negatives.sum()])
    errors = count * np.array([0.3, 0.02, 0.14]) * ERROR_UNIT
    noise = np.random.default_rng([seed, count, *map(ord, attribute + group)])
    sums = np.append(exact, errors)
    return GroupTally(attribute, group, sums + noise.normal(0, stddev, len(sums)), stddev)


def round_of(server_round, sites, *, missing=(), refusals=()):
    absent = {*missing, *(site for site, _, _ in refusals)}
    return RoundReport(
        server_round=server_round,
        seconds=1.5,
        participants=tuple(site for site in sites if site not in absent),
        missing=tuple(missing),
        refusals=tuple(refusals),
        weights_digest=f"{server_round:064x}",
        update_norm=0.25,
    )


def usual_tallies(sites):
    """Every state that a group can be in but zero, which needs mode ``off``."""
    return [
        tally_of(900),
        tally_of(380, "age_band", "18-39", shift=1.4),
        tally_of(330, "age_band", "40-59"),
        tally_of(190, "age_band", "60+", shift=0.2),
        tally_of(520, "sex", "female", shift=1.0),
        tally_of(380, "sex", "male", shift=0.8),
        tally_of(9, "sex", "other", stddev=0.5),
        tally_of(300, "site", sites[0]),
        tally_of(290, "site", sites[1], stddev=12.0),
        tally_of(280, "site", sites[2]),
    ]


def usual_report(**changes):
    """A finished run of four sites, one of which sent no sums."""
    sites = ("clinic-a", "clinic-b", "clinic-c", "clinic-d")
    expected = [("site", site) for site in sites]
    evaluations = [
        evaluation_report(r, [tally_of(900, shift=s)], score_range=RANGE, min_cell=20)
        for r, s in ((10, 0.5), (20, 0.75))
    ]
    final = evaluation_report(
        ROUNDS, usual_tallies(sites), score_range=RANGE, min_cell=20, expected=expected
    )
    rounds = [
        round_of(
            r,
            sites,
            missing=("clinic-d",) if 12 <= r < 17 else (),
            refusals=(("clinic-c", *BUDGET),) if r > 26 else (),
        )
        for r in range(1, ROUNDS + 1)
    ]
    report = RunReport(
        run_id="run-1",
        study_name="smiles-2026",
        instrument="phq9",
        threshold=10.0,
        score_range=RANGE,
        mode="distributed",
        target_epsilon=3.0,
        delta=1e-3,
        noise_multiplier=5.7,
        max_grad_norm=0.5,
        tally_noise_multiplier=2.1,
        fairness_epsilon=3.0,
        epsilon_sum=2.96,
        epsilon_site=9.87,
        rounds=tuple(rounds),
        evaluations=(*evaluations, final),
        sites=tuple(SitePrivacy(site, 2.96 - i / 4, 2.41, 30) for i, site in enumerate(sites)),
        min_cell=20,
        weights_digest="ab" * 32,
        consortium_digest="cd" * 32,
        versions={"vultus": "0.1.0", "flwr": "1.41.0", "torch": "2.13.0", "python": "3.11.9"},
        status="completed",
        seconds={"total": 4.5, "train": 3.0, "evaluate": 1.5},
    )
    return replace(report, **changes)


def simulated_report():
    """The same from a simulation, which knows the exact figures."""
    curve = tuple(
        (r, 0.5 + 0.31 * (1 - np.exp(-r / 8)), 2.6 + np.exp(-r / 6)) for r in range(1, 31)
    )
    table = {("overall", "all"): (900, 0.79, 0.7, 0.3)}
    note = "Exact figures on the held-out subjects of all sites; no coordinator could see them."
    return usual_report(truth=Truth(curve, table, note), seed=1)


def judged_by(tallies, *, mode="distributed", min_cell=20, **changes):
    evaluation = evaluation_report(ROUNDS, tallies, score_range=RANGE, min_cell=min_cell)
    return usual_report(evaluations=(evaluation,), mode=mode, **changes)


def exact_tally(positives, negatives, attribute="overall", group="all"):
    """Sums without noise of subjects who all lie in the bins given, by number."""
    sums = np.zeros(2 * BINS + 3)
    for place, count in positives.items():
        sums[place] = count
    for place, count in negatives.items():
        sums[BINS + place] = count
    count = sums.sum()
    sums[-3:] = count * np.array([0.3, 0.02, 0.14]) * ERROR_UNIT
    return GroupTally(attribute, group, sums)


NO_PRIVACY = dict.fromkeys(
    ("target_epsilon", "fairness_epsilon", "epsilon_sum", "epsilon_site"), None
)


def off_report(tallies):
    sites = tuple(SitePrivacy(site, None, None, 30) for site in ("clinic-a", "clinic-b"))
    return judged_by(tallies, mode="off", min_cell=5, sites=sites, **NO_PRIVACY)


def empty_group_report():
    everyone = exact_tally({9: 40, 11: 20}, {3: 50, 7: 10})
    return off_report(
        [
            everyone,
            replace(everyone, attribute="sex", group="female"),
            exact_tally({}, {}, "sex", "male"),
            exact_tally({}, {}, "sex", "other"),
        ]
    )


def one_class_report():
    return off_report([exact_tally({}, {3: 50, 7: 30, 9: 20})])


def equal_predictions_report():
    return off_report([exact_tally({6: 40}, {6: 60})])


def exhausted_report():
    """Training went to its end, and then no site could pay for being judged."""
    sites = ("clinic-a", "clinic-b")
    rounds = [round_of(r, sites) for r in range(1, 30)]
    rounds.append(round_of(30, sites, refusals=[(site, *BUDGET) for site in sites]))
    return usual_report(
        status="failed",
        status_detail="Tallies of round 30 need 2 sites, 0 took part: 2 refused (budget)",
        evaluations=(),
        rounds=tuple(rounds),
    )


def interrupted_report():
    report = usual_report()
    return replace(
        report,
        status="stopped",
        status_detail="stopped on request",
        rounds=report.rounds[:12],
        evaluations=report.evaluations[:1],
    )


def nothing_report():
    return usual_report(
        status="failed",
        status_detail="Round 1 needs 3 sites, 1 took part: clinic-b did not answer",
        rounds=(),
        evaluations=(),
        epsilon_sum=None,
        epsilon_site=None,
        sites=tuple(SitePrivacy(site, None, None, 0) for site in ("clinic-a", "clinic-b")),
        weights_digest="",
    )


def many_bands_report():
    bands = [tally_of(200 + b, "age_band", f"{b}-{b + 1}", shift=0.3 + b / 60) for b in range(40)]
    return judged_by([tally_of(9000), *bands])


def foreign_names_report():
    sites = (
        "北京安定医院",
        "上海精神卫生中心 🏥",
        "Klinik für Psychiatrie, Zürich-Süd",
    )
    return judged_by(
        [tally_of(900), *(tally_of(300 + i, "site", site) for i, site in enumerate(sites))],
        study_name="微笑研究 2026 🙂",
        sites=tuple(SitePrivacy(site, 2.5, 2.4, 30) for site in sites),
        rounds=tuple(round_of(r, sites, missing=sites[1:2] * (r % 2)) for r in range(1, 31)),
    )


def large_report():
    sites = tuple(f"site-{i:03d}" for i in range(1, 101))
    draw = np.random.default_rng(1)
    rounds = []
    for r in range(1, 1001):
        away = draw.random(100) < 0.02
        rounds.append(
            round_of(r, sites, missing=[s for s, gone in zip(sites, away, strict=True) if gone])
        )
    return judged_by(
        [tally_of(20_000), *(tally_of(200, "site", site, seed=i) for i, site in enumerate(sites))],
        sites=tuple(SitePrivacy(site, 2.96, 2.41, 1000) for site in sites),
        rounds=tuple(rounds),
    )


ODD = {
    "one group empty": empty_group_report,
    "one class only": one_class_report,
    "all predictions equal": equal_predictions_report,
    "budget used up before judging": exhausted_report,
    "stopped on the way": interrupted_report,
    "no round at all": nothing_report,
    "forty age bands": many_bands_report,
    "chinese and emoji names": foreign_names_report,
    "hundred sites, thousand rounds": large_report,
}
