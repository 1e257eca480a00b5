"""Exported models: what they hold, what they compute, and whose signature they carry."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ended_runs import add_run, copy_hub, make_hub, weights_of
from safetensors import safe_open
from safetensors.torch import load_file

from client.learning.training import restore_scores
from privacy.keys import verify
from server.models import onnx_export
from server.models.entries import RegistryError
from server.models.exports import MEANING, describe, export_model
from server.models.onnx_export import ExtraMissingError, example_input, to_onnx
from server.models.registration import open_registry, register_models
from server.signing import model_file
from server.workspace import Workspace
from shared_models.features import BEHAVIOUR
from shared_models.networks import BehaviourNet, make_network
from shared_models.signed_models import load_signed_weights
from shared_models.weights import digest_weights

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
FEATURES = len(BEHAVIOUR.features)


@pytest.fixture(scope="module")
def full_hub(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    hub = make_hub(tmp_path_factory.mktemp("full") / "hub")
    add_run(hub)
    register_models(hub)
    return hub


@pytest.fixture(scope="module")
def exported(full_hub: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "model.onnx"
    return export_model(full_hub, 3, out, form="onnx").file


def trained() -> BehaviourNet:
    network = make_network("behaviour_net", "small", features=FEATURES)
    network.load_state_dict(weights_of(1, 3))
    return network.eval()


def run_onnx(content: bytes, values: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"values": values.numpy(), "mask": mask.numpy()})[0]


def openssl_accepts(file: Path, pem: Path) -> bool:
    command = ["openssl", "dgst", "-sha384", "-verify", pem, "-signature", f"{file}.sig", file]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_exported_weights_are_the_registered_ones_with_their_lineage(
    full_hub: Workspace, tmp_path: Path
) -> None:
    written = export_model(full_hub, 3, tmp_path / "model.safetensors", form="safetensors")
    state, expected = load_file(written.file), weights_of(1, 3)
    assert digest_weights(state) == digest_weights(expected)
    with safe_open(written.file, framework="pt") as file:
        told = file.metadata()
    assert told["notice"] == "Research software: no output is a diagnosis."
    assert told["number"] == "3"
    assert told["weights_digest"] == digest_weights(expected)
    lineage = json.loads(told["lineage"])
    assert lineage["consortium_digest"] == told["consortium_digest"] == full_hub.consortium.digest
    columns = json.loads(told["features"])["columns"]
    assert [column["name"] for column in columns] == list(BEHAVIOUR.names)


@pytest.mark.parametrize("form", ["safetensors", "onnx"])
def test_an_exported_file_carries_the_coordinators_signature(
    full_hub: Workspace, exported: Path, tmp_path: Path, form: str
) -> None:
    file = tmp_path / "model"
    if form == "safetensors":
        export_model(full_hub, 3, file, form="safetensors")
    else:
        shutil.copyfile(exported, file)
        shutil.copyfile(f"{exported}.sig", f"{file}.sig")
    key = full_hub.consortium.coordinator_key
    assert key
    assert verify(key, Path(f"{file}.sig").read_bytes(), file.read_bytes())
    pem = full_hub.runs / "run-0001" / "signing.pem"
    assert openssl_accepts(file, pem)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert not openssl_accepts(file, pem)


def test_an_export_is_a_model_that_sites_would_accept(full_hub: Workspace, tmp_path: Path) -> None:
    written = export_model(full_hub, 3, tmp_path / "model.safetensors", form="safetensors")
    key = full_hub.consortium.coordinator_key
    state = load_signed_weights(written.file, weights_of(1, 1), public_key=key)
    assert torch.equal(state["head.bias"], weights_of(1, 3)["head.bias"])


def test_altered_weights_are_never_exported(full_hub: Workspace, tmp_path: Path) -> None:
    hub = copy_hub(full_hub, tmp_path / "hub")
    model_file(hub.runs / "run-0001", 3).write_bytes(b"other")
    with pytest.raises(RegistryError, match="was changed"):
        export_model(hub, 3, tmp_path / "model", form="safetensors")
    assert not (tmp_path / "model").exists()


def test_an_export_that_fails_leaves_what_was_there(
    full_hub: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    export_model(full_hub, 1, out, form="safetensors")
    before = out.read_bytes(), Path(f"{out}.sig").read_bytes()

    def refuse(*_: object, **__: object) -> bytes:
        msg = "differs"
        raise RegistryError(msg)

    monkeypatch.setattr("server.models.exports.to_onnx", refuse)
    with pytest.raises(RegistryError):
        export_model(full_hub, 3, out, form="onnx")
    assert (out.read_bytes(), Path(f"{out}.sig").read_bytes()) == before


@pytest.mark.parametrize(("clips", "steps"), [(1, 150), (7, 150), (3, 37), (2, 1)])
def test_the_graph_computes_what_the_network_computes(
    exported: Path, clips: int, steps: int
) -> None:
    values, mask = example_input(FEATURES, clips=clips, steps=steps)
    with torch.no_grad():
        expected = trained()(values, mask).numpy()
    got = run_onnx(exported.read_bytes(), values, mask)
    assert got.shape == (clips, 2)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_graph_agrees_on_fully_measured_clips_and_tells_subjects_apart(exported: Path) -> None:
    values = torch.randn(6, 150, FEATURES, generator=torch.Generator().manual_seed(4))
    mask = torch.ones_like(values, dtype=torch.bool)
    with torch.no_grad():
        expected = trained()(values, mask).numpy()
    got = run_onnx(exported.read_bytes(), values, mask)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.ptp(got[:, 0]) > 0.1


def test_the_graph_ignores_what_was_not_measured(exported: Path) -> None:
    values, mask = example_input(FEATURES, clips=3, steps=150)
    flipped = mask.clone()
    flipped[0, :20] = ~flipped[0, :20]
    content = exported.read_bytes()
    one, other = run_onnx(content, values, mask), run_onnx(content, values, flipped)
    assert abs(one[0] - other[0]).max() > 1e-3
    np.testing.assert_array_equal(one[1:], other[1:])


def test_the_graph_says_whose_it_is_and_how_to_read_it(exported: Path) -> None:
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    told = {prop.key: prop.value for prop in model.metadata_props}
    assert told["number"] == "3"
    assert told["weights_digest"] == digest_weights(weights_of(1, 3))
    assert "no output is a diagnosis" in told["notice"]
    assert told["meaning"] == MEANING
    free = [d.dim_param for i in model.graph.input for d in i.type.tensor_type.shape.dim[:2]]
    assert free == ["clips", "steps"] * 2


def test_the_stated_way_back_to_points_is_the_one_that_sites_use() -> None:
    low, high, threshold = 0.0, 27.0, 10.0
    standard = torch.tensor([-9.0, -0.5, 0.0, 0.7, 9.0])
    by_the_words = (standard * (high - low) / 4 + threshold).clip(low, high)
    assert torch.equal(restore_scores(standard, (low, high, threshold)), by_the_words)
    assert "s x (highest - lowest) / 4 + threshold, kept between lowest and highest" in MEANING


def test_the_file_holds_no_path_of_this_machine_and_is_the_same_again(
    full_hub: Workspace, exported: Path
) -> None:
    content = exported.read_bytes()
    assert str(Path(sys.prefix)).encode() not in content
    assert b".py" not in content
    metadata = describe(open_registry(full_hub).entry(3))
    assert to_onnx(trained(), features=FEATURES, metadata=metadata) == content


def test_a_graph_that_computes_something_else_is_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = onnx_export._trace

    def forgetful(network: BehaviourNet, features: int):
        other = make_network("behaviour_net", "small", features=features)
        return honest(other.eval(), features)

    monkeypatch.setattr(onnx_export, "_trace", forgetful)
    with pytest.raises(RegistryError, match="differs from the network"):
        to_onnx(trained(), features=FEATURES, metadata={})


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_without_the_libraries_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ExtraMissingError, match=r"pip install 'vultus\[export\]'"):
        to_onnx(trained(), features=FEATURES, metadata={})
