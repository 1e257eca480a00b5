"""The coordinator's signing key: beside the folders of all runs, and never in a run or a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from privacy.keys import KeyFileError, create_identity_key, load_identity_key, public_line
from shared_models.consortium import Consortium
from shared_models.signed_files import public_pem, sign_file

if TYPE_CHECKING:
    from shared_models.weights import State

KEY_FOLDER = "keys"
SIGNING_KEY = "signing"
PUBLIC_PEM = "signing.pem"
"""The public key in a run's folder, for whoever checks its models with OpenSSL."""


class SigningKeyError(ValueError):
    """The coordinator cannot sign what the sites of the study would follow."""

    exit_code = 2


def model_file(folder: Path, server_round: int) -> Path:
    """Where the global model of a round is kept."""
    return folder / f"model-{server_round:04d}.safetensors"


def ready_signing_key(runs: Path) -> str:
    """OpenSSH line of the coordinator's key, which is made if it is not there.

    Args:
        runs: Folder of all runs; the key lies in ``keys/`` below it, mode 0600.

    Raises:
        KeyFileError: If the key or its folder is open to others.
    """
    file = _key_file(runs)
    if file.exists():
        return public_line(load_identity_key(file))
    return public_line(create_identity_key(file, file.with_suffix(".pub")))


def open_signing_key(runs: Path, consortium: Consortium) -> EllipticCurvePrivateKey:
    """The key that signs the models of a study.

    Args:
        runs: Folder of all runs.
        consortium: The study, which names the public key.

    Raises:
        SigningKeyError: If the key is missing or exposed, or is not the one that the study names.
    """
    file = _key_file(runs)
    try:
        key = load_identity_key(file)
    except KeyFileError as error:
        msg = f"The coordinator's signing key cannot be used: {error}"
        raise SigningKeyError(msg) from error
    if public_line(key) != _without_comment(consortium.coordinator_key):
        msg = (
            f"Expected the key of coordinator.public_key (consortium.toml) in {file}, got another: "
            "sites would refuse every model. Restore the key, or write its line from "
            f"{file.name}.pub into consortium.toml and send every site its new kit."
        )
        raise SigningKeyError(msg)
    return key


def publish_model(path: Path, state: State, key: EllipticCurvePrivateKey) -> None:
    """Write a model, its signature and, once, the public key that OpenSSL checks it with."""
    from shared_models.weights import save_weights  # needs torch, which keys do without

    save_weights(path, state)
    sign_file(path, key)
    pem = path.with_name(PUBLIC_PEM)
    if not pem.exists():
        pem.write_bytes(public_pem(public_line(key)))


def _key_file(runs: Path) -> Path:
    return runs / KEY_FOLDER / SIGNING_KEY


def _without_comment(line: str | None) -> str:
    return " ".join((line or "").split()[:2])
