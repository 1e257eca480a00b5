"""Weights as they are checked, named, stored and sent. Nothing is ever unpickled.

A *state* is a mapping from parameter name to tensor. What comes from outside is loaded only if its
names, shapes and dtypes are exactly those expected and every number is finite.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

State = dict[str, Tensor]

PACKED = "packed"
_DTYPES = {"float32", "float64", "int64", "uint32", "uint64"}


class WeightsError(ValueError):
    """Weights that do not belong to the network, or are not finite."""


def digest_weights(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and little-endian bytes, in order of name."""
    sha256 = hashlib.sha256()
    for name in sorted(state):
        array = np.ascontiguousarray(state[name].detach().cpu().numpy())
        sha256.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        sha256.update(array.tobytes())
    return sha256.hexdigest()


def find_weight_faults(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> list[str]:
    """Every way in which a state differs in form from what is expected, or is not finite."""
    faults = [f"unknown tensor {name}" for name in sorted(state.keys() - like.keys())]
    faults += [f"missing tensor {name}" for name in sorted(like.keys() - state.keys())]
    for name in sorted(state.keys() & like.keys()):
        got, expected = state[name], like[name]
        if got.shape != expected.shape or got.dtype != expected.dtype:
            faults.append(
                f"{name}: expected {expected.dtype} {tuple(expected.shape)}, "
                f"got {got.dtype} {tuple(got.shape)}"
            )
        elif not bool(torch.isfinite(got).all()):
            faults.append(f"{name}: not finite")
    return faults


def check_weights(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    """Accept a state of exactly the expected form.

    Raises:
        WeightsError: With every fault.
    """
    if faults := find_weight_faults(state, like):
        raise WeightsError("; ".join(faults))


def trainable_state(network: nn.Module) -> State:
    """Copies of the parameters that the consortium trains."""
    return {n: p.detach().cpu().clone() for n, p in network.named_parameters() if p.requires_grad}


def freeze_trunk(network: nn.Module, *, trainable: str) -> None:
    """Leave only the head trainable, or everything.

    Args:
        network: A network whose head is called ``head``.
        trainable: ``"head"`` or ``"all"``.
    """
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(trainable == "all" or name.startswith("head."))


def state_to_arrays(state: Mapping[str, Tensor]) -> ArrayRecord:
    """The state as Flower sends it: raw little-endian bytes, in order of name.

    Flower's own conversion writes the NPY format, whose reader can be talked into unpickling.
    """
    record = ArrayRecord()
    for name in sorted(state):
        array = np.ascontiguousarray(state[name].detach().cpu().numpy())
        record[name] = Array(str(array.dtype), array.shape, "raw", array.tobytes())
    return record


def arrays_to_state(arrays: ArrayRecord) -> State:
    """The state that a record holds.

    Raises:
        WeightsError: If an array has another encoding, a dtype that no network has, or a size that
            does not fit its shape.
    """
    return {name: torch.from_numpy(read_array(name, array)) for name, array in arrays.items()}


def pack_state(state: Mapping[str, Tensor]) -> tuple[str, ArrayRecord]:
    """The state's form, and all its numbers in one array.

    Every part of a message is a request of its own to the engine's server, so that 14 tensors would
    cost each site 28 requests a question where one array costs 2.

    Returns:
        Names, dtypes and shapes in order, as JSON, and the record.
    """
    arrays = state_to_arrays(state)
    form = json.dumps([[name, part.dtype, list(part.shape)] for name, part in arrays.items()])
    data = b"".join(part.data for part in arrays.values())
    return form, ArrayRecord({PACKED: Array("uint8", (len(data),), "raw", data)})


def unpack_state(form: str, packed: ArrayRecord) -> State:
    """The state that :func:`pack_state` packed.

    Raises:
        WeightsError: If the form is none, or the record is not one raw array of its size.
    """
    rows = _read_form(form)
    whole = packed.get(PACKED)
    if len(packed) != 1 or whole is None or (whole.stype, whole.dtype) != ("raw", "uint8"):
        msg = f"Expected one raw uint8 array {PACKED!r}, got {sorted(packed)}"
        raise WeightsError(msg)
    sizes = [np.dtype(dtype).itemsize * math.prod(shape) for _, dtype, shape in rows]
    if sum(sizes) != len(whole.data):
        msg = f"{PACKED}: {len(whole.data)} bytes do not fit the {sum(sizes)} of its tensors"
        raise WeightsError(msg)
    state, start = {}, 0
    for (name, dtype, shape), size in zip(rows, sizes, strict=True):
        piece = np.frombuffer(whole.data, dtype=np.uint8, count=size, offset=start)
        state[name] = torch.from_numpy(piece.copy().view(dtype).reshape(shape))
        start += size
    return state


def _read_form(form: str) -> list[tuple[str, str, tuple[int, ...]]]:
    try:
        rows = [(name, dtype, tuple(shape)) for name, dtype, shape in json.loads(form)]
    except (TypeError, ValueError) as error:
        msg = "Expected the form of packed weights as a list of name, dtype and shape"
        raise WeightsError(msg) from error
    for name, dtype, shape in rows:
        sound = isinstance(name, str) and isinstance(dtype, str) and dtype in _DTYPES
        if not sound or not all(type(n) is int and n >= 0 for n in shape):
            msg = f"{name}: expected raw {', '.join(sorted(_DTYPES))}, got {dtype} {shape}"
            raise WeightsError(msg)
    if len({name for name, _, _ in rows}) != len(rows):
        msg = "Expected packed weights with distinct names"
        raise WeightsError(msg)
    return rows


def read_array(name: str, array: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """One received array, read from raw bytes only.

    Raises:
        WeightsError: See :func:`arrays_to_state`.
    """
    if array.stype != "raw" or array.dtype not in _DTYPES:
        expected = f"raw {', '.join(sorted(_DTYPES))}"
        msg = f"{name}: expected {expected}, got {array.stype} {array.dtype}"
        raise WeightsError(msg)
    dtype, shape = np.dtype(array.dtype), tuple(int(n) for n in array.shape)
    if any(n < 0 for n in shape) or len(array.data) != dtype.itemsize * int(np.prod(shape)):
        msg = f"{name}: {len(array.data)} bytes do not fit {array.dtype} {shape}"
        raise WeightsError(msg)
    return np.frombuffer(array.data, dtype=dtype).reshape(shape).copy()


def flatten_state(state: Mapping[str, Tensor]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """``[D]`` float64: all tensors in order of name, for sums that know no names."""
    parts = [state[name].detach().cpu().numpy().ravel() for name in sorted(state)]
    return np.concatenate(parts).astype(np.float64)


def unflatten_state(
    vector: np.ndarray[tuple[int], np.dtype[np.float64]], like: Mapping[str, Tensor]
) -> State:
    """The state that :func:`flatten_state` made a vector of.

    Args:
        vector: ``[D]``.
        like: Tensors of the state's form.

    Raises:
        ValueError: If the vector has another length.
    """
    sizes = [like[name].numel() for name in sorted(like)]
    if len(vector) != sum(sizes):
        msg = f"Expected {sum(sizes)} numbers, got {len(vector)}"
        raise ValueError(msg)
    pieces = np.split(vector, np.cumsum(sizes)[:-1])
    return {
        name: torch.from_numpy(piece.copy()).reshape(like[name].shape).to(like[name].dtype)
        for name, piece in zip(sorted(like), pieces, strict=True)
    }


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state as safetensors; the file appears whole or not at all."""
    partial = path.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial)
    partial.replace(path)


def load_weights(path: Path, like: Mapping[str, Tensor]) -> State:
    """Read a state of exactly the expected form.

    Raises:
        WeightsError: If the form differs.
    """
    return read_weights(path.read_bytes(), like)


def read_weights(content: bytes, like: Mapping[str, Tensor]) -> State:
    """The state that the bytes of a safetensors file hold, of exactly the expected form.

    Raises:
        WeightsError: If it is no such file, or the form differs.
    """
    try:
        state: State = load(content)
    except SafetensorError as error:
        msg = f"Expected a safetensors file, got {error}"
        raise WeightsError(msg) from error
    check_weights(state, like)
    return state
