"""A whole study, from the command line: reproducible, private as promised, honest in its report."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tomlkit
from dp_accounting.pld import privacy_loss_distribution as pld
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from client.learning.evaluation import score_subjects
from client.learning.learner import Learner
from client.site import open_site
from privacy.audit import read, verify
from privacy.ledger import PrivacyLedger
from server.history import RunReport
from server.signing import model_file
from server.strategy import QuorumError
from shared_models.weights import digest_weights, load_weights
from simulation.cli import app
from simulation.study import StudyDesign, design_study, run_study

SITES, SUBJECTS, ROUNDS = 3, 40, 4


def make_design(**changes: object) -> StudyDesign:
    options = {
        "sites": SITES, "subjects": SUBJECTS, "rounds": ROUNDS, "epsilon": 3.0, "mode": "local",
        "network": "behaviour_net", "trainable": "head", "seed": 3, **changes,
    }  # fmt: skip
    return design_study(**options)  # type: ignore[arg-type]


def run(folder: Path, **changes: object) -> RunReport:
    return run_study(make_design(**changes), folder, lambda *_: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study") / "out"


@pytest.fixture(scope="module")
def report(folder: Path) -> RunReport:
    return run(folder)


def learners(folder: Path) -> list[Learner]:
    return [Learner(open_site(site)) for site in sorted((folder / "sites").iterdir())]


def test_every_site_took_part_in_every_round_and_spent_what_was_promised(
    folder: Path, report: RunReport
) -> None:
    names = tuple(f"site-{i + 1:02d}" for i in range(SITES))
    assert [r.participants for r in report.rounds] == [names] * ROUNDS
    one = pld.from_gaussian_mechanism(report.noise_multiplier).self_compose(ROUNDS)
    assert report.epsilon_site == pytest.approx(one.get_epsilon_for_delta(1e-3), rel=2e-3)
    for learner in learners(folder):
        ledger = PrivacyLedger(learner.site.paths.ledger, key=learner.site.ledger_key)
        assert ledger.verify() == []
        assert ledger.spent(1e-3) <= 3.0
        assert [r.purpose for r in ledger.releases()].count("train") == ROUNDS


def test_each_site_holds_the_digest_that_the_coordinator_publishes(
    folder: Path, report: RunReport
) -> None:
    for learner in learners(folder):
        assert verify(learner.site.paths.audit).whole
        judged = [e.details["base_digest"] for e in read(learner.site.paths.audit)
                  if e.details.get("kind") == "TallyReply"]  # fmt: skip
        assert judged[-1] == report.weights_digest
    network = learners(folder)[0].network
    kept = load_weights(model_file(folder / "run", ROUNDS), network.state_dict())
    assert digest_weights(kept) == report.weights_digest


def test_the_truth_in_the_report_is_that_of_the_kept_model(folder: Path, report: RunReport) -> None:
    positive, logit = [], []
    for learner in learners(folder):
        state = load_weights(model_file(folder / "run", ROUNDS), learner.network.state_dict())
        learner.network.load_state_dict(state)
        scores = score_subjects(learner.network.eval(), learner.dataset.held_out, (0, 27, 10))
        positive.append(scores.positive)
        logit.append(scores.logit)
    expected = roc_auc_score(np.concatenate(positive), np.concatenate(logit))
    assert report.truth is not None
    assert report.truth.curve[-1][1] == pytest.approx(expected)


def test_no_subject_and_no_path_is_anywhere_at_the_coordinator(
    folder: Path, report: RunReport
) -> None:
    at_coordinator = b"".join(
        file.read_bytes() for file in (folder / "run").iterdir() if file.is_file()
    )
    for learner in learners(folder):
        subjects = [*learner.dataset.training, *learner.dataset.held_out]
        assert len(subjects) > 30
        assert not [s for s in subjects if s.subject_id.encode() in at_coordinator]
    assert str(folder).encode() not in at_coordinator


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_seed_gives_the_same_weights_with_any_number_of_workers(
    tmp_path: Path, report: RunReport, workers: int
) -> None:
    assert run(tmp_path, workers=workers).weights_digest == report.weights_digest


def test_another_seed_gives_other_weights(tmp_path: Path, report: RunReport) -> None:
    assert run(tmp_path, seed=4).weights_digest != report.weights_digest


def test_training_everything_works_too(tmp_path: Path) -> None:
    report = run(tmp_path, trainable="all", sites=2, subjects=10, rounds=2)
    assert report.status == "completed"


def test_without_privacy_the_report_says_so_and_the_model_is_no_worse(tmp_path: Path) -> None:
    report = run(tmp_path, mode="off", rounds=10, sites=4, subjects=100)
    assert report.epsilon_site is None
    assert report.epsilon_sum is None
    assert report.truth is not None
    assert report.truth.curve[-1][1] > 0.65  # type: ignore[operator]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "no privacy" in page.lower()


def test_a_site_whose_budget_ends_is_named_and_the_run_fails_by_name(tmp_path: Path) -> None:
    with pytest.raises(QuorumError) as caught:
        run_with_small_cap(tmp_path)
    assert "site-02 refused" in str(caught.value)
    assert "max_epsilon_per_subject" in str(caught.value)


def run_with_small_cap(folder: Path) -> None:
    from client.app import SITE_CONFIG
    from client.app import app as client_app
    from server.app import app as server_app
    from server.bundle import RUN_FOLDER
    from simulation.engine import run_in_process
    from simulation.study import write_cohort

    sites = write_cohort(make_design(subjects=10), folder, lambda *_: None)
    file = sites[1] / "site.toml"
    document = tomlkit.parse(file.read_text())
    document["policy"]["max_epsilon_per_subject"] = 0.5  # type: ignore[index]
    file.write_text(tomlkit.dumps(document))
    (folder / "run").mkdir()
    (folder / "run" / "consortium.toml").write_bytes((folder / "consortium.toml").read_bytes())
    run_in_process(
        server_app,
        client_app,
        node_configs=[{SITE_CONFIG: str(site / "site.toml")} for site in sites],
        run_config={RUN_FOLDER: str(folder / "run")},
    )


# The command line.

runner = CliRunner()


def test_run_prints_one_object_as_its_last_line_and_writes_the_page(tmp_path: Path) -> None:
    words = ["run", "--sites", "2", "--subjects", "12", "--rounds", "2", "--seed", "1", "--json"]
    done = runner.invoke(app, [*words, "--out", str(tmp_path / "s")])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert {"sites", "subjects", "rounds", "mode", "delta", "epsilon", "auroc", "mae", "rmse",
            "seconds", "weights_digest", "report"} <= told.keys()  # fmt: skip
    assert told["subjects"] == 24
    page = Path(told["report"]).read_text()
    assert "not a diagnosis" in page or "no output is a diagnosis" in page.lower()
    assert not re.search(r'(src|href)="http', page)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--mode", "distributed", "--sites", "2"], "sites of at least 3"),
        (["run", "--epsilon", "-1"], "epsilon"),
        (["run", "--sites", "0"], "sites"),
        (["run", "--network", "resnet"], "behaviour_net"),
        (["run", "--nonsense"], "nonsense"),
        (["render", "--smile", "0:zero"], "zero"),
    ],
)
def test_wrong_usage_is_told_and_answers_two(tmp_path: Path, words: list, said: str) -> None:
    done = runner.invoke(app, [*words, "--out", str(tmp_path / "new")])
    assert done.exit_code == 2
    assert said in done.output.lower()
    assert "Traceback" not in done.output


def test_a_folder_that_holds_something_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    done = runner.invoke(app, ["run", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "remove it or name another" in done.output
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_a_video_cohort_has_a_playable_video_for_each_recording(tmp_path: Path) -> None:
    import cv2

    words = ["cohort", "--video", "--sites", "1", "--subjects", "2", "--video-s", "2"]
    done = runner.invoke(app, [*words, "--out", str(tmp_path / "c")])
    assert done.exit_code == 0, done.output
    site = tmp_path / "c" / "sites" / "site-01"
    rows = (site / "recordings.csv").read_text().splitlines()[1:]
    videos = sorted((site / "videos").glob("*.mp4"))
    assert len(videos) == len(rows) >= 2
    assert cv2.VideoCapture(str(videos[0])).read()[0]


@pytest.mark.slow
def test_flowers_ray_engine_runs_the_same_apps_to_the_same_weights(
    tmp_path: Path, report: RunReport
) -> None:
    pytest.importorskip("ray")
    command = [
        str(Path(sys.executable).with_name("vultus-simulate")), "run", "--engine", "ray",
        "--sites", str(SITES), "--subjects", str(SUBJECTS), "--rounds", str(ROUNDS),
        "--seed", "3", "--json", "--out", str(tmp_path / "ray"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["weights_digest"] == report.weights_digest
