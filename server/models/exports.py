"""A registered model as one file for others: its weights, its lineage, and a detached signature."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors.torch import save

from privacy.keys import fingerprint
from privacy.vault import write_atomic
from server.history import NOTICE
from server.models.entries import ModelEntry
from server.models.loading import entry_schema, make_entry_network, read_model
from server.models.onnx_export import to_onnx
from server.models.registration import coordinator_key, open_registry
from server.recalibration import fold_into_head
from server.signing import open_signing_key
from server.workspace import Workspace
from shared_models.consortium import load_consortium
from shared_models.signed_files import sign_file, signature_file

Format = Literal["safetensors", "onnx"]

MEANING = (
    "Inputs: values [clips, steps, features] float32, each (value - center) / scale after clipping "
    "to low and high, 0 where nothing was measured; mask of the same shape, true where measured. "
    "Output for each clip: the severity score s in standard units and the log-odds of reaching the "
    "threshold. In points: s x (highest - lowest) / 4 + threshold, kept between lowest and highest."
)


@dataclass(frozen=True)
class ExportedModel:
    """A file that was written.

    Attributes:
        file: The model.
        signature: Its detached signature (ECDSA, SHA-384, DER) by the coordinator's key.
        key_fingerprint: Of that key.
    """

    file: Path
    signature: Path
    key_fingerprint: str


def export_model(workspace: Workspace, number: int, out: Path, *, form: Format) -> ExportedModel:
    """Write a registered model with its lineage inside, and a signature beside it.

    Args:
        workspace: The coordinator's folder.
        number: Number of the model.
        out: File to write; one that is there is replaced.
        form: ``safetensors`` holds the weights, ``onnx`` the network too.

    Raises:
        InputError: If there is no such model.
        RegistryError: If registry or weights are not as they were signed.
        ExtraMissingError: If ``onnx`` is asked for and its libraries are not installed.
    """
    study = load_consortium(workspace.consortium_file)
    key = open_signing_key(workspace.runs, study)
    entry = open_registry(workspace).entry(number)
    content = _encode(workspace, entry, form)
    # A signature of what was there before must not outlive it.
    signature_file(out).unlink(missing_ok=True)
    write_atomic(out, content, mode=0o644)
    sign_file(out, key)
    return ExportedModel(out, signature_file(out), fingerprint(coordinator_key(workspace) or ""))


def describe(entry: ModelEntry) -> dict[str, str]:
    """What travels inside an exported file, by name."""
    schema = entry_schema(entry)
    columns = [
        {"name": f.name, "unit": f.unit, "low": f.low, "high": f.high, "center": f.center,
         "scale": f.scale}
        for f in schema.features
    ]  # fmt: skip
    low, high, threshold = entry.score_range
    return {
        "notice": NOTICE,
        "number": str(entry.number),
        "weights_digest": entry.weights_digest,
        "consortium_digest": entry.consortium_digest,
        "meaning": MEANING,
        "features": json.dumps({"rate_hz": schema.rate_hz, "columns": columns}),
        "score": json.dumps(
            {"instrument": entry.instrument, "lowest": low, "highest": high, "threshold": threshold}
        ),
        "lineage": entry.to_bytes().decode().strip(),
        **_recalibration(entry),
    }


def _recalibration(entry: ModelEntry) -> dict[str, str]:
    known = entry.recalibration
    if known is None or not known.is_applied:
        return {}
    return {
        "recalibration": (
            f"The log-odds of this file are {known.slope:.6g} x those of the judged model "
            f"{entry.weights_digest}, plus {known.intercept:.6g}. Rates at log-odds 0 in its "
            "lineage are those of the judged model."
        )
    }


def _encode(workspace: Workspace, entry: ModelEntry, form: Format) -> bytes:
    state = fold_into_head(read_model(workspace, entry), entry.recalibration)
    metadata = describe(entry)
    if form == "safetensors":
        return save(state, metadata=metadata)
    network = make_entry_network(entry)
    network.load_state_dict(state)
    return to_onnx(network, features=len(entry_schema(entry).features), metadata=metadata)
