"""Weights: exact round trips, and nothing of another form gets in."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from safetensors.torch import save_file

from shared_models.networks import make_network
from shared_models.weights import (
    WeightsError,
    arrays_to_state,
    check_weights,
    digest_weights,
    find_weight_faults,
    freeze_trunk,
    load_weights,
    pack_state,
    save_weights,
    state_to_arrays,
    trainable_state,
    unpack_state,
)

STATE = {"b": torch.tensor([1.0, -2.0]), "a": torch.arange(6.0).reshape(2, 3)}


def test_a_state_survives_messages_and_files_bit_for_bit(tmp_path: Path) -> None:
    sent = arrays_to_state(state_to_arrays(STATE))
    save_weights(tmp_path / "w.safetensors", STATE)
    read = load_weights(tmp_path / "w.safetensors", STATE)
    for other in (sent, read):
        assert digest_weights(other) == digest_weights(STATE)
        assert all(torch.equal(other[name], STATE[name]) for name in STATE)


def test_the_digest_sees_names_shapes_and_every_bit_but_no_order() -> None:
    digest = digest_weights(STATE)
    assert digest == digest_weights(dict(reversed(STATE.items())))
    nudged = {**STATE, "b": torch.nextafter(STATE["b"], torch.tensor(9.0))}
    reshaped = {**STATE, "a": STATE["a"].reshape(3, 2)}
    renamed = {"b": STATE["b"], "c": STATE["a"]}
    assert len({digest, *map(digest_weights, (nudged, reshaped, renamed))}) == 4


def test_every_difference_in_form_is_named() -> None:
    faults = find_weight_faults(
        {"b": torch.tensor([1.0, float("nan")]), "x": torch.zeros(1), "a": torch.zeros(2, 2)},
        {**STATE, "c": torch.zeros(1)},
    )
    assert [fault.split(":")[0] for fault in faults] == [
        "unknown tensor x", "missing tensor c", "a", "b",
    ]  # fmt: skip
    with pytest.raises(WeightsError, match="float64"):
        check_weights({**STATE, "b": STATE["b"].double()}, STATE)


def test_a_pickle_in_an_array_is_never_opened() -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (pytest.fail, ("the array was unpickled",))

    payload = io.BytesIO()
    np.save(payload, np.array([Bomb()], dtype=object), allow_pickle=True)
    for stype, data in (
        ("numpy.ndarray", payload.getvalue()),
        ("raw", pickle.dumps(Bomb())),
        ("pickle", pickle.dumps(Bomb())),
    ):
        record = ArrayRecord({"w": Array("object", (1,), stype, data)})
        with pytest.raises(WeightsError, match="expected raw"):
            arrays_to_state(record)


def test_an_encoding_other_than_raw_is_refused_even_where_its_bytes_would_fit() -> None:
    record = ArrayRecord({"w": Array("float32", (2,), "numpy.ndarray", b"\0" * 8)})
    with pytest.raises(WeightsError, match=r"got numpy\.ndarray float32"):
        arrays_to_state(record)


@pytest.mark.parametrize("shape", [(3,), (-2,), (1, 1)])
def test_bytes_that_do_not_fit_their_shape_are_refused(shape: tuple[int, ...]) -> None:
    record = ArrayRecord({"w": Array("float32", shape, "raw", b"\0" * 8)})
    with pytest.raises(WeightsError, match="do not fit"):
        arrays_to_state(record)


def test_packed_weights_come_back_to_the_bit_in_one_array() -> None:
    mixed = {
        **STATE,
        "count": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "wide": torch.tensor([[0.1, -0.0]], dtype=torch.float64),
    }
    form, record = pack_state(mixed)
    assert len(record) == 1
    assert digest_weights(unpack_state(form, record)) == digest_weights(mixed)


@pytest.mark.parametrize(
    "form",
    [
        "not json",
        "3",
        "[3]",
        '[["w", "float32"]]',
        '[["w", "float32", 2]]',
        '[["w", "object", [2]]]',
        '[["w", ["float32"], [2]]]',
        '[[["w"], "float32", [2]]]',
        '[["w", "float32", [-2]]]',
        '[["w", "float32", [2.0]]]',
        '[["w", "float32", [true, 2]]]',
        '[["w", "float32", [3]]]',
        '[["w", "float32", [1]]]',
        '[["w", "float32", [1]], ["w", "float32", [1]]]',
    ],
)
def test_packed_weights_of_another_form_are_refused(form: str) -> None:
    _, record = pack_state({"w": torch.zeros(2)})
    with pytest.raises(WeightsError):
        unpack_state(form, record)


@pytest.mark.parametrize(
    "arrays",
    [
        {"packed": Array("uint8", (8,), "numpy.ndarray", b"\0" * 8)},
        {"packed": Array("float32", (2,), "raw", b"\0" * 8)},
        {"w": Array("uint8", (8,), "raw", b"\0" * 8)},
        {"packed": Array("uint8", (8,), "raw", b"\0" * 8), "w": Array("uint8", (0,), "raw", b"")},
    ],
    ids=["npy", "dtype", "name", "more"],
)
def test_packed_weights_are_one_raw_array(arrays: dict[str, Array]) -> None:
    with pytest.raises(WeightsError, match="one raw uint8"):
        unpack_state('[["w", "float32", [2]]]', ArrayRecord(arrays))


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="missing tensor b"):
        load_weights(tmp_path / "other.safetensors", STATE)


@pytest.mark.parametrize(("trainable", "names"), [("head", 2), ("all", 14)])
def test_only_what_the_study_trains_travels(trainable: str, names: int) -> None:
    network = make_network("behaviour_net", "small", features=24)
    freeze_trunk(network, trainable=trainable)
    state = trainable_state(network)
    assert len(state) == names
    assert {"head.weight", "head.bias"} <= state.keys()


def test_a_file_that_is_none_is_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(pickle.dumps(STATE))
    with pytest.raises(WeightsError, match="safetensors"):
        load_weights(tmp_path / "w.safetensors", STATE)
