"""The behaviour network as an ONNX graph, for runtimes that are not PyTorch.

Source: ONNX, Open Neural Network Exchange (onnx.ai), operator set 20; exported by ``torch.onnx``.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from server.models.entries import RegistryError
from shared_models.console import CommandError
from shared_models.networks import BehaviourNet

if TYPE_CHECKING:
    from onnx import ModelProto

INPUTS = ("values", "mask")
OUTPUT = "judgement"
OPSET = 20
TOLERANCE = 1e-4
"""An exported graph may differ by this much, in standard units, where it is checked before use."""


class ExtraMissingError(CommandError):
    """A library that only some need is not installed."""

    exit_code = 2


def to_onnx(network: BehaviourNet, *, features: int, metadata: Mapping[str, str]) -> bytes:
    """The bytes of an ONNX model that was checked and computes what the network computes.

    Its inputs are ``values`` ``[clips, steps, F]`` float32, normalised, 0 where nothing was
    measured, and ``mask`` of the same shape, bool; its output ``judgement`` ``[clips, 2]``: the
    standardised score and the log-odds of reaching the threshold. Clips and steps may be any
    number.

    Args:
        network: In any mode; its weights go into the file.
        features: Number of feature columns F.
        metadata: Names and texts that travel in the file.

    Raises:
        ExtraMissingError: If the libraries are not installed.
        RegistryError: If the exported graph computes something else.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch.onnx needs it and would say so less clearly
    except ImportError as error:
        msg = (
            f"Expected the libraries of the ONNX export, found no {error.name}: install them with "
            "pip install 'vultus[export]'."
        )
        raise ExtraMissingError(msg) from error
    network = network.eval()
    model = _trace(network, features)
    _drop_traces_of_this_machine(model)
    for name, text in metadata.items():
        model.metadata_props.add(key=name, value=text)
    onnx.checker.check_model(model, full_check=True)
    _compare(network, model, features=features)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def example_input(features: int, *, clips: int, steps: int) -> tuple[Tensor, Tensor]:
    """Values and mask in which each kind of gap occurs: single values, steps, one whole clip.

    Args:
        features: Number of columns F.
        clips: Number of clips; the last one holds nothing.
        steps: Time steps in a clip.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (clips, steps, features)
    mask = torch.rand(shape, generator=generator) > 0.3
    mask[:, steps // 2] = False
    mask[-1] = False
    return torch.randn(shape, generator=generator) * mask, mask


def _trace(network: BehaviourNet, features: int) -> ModelProto:
    clips, steps = torch.export.Dim("clips", min=1), torch.export.Dim("steps", min=1)
    free = {0: clips, 1: steps}
    with _quiet():
        program = torch.onnx.export(
            network,
            example_input(features, clips=2, steps=20),
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_shapes=dict.fromkeys(INPUTS, free),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - torch gives None only where it writes a file
    return program.model_proto


def _drop_traces_of_this_machine(model: ModelProto) -> None:
    """Remove what the exporter notes for its own developers: source lines with their paths."""
    graph = model.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for holder in (graph, model):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")


def _compare(network: BehaviourNet, model: ModelProto, *, features: int) -> None:
    """Compute the graph with ONNX' own plain implementation, beside the network.

    Raises:
        RegistryError: If they disagree.
    """
    from onnx.reference import ReferenceEvaluator

    values, mask = example_input(features, clips=3, steps=13)
    with torch.no_grad():
        expected = network(values, mask).numpy()
    fed = dict(zip(INPUTS, (values.numpy(), mask.numpy()), strict=True))
    got = np.asarray(next(iter(ReferenceEvaluator(model).run(None, fed))))
    apart = float(np.abs(got - expected).max(initial=0.0))
    if got.shape != expected.shape or not apart <= TOLERANCE:
        msg = f"The exported graph differs from the network by {apart:.2g}: nothing was written."
        raise RegistryError(msg)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes on its own internals from the person who exports."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
