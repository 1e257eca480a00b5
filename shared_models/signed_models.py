"""The coordinator's signature under each global model, as a request and as a published file.

A site follows a model only if the key that the agreed study names has signed it: whoever can reach
the site, or holds the engine, cannot have it train on weights of their own making.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from torch import Tensor

from privacy.keys import sign, verify
from shared_models.messages import ModelRequest
from shared_models.signed_files import signature_file
from shared_models.weights import State, WeightsError, read_weights

Kind = Literal["train", "evaluate"]


def model_statement(request: ModelRequest, *, kind: Kind) -> bytes:
    """The bytes that the coordinator signs: these weights, for this, in this run and round.

    A list in JSON has one reading only, whatever the names in it hold. It begins unlike any file
    of weights, so that a signature of the one is never good for the other.
    """
    terms = [
        "vultus model 1",
        request.run_id,
        request.server_round,
        request.attempt,
        kind,
        [member.site_id for member in request.cohort],
        request.base_digest,
        request.consortium_digest,
    ]
    return json.dumps(terms).encode()


def sign_request(
    request: ModelRequest, key: EllipticCurvePrivateKey, *, kind: Kind
) -> ModelRequest:
    """The request with the coordinator's signature."""
    return replace(request, signature=sign(key, model_statement(request, kind=kind)))


def is_signed(request: ModelRequest, public_key: str | None, *, kind: Kind) -> bool:
    """Whether the holder of the key asked for this, of these weights, in this run and round.

    The signature covers the weights by their digest, which the caller has to compare.

    Args:
        request: As it came.
        public_key: The coordinator's OpenSSH line in the agreed study; without one nothing counts.
        kind: What the request was delivered as.
    """
    if public_key is None:
        return False
    return verify(public_key, request.signature, model_statement(request, kind=kind))


def load_signed_weights(path: Path, like: Mapping[str, Tensor], *, public_key: str | None) -> State:
    """The weights of a published file of exactly the expected form, once its signature is right.

    Args:
        path: A file that somebody sent; its signature lies beside it.
        like: Tensors of the expected form.
        public_key: OpenSSH line of whoever must have signed it; without one no file counts.

    Raises:
        WeightsError: If the signature is missing or wrong, or the form differs.
    """
    signature = signature_file(path)
    if not signature.is_file():
        msg = f"Expected the signature {signature.name} beside {path}, found none: ask for it."
        raise WeightsError(msg)
    content = path.read_bytes()
    if public_key is None or not verify(public_key, signature.read_bytes(), content):
        msg = f"{path} is not what the coordinator signed: do not use it, ask for it again."
        raise WeightsError(msg)
    return read_weights(content, like)
