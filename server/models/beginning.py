"""Beginning a run with a registered model instead of the weights that ship."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from privacy.vault import write_atomic
from server.models.lineage import START_FILE, begun_with
from server.models.loading import read_model, weights_file
from server.models.registration import open_registry
from server.workspace import Workspace
from shared_models.console import InputError
from shared_models.consortium import Consortium
from shared_models.networks import BehaviourNet, make_network
from shared_models.signed_files import signature_file
from shared_models.signed_models import load_signed_weights
from shared_models.weights import freeze_trunk

START_WEIGHTS = "start.safetensors"


def prepare_beginning(workspace: Workspace, number: int, folder: Path) -> None:
    """Put a registered model into a new run's folder, for its server app to begin with.

    Args:
        workspace: The coordinator's folder.
        number: Number of the model.
        folder: Of the new run.

    Raises:
        InputError: If there is no such model, or the sites' frozen weights are not its own.
        RegistryError: If it is not as it was signed, or is of another network than the study's.
    """
    entry = open_registry(workspace).entry(number)
    network = study_network(workspace.consortium)
    weights = read_model(workspace, entry, network.state_dict())
    frozen = {name for name, part in network.named_parameters() if not part.requires_grad}
    shipped = network.state_dict()
    if any(not torch.equal(weights[name], shipped[name]) for name in frozen):
        msg = (
            f"Expected model {number} to stand on the trunk that this version ships, got another: "
            'the sites hold the shipped one. Set network.trainable = "all", or name another model.'
        )
        raise InputError(msg)
    file = weights_file(workspace, entry)
    shutil.copyfile(signature_file(file), signature_file(folder / START_WEIGHTS))
    shutil.copyfile(file, folder / START_WEIGHTS)
    # Last: its presence is what has the app look for the others.
    write_atomic(folder / START_FILE, json.dumps({"model": number}).encode(), mode=0o644)


def study_network(consortium: Consortium) -> BehaviourNet:
    """The study's network with the weights that ship, frozen as the study says."""
    config = consortium.config
    features = len(config.features.schema.features)
    network = make_network(config.network.name, config.network.size, features=features)
    freeze_trunk(network, trainable=config.network.trainable)
    return network


def first_network(consortium: Consortium, folder: Path) -> BehaviourNet:
    """The network that a run begins with: the registered model in its folder, or what ships.

    Raises:
        WeightsError: If the model in the folder is not what the coordinator signed.
    """
    network = study_network(consortium)
    if begun_with(folder) is not None:
        weights = load_signed_weights(
            folder / START_WEIGHTS, network.state_dict(), public_key=consortium.coordinator_key
        )
        network.load_state_dict(weights)
    return network
