"""Writes a simulated cohort as site folders, with the keys and stores that real sites have."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from client.site import Site, init_site, prepare_identity
from client.site_template import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from client.storage.store import FeatureStore, StoredRecording
from client.storage.stored_recording import StoredReason
from privacy.vault import Vault
from server.signing import ready_signing_key
from server.study_file import render_study
from shared_models.consortium import ConsortiumConfig, CoordinatorConfig
from shared_models.features import BEHAVIOUR
from shared_models.roster import SiteEntry
from simulation.cohort import SimulatedRecording, SiteCohort

CONSORTIUM_FILE = "consortium.toml"
SITES_FOLDER = "sites"
REJECTED = "The simulated camera saw a face in too few frames."


def found_consortium(  # noqa: PLR0913 - a study, its sites, and who is told
    folder: Path,
    config: ConsortiumConfig,
    site_ids: Sequence[str],
    *,
    weight: int,
    seed: int,
    on_site: Callable[[int], None] = lambda _: None,
) -> list[Site]:
    """Set up every site and the study file that lists them all.

    Args:
        folder: Gets ``consortium.toml``, ``sites/ID/`` and the coordinator's key in ``keys/``.
        config: The study without sites.
        site_ids: Names of the sites.
        weight: Subjects that each site is counted with.
        seed: Fixes the noise of every site.
        on_site: Told how many sites are ready.

    Returns:
        The sites, opened.
    """
    study_file = folder / CONSORTIUM_FILE
    config = replace(config, coordinator=CoordinatorConfig(ready_signing_key(folder)))
    entries = [
        SiteEntry(site_id, weight, prepare_identity(site_folder(folder, site_id)))
        for site_id in site_ids
    ]
    study_file.write_text(render_study(replace(config, sites=tuple(entries))), encoding="utf-8")
    sites = []
    for site_id in site_ids:
        site = init_site(
            site_folder(folder, site_id),
            site_id=site_id,
            consortium_file=study_file,
            simulation_seed=seed,
            allow_no_privacy=config.privacy.mode == "off",
        )
        sites.append(site)
        on_site(len(sites))
    return sites


def site_folder(folder: Path, site_id: str) -> Path:
    """Folder of a simulated site."""
    return folder / SITES_FOLDER / site_id


def write_recordings(
    path: Path, recordings: Iterable[SimulatedRecording], *, files: Sequence[str] | None = None
) -> None:
    """``recordings.csv`` of a simulated site.

    Args:
        path: File to write.
        recordings: Its rows.
        files: Video of each recording; without, the column is empty.
    """
    columns = [*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for index, recording in enumerate(recordings):
            fields = {name: getattr(recording, name, "") for name in columns}
            fields |= {
                "file": files[index] if files else "",
                "score": f"{recording.score:g}",
                "consent": "granted",
            }
            writer.writerow(fields)


def store_features(site: Site, cohort: SiteCohort) -> None:
    """Put a cohort's features and verdicts into the site's encrypted store."""
    vault = Vault(site.storage_key)
    store = FeatureStore(site.paths.store, vault, site_id=site.id, durable=False)
    provenance = {"schema_digest": BEHAVIOUR.digest, "source": "simulated cohort"}
    for recording, features in zip(cohort.recordings, cohort.features, strict=True):
        code = recording.rejected_for
        store.put(
            StoredRecording(
                recording_id=recording.recording_id,
                subject_id=recording.subject_id,
                verdict="rejected" if code else "accepted",
                reasons=(StoredReason(code, REJECTED),) if code else (),
                provenance=dict(provenance),
            ),
            features=None if code else features,
        )
