"""A coordinator's folder with runs that have ended, as far as the registry of models can tell."""

import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from server.history import RoundReport, RunReport, SitePrivacy, evaluation_report
from server.models.lineage import START_FILE
from server.signing import model_file, open_signing_key, publish_model
from server.study_file import new_study
from server.workspace import Workspace, create_workspace, open_workspace
from shared_models.consortium import load_consortium
from shared_models.networks import make_network
from shared_models.tallies import GroupTally
from shared_models.weights import State, digest_weights

RANGE = (0.0, 27.0, 10.0)
EPSILON_SUM, EPSILON_SITE = 1.75, 2.96


def make_hub(folder: Path) -> Workspace:
    study = new_study("trial", instrument="phq9").replace("rounds = 30", "rounds = 3")
    return create_workspace(
        folder, consortium_toml=study, name="trial", hosts=["127.0.0.1"], port=8443
    )


def copy_hub(hub: Workspace, folder: Path) -> Workspace:
    """Another folder with the same content, which is quicker than to make it anew."""
    shutil.copytree(hub.folder, folder)
    return open_workspace(folder)


def weights_of(number: int, server_round: int) -> State:
    """A trained head on the shipped trunk, another one for each run and round."""
    state = make_network("behaviour_net", "small", features=24).state_dict()
    generator = torch.Generator().manual_seed(100 * number + server_round)
    head = {
        name: 0.1 * torch.randn(part.shape, generator=generator)
        for name, part in state.items()
        if name.startswith("head.")
    }
    return {**state, **head}


def figures_of(server_round: int):
    shape = np.array([0, 1, 4, 9, 6, 3, 1, 0, 1, 9, 14, 12, 5, 2, 1, 0], dtype=float)
    tallies = [
        GroupTally(attribute, group, np.append(shape * size, [20.0, 1.0, 4.0]), 1.0)
        for attribute, group, size in (
            ("overall", "all", 20),
            ("sex", "female", 19.8),
            ("sex", "male", 0.02),
        )
    ]
    return evaluation_report(server_round, tallies, score_range=RANGE, min_cell=50)


def add_run(
    hub: Workspace,
    *,
    rounds: int = 3,
    status: str = "completed",
    started_from: int | None = None,
    absent: dict[int, str] | None = None,
) -> Path:
    """A run that has ended; its models are those of :func:`weights_of`."""
    number = len(list(hub.runs.glob("run-*"))) + 1
    folder = hub.runs / f"run-{number:04d}"
    folder.mkdir()
    (folder / "consortium.toml").write_bytes(hub.consortium_file.read_bytes())
    if started_from is not None:
        (folder / START_FILE).write_text(f'{{"model": {started_from}}}')
    study = load_consortium(folder / "consortium.toml")
    key = open_signing_key(hub.runs, study)
    told = []
    for server_round in range(1, rounds + 1):
        state = weights_of(number, server_round)
        publish_model(model_file(folder, server_round), state, key)
        missing = (absent or {}).get(server_round)
        sites = tuple(site for site in ("north", "south") if site != missing)
        told.append(RoundReport(server_round, 1.5, sites, (), (), digest_weights(state), 0.25))
    plan = study.config.training_plan()
    report = RunReport(
        run_id=f"70{number}",
        study_name="trial",
        instrument="phq9",
        threshold=10.0,
        score_range=RANGE,
        mode="local",
        target_epsilon=3.0,
        delta=plan.delta,
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.max_grad_norm,
        tally_noise_multiplier=1.0,
        fairness_epsilon=3.0,
        epsilon_sum=EPSILON_SUM,
        epsilon_site=EPSILON_SITE,
        rounds=tuple(told),
        evaluations=(figures_of(rounds),) if status == "completed" else (),
        sites=tuple(SitePrivacy(site, EPSILON_SITE, 2.5, rounds) for site in ("north", "south")),
        min_cell=50,
        weights_digest=told[-1].weights_digest,
        consortium_digest=study.digest,
        versions={"vultus": version("vultus"), "torch": "2.13.0"},
        status="completed",
    )
    (folder / "report.json").write_text(replace(report, status=status).to_json())  # type: ignore[arg-type]
    (folder / "report.html").write_text("<p>Research software: no output is a diagnosis.</p>")
    return folder
