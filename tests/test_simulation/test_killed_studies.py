"""SIGKILL of a whole study at random moments: the same model, and nothing charged twice."""

import shutil
from pathlib import Path

import pytest
from killed_study import KilledStudy, kill_at_random, make_study

MODES = ("local", "distributed")


@pytest.fixture(scope="module", params=MODES)
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(f"study-{request.param}") / "study"
    return make_study(folder, mode=request.param).folder


@pytest.fixture(scope="module")
def undisturbed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> KilledStudy:
    copy = shutil.copytree(template, tmp_path_factory.mktemp("undisturbed") / "study")
    study = KilledStudy(Path(copy))
    study.live_for(None)
    assert study.report.status == "completed"
    return study


def check(studies: list[KilledStudy], undisturbed: KilledStudy) -> None:
    expected, releases = undisturbed.report, undisturbed.releases()
    for study in studies:
        report = study.report
        assert report.status == "completed", report.status_detail
        assert report.weights_digest == expected.weights_digest
        assert [r.participants for r in report.rounds] == [r.participants for r in expected.rounds]
        assert (report.epsilon_sum, report.epsilon_site) == (
            expected.epsilon_sum,
            expected.epsilon_site,
        )
        assert report.sites == expected.sites
        # The same releases, each once: nothing was charged a second time, and nothing was lost.
        assert study.releases() == releases
        assert all(len(set(made)) == len(made) for made in releases.values())


def test_a_study_killed_at_random_ends_at_the_same_model(
    template: Path, undisturbed: KilledStudy, tmp_path: Path
) -> None:
    check(kill_at_random(template, tmp_path, kills=4, seed=1), undisturbed)


@pytest.mark.nightly
def test_a_study_killed_at_random_many_times_ends_at_the_same_model(
    template: Path, undisturbed: KilledStudy, tmp_path: Path
) -> None:
    check(kill_at_random(template, tmp_path, kills=25, seed=2), undisturbed)
