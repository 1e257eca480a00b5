"""A study on this machine whose coordinator and sites are killed together, and begun again."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from client.app import SITE_CONFIG
from client.app import app as client_app
from client.site import open_site
from privacy.ledger import PrivacyLedger
from server.app import app as server_app
from server.bundle import RUN_FOLDER
from server.history import RunReport
from server.progress import read_progress
from shared_models.consortium import Mode
from simulation.engine import run_in_process
from simulation.study import StudyDesign, design_study, write_cohort

RUN = "run"


@dataclass(frozen=True)
class KilledStudy:
    """A study in a folder, whose processes a test may kill.

    Attributes:
        folder: Holds the study file, ``sites/`` and ``run/``.
    """

    folder: Path

    @property
    def run_folder(self) -> Path:
        return self.folder / RUN

    @property
    def has_ended(self) -> bool:
        progress = read_progress(self.run_folder)
        return progress is not None and progress.has_ended

    @property
    def report(self) -> RunReport:
        return RunReport.from_json((self.run_folder / "report.json").read_bytes())

    def releases(self) -> dict[str, list[str]]:
        """What each site's ledger holds, release by release."""
        found = {}
        for folder in sorted((self.folder / "sites").iterdir()):
            site = open_site(folder)
            ledger = PrivacyLedger(site.paths.ledger, key=site.ledger_key)
            found[site.id] = [r.release_id for r in ledger.releases_of("")]
        return found

    def live(self) -> None:
        """Run the apps in this process until the run has ended."""
        sites = sorted((self.folder / "sites").iterdir())
        run_in_process(
            server_app,
            client_app,
            node_configs=[{SITE_CONFIG: str(site / "site.toml")} for site in sites],
            run_config={RUN_FOLDER: str(self.run_folder)},
        )

    def live_for(self, seconds: float | None) -> bool:
        """A life in a process of its own, ended by SIGKILL after a while; whether it came so far.

        Args:
            seconds: When it is killed; None to let it come to its end.
        """
        process = multiprocessing.get_context("fork").Process(target=self.live, daemon=True)
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
            return True
        assert process.exitcode == 0
        return False


def make_study(folder: Path, *, mode: Mode) -> KilledStudy:
    """A small study, ready to be run."""
    write_cohort(small_design(mode), folder, lambda *_: None)
    (folder / RUN).mkdir()
    shutil.copyfile(folder / "consortium.toml", folder / RUN / "consortium.toml")
    return KilledStudy(folder)


def small_design(mode: Mode) -> StudyDesign:
    return design_study(
        sites=3,
        subjects=24,
        rounds=4,
        epsilon=3.0,
        mode=mode,
        network="behaviour_net",
        trainable="head",
        seed=7,
    )


def kill_at_random(template: Path, scratch: Path, *, kills: int, seed: int) -> list[KilledStudy]:
    """Studies that were killed so often altogether, and then came to their end.

    Args:
        template: A study that was never begun.
        scratch: Where its copies live.
        kills: How many lives are killed.
        seed: Of the moments.
    """
    moments = random.Random(seed)
    studies: list[KilledStudy] = []
    longest_s = 0.0
    while kills:
        study = KilledStudy(Path(shutil.copytree(template, scratch / f"study-{len(studies)}")))
        studies.append(study)
        while kills and not study.has_ended:
            began = time.monotonic()
            if study.live_for(moments.uniform(0.0, longest_s or 1.0)):
                kills -= 1
            else:
                longest_s = max(longest_s, time.monotonic() - began)
        study.live_for(None)
    return studies
