"""A whole study on this machine: cohort, sites, training, evaluation, report.

The sites are real site folders and the apps are the ones that real sites run; only the cohort, the
noise's seed and the way messages travel differ.
"""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from scipy.stats import binom

from client.app import SITE_CONFIG
from client.site import Site
from server.bundle import RUN_FOLDER
from server.history import RunReport
from server.report import write_report
from shared_models.consortium import (
    ConsortiumConfig,
    FairnessConfig,
    NetworkConfig,
    PrivacyConfig,
    StudyConfig,
    TrainingConfig,
)
from shared_models.networks import NETWORKS
from simulation.cohort import CohortDesign, generate_cohort
from simulation.effect_file import EffectFile, shipped_effects
from simulation.open_files import allow_open_files
from simulation.sites import (
    CONSORTIUM_FILE,
    found_consortium,
    store_features,
    write_recordings,
)

Engine = Literal["local", "ray"]
OnProgress = Callable[[str, int, int], None]
"""Called with a phase, what is done of it, and what there is to do."""

RUN = "run"
MANY_SITES = 50


@dataclass(frozen=True)
class StudyDesign:
    """What is simulated, how it is trained, and on which engine.

    Attributes:
        config: The study, without its sites.
        cohort: The cohort.
        engine: ``local`` runs the apps in this process, ``ray`` on Flower's Ray engine.
        workers: Processes of the local engine.
    """

    config: ConsortiumConfig
    cohort: CohortDesign
    engine: Engine = "local"
    workers: int = 1


def design_study(  # noqa: PLR0913 - one option of the command line each
    *,
    sites: int,
    subjects: int,
    rounds: int,
    epsilon: float,
    mode: Literal["local", "distributed", "off"],
    network: str,
    trainable: Literal["head", "all"],
    seed: int,
    engine: Engine = "local",
    workers: int = 1,
    importance: bool = False,
    effects: EffectFile | None = None,
) -> StudyDesign:
    """The study that ``vultus-simulate run`` describes.

    Raises:
        ValueError: If an option is out of range.
    """
    if network not in NETWORKS:
        msg = f"Expected --network to be one of {sorted(NETWORKS)}, got {network!r}."
        raise ValueError(msg)
    fairness = FairnessConfig(epsilon=epsilon, importance=importance)
    config = ConsortiumConfig(
        study=StudyConfig(name="simulated-study", instrument="phq9"),
        network=NetworkConfig(name=network, trainable=trainable),  # type: ignore[arg-type]
        training=TrainingConfig(
            rounds=rounds,
            quorum=quorum_of(sites, subjects, holdout_fraction=fairness.holdout_fraction),
            evaluate_every=max(1, rounds // 2),
        ),
        privacy=PrivacyConfig(mode=mode, target_epsilon=epsilon),
        fairness=fairness,
    )
    cohort = CohortDesign(
        sites=sites, subjects_per_site=subjects, seed=seed, effects=effects or shipped_effects()
    )
    return StudyDesign(config, cohort, engine, workers)


def quorum_of(sites: int, subjects: int, *, holdout_fraction: float) -> int:
    """Fewest sites that must answer: all of them, unless they are many and small.

    A hash decides who is held out. Of a thousand sites with ten subjects each, some six have nobody
    to train on or nobody to judge on, and refuse. As many as chance makes in all but one of a
    million studies may.

    >>> quorum_of(8, 10, holdout_fraction=0.4), quorum_of(1000, 100, holdout_fraction=0.4)
    (8, 1000)
    >>> quorum_of(1000, 10, holdout_fraction=0.4)
    979

    Args:
        sites: Sites of the study.
        subjects: Subjects at each.
        holdout_fraction: Expected share of held-out subjects, between 0 and 1.
    """
    if sites < MANY_SITES:
        return sites
    is_one_sided = holdout_fraction**subjects + (1 - holdout_fraction) ** subjects
    return max(1, sites - int(binom.isf(1e-6, sites, is_one_sided)))


def write_cohort(design: StudyDesign, folder: Path, on_progress: OnProgress) -> list[Path]:
    """Site folders with recordings and encrypted features, and the study file above them.

    Returns:
        Folder of each site.
    """
    sites = _found_sites(design, folder, on_progress)
    cohorts = generate_cohort(design.cohort)
    for index, (site, own) in enumerate(zip(sites, cohorts, strict=True), start=1):
        write_recordings(site.paths.recordings, own.recordings)
        store_features(site, own)
        on_progress("cohort", index, len(sites))
    return [site.folder for site in sites]


def write_video_cohort(
    design: StudyDesign, folder: Path, on_progress: OnProgress, *, video_s: float
) -> list[Path]:
    """Site folders with a rendered face video for each recording, to be checked and extracted.

    Args:
        design: The study and its cohort.
        folder: Gets ``consortium.toml`` and ``sites/ID/``.
        on_progress: Told how many recordings are rendered.
        video_s: Length of each video in seconds.

    Returns:
        Folder of each site.
    """
    from simulation.casting import command_for
    from simulation.faces import render_video

    sites = _found_sites(design, folder, on_progress)
    cohorts = list(generate_cohort(design.cohort))
    total = sum(len(own.recordings) for own in cohorts)
    done = 0
    for site, own in zip(sites, cohorts, strict=True):
        (site.folder / "videos").mkdir(mode=0o700, exist_ok=True)
        files = [f"videos/{recording.recording_id}.mp4" for recording in own.recordings]
        write_recordings(site.paths.recordings, own.recordings, files=files)
        for recording, file in zip(own.recordings, files, strict=True):
            command = command_for(
                recording,
                instrument=design.cohort.instrument,
                effects=design.cohort.drawn_effects(),
                duration_s=video_s,
            )
            render_video(command, site.folder / file)
            done += 1
            on_progress("videos", done, total)
    return [site.folder for site in sites]


def run_study(design: StudyDesign, folder: Path, on_progress: OnProgress) -> RunReport:
    """The study from cohort to report; everything it made stays in the folder.

    Args:
        design: What to run.
        folder: Empty or new.
        on_progress: Told how far each phase is.

    Returns:
        The report, which also lies in ``folder/run`` as page and JSON.

    Raises:
        QuorumError: If sites refused; the report then says why.
    """
    started = time.monotonic()
    if design.engine == "local":
        allow_open_files(design.cohort.sites, workers=design.workers)
    folder.mkdir(parents=True, exist_ok=True)
    sites = write_cohort(design, folder, on_progress)
    run_folder = folder / RUN
    run_folder.mkdir()
    (run_folder / CONSORTIUM_FILE).write_bytes((folder / CONSORTIUM_FILE).read_bytes())
    if design.engine == "ray":
        from simulation.ray_engine import run_on_ray

        run_on_ray(sites, run_folder)
    else:
        _run_locally(design, sites, run_folder, on_progress)
    return _complete_report(design, sites, run_folder, total_s=time.monotonic() - started)


def _found_sites(design: StudyDesign, folder: Path, on_progress: OnProgress) -> list[Site]:
    cohort = design.cohort
    # The number of subjects that train is public in a simulation; a real study agrees on a figure.
    share = 1 - design.config.fairness.holdout_fraction
    return found_consortium(
        folder,
        design.config,
        [f"site-{index + 1:02d}" for index in range(cohort.sites)],
        weight=max(1, round(cohort.subjects_per_site * share)),
        seed=cohort.seed,
        on_site=lambda done: on_progress("sites", done, cohort.sites),
    )


def peak_memory_bytes() -> int:
    """Largest resident memory of this process or any that it started, so far."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(one).ru_maxrss for one in who) * 1024


def _run_locally(
    design: StudyDesign, sites: list[Path], run_folder: Path, on_progress: OnProgress
) -> None:
    from client.app import app as client_app
    from server.app import app as server_app
    from simulation.engine import on_answers, run_in_process

    answers = itertools.count(1)
    expected = len(sites) * design.config.training.rounds

    run_in_process(
        server_app,
        client_app,
        node_configs=[{SITE_CONFIG: str((site / "site.toml").absolute())} for site in sites],
        run_config={RUN_FOLDER: str(run_folder.absolute())},
        workers=design.workers,
        on_reply=on_answers("train", lambda: on_progress("training", next(answers), expected)),
    )


def _complete_report(
    design: StudyDesign, sites: list[Path], run_folder: Path, *, total_s: float
) -> RunReport:
    from simulation.truth import measure_truth

    report = RunReport.from_json((run_folder / "report.json").read_bytes())
    complete = replace(
        report,
        seed=design.cohort.seed,
        seconds={**report.seconds, "total": total_s},
        truth=measure_truth(report, run_folder=run_folder, sites=sites),
    )
    write_report(complete, run_folder)
    return complete
