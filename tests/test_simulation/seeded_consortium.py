"""Folders of a coordinator and of simulated sites that are served as real ones are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import tomlkit
from kept_services import Place, Service

from client.approval.record import add_bundle
from client.service.kit import CA_FILE
from client.site import Site, init_site
from privacy.keys import public_line
from server.bundle import load_bundle
from server.signing import ready_signing_key
from server.study_file import render_study
from shared_models.consortium import (
    ConsortiumConfig,
    CoordinatorConfig,
    FairnessConfig,
    PrivacyConfig,
    SiteEntry,
    StudyConfig,
    TrainingConfig,
)
from simulation.cohort import CohortDesign, generate_site
from simulation.sites import store_features, write_recordings

HUB = "hub"
SITES = ("east", "north", "west")
SEED = 5
SEEDED_SITE = Path(__file__).with_name("seeded_site.py")


def study_of(mode: str, rounds: int) -> ConsortiumConfig:
    return ConsortiumConfig(
        study=StudyConfig("faults", "phq9"),
        training=TrainingConfig(
            rounds=rounds, quorum=len(SITES), evaluate_every=max(1, rounds // 2),
            round_timeout_s=300.0,
        ),
        privacy=PrivacyConfig(mode=mode, target_epsilon=3.0),  # type: ignore[arg-type]
        fairness=FairnessConfig(),
    )  # fmt: skip


def found(places: Mapping[str, Place], config: ConsortiumConfig, *, port: int, cap: float) -> None:
    """Folders of everybody: the coordinator's by its own command, the sites' simulated."""
    place, folder = places[HUB], places[HUB].folder / HUB
    words = ("vultus-coordinator", "init", folder, "--name", "faults", "--port", port)
    subprocess.run(
        place.command(*words, "--host", place.address), env=place.environment, check=True,
        capture_output=True,
    )  # fmt: skip
    config = replace(config, coordinator=CoordinatorConfig(ready_signing_key(folder / "runs")))
    study = folder / "consortium.toml"
    study.write_text(render_study(config))
    entries = []
    for name in SITES:
        site = init_site(places[name].folder / "site", site_id=name, consortium_file=study)
        entries.append(SiteEntry(name, 20, public_line(site.identity_key)))
    study.write_text(render_study(replace(config, sites=tuple(entries))))
    design = CohortDesign(sites=len(SITES), subjects_per_site=30, seed=SEED)
    for index, name in enumerate(SITES):
        site = init_site(
            places[name].folder / "site", site_id=name, consortium_file=study, simulation_seed=SEED
        )
        raise_cap(site, cap)
        (site.folder / CA_FILE).write_bytes((folder / "pki" / "ca.crt").read_bytes())
        bundle = load_bundle(folder / "bundle").sha256
        add_bundle(site, bundle, site.consortium, study=study.read_text())
        cohort = generate_site(design, index)
        write_recordings(site.paths.recordings, cohort.recordings)
        store_features(site, cohort)


def raise_cap(site: Site, cap: float) -> None:
    document = tomlkit.parse(site.config_file.read_text())
    document["policy"]["max_epsilon_per_subject"] = cap  # type: ignore[index]
    site.config_file.write_text(tomlkit.dumps(document))


def services_of(places: Mapping[str, Place], *, port: int) -> dict[str, Service]:
    """The coordinator's service and one for each site, not started."""
    folder = places[HUB].folder / HUB
    services = {HUB: Service(places[HUB], ("vultus-coordinator", "start", folder))}
    address = f"{places[HUB].address}:{port}"
    for name in SITES:
        words = (sys.executable, SEEDED_SITE, places[name].folder / "site", address)
        services[name] = Service(places[name], words)
    return services
