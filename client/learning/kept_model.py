"""The last global model that a site judged, kept with the signature under which it came.

It is the coordinator's own request, byte for byte. Whoever reads it asks again what was asked when
it came: the signature of the key that the agreed study names, the study, and the weights' digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from client.learning.kept_reply import pack_request, unpack_request
from client.site import Site
from privacy.vault import write_chunks
from shared_models.messages import MessageError, ModelRequest
from shared_models.signed_models import is_signed
from shared_models.weights import (
    State,
    WeightsError,
    check_weights,
    digest_weights,
    trainable_state,
)

MODEL_FILE = "judged-model.request"


class KeptModelError(Exception):
    """The model that a site kept is not the one that the coordinator signed."""

    exit_code = 3


@dataclass(frozen=True)
class KeptModel:
    """A model whose signature was checked.

    Attributes:
        weights: All tensors of the network, frozen ones too.
        run_id: Run that it belongs to.
        server_round: Round after which the site judged it.
    """

    weights: State
    run_id: str
    server_round: int


def keep_model(site: Site, request: ModelRequest) -> None:
    """Keep a model that the site was asked to judge, in place of the one before.

    Args:
        site: The site.
        request: As the learner admitted it.
    """
    # Lost with the machine, it comes again with the next evaluation.
    write_chunks(_file(site), [pack_request(request)], durable=False)


def find_model(site: Site, network: nn.Module) -> KeptModel | None:
    """The last model that the site judged; None if none came yet.

    Args:
        site: The site.
        network: The study's network, its trunk frozen as the study says.

    Raises:
        KeptModelError: If it is damaged, or is not signed for the study that the site agreed to.
    """
    file = _file(site)
    if not file.exists():
        return None
    try:
        request = unpack_request(file.read_bytes())
        check_weights(request.weights, trainable_state(network))
    except (MessageError, WeightsError) as error:
        raise _refused(file, str(error)) from error
    weights = {**network.state_dict(), **request.weights}
    if request.consortium_digest != site.consortium.digest:
        raise _refused(file, "it belongs to another study than the one that the site agreed to")
    if not is_signed(request, site.consortium.coordinator_key, kind="evaluate"):
        raise _refused(file, "it does not bear the coordinator's signature")
    if digest_weights(weights) != request.base_digest:
        raise _refused(file, "its weights are not those that were signed")
    return KeptModel(weights, request.run_id, request.server_round)


def _refused(file: Path, fault: str) -> KeptModelError:
    msg = (
        f"Expected in {file} the model that the coordinator signed, got another: {fault}. Delete "
        "it; the next evaluation of a run brings a new one, or name a signed file with --model."
    )
    return KeptModelError(msg)


def _file(site: Site) -> Path:
    return site.paths.state / MODEL_FILE
