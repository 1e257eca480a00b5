"""What may not grow with the number of sites: parses, loads, clips that nobody needs any more."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import simulation.truth
from client.learning.learner import Learner
from client.learning.training import embed_subjects
from client.site import SiteError, open_site, prepare_identity
from server.history import RunReport
from server.study_file import new_study, render_study, with_site
from shared_models.consortium import ConsortiumConfig, _parse_study
from shared_models.roster import SiteEntry
from shared_models.toml import parse_toml
from simulation.study import design_study, quorum_of, run_study, write_cohort

SITES, ROUNDS = 4, 2
DESIGN = design_study(
    sites=SITES, subjects=8, rounds=ROUNDS, epsilon=3.0, mode="local",
    network="behaviour_net", trainable="head", seed=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def told() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture(scope="module")
def loads() -> list[str]:
    return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, told: list, loads: list) -> Path:
    folder = tmp_path_factory.mktemp("scale") / "study"
    original = simulation.truth.load_signed_weights

    def load(path: Path, *args: object, **kwargs: object) -> object:
        loads.append(path.name)
        return original(path, *args, **kwargs)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation.truth, "load_signed_weights", load)
        run_study(DESIGN, folder, lambda *step: told.append(step))
    return folder


@pytest.fixture
def site(folder: Path) -> Learner:
    return Learner(open_site(folder / "sites" / "site-01"))


def test_the_bars_move_with_every_site(folder: Path, told: list) -> None:
    def steps(phase: str) -> list[tuple[int, int]]:
        return [(done, total) for name, done, total in told if name == phase]

    assert steps("sites") == steps("cohort") == [(i, SITES) for i in range(1, SITES + 1)]
    answers = SITES * ROUNDS
    assert steps("training") == [(i, answers) for i in range(1, answers + 1)]


def test_each_round_s_model_is_read_once_for_all_sites(folder: Path, loads: list) -> None:
    assert len(loads) == len(set(loads)) == ROUNDS
    report = RunReport.from_json((folder / "run" / "report.json").read_bytes())
    assert report.status == "completed"


@pytest.mark.parametrize("sites", [2, 5])
def test_the_study_is_parsed_as_often_for_many_sites_as_for_few(tmp_path: Path, sites: int) -> None:
    _parse_study.cache_clear()
    design = replace(DESIGN, cohort=replace(DESIGN.cohort, sites=sites, subjects_per_site=2))
    write_cohort(design, tmp_path, lambda *_: None)
    assert _parse_study.cache_info().misses == 1


def test_a_study_file_that_changed_is_not_taken_for_the_one_before(folder: Path) -> None:
    open_site(folder / "sites" / "site-02")
    file = folder / "sites" / "site-02" / "consortium.toml"
    agreed = file.read_bytes()
    try:
        file.write_bytes(agreed.replace(b"rounds = 2", b"rounds = 3"))
        with pytest.raises(SiteError, match="changed after this site agreed"):
            open_site(folder / "sites" / "site-02")
    finally:
        file.write_bytes(agreed)


def test_sites_written_together_are_those_added_one_by_one(folder: Path) -> None:
    text = new_study("together", instrument="phq9")
    keys = [
        (folder / "sites" / f"site-0{i}" / "keys" / "identity.pub").read_text().strip()
        for i in (1, 2, 3)
    ]
    entries = [SiteEntry(f"site-0{i}", 10 + i, key) for i, key in enumerate(keys, start=1)]
    config = parse_toml(text, ConsortiumConfig, name="study")
    one_by_one = text
    for entry in entries:
        one_by_one = with_site(
            one_by_one, entry.id, weight=entry.weight, public_key=entry.public_key
        )
    assert render_study(replace(config, sites=tuple(entries))) == one_by_one


def test_a_simulated_site_keeps_embeddings_and_lets_its_clips_go(site: Learner) -> None:
    before = site.dataset
    items, held_out = site.head_items, site.held_out_embeddings
    assert "dataset" not in vars(site)
    assert [s.subject_id for s in site.subjects.training] == [s.subject_id for s in before.training]
    assert all(not s.values.numel() for s in (*site.subjects.training, *site.subjects.held_out))
    assert all(
        torch.equal(a.score, b.score)
        for a, b in zip(site.subjects.held_out, before.held_out, strict=True)
    )
    # Whoever wants the clips again reads the same ones.
    again = embed_subjects(site.network.eval(), site.dataset.held_out)
    assert held_out is not None
    assert all(torch.equal(a, b) for a, b in zip(again, held_out, strict=True))
    assert len(items) == len(before.training)


def test_a_real_site_keeps_the_clips_that_were_charged(site: Learner) -> None:
    real = Learner(replace(site.site, config=replace(site.site.config, simulation=None)))
    dataset = real.dataset
    assert real.head_items
    assert real.dataset is dataset


def test_keys_that_come_before_the_study_are_private_and_stay(tmp_path: Path) -> None:
    line = prepare_identity(tmp_path / "new")
    assert prepare_identity(tmp_path / "new") == line
    for path in (tmp_path / "new", tmp_path / "new" / "keys"):
        assert path.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new" / "keys" / "identity").stat().st_mode & 0o777 == 0o600


def test_many_small_sites_may_lack_whom_chance_held_out() -> None:
    # Chance that all of ten subjects fall on one side, and a thousand sites of them.
    empty = 0.6**10 + 0.4**10
    mean, stddev = 1000 * empty, (1000 * empty * (1 - empty)) ** 0.5
    spared = 1000 - quorum_of(1000, 10, holdout_fraction=0.4)
    assert mean + 4 * stddev < spared < mean + 8 * stddev
    assert quorum_of(1000, 100, holdout_fraction=0.4) == 1000
    assert quorum_of(49, 2, holdout_fraction=0.4) == 49
