"""A site folder: private, pinned, and never robbed of its keys or edits."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from agreed_study import STUDY

from client.site import Site, SiteError, init_site, open_site
from client.site_template import describe_changes
from privacy.keys import KeyFileError, public_line
from shared_models.consortium import ConsortiumConfig, StudyConfig, TrainingConfig
from shared_models.toml import ConfigError


@pytest.fixture
def study(tmp_path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def site(tmp_path, study) -> Site:
    return init_site(tmp_path / "site", site_id="north", consortium_file=study)


def edit(site: Site, old: str, new: str) -> None:
    text = site.config_file.read_text()
    assert old in text
    site.config_file.write_text(text.replace(old, new))


def key_bytes(site: Site) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in site.paths.keys.iterdir()}


def test_a_new_site_is_private_and_opens(site):
    for path in (site.folder, *site.folder.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        wanted = 0o644 if path == site.public_key_file else 0o700 if path.is_dir() else 0o600
        assert mode == wanted, path
    opened = open_site(site.folder)
    assert opened == site
    assert open_site(site.config_file) == site
    assert opened.id == "north"
    assert opened.simulation_seed is None


def test_the_default_policy_just_permits_the_pinned_study(site):
    config, policy = site.consortium.config, site.policy
    assert policy is not None
    assert policy.max_epsilon_per_subject == config.privacy.target_epsilon
    assert policy.max_rounds == config.training.rounds
    assert policy.allowed_networks == (config.network.name,)
    plans = (config.training_plan(), config.tally_plan())
    smallest = min(plan.noise_multiplier for plan in plans)
    assert smallest - 0.001 <= policy.min_noise_multiplier <= smallest
    assert not policy.approve_members
    assert not policy.allow_no_privacy


def test_without_a_policy_section_there_is_no_policy(site):
    text = site.config_file.read_text()
    start, end = text.index("[policy]"), text.index("[device]")
    site.config_file.write_text(text[:start] + text[end:])
    assert open_site(site.folder).policy is None


def test_the_keys_are_different_and_load(site):
    assert len(site.storage_key) == 32
    assert site.ledger_key.private_bytes_raw() != site.storage_key
    assert public_line(site.identity_key) == site.public_key_file.read_text().strip()


def test_an_exposed_key_is_refused(site):
    (site.paths.keys / "storage.key").chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        _ = open_site(site.folder).storage_key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_configuration_that_others_can_read_is_refused(site, mode):
    site.config_file.chmod(mode)
    with pytest.raises(SiteError, match="chmod 600"):
        open_site(site.folder)


def test_a_study_file_that_changed_by_one_byte_is_refused(site):
    site.paths.consortium.write_text(STUDY + "\n")
    with pytest.raises(SiteError, match="changed after this site agreed"):
        open_site(site.folder)


def test_a_folder_that_is_no_site_is_named(tmp_path):
    with pytest.raises(SiteError, match="vultus-site init"):
        open_site(tmp_path)


def test_every_fault_of_the_configuration_is_reported(site):
    edit(site, "workers = 1", "workers = 0\ncolour = 1")
    edit(site, "min_subjects = 10", 'min_subjects = "10"')
    with pytest.raises(ConfigError) as caught:
        open_site(site.folder)
    text = str(caught.value)
    assert all(part in text for part in ("device.workers", "device.colour", "policy.min_subjects"))


def test_seeded_noise_and_a_coordinator_exclude_each_other(site):
    extra = '\n[coordinator]\naddress = "host:8443"\nca_certificate = "ca.crt"\n'
    site.config_file.write_text(site.config_file.read_text() + extra)
    assert open_site(site.folder).config.coordinator is not None
    site.config_file.write_text(site.config_file.read_text() + "\n[simulation]\nseed = 1\n")
    with pytest.raises(ConfigError, match=r"\[simulation\] or \[coordinator\]"):
        open_site(site.folder)


def test_a_second_init_keeps_keys_and_edits_and_moves_only_the_pin(site, study):
    edit(site, "workers = 1", "workers = 3  # our machine has four cores")
    site.paths.recordings.write_text("mine")
    keys, before = key_bytes(site), site.config_file.read_text()
    study.write_text(STUDY + "\n[training]\nrounds = 7\n")
    again = init_site(site.folder, site_id="north", consortium_file=study)
    assert key_bytes(again) == keys
    assert again.paths.recordings.read_text() == "mine"
    assert again.consortium.config.training.rounds == 7
    after = again.config_file.read_text()
    assert after == before.replace(site.consortium.digest, again.consortium.digest)


def test_a_second_init_with_the_same_study_changes_nothing(site, study):
    before = site.config_file.read_bytes()
    assert init_site(site.folder, site_id="north", consortium_file=study) == site
    assert site.config_file.read_bytes() == before


def test_init_refuses_the_folder_of_another_site(site, study):
    with pytest.raises(SiteError, match="'north'"):
        init_site(site.folder, site_id="south", consortium_file=study)


def test_init_with_a_faulty_study_leaves_nothing_behind(tmp_path, study):
    study.write_text("[study]\n")
    with pytest.raises(ConfigError):
        init_site(tmp_path / "new", site_id="north", consortium_file=study)
    assert not (tmp_path / "new").exists()


def test_only_a_simulated_site_has_a_seed(tmp_path, study):
    site = init_site(
        tmp_path / "s",
        site_id="s",
        consortium_file=study,
        simulation_seed=5,
        allow_no_privacy=True,
    )
    assert site.simulation_seed == 5
    assert site.policy is not None
    assert site.policy.allow_no_privacy


def test_an_unlisted_site_has_no_entry_until_the_study_names_it(site, study):
    assert site.entry is None
    line = site.public_key_file.read_text().strip()
    entry = f'\n[[sites]]\nid = "north"\nweight = 40\npublic_key = "{line}"\n'
    study.write_text(STUDY + entry)
    listed = init_site(site.folder, site_id="north", consortium_file=study).entry
    assert listed is not None
    assert listed.weight == 40


def test_changes_of_a_study_are_told_by_key():
    old = ConsortiumConfig(study=StudyConfig(name="study", instrument="phq9"))
    new = replace(old, training=TrainingConfig(rounds=31))
    assert describe_changes(old, new) == ["training.rounds: 30 -> 31"]
    assert describe_changes(old, old) == []
