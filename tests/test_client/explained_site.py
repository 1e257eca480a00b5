"""A simulated site, and a model that the coordinator of its study signed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from played_coordinator import signed, signing_key_file

from client.learning.learner import Learner
from client.site import open_site
from privacy.keys import load_identity_key
from server.signing import publish_model
from shared_models.messages import ModelRequest
from shared_models.networks import BehaviourNet, make_network
from shared_models.weights import State, digest_weights, freeze_trunk, trainable_state
from simulation.study import StudyDesign, design_study, write_cohort

ROUNDS = 2


def design_importance(*, mode: str = "local", sites: int = 1, subjects: int = 6) -> StudyDesign:
    """A small study that asks for importance."""
    design = design_study(
        sites=sites, subjects=subjects, rounds=ROUNDS, epsilon=3.0, mode=mode,
        network="behaviour_net", trainable="head", seed=5,
    )  # fmt: skip
    fairness = replace(design.config.fairness, importance=True)
    cohort = replace(design.cohort, clips_per_recording=2, visits=(0.0, 1.0))
    return replace(design, config=replace(design.config, fairness=fairness), cohort=cohort)


def write_site(folder: Path) -> Path:
    """Folder of the only site of such a study."""
    return write_cohort(design_importance(), folder, lambda *_: None)[0]


def make_model(seed: int = 0) -> BehaviourNet:
    """A network whose head tells behaviours apart."""
    network = make_network("behaviour_net", "small", features=24)
    torch.manual_seed(seed)
    torch.nn.init.normal_(network.head.weight, std=0.1)
    freeze_trunk(network, trainable="head")
    return network


def publish(site_folder: Path, file: Path, state: State | None = None) -> Path:
    """A model file with the signature of the coordinator of the site's study beside it."""
    key = load_identity_key(signing_key_file(open_site(site_folder)))
    publish_model(file, make_model().state_dict() if state is None else state, key)
    return file


def evaluation(learner: Learner, **changes: object) -> ModelRequest:
    """The coordinator's question at the last round, about :func:`make_model`, signed."""
    network = make_model()
    request = ModelRequest(
        run_id="run",
        server_round=ROUNDS,
        weights=trainable_state(network),
        base_digest=digest_weights(network.state_dict()),
        consortium_digest=learner.site.consortium.digest,
        plan=learner.config.tally_plan(),
    )
    return signed(learner.site, replace(request, **changes), kind="evaluate")  # type: ignore[arg-type]
