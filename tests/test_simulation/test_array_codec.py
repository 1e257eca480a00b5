"""The quick codec against Flower's own, bit for bit, and where it must leave arrays to Flower."""

from io import BytesIO

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from simulation.array_codec import read_array, write_array
from simulation.engine import run_in_process

FLOWER_WRITES = Array.from_numpy_ndarray
FLOWER_READS = Array.numpy

RNG = np.random.default_rng(0)
ARRAYS = {
    "matrix": RNG.standard_normal((3, 4)).astype(np.float32),
    "scalar": np.array(2.5),
    "one": np.array([7], dtype=np.int64),
    "flags": np.array([True, False]),
    "big endian": np.arange(5, dtype=">f8"),
    "complex": np.array([1 + 2j], dtype=np.complex64),
    "fortran order": np.asfortranarray(RNG.standard_normal((3, 4))),
    "strided": RNG.standard_normal((6, 4))[::2, 1:3],
    "transposed": RNG.standard_normal((3, 4)).T,
    "empty": np.zeros((0, 3)),
    "text": np.array(["a", "bc"]),
    "dates": np.array(["2026-01-01"], dtype="datetime64[D]"),
    "records": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_written_and_read_as_flower_does(name: str) -> None:
    flowers = FLOWER_WRITES(ARRAYS[name])
    ours = write_array(ARRAYS[name])
    assert (ours.dtype, ours.shape, ours.stype, ours.data) == (
        flowers.dtype, flowers.shape, flowers.stype, flowers.data,
    )  # fmt: skip
    assert ours.object_id == flowers.object_id
    read, expected = read_array(flowers), FLOWER_READS(flowers)
    assert read.dtype == expected.dtype
    assert read.flags.f_contiguous == expected.flags.f_contiguous
    np.testing.assert_array_equal(read, expected)


def test_two_shapes_with_the_same_number_of_entries_are_told_apart() -> None:
    shapes = [(6,), (2, 3), (3, 2), (1, 6)]
    assert [read_array(write_array(np.zeros(shape))).shape for shape in shapes] == shapes


def test_what_is_read_may_be_written_to_and_changes_nothing_else() -> None:
    array = write_array(np.zeros(3))
    read_array(array)[0] = 1.0
    assert read_array(array)[0] == 0.0


@pytest.mark.parametrize("cut", [1, 8, 200])
def test_a_file_that_was_cut_short_is_refused_as_flower_refuses_it(cut: int) -> None:
    whole = write_array(np.arange(30.0))
    broken = Array(whole.dtype, whole.shape, whole.stype, whole.data[:-cut])
    with pytest.raises(ValueError, match=r".") as flowers:
        FLOWER_READS(broken)
    with pytest.raises(ValueError, match=r".") as ours:
        read_array(broken)
    assert str(ours.value) == str(flowers.value)


def test_objects_are_never_unpickled() -> None:
    file = BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        read_array(Array("object", (1,), "numpy.ndarray", file.getvalue()))


def test_another_form_of_bytes_is_not_taken_for_a_file() -> None:
    with pytest.raises(TypeError, match="raw"):
        read_array(Array("float32", (1,), "raw", b"\0" * 4))


def test_the_engine_reads_and_writes_quickly_and_leaves_flower_as_it_was() -> None:
    app, client = ServerApp(), ClientApp()
    used = []

    @client.query()
    def look(message: Message, context: Context) -> Message:
        used.append((Array.numpy, Array.from_numpy_ndarray))
        weights = message.content["arrays"].to_torch_state_dict()
        return Message(RecordDict({"arrays": ArrayRecord(weights)}), reply_to=message)

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        content = RecordDict({"arrays": ArrayRecord({"w": torch.ones(2, 2)})})
        [reply] = grid.send_and_receive([Message(content, 2, "query")])
        assert torch.equal(reply.content["arrays"].to_torch_state_dict()["w"], torch.ones(2, 2))

    run_in_process(app, client, node_configs=[{}], run_config={})
    assert used == [(read_array, write_array)]
    assert Array.numpy is FLOWER_READS
    assert Array.from_numpy_ndarray == FLOWER_WRITES
