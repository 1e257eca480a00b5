"""The global model that a site explains: only one that the coordinator signed for its study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.learning.kept_model import find_model
from client.site import Site
from shared_models.console import InputError, RefusedError
from shared_models.networks import BehaviourNet, make_network
from shared_models.signed_models import load_signed_weights
from shared_models.weights import State, WeightsError, freeze_trunk


@dataclass(frozen=True)
class ExplainedModel:
    """A network with verified weights.

    Attributes:
        network: Ready to judge.
        words: Where the weights are from, for people.
    """

    network: BehaviourNet
    words: str


def open_model(site: Site, file: Path | None) -> ExplainedModel:
    """The model to explain: the last one that the site judged, or a signed file.

    Args:
        site: The site.
        file: A published model with its signature beside it; None for the kept one.

    Raises:
        InputError: If there is no such file, or none was kept.
        RefusedError: If the file is not what the coordinator of the agreed study signed.
        KeptModelError: If the kept model is not what the coordinator signed.
    """
    config = site.consortium.config
    network = make_network(
        config.network.name, config.network.size, features=len(config.features.schema.features)
    )
    freeze_trunk(network, trainable=config.network.trainable)
    if file is None:
        weights, words = _kept(site, network)
    else:
        weights = _read(site, network, file)
        words = f"{file.name}, signed by the coordinator"
    network.load_state_dict(weights)
    return ExplainedModel(network.to(site.config.device.torch).eval(), words)


def _kept(site: Site, network: BehaviourNet) -> tuple[State, str]:
    kept = find_model(site, network)
    if kept is None:
        msg = (
            "Expected a global model at this site, found none: one stays here when a run that the "
            "site takes part in is first evaluated. Or name a signed file with --model."
        )
        raise InputError(msg)
    words = f"round {kept.server_round} of run {kept.run_id}, signed by the coordinator"
    return kept.weights, words


def _read(site: Site, network: BehaviourNet, file: Path) -> State:
    if not file.is_file():
        msg = f"Expected a model file (.safetensors with .sig beside it), got {file}: no such file."
        raise InputError(msg)
    try:
        return load_signed_weights(
            file, network.state_dict(), public_key=site.consortium.coordinator_key
        )
    except WeightsError as error:
        raise RefusedError(str(error)) from error
