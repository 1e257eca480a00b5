"""Weights of a registered model, once everything that was signed about them holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from privacy.keys import verify
from server.models.entries import ModelEntry, RegistryError
from server.models.registration import coordinator_key, open_registry
from server.workspace import Workspace
from shared_models.features import SCHEMAS, FeatureSchema
from shared_models.networks import NETWORKS, BehaviourNet, make_network
from shared_models.signed_files import signature_file
from shared_models.signed_models import load_signed_weights
from shared_models.weights import State, WeightsError


def load_model(
    workspace: Workspace, number: int, like: Mapping[str, Tensor] | None = None
) -> State:
    """The weights of a registered model, trained and frozen ones together.

    Args:
        workspace: The coordinator's folder.
        number: Number of the model.
        like: Tensors of the form that is needed; by default those of the model's own network.

    Raises:
        InputError: If there is no model of that number.
        RegistryError: If registry, entry or file are not as the coordinator signed them, or the
            weights have another form.
    """
    return read_model(workspace, open_registry(workspace).entry(number), like)


def read_model(
    workspace: Workspace, entry: ModelEntry, like: Mapping[str, Tensor] | None = None
) -> State:
    """The weights that an entry of the opened registry describes.

    Raises:
        RegistryError: See :func:`load_model`.
    """
    if fault := find_fault(workspace, entry, public_key=coordinator_key(workspace)):
        raise RegistryError(fault)
    form = make_entry_network(entry).state_dict() if like is None else like
    try:
        return load_signed_weights(
            weights_file(workspace, entry), form, public_key=coordinator_key(workspace)
        )
    except WeightsError as error:
        msg = f"Model {entry.number} does not fit: {error}"
        raise RegistryError(msg) from error


def find_fault(workspace: Workspace, entry: ModelEntry, *, public_key: str | None) -> str | None:
    """What is wrong with a model's file and its detached signature; None if nothing is."""
    file = weights_file(workspace, entry)
    signature = signature_file(file)
    if not file.is_file() or not signature.is_file():
        missing = file if not file.is_file() else signature
        return f"Model {entry.number}: {missing} is missing; restore it from a copy."
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry.file_sha256:
        return f"Model {entry.number}: {file} was changed; restore it from a copy."
    if public_key is None or not verify(public_key, signature.read_bytes(), content):
        return f"Model {entry.number}: {signature} is not the coordinator's signature."
    return None


def weights_file(workspace: Workspace, entry: ModelEntry) -> Path:
    """Where a model's weights lie: in the folder of its run."""
    return workspace.folder / entry.file


def make_entry_network(entry: ModelEntry) -> BehaviourNet:
    """A fresh network of the model's kind.

    Raises:
        RegistryError: If this version of the package has no such network or feature schema.
    """
    named, schema = entry.network, entry_schema(entry)
    if named.name not in NETWORKS:
        msg = f"Model {entry.number} needs network {named.name!r}, which this version lacks."
        raise RegistryError(msg)
    try:
        return make_network(named.name, named.size, features=len(schema.features))
    except ValueError as error:
        msg = f"Model {entry.number} needs another version of the package: {error}"
        raise RegistryError(msg) from error


def entry_schema(entry: ModelEntry) -> FeatureSchema:
    """The feature schema that a model was trained on.

    Raises:
        RegistryError: If this version of the package has no schema of that digest.
    """
    for schema in SCHEMAS.values():
        if schema.digest == entry.feature_schema:
            return schema
    made = entry.versions.get("vultus", "unknown")
    msg = (
        f"Model {entry.number} takes features of schema {entry.feature_schema[:12]}, which this "
        f"version of the package does not have: use version {made}."
    )
    raise RegistryError(msg)
