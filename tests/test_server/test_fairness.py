"""What the fairness report says of groups, against Fairlearn on the pooled subjects."""

from dataclasses import replace

import numpy as np
import pytest
from fairlearn.metrics import (
    MetricFrame,
    equalized_odds_difference,
    equalized_odds_ratio,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from sklearn.metrics import mean_absolute_error

from server.contrasts import contrast_groups
from server.fairness import measure_fairness
from server.groups import describe_group, suppressed_cells
from shared_models.tallies import GroupTally, SubjectScores, count_tally, largest_error, sum_tallies

RANGE = (0.0, 27.0, 10.0)
LIMIT = largest_error(RANGE)
BANDS = ("18-39", "40-59", "60+")
SEXES = ("female", "male")


def draw_scores(subjects, rng, shift=None):
    sex = rng.choice(SEXES, subjects)
    positive = rng.random(subjects) < 0.4
    centre = np.where(positive, 0.7, -0.7) + (sex == "male") * (shift or 0.0)
    score = np.where(positive, 15.0, 5.0)
    predicted = score + rng.uniform(-8, 8, subjects)
    groups = {"sex": sex, "age_band": rng.choice(BANDS, subjects, p=[0.5, 0.3, 0.2])}
    return SubjectScores(rng.normal(centre), predicted, score, positive, groups)


def tallies_of(scores, stddev=0.0, rng=None):
    cells = [("overall", "all"), *(("age_band", b) for b in BANDS), *(("sex", s) for s in SEXES)]
    exact = [count_tally(scores, a, g, bins=8, error_limit=LIMIT) for a, g in cells]
    if not stddev:
        return exact
    noised = (tally.sums + rng.normal(0, stddev, len(tally.sums)) for tally in exact)
    return [replace(t, sums=s, noise_stddev=stddev) for t, s in zip(exact, noised, strict=True)]


def group_of(count, *, attribute="age_band", group="60+", stddev=0.0):
    sums = np.zeros(19)
    sums[2], sums[5], sums[10] = 0.2 * count, 0.3 * count, 0.5 * count
    return GroupTally(attribute, group, sums, stddev)


def bands_of(counts, stddev=0.0):
    return [group_of(c, group=f"band-{i}", stddev=stddev) for i, c in enumerate(counts)]


def fairness_of(tallies, *, min_cell=10, expected=()):
    return measure_fairness(tallies, score_range=RANGE, min_cell=min_cell, expected=expected)


def state_of(report, attribute, group):
    return next(g for g in report.groups(attribute) if g.group == group)


def test_groups_and_differences_are_fairlearns_on_pooled_subjects():
    scores = draw_scores(3000, np.random.default_rng(0), shift=0.6)
    report = fairness_of(tallies_of(scores))
    flagged = (scores.logit >= 0).astype(int)
    metrics = {
        "tpr": true_positive_rate,
        "fpr": false_positive_rate,
        "selection_rate": selection_rate,
    }
    truth = scores.positive.astype(int)
    for attribute in ("age_band", "sex"):
        sensitive = {"sensitive_features": scores.groups[attribute]}
        frame = MetricFrame(metrics=metrics, y_true=truth, y_pred=flagged, **sensitive)
        for name in metrics:
            ours = {g.group: g.metrics[name].value for g in report.groups(attribute)}
            assert ours == pytest.approx(frame.by_group[name].to_dict())
            contrast = report.contrast(attribute, name)
            assert contrast.difference.value == pytest.approx(frame.difference()[name])
            assert contrast.ratio.value == pytest.approx(frame.ratio()[name])
            assert frame.by_group[name].idxmin() == contrast.group_min
            assert frame.by_group[name].idxmax() == contrast.group_max
        odds = report.contrast(attribute, "equalized_odds")
        difference = equalized_odds_difference(truth, flagged, **sensitive)
        assert odds.difference.value == pytest.approx(difference)
        assert odds.ratio.value == pytest.approx(equalized_odds_ratio(truth, flagged, **sensitive))
        errors = MetricFrame(
            metrics=mean_absolute_error, y_true=scores.score, y_pred=scores.predicted, **sensitive
        )
        ours = {g.group: g.metrics["mae"].value for g in report.groups(attribute)}
        assert ours == pytest.approx(errors.by_group.to_dict())


def test_federated_sums_give_the_report_of_the_pooled_subjects():
    rng = np.random.default_rng(1)
    sites = [draw_scores(120, rng) for _ in range(3)]
    pooled = SubjectScores(
        *(
            np.concatenate([getattr(site, name) for site in sites])
            for name in ("logit", "predicted", "score", "positive")
        ),
        {a: np.concatenate([s.groups[a] for s in sites]) for a in ("sex", "age_band")},
    )
    federated = fairness_of([tally for site in sites for tally in tallies_of(site)])
    together = fairness_of(tallies_of(pooled))
    for ours, theirs in zip(federated.by_group, together.by_group, strict=True):
        assert (ours.group, ours.count) == (theirs.group, theirs.count)
        for name, estimate in ours.metrics.items():
            assert estimate.value == pytest.approx(theirs.metrics[name].value)


def test_small_group_is_withheld_on_its_noised_count():
    # 12 subjects, of which noise leaves 8: what is compared with min_cell is what was released.
    tally = group_of(12, stddev=1.0)
    noised = replace(tally, sums=tally.sums * 8 / 12)
    report = fairness_of([noised, *bands_of([60, 70], stddev=1.0)])
    assert state_of(report, "age_band", "60+").state == "suppressed"


def test_total_minus_the_reported_groups_never_gives_a_withheld_one():
    tallies = [group_of(107, attribute="overall", group="all"), *bands_of([5, 40, 62])]
    report = fairness_of(tallies)
    states = [group.state for group in report.groups("age_band")]
    assert states == ["suppressed", "suppressed", "reported"]
    left = report.overall.count - sum(g.count or 0 for g in report.groups("age_band"))
    assert left == 45


def test_withholding_only_the_small_group_would_give_it_away():
    # The broken variant of the test above: the attack works on it.
    tallies = [group_of(107, attribute="overall", group="all"), *bands_of([5, 40, 62])]
    sums = sum_tallies(tallies)
    hidden = frozenset(c for c, t in sums.items() if t.count < 10)
    shown = [describe_group(cell, sums, hidden=hidden, error_limit=LIMIT) for cell in sums]
    left = shown[0].count - sum(g.count or 0 for g in shown[1:])
    assert left == 5


def test_withheld_groups_together_are_no_small_cell():
    hidden = suppressed_cells(bands_of([3, 4, 40, 62]), min_cell=10)
    assert {group for _, group in hidden} == {"band-0", "band-1", "band-2"}


def test_the_same_cells_are_withheld_in_every_report_of_the_same_sums():
    tallies = tallies_of(draw_scores(60, np.random.default_rng(2)), 3.0, np.random.default_rng(3))
    first = suppressed_cells(tallies, min_cell=20)
    assert first
    assert all(suppressed_cells(tallies[::-1], min_cell=20) == first for _ in range(3))


def test_zero_withheld_too_few_and_not_reported_are_different_things():
    tallies = [
        group_of(0, group="zero"),
        group_of(4, group="small"),
        group_of(15, group="next"),
        group_of(200, group="large"),
        group_of(200, attribute="sex", group="noisy", stddev=60.0),
    ]
    report = fairness_of(tallies, expected=[("age_band", "absent")])
    found = {group.group: (group.state, group.count) for group in report.by_group}
    assert found == {
        "zero": ("zero", 0),
        "small": ("suppressed", None),
        "next": ("suppressed", None),
        "large": ("reported", 200),
        "noisy": ("too_few", 200),
        "absent": ("not_reported", None),
    }
    assert state_of(report, "age_band", "small").metrics == {}
    assert all(e.value is None for e in state_of(report, "sex", "noisy").metrics.values())
    assert report.overall.state == "not_reported"


def test_a_noised_count_is_rounded_and_never_negative():
    tally = replace(group_of(0, stddev=4.0), sums=np.full(19, -0.3))
    assert state_of(fairness_of([tally], min_cell=0), "age_band", "60+").state == "suppressed"
    report = fairness_of([group_of(40.4, stddev=4.0)])
    assert state_of(report, "age_band", "60+").count == 40
    assert state_of(report, "age_band", "60+").count_noise == pytest.approx(16.0)


def test_only_reported_groups_are_compared():
    report = fairness_of([*bands_of([60, 80]), group_of(5, group="a"), group_of(6, group="b")])
    contrast = report.contrast("age_band", "tpr")
    assert contrast.groups == ("band-0", "band-1")
    assert fairness_of(bands_of([60])).contrasts == ()


def test_a_large_difference_is_told_from_chance_and_no_difference_is_not():
    rng = np.random.default_rng(4)
    apart = fairness_of(tallies_of(draw_scores(2000, rng, shift=1.5), 3.0, rng))
    alike = fairness_of(tallies_of(draw_scores(2000, rng), 3.0, rng))
    assert apart.contrast("sex", "equalized_odds").difference.low > 0.2
    assert alike.contrast("sex", "equalized_odds").difference.low == 0.0


@pytest.mark.parametrize("stddev", [0.0, 3.0])
def test_interval_of_the_equalized_odds_difference_covers(stddev):
    rng, covered, runs = np.random.default_rng(5), 0, 100
    big = draw_scores(200_000, rng, shift=0.5)
    cells = [tally for tally in tallies_of(big) if tally.attribute == "sex"]
    chances = [cell.sums[:16] / cell.count for cell in cells]
    truth = fairness_of(cells).contrast("sex", "equalized_odds").difference.value
    for _ in range(runs):
        drawn = []
        for cell, chance in zip(cells, chances, strict=True):
            sums = np.append(rng.multinomial(150, chance / chance.sum()), [50.0, 0, 30])
            sums = sums + rng.normal(0, stddev, 19)
            drawn.append(GroupTally("sex", cell.group, sums, stddev))
        sums = sum_tallies(drawn)
        groups = [
            describe_group(cell, sums, hidden=frozenset(), error_limit=LIMIT) for cell in sums
        ]
        odds = contrast_groups(groups, sums, error_limit=LIMIT)[-1]
        covered += odds.difference.low <= truth <= odds.difference.high
    assert covered / runs >= 0.93


def test_the_report_never_calls_anything_fair():
    report = fairness_of(tallies_of(draw_scores(600, np.random.default_rng(6))))
    words = repr(report).lower().replace("fairnessreport", "")
    assert "fair" not in words
