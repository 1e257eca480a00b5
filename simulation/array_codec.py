"""Flower's arrays without the detour over a file in memory, for a grid that sends many small ones.

Flower turns an array into the bytes of a ``.npy`` file through ``np.save`` and back through
``np.load``, which parses the header as Python source each time. Networks have few forms of tensors
and a simulation has many sites, so here each header is made and read once. The bytes and the
arrays are the same to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Array
from numpy.lib import format as npy
from numpy.typing import NDArray

_FORMS = 1024
_STYPE = "numpy.ndarray"
_FLOWER_READS = Array.numpy
_FLOWER_WRITES = Array.from_numpy_ndarray


class Form(NamedTuple):
    """What stands in the header of a ``.npy`` file, and how long the whole file is."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    file_bytes: int


@contextmanager
def quick_arrays() -> Iterator[None]:
    """Context in which Flower's arrays are written and read by this module."""
    Array.from_numpy_ndarray = staticmethod(write_array)  # type: ignore[method-assign]
    Array.numpy = read_array  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Array.from_numpy_ndarray = _FLOWER_WRITES  # type: ignore[method-assign]
        Array.numpy = _FLOWER_READS  # type: ignore[method-assign]


def write_array(ndarray: NDArray[Any]) -> Array:
    """The array as Flower would make it.

    Args:
        ndarray: Any array of numbers; Flower's own way is taken for what is no such thing.
    """
    # str of a dtype costs as much as all the rest: it is kept beside the header.
    if not _is_plain(ndarray):
        return _FLOWER_WRITES(ndarray)
    name, header = _write_header(ndarray.dtype, ndarray.shape)
    array = Array.__new__(Array)
    # What Array's own initialiser does in the end, after looking at each argument's type.
    array.__dict__.update(
        dtype=name, shape=ndarray.shape, stype=_STYPE, data=header + ndarray.tobytes()
    )
    return array


def read_array(array: Array) -> NDArray[Any]:
    """The array as ``np.load`` would read it: writable, and nobody else's.

    Raises:
        TypeError: If it was not written as a ``.npy`` file.
        ValueError: If it is none.
    """
    data = array.data
    start = 10 + int.from_bytes(data[8:10], "little")
    form = _read_header(data[:start]) if array.stype == _STYPE else None
    if form is None or len(data) != form.file_bytes:
        return _FLOWER_READS(array)
    return np.frombuffer(data, form.dtype, offset=start).reshape(form.shape).copy()


def _is_plain(ndarray: object) -> bool:
    return (
        type(ndarray) is np.ndarray
        and ndarray.flags.c_contiguous
        and ndarray.dtype.kind in "biufc"
        and ndarray.size > 0
    )


@lru_cache(maxsize=_FORMS)
def _write_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[str, bytes]:
    """Name of the dtype, and what ``np.save`` writes before the numbers."""
    file = BytesIO()
    described = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, described)
    return str(dtype), file.getvalue()


@lru_cache(maxsize=_FORMS)
def _read_header(header: bytes) -> Form | None:
    """What a header says; None for what is left to ``np.load``."""
    if not header.startswith(npy.magic(1, 0)):
        return None
    file = BytesIO(header)
    npy.read_magic(file)
    try:
        shape, fortran_order, dtype = npy.read_array_header_1_0(file)
    except ValueError:
        return None
    if fortran_order or dtype.kind not in "biufc" or 0 in shape:
        return None
    return Form(dtype, shape, len(header) + dtype.itemsize * math.prod(shape))
