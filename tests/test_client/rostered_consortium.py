"""Simulated sites whose study file names none of them: a signed roster does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from client.site import Site, init_site
from privacy.keys import load_identity_key, public_line
from server.signing import KEY_FOLDER, SIGNING_KEY, ready_signing_key
from server.study_file import render_study
from shared_models.consortium import Consortium, ConsortiumConfig, CoordinatorConfig
from shared_models.roster import ROSTER_FILE, Roster, SiteEntry, sign_roster
from simulation.cohort import CohortDesign, generate_cohort
from simulation.sites import store_features, write_recordings

AUTHORITIES = "-----BEGIN CERTIFICATE-----\nof this test\n-----END CERTIFICATE-----\n"


@dataclass(frozen=True)
class RosteredConsortium:
    """A coordinator's key and its sites; the folder is what a run's folder lies in."""

    folder: Path
    consortium: Consortium
    sites: dict[str, Site]

    @property
    def key(self) -> EllipticCurvePrivateKey:
        return load_identity_key(self.folder / KEY_FOLDER / SIGNING_KEY)

    def roster(
        self, number: int, names: tuple[str, ...], *, authorities: str = AUTHORITIES
    ) -> Roster:
        entries = tuple(
            SiteEntry(name, 40, public_line(self.sites[name].identity_key)) for name in names
        )
        return Roster(number, self.consortium.digest, entries, authorities)

    def sign(self, number: int, *names: str, authorities: str = AUTHORITIES) -> bytes:
        return sign_roster(self.roster(number, names, authorities=authorities), self.key)

    def publish(self, number: int, *names: str) -> None:
        """Put a roster where server apps read it."""
        (self.folder / ROSTER_FILE).write_bytes(self.sign(number, *names))


def found_rostered(
    folder: Path, config: ConsortiumConfig, names: tuple[str, ...], *, subjects: int
) -> RosteredConsortium:
    """Sites with simulated patients and seeded noise, in a study that fixes no sites."""
    coordinator = CoordinatorConfig(ready_signing_key(folder))
    file = folder / "consortium.toml"
    config = replace(config, coordinator=coordinator)
    file.write_text(render_study(config), encoding="utf-8")
    cohorts = generate_cohort(CohortDesign(sites=len(names), subjects_per_site=subjects, seed=5))
    sites = {}
    for name, cohort in zip(names, cohorts, strict=True):
        site = init_site(
            folder / "sites" / name, site_id=name, consortium_file=file, simulation_seed=5
        )
        write_recordings(site.paths.recordings, cohort.recordings)
        store_features(site, cohort)
        sites[name] = site
    return RosteredConsortium(folder, next(iter(sites.values())).consortium, sites)
